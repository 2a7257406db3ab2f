"""Layers that the networks share."""

from collections.abc import Sequence
from functools import partial

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Shaped


class ChannelStatistic(nnx.Variable):
    """A number for each colour channel that belongs to the network but is not trained."""


class Standardise(nnx.Module):
    """Images, uint8 or float32 in [0, 1], to channels of mean 0 and standard deviation 1 over the training data."""

    def __init__(self):
        self.mean, self.std = ChannelStatistic(jnp.zeros(3)), ChannelStatistic(jnp.ones(3))

    def set(self, mean: Sequence[float] | np.ndarray, std: Sequence[float] | np.ndarray) -> None:
        """mean, std: (3,) over all pixels of the training images, in [0, 1]."""
        self.mean[...], self.std[...] = (jnp.asarray(x, jnp.float32) for x in (mean, std))

    def to_dict(self) -> dict[str, list[float]]:
        return {'mean': self.mean[...].tolist(), 'std': self.std[...].tolist()}

    def __call__(self, images: Shaped[Array, 'b h w 3']) -> Float[Array, 'b h w 3']:
        if images.dtype == jnp.uint8:
            images = images.astype(jnp.float32) / 255
        mean, std = (x[...].reshape(1, 1, 1, 3) for x in (self.mean, self.std))
        return (images - mean) / std


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
