"""Noise, pattern tiles, colours and blur: the raw material of skin, cloth, things and backgrounds."""

import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

TILE = 96  # pixels of a tile's side

Scalar = Float[Array, ''] | float | int


def named_uniforms(key: Key[Array, ''], names: str, shape: tuple[int, ...] = ()) -> SimpleNamespace:
    """One uniform deviate of [0, 1), or an array of them, for each of the names, which spaces part."""
    names = names.split()
    return SimpleNamespace(**dict(zip(names, jax.random.uniform(key, (len(names), *shape)), strict=True)))


def between(u: Float[Array, '*n'], low: Scalar, high: Scalar) -> Float[Array, '*n']:
    """A uniform deviate of [0, 1) stretched to [low, high)."""
    return low + (high - low) * u


def log_between(u: Float[Array, '*n'], low: Scalar, high: Scalar) -> Float[Array, '*n']:
    """The same, even in the logarithm."""
    return jnp.exp(between(u, jnp.log(low), jnp.log(high)))


@functools.cache
def _spline(cells: int, size: int) -> tuple[np.ndarray, float]:
    """Matrix (size, cells + 3) of a cubic B-spline over that many cells, and what fraction of variance it leaves."""
    at = (np.arange(size) + 0.5) / size * cells
    cell = at.astype(int)
    t = at - cell
    pieces = np.stack([(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3], -1) / 6
    matrix = np.zeros((size, cells + 3), np.float32)
    matrix[np.arange(size)[:, None], cell[:, None] + np.arange(4)] = pieces
    return matrix, float((matrix**2).sum(1).mean() ** 2)


def octave_noise(
    key: Key[Array, ''], size: int, channels: int, slope: Scalar, finest: int = 2
) -> Float[Array, 'c size size']:
    """Noise of zero mean and unit variance: random grids of 2, 4, 8, ... cells, interpolated and summed.

    Args:
      slope: the amplitude of an octave of frequency f is f^-slope; 1 looks like clouds, 0 like sand.
      finest: pixels in a cell of the finest octave.
    """
    octaves = [2**k for k in range(1, int(np.log2(size / finest)) + 1)]
    ends = np.cumsum([(cells + 3) ** 2 for cells in octaves])
    parts = jnp.split(jax.random.normal(key, (channels, ends[-1])), ends[:-1], 1)
    total, power = 0.0, 0.0
    for cells, part in zip(octaves, parts, strict=True):
        matrix, left = _spline(cells, size)
        amplitude = cells**-slope
        total += matrix @ (amplitude * part.reshape(channels, cells + 3, cells + 3)) @ matrix.T
        power += amplitude**2 * left
    return total / jnp.sqrt(power)


def random_tiles(key: Key[Array, ''], count: int) -> Float[Array, 'count h w']:
    """Patterns in [0, 1]: clouds, stripes, checks and spots, soft or sharp."""
    keys = jax.random.split(key, 2)
    u = named_uniforms(keys[0], 'slope across along kind roughness contrast', (count, 1, 1))
    noise = octave_noise(keys[1], TILE, count, between(u.slope[0, 0, 0], 0.3, 1.5), finest=1)
    phase = jnp.linspace(0, 2 * jnp.pi, TILE)
    across = jnp.sin(phase * jnp.ceil(8 * u.across))
    along = jnp.cos(phase[:, None] * jnp.ceil(8 * u.along))
    checks, spots = 0.8 * jnp.sign(across * along), 2 * across * along - 0.8
    pattern = jnp.select([u.kind < 0.5, u.kind < 0.72, u.kind < 0.86], [0.0, across, checks], spots)
    roughness = jnp.where(u.kind < 0.5, 1, 0.3 * u.roughness)
    return jax.nn.sigmoid(log_between(u.contrast, 1, 20) * (pattern + roughness * noise))


def lookup(tiles: Float[Array, 'count h w'], tile: Int[Array, '*n'], uv: Float[Array, '*n 2']) -> Float[Array, '*n']:
    """Bilinear samples; uv of [0, 1] spans one tile, and beyond it the tile is mirrored on and on."""
    last = tiles.shape[-1] - 1
    at = jnp.abs(jnp.mod(uv, 2) - 1) * last
    low = jnp.clip(jnp.floor(at), 0, last - 1)
    (fx, fy), (x, y) = jnp.moveaxis(at - low, -1, 0), jnp.moveaxis(low.astype(jnp.int32), -1, 0)
    flat = tiles.reshape(-1)
    start, fx, fy = jax.lax.optimization_barrier(((tile * tiles.shape[-2] + y) * tiles.shape[-1] + x, fx, fy))
    top = flat[start] * (1 - fx) + flat[start + 1] * fx
    bottom = flat[start + tiles.shape[-1]] * (1 - fx) + flat[start + tiles.shape[-1] + 1] * fx
    return top * (1 - fy) + bottom * fy


def gaussian_blur(image: Float[Array, 'h w c'], sigma: Scalar) -> Float[Array, 'h w c']:
    """Blur by two matrix products, so that sigma (pixels) may differ from image to image at no cost."""

    def matrix(n):
        distance = jnp.arange(n)[:, None] - jnp.arange(n)
        weights = jnp.exp(-0.5 * (distance / jnp.maximum(sigma, 1e-3)) ** 2)
        return weights / weights.sum(1, keepdims=True)

    h, w, c = image.shape
    rows = (matrix(h) @ image.reshape(h, w * c)).reshape(h, w, c)
    return jnp.einsum('xw,hwc->hxc', matrix(w), rows)


def skin_like(key: Key[Array, ''], count: int) -> Float[Array, 'count 3']:
    """Linear RGB like skin's under all kinds of light, for things that colour alone would take for a hand."""
    keys = jax.random.split(key)
    brightness = log_between(jax.random.uniform(keys[0], (count, 1)), 0.08, 0.7)
    return brightness * jnp.array([1.0, 0.62, 0.45]) * jnp.exp(0.15 * jax.random.normal(keys[1], (count, 3)))


def palette(key: Key[Array, ''], count: int, chroma: Scalar, contrast: Scalar) -> Float[Array, 'count 3']:
    """Log-normal linear RGB around one random colour: chroma and contrast are spreads of log reflectance."""
    deviates = jax.random.normal(key, (count + 1, 4))
    mean = jnp.log(0.22) + 0.6 * deviates[0, :1] + 0.4 * chroma * deviates[0, 1:]
    return jnp.clip(jnp.exp(mean + contrast * deviates[1:, :1] + chroma * deviates[1:, 1:]), 0.005, 0.95)
