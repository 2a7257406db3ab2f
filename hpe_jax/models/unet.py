"""The UNet of the reference: photo in, one heatmap per keypoint out, at the photo's own resolution.

Ronneberger, Fischer, Brox, "U-Net", 2015, with fewer levels and channels and with BatchNorm, after Chernytska, "Gentle
introduction to 2D Hand Pose Estimation", 2021. With widths (16, 32, 64, 128) it has 491,206 parameters.
"""

from collections.abc import Sequence
from functools import partial

import jax.numpy as jnp
from flax import nnx
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from hpe_jax.models.convolution import CONVS, choose

# PyTorch's default for a convolution, uniform in ±1/sqrt(fan_in).
KERNEL_INIT = nnx.initializers.variance_scaling(1 / 3, 'fan_in', 'uniform')


class Conv(nnx.Conv):
    """3x3 without bias, computed by one of CONVS."""

    def __init__(self, channels_in: int, channels_out: int, conv: str, dtype: DTypeLike, rngs: nnx.Rngs):
        options = {'use_bias': False, 'kernel_init': KERNEL_INIT, 'conv_general_dilated': CONVS[conv]}
        super().__init__(channels_in, channels_out, (3, 3), **options, dtype=dtype, rngs=rngs)


def norm(channels: int, dtype: DTypeLike, rngs: nnx.Rngs) -> nnx.BatchNorm:
    # Flax's momentum 0.9 is PyTorch's 0.1; the two-pass variance keeps parity with it in float32.
    return nnx.BatchNorm(channels, momentum=0.9, epsilon=1e-5, use_fast_variance=False, dtype=dtype, rngs=rngs)


def max_pool(x: Float[Array, 'b h w c']) -> Float[Array, 'b h//2 w//2 c']:
    """2x2 maximum. The reshape spares the CPU the slow gradient of lax.reduce_window."""
    b, h, w, c = x.shape
    return x.reshape(b, h // 2, 2, w // 2, 2, c).max((2, 4))


def upsample(x: Float[Array, 'b h w c']) -> Float[Array, 'b 2*h 2*w c']:
    """Bilinear, twice as large, pixel centres aligned as in geometry.py (PyTorch's align_corners=False)."""
    return _lerp(_lerp(x, 2), 1)


def _lerp(x: Float[Array, '_ _ _ _'], axis: int) -> Float[Array, '_ _ _ _']:
    """Two for each along an axis, a quarter to either side of its centre; beyond an edge is what lies at it.

    jax.image.resize is the same as a product with a matrix, several times slower on a CPU.
    """
    part = partial(lax.slice_in_dim, x, axis=axis)
    before = jnp.concatenate([part(0, 1), part(0, -1)], axis)
    after = jnp.concatenate([part(1, None), part(-1, None)], axis)
    doubled = jnp.stack([0.75 * x + 0.25 * before, 0.75 * x + 0.25 * after], axis + 1)
    return doubled.reshape(*x.shape[:axis], -1, *x.shape[axis + 1 :])


class ConvBlock(nnx.Module):
    """(BatchNorm, 3x3 convolution without bias, ReLU), twice."""

    def __init__(self, channels_in: int, channels_out: int, conv: str, dtype: DTypeLike, rngs: nnx.Rngs):
        self.norm1 = norm(channels_in, dtype, rngs)
        self.conv1 = Conv(channels_in, channels_out, conv, dtype, rngs)
        self.norm2 = norm(channels_out, dtype, rngs)
        self.conv2 = Conv(channels_out, channels_out, conv, dtype, rngs)

    def __call__(self, x: Float[Array, 'b h w _']) -> Float[Array, 'b h w _']:
        x = nnx.relu(self.conv1(self.norm1(x)))
        return nnx.relu(self.conv2(self.norm2(x)))


class UNet(nnx.Module):
    """Contracting path, bottleneck, expanding path with skip connections by concatenation.

    Args:
      num_keypoints: number of maps that come out.
      widths: channels per level; the last one is the bottleneck. The photo's sides must be divisible by
        2 ** (len(widths) - 1).
      conv: what computes the convolutions, see convolution.choose.
      dtype: what the layers compute in; parameters, statistics and the heatmaps stay float32.
    """

    def __init__(
        self,
        num_keypoints: int = 21,
        widths: Sequence[int] = (16, 32, 64, 128),
        conv: str = 'auto',
        dtype: DTypeLike = jnp.float32,
        *,
        rngs: nnx.Rngs,
    ):
        conv = choose(conv)
        *levels, bottleneck = widths
        inputs = (3, *levels)
        self.down = nnx.List([ConvBlock(i, o, conv, dtype, rngs) for i, o in zip(inputs, levels, strict=False)])
        self.bottleneck = ConvBlock(inputs[-1], bottleneck, conv, dtype, rngs)
        below = (*levels[1:], bottleneck)
        self.up = nnx.List(
            [ConvBlock(b + o, o, conv, dtype, rngs) for b, o in zip(below[::-1], levels[::-1], strict=True)]
        )
        self.out = Conv(widths[0], num_keypoints, conv, dtype, rngs)

    STRIDE = 1  # of the maps

    def __call__(self, images: Float[Array, 'b h w 3']) -> Float[Array, 'b h w k']:
        """Normalised photos to heatmaps in [0, 1], float32."""
        return nnx.sigmoid(self.logits(images)['heatmaps'])

    def logits(self, images: Float[Array, 'b h w 3']) -> dict[str, Float[Array, 'b h w k']]:
        """Normalised photos to the `heatmaps` before their sigmoid, float32."""
        x, skips = images, []
        for block in self.down:
            x = block(x)
            skips.append(x)
            x = max_pool(x)
        x = self.bottleneck(x)
        for block, skip in zip(self.up, reversed(skips), strict=True):
            x = block(jnp.concatenate([upsample(x), skip], -1))
        return {'heatmaps': self.out(x).astype(jnp.float32)}

    @staticmethod
    def multiple(widths: Sequence[int]) -> int:
        """What the photo's sides must be divisible by."""
        return 2 ** (len(widths) - 1)
