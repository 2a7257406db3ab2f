"""HandNet: a small residual network for crops of one hand; a tenth of the UNet's arithmetic at 128 pixels.

    stem    conv stride 2, conv stride 2                                 1/2, 1/4
    deeper  conv stride 2, residual blocks                               1/8, 1/16, 1/32
    back    1x1 conv, upsample, add the level above, residual block      1/16, 1/8, 1/4
    out     1x1 conv to one map a keypoint, at a quarter of the input
    heads   from the deepest features: presence; and whether palm or back is seen, which makes a right or a left hand
            of the keypoints' sense of rotation

Residual blocks after He et al., "Deep residual learning for image recognition", 2016; the additive way back after Lin
et al., "Feature pyramid networks for object detection", 2017.
"""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Shaped

from hpe_jax.models.convolution import CONVS, choose
from hpe_jax.models.layers import Standardise, norm, upsample

# Pairs of joints, as the wrist sees them: the direction from the first to the second distinguishes a right hand's palm
# from its back. Mirrored, it is the other way round.
TURNS = ((5, 17), (2, 17), (2, 9), (4, 13))
HIDDEN = 64  # units between the pooled features and the heads


def sense_of_rotation(logits: Float[Array, 'b h w k']) -> Float[Array, 'b t']:
    """Sine of the angle at the wrist between the joints of each pair of TURNS, at the softmax's centres of mass."""
    masses = jnp.exp(logits - logits.max((1, 2), keepdims=True))
    columns, rows = masses.sum(1), masses.sum(2)
    total = columns.sum(1)

    def place(profile):
        at = jnp.arange(profile.shape[1], dtype=jnp.float32)[None, :, None]
        return (profile * at).sum(1) / total

    x, y = place(columns), place(rows)

    def joint(array, k):
        return lax.slice_in_dim(array, k, k + 1, axis=1)

    sines = []
    for first, second in TURNS:
        ax, ay, bx, by = (joint(z, k) - joint(z, 0) for k in (first, second) for z in (x, y))
        lengths = jnp.sqrt((ax**2 + ay**2) * (bx**2 + by**2) + 1e-6)
        sines.append((ax * by - ay * bx) / lengths)
    return jnp.concatenate(sines, 1)


