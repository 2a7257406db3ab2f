"""Noise and pattern tiles: the raw material of skin, cloth, objects and backgrounds."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

TILE = 96  # pixels of a tile's side


def octave_noise(
    key: Key[Array, ''], size: int, channels: int, slope: Float[Array, ''] | float, finest: int = 2
) -> Float[Array, 'size size c']:
    """Noise of zero mean and unit variance: random grids of 2, 4, 8, ... cells, resized and summed.

    Args:
      slope: the amplitude of an octave of frequency f is f^-slope; 1 looks like clouds, 0 like sand.
      finest: pixels in a cell of the finest octave.
    """
    cells = [2**k for k in range(1, int(np.log2(size / finest)) + 1)]
    total, power = 0.0, 0.0
    for octave, n in zip(jax.random.split(key, len(cells)), cells, strict=True):
        amplitude = n**-slope
        grid = jax.random.normal(octave, (n + 1, n + 1, channels))
        total += amplitude * jax.image.resize(grid, (size, size, channels), 'cubic')
        power += amplitude**2 * 0.6  # interpolation takes away some of the grid's variance
    return total / jnp.sqrt(power)


def random_tiles(key: Key[Array, ''], count: int) -> Float[Array, 'count h w']:
    """Patterns in [0, 1]: clouds, grain, stripes, checks, spots and lines, soft or sharp."""
    keys = jax.random.split(key, 6)
    slope = jax.random.uniform(keys[0], minval=0.3, maxval=1.5)
    noise = octave_noise(keys[1], TILE, count, slope, finest=1).transpose(2, 0, 1)
    waves = jax.random.randint(keys[2], (count, 2, 1), 1, 9)
    phase = jnp.linspace(0, 2 * jnp.pi, TILE) * waves
    across, along = jnp.sin(phase[:, 0])[:, None, :], jnp.cos(phase[:, 1])[:, :, None]
    stripes, checks, spots = across + 0 * along, jnp.sign(across * along) * 0.8, across * along * 2 - 0.8
    kind = jax.random.choice(keys[3], 4, (count,), p=jnp.array([0.45, 0.25, 0.15, 0.15]))[:, None, None]
    pattern = jnp.select([kind == 1, kind == 2, kind == 3], [stripes, checks, spots], 0.0)
    roughness = jnp.where(kind == 0, 1, jax.random.uniform(keys[4], (count, 1, 1), maxval=0.3))
    sharpness = jnp.exp(jax.random.uniform(keys[5], (count, 1, 1), minval=0, maxval=3))
    return jax.nn.sigmoid(sharpness * (pattern + roughness * noise))


def lookup(tiles: Float[Array, 'count h w'], tile: Int[Array, '*n'], uv: Float[Array, '*n 2']) -> Float[Array, '*n']:
    """Bilinear samples; uv of [0, 1] spans one tile, and beyond it the tile is mirrored on and on."""
    last = tiles.shape[-1] - 1
    at = jnp.abs(jnp.mod(uv, 2) - 1) * last
    low = jnp.clip(jnp.floor(at), 0, last - 1)
    (fx, fy), (x, y) = jnp.moveaxis(at - low, -1, 0), jnp.moveaxis(low.astype(jnp.int32), -1, 0)
    flat = tiles.reshape(-1)
    start = (tile * tiles.shape[-2] + y) * tiles.shape[-1] + x
    top = flat[start] * (1 - fx) + flat[start + 1] * fx
    bottom = flat[start + tiles.shape[-1]] * (1 - fx) + flat[start + tiles.shape[-1] + 1] * fx
    return top * (1 - fy) + bottom * fy


def gaussian_blur(image: Float[Array, 'h w c'], sigma: Float[Array, ''] | float) -> Float[Array, 'h w c']:
    """Blur by two matrix products, so that sigma (pixels) may differ from picture to picture at no cost."""

    def matrix(n):
        distance = jnp.arange(n)[:, None] - jnp.arange(n)
        weights = jnp.exp(-0.5 * (distance / jnp.maximum(sigma, 1e-3)) ** 2)
        return weights / weights.sum(1, keepdims=True)

    h, w, c = image.shape
    rows = (matrix(h) @ image.reshape(h, w * c)).reshape(h, w, c)
    return jnp.einsum('xw,hwc->hxc', matrix(w), rows)


def skin_like(key: Key[Array, ''], count: int) -> Float[Array, 'count 3']:
    """Colours for things that must not be taken for a hand by colour alone: linear RGB of skin under coloured light."""
    keys = jax.random.split(key, 2)
    brightness = jnp.exp(jax.random.uniform(keys[0], (count, 1), minval=-2.5, maxval=-0.3))
    tint = jnp.exp(0.15 * jax.random.normal(keys[1], (count, 3)))
    return brightness * jnp.array([1.0, 0.62, 0.45]) * tint


def palette(
    key: Key[Array, ''], count: int, chroma: Float[Array, ''], contrast: Float[Array, '']
) -> Float[Array, 'count 3']:
    """Log-normal linear RGB around one random colour: chroma and contrast are spreads of log reflectance."""
    keys = jax.random.split(key, 4)
    mean = jnp.log(0.25) + 0.5 * jax.random.normal(keys[0]) + 0.5 * chroma * jax.random.normal(keys[1], (3,))
    light = contrast * jax.random.normal(keys[2], (count, 1))
    return jnp.clip(jnp.exp(mean + light + chroma * jax.random.normal(keys[3], (count, 3))), 0.005, 0.95)
