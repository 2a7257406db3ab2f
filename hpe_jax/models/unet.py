"""The UNet of the reference: photo in, one heatmap per keypoint out, at the photo's own resolution.

Ronneberger, Fischer, Brox, "U-Net", 2015, with fewer levels and channels and with BatchNorm, after Chernytska, "Gentle
introduction to 2D Hand Pose Estimation", 2021. With widths (16, 32, 64, 128) it has 491,206 parameters.
"""

from collections.abc import Sequence

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Shaped

from hpe_jax.models.convolution import CONVS, choose
from hpe_jax.models.layers import Standardise, max_pool, norm, upsample

# PyTorch's default for a convolution, uniform in ±1/sqrt(fan_in).
KERNEL_INIT = nnx.initializers.variance_scaling(1 / 3, 'fan_in', 'uniform')


class Conv(nnx.Conv):
    """3x3 without bias, computed by one of CONVS."""

    def __init__(self, channels_in: int, channels_out: int, conv: str, dtype: DTypeLike, rngs: nnx.Rngs):
        options = {'use_bias': False, 'kernel_init': KERNEL_INIT, 'conv_general_dilated': CONVS[conv]}
        super().__init__(channels_in, channels_out, (3, 3), **options, dtype=dtype, rngs=rngs)


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
        self.standardise = Standardise()
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

    def __call__(self, images: Shaped[Array, 'b h w 3']) -> Float[Array, 'b h w k']:
        """Images, uint8 or float32 in [0, 1], to heatmaps in [0, 1], float32."""
        return nnx.sigmoid(self.logits(images)['heatmaps'])

    def logits(self, images: Shaped[Array, 'b h w 3']) -> dict[str, Float[Array, 'b h w k']]:
        """Images as above to the `heatmaps` before their sigmoid, float32."""
        x, skips = self.standardise(images), []
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
