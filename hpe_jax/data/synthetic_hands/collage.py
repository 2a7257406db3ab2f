"""Flat shapes, drawn over an image in one pass of the hand's own z-buffer.

All are star-shaped polygons with superelliptic outlines, so that one parameter turns an ellipse into a rectangle.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from hpe_jax.data.synthetic_hands import rasterise, texture
from hpe_jax.data.synthetic_hands.texture import log_between

CORNERS = 16  # of a polygon
TILES = 8


class Shapes(NamedTuple):
    """Polygons of one image. Lengths are shares of the image's side."""

    centre: Float[Array, 'n 2']
    half: Float[Array, 'n 2']  # half sides; 0 makes one vanish
    angle: Float[Array, ' n']  # of the first side, from x to y
    roundness: Float[Array, ' n']  # 0 rectangle, 1 ellipse, 2 diamond
    colour: Float[Array, 'n 3']  # linear RGB
    pattern: Float[Array, ' n']  # how far the pattern's second colour is from the first
    slope: Float[Array, 'n 2']  # of the light along both sides
    bulge: Float[Array, ' n']  # 0 lit like a board, 1 like a post
    layer: Float[Array, ' n']  # larger is nearer


def draw(key: Key[Array, ''], backdrop: Float[Array, 'size size 3'], shapes: Shapes) -> Float[Array, 'size size 3']:
    """Draws the polygons over the backdrop, each with a pattern and a slope of light."""
    keys = jax.random.split(key, 3)
    n, size = len(shapes.angle), len(backdrop)
    direction = jnp.stack([jnp.cos(shapes.angle), jnp.sin(shapes.angle)], -1)

    # Of 16 corners one lies on each diagonal, where a rectangle has its own.
    phi = np.arange(CORNERS) * (2 * np.pi / CORNERS)
    unit = np.stack([np.cos(phi), np.sin(phi)], -1).astype(np.float32)
    reach = np.maximum(np.abs(unit), 1e-6)
    outline = np.sign(unit) * reach ** shapes.roundness[:, None, None] * shapes.half[:, None]
    x = outline[..., 0] * direction[:, :1] - outline[..., 1] * direction[:, 1:]
    y = outline[..., 0] * direction[:, 1:] + outline[..., 1] * direction[:, :1]
    corners = shapes.centre[:, None] + jnp.concatenate([jnp.zeros((n, 1, 2)), jnp.stack([x, y], -1)], 1)
    corner = np.arange(CORNERS)
    fan = np.stack([np.zeros_like(corner), (corner + 1) % CORNERS + 1, corner + 1], -1)
    faces = (fan + np.arange(n)[:, None, None] * (CORNERS + 1)).reshape(-1, 3)
    nearness = jnp.repeat(0.1 + shapes.layer, CORNERS + 1)
    buffer = rasterise.rasterise(size * corners.reshape(-1, 2), nearness, faces, size, size)
    face = rasterise.face_at(buffer, len(faces))

    # By the layer, so that the pieces of one thing look alike.
    zooms, deviates = jax.random.uniform(keys[0], (64,)), jax.random.normal(keys[1], (64, 3))
    like = (shapes.layer * 32).astype(jnp.int32)
    second = shapes.colour * jnp.exp(deviates[like] * shapes.pattern[:, None])
    zoom = log_between(zooms[like, None], 1.5, 18) * shapes.half
    inverse = 1 / jnp.maximum(shapes.half, 1e-6)
    columns = (shapes.centre, direction, inverse, zoom, shapes.slope, shapes.bulge[:, None])
    table = jnp.concatenate(columns, -1)
    tiles = texture.random_tiles(keys[2], TILES)

    shape = jnp.maximum(face, 0) // CORNERS
    row = jax.lax.optimization_barrier(table[shape])  # else XLA on CPU reads it again for each later use
    grid = (jnp.arange(size) + 0.5) / size
    dx, dy = grid - row[..., 0], grid[:, None] - row[..., 1]
    cos, sin = row[..., 2], row[..., 3]
    local = jnp.stack([dx * cos + dy * sin, dy * cos - dx * sin], -1) * row[..., 4:6]
    mix = texture.lookup(tiles, like[shape] % TILES, local * row[..., 6:8])
    light = jnp.exp((local * row[..., 8:10]).sum(-1) - 1.2 * row[..., 10] * local[..., 1] ** 2)
    mix, light = jax.lax.optimization_barrier((mix, light))
    painted = (shapes.colour[shape] * mix[..., None] + second[shape] * (1 - mix)[..., None]) * light[..., None]
    return jnp.where((face >= 0)[..., None], painted, backdrop)