def convolution(
    channels_in: int,
    channels_out: int,
    size: int = 3,
    stride: int = 1,
    *,
    kind: str,
    dtype: DTypeLike,
    rngs: nnx.Rngs,
    use_bias: bool = False,
) -> nnx.Conv:
    return nnx.Conv(
        channels_in,
        channels_out,
        (size, size),
        strides=(stride, stride),
        padding=[(size // 2, size // 2)] * 2,
        use_bias=use_bias,
        kernel_init=nnx.initializers.he_normal(),
        conv_general_dilated=CONVS[kind],
        dtype=dtype,
        rngs=rngs,
    )


class Unchanged(nnx.Module):
    """What is left of a norm that was folded."""

    def __call__(self, x: Float[Array, '...']) -> Float[Array, '...']:
        return x


class ConvBlock(nnx.Module):
    """Convolution without bias, BatchNorm, ReLU."""

    def __init__(self, channels_in: int, channels_out: int, size: int = 3, stride: int = 1, **layers):
        self.conv = convolution(channels_in, channels_out, size, stride, **layers)
        self.norm = norm(channels_out, layers['dtype'], layers['rngs'])

    def __call__(self, x: Float[Array, 'b h w _']) -> Float[Array, 'b i j _']:
        return nnx.relu(self.norm(self.conv(x)))


class ResidualBlock(nnx.Module):
    """relu(x + BatchNorm conv ReLU BatchNorm conv x)."""

    def __init__(self, channels: int, **layers):
        self.block = ConvBlock(channels, channels, **layers)
        self.conv = convolution(channels, channels, **layers)
        self.norm = norm(channels, layers['dtype'], layers['rngs'])

    def __call__(self, x: Float[Array, 'b h w c']) -> Float[Array, 'b h w c']:
        return nnx.relu(x + self.norm(self.conv(self.block(x))))


class HandNet(nnx.Module):
    """Crops to keypoint maps at a quarter of their size, and whether there is a hand, and which.

    Args:
      num_keypoints: number of maps that come out.
      widths: channels at 1/2, 1/4, 1/8, ... of the input. The crop's sides must be divisible by 2 ** len(widths).
      blocks: residual blocks at each level from 1/8 on.
      conv: what computes the convolutions, see convolution.choose.
      dtype: what the layers compute in; parameters, statistics and what comes out stay float32.
    """

    STRIDE = 4  # of the maps
    HEADS = ('presence', 'handedness')
    HEAD_PARTS = ('hidden', 'heads')  # the layers that these alone use

    def __init__(
        self,
        num_keypoints: int = 21,
        widths: Sequence[int] = (16, 24, 56, 112, 112),
        blocks: Sequence[int] = (1, 2, 1),
        conv: str = 'auto',
        dtype: DTypeLike = jnp.float32,
        *,
        rngs: nnx.Rngs,
    ):
        layers = {'kind': choose(conv), 'dtype': dtype, 'rngs': rngs}
        self.standardise = Standardise()
        self.stem = nnx.List([ConvBlock(i, o, stride=2, **layers) for i, o in ((3, widths[0]), widths[:2])])
        self.down, self.back = nnx.List([]), nnx.List([])
        for above, width, num_blocks in zip(widths[1:-1], widths[2:], blocks, strict=True):
            residual = [ResidualBlock(width, **layers) for _ in range(num_blocks)]
            self.down.append(nnx.List([ConvBlock(above, width, stride=2, **layers), *residual]))
            self.back.append(nnx.List([ConvBlock(width, above, 1, **layers), ResidualBlock(above, **layers)]))
        self.maps = convolution(widths[1], num_keypoints, 1, use_bias=True, **layers)
        self.hidden = nnx.Linear(widths[-1], HIDDEN, dtype=dtype, rngs=rngs)
        self.heads = nnx.Linear(HIDDEN, 2 + len(TURNS), dtype=dtype, rngs=rngs)

    def logits(self, images: Shaped[Array, 'b h w 3']) -> dict[str, Float[Array, '...']]:
        """Crops, uint8 or float32 in [0, 1], to float32 logits: `heatmaps` (b, h / 4, w / 4, k), and each head's (b,).

        presence: of a hand in the crop's middle. handedness: of its being a right one.
        """
        x = self.standardise(images)
        for block in self.stem:
            x = block(x)
        levels = [x]
        for level in self.down:
            for block in level:
                x = block(x)
            levels.append(x)
        pooled = levels.pop().mean((1, 2))
        for (narrow, residual), above in zip(reversed(self.back), reversed(levels), strict=True):
            x = residual(above + upsample(narrow(x)))
        heatmaps = self.maps(x).astype(jnp.float32)
        heads = self.heads(nnx.relu(self.hidden(pooled))).astype(jnp.float32)
        turns = sense_of_rotation(lax.stop_gradient(heatmaps))
        # Slices, since the exports know no gather.
        presence, base, facing = (
            lax.slice_in_dim(heads, *cut, axis=1) for cut in ((0, 1), (1, 2), (2, 2 + len(TURNS)))
        )
        handedness = base.reshape(-1) + (facing * turns).sum(1)
        return {'heatmaps': heatmaps, 'presence': presence.reshape(-1), 'handedness': handedness}

    def folded(self) -> 'HandNet':
        """A copy for inference that has each BatchNorm in the convolution before it; its answers agree to 1e-5."""
        copy = nnx.clone(self)
        for _, block in list(nnx.iter_modules(copy)):
            if isinstance(block, ConvBlock | ResidualBlock):
                conv, norm = block.conv, block.norm
                # By NumPy, which compiles nothing.
                mean, var, scale, bias = (np.asarray(x[...]) for x in (norm.mean, norm.var, norm.scale, norm.bias))
                factor = scale / np.sqrt(var + np.float32(norm.epsilon))
                conv.kernel[...] = jnp.asarray(np.asarray(conv.kernel[...]) * factor)
                conv.bias, conv.use_bias = nnx.Param(jnp.asarray(bias - mean * factor)), True
                block.norm = Unchanged()
        return copy

    @staticmethod
    def multiple(widths: Sequence[int]) -> int:
        """What the crop's sides must be divisible by."""
        return 2 ** len(widths)
