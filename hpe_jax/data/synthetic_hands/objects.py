"""Things that a hand holds or that stand before it: superquadrics with a turned profile, as small meshes.

One family covers what hands hold: two exponents make ellipsoids, cylinders, capsules and boxes, and a profile along the
axis makes bottles, cups, handles. As meshes they pass through the hand's own z-buffer, shadows and light.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from hpe_jax.data.synthetic_hands.texture import between, named_uniforms

RINGS, SEGMENTS = 24, 28


def _faces() -> np.ndarray:
    """Triangles (f, 3), counter-clockwise from outside."""
    ring, segment = np.mgrid[: RINGS - 1, :SEGMENTS]
    here, aside = ring * SEGMENTS + segment, ring * SEGMENTS + (segment + 1) % SEGMENTS
    lower = np.stack([here, aside, here + SEGMENTS], -1)
    upper = np.stack([aside, aside + SEGMENTS, here + SEGMENTS], -1)
    return np.concatenate([lower.reshape(-1, 3), upper.reshape(-1, 3)]).astype(np.int32)


FACES = _faces()
NUM_VERTICES = RINGS * SEGMENTS


def _wave(angle, exponent):
    """cos and sin of a superellipse: 1 draws a circle, towards 0 a square."""
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    return tuple(jnp.sign(f) * jnp.maximum(jnp.abs(f), 1e-6) ** exponent for f in (cos, sin))


def superquadric(
    centre: Float[Array, '3'],
    axes: Float[Array, '3 3'],
    radii: Float[Array, '3'],
    exponents: Float[Array, '2'],
    profile: Float[Array, '4'],
) -> tuple[Float[Array, 'n 3'], Float[Array, 'n 3'], Float[Array, 'n 2']]:
    """A turned superquadric.

    Args:
      centre: metres.
      axes: rows are the unit directions of its sides and, last, of its long axis.
      radii: half sides along these, metres; 0 makes it vanish.
      exponents: roundness of the cross section and of the ends (1 round, 0 square).
      profile: thickness at four places along the axis, as log factors.

    Returns:
      vertices, unit normals, and texture coordinates (around, along) in metres.
    """
    # Rings crowd at the ends, so that a cylinder's rim stays sharp.
    latitude = jnp.linspace(-0.5, 0.5, RINGS) * jnp.pi
    around = jnp.arange(SEGMENTS) * (2 * jnp.pi / SEGMENTS)
    thickness, height = _wave(latitude, exponents[1])
    thickness = thickness.at[jnp.array([0, -1])].set(0)  # closed by points, also where the ends are flat
    thickness *= jnp.exp(jnp.interp(height, jnp.linspace(-1, 1, 4), profile))
    x, y = _wave(around, exponents[0])
    grid = jnp.stack(jnp.broadcast_arrays(thickness[:, None] * x, thickness[:, None] * y, height[:, None]), -1) * radii

    # Differences between neighbours; at a rim they blend both sides, as a worn edge does.
    along = jnp.gradient(grid, axis=0)
    aside = jnp.roll(grid, -1, 1) - jnp.roll(grid, 1, 1)
    normals = jnp.cross(aside, along)
    poles = jnp.array([[0.0, 0.0, -1.0], [0.0, 0.0, 1.0]])
    normals = normals.at[0].set(poles[0]).at[-1].set(poles[1])
    normals /= jnp.maximum(jnp.linalg.norm(normals, axis=-1, keepdims=True), 1e-12)

    # Going half around and back leaves no seam.
    half_turn = jnp.abs(around / jnp.pi - 1) * jnp.pi
    uv = jnp.stack(jnp.broadcast_arrays(half_turn * radii[:2].mean(), height[:, None] * radii[2]), -1)
    flat = [grid @ axes + centre, normals @ axes, uv]
    return tuple(part.reshape(NUM_VERTICES, -1) for part in flat)


def axes_along(direction: Float[Array, '3'], angle: Float[Array, '']) -> Float[Array, '3 3']:
    """A right-handed frame whose last row points along `direction`, rotated about it by an angle."""
    z = direction / jnp.linalg.norm(direction)
    other = jnp.where(jnp.abs(z[0]) < 0.7, jnp.array([1.0, 0, 0]), jnp.array([0, 1.0, 0]))
    x = jnp.cross(other, z)
    x /= jnp.linalg.norm(x)
    y = jnp.cross(z, x)
    return jnp.stack([jnp.cos(angle) * x + jnp.sin(angle) * y, jnp.cos(angle) * y - jnp.sin(angle) * x, z])


def random_occluder(key: Key[Array, ''], near: Float[Array, '3'], shown: Array) -> tuple[Array, ...]:
    """Something between the camera and a point near the hand: a post, a ball, a box, a leaf.

    Args:
      near: a point of the hand in the camera's frame, metres; the camera sits at 0.
      shown: false makes it vanish.

    Returns:
      The arguments of `superquadric`.
    """
    keys = jax.random.split(key)
    u = named_uniforms(keys[0], 'depth width height length post cross_section ends angle')
    deviates = jax.random.normal(keys[1], (2, 3))
    depth = between(u.depth, 0.5, 0.85)
    # Beside the point rather than on it, and small, so that a part of the hand stays in sight.
    aside = jnp.array([0.04, 0.04, 0]) * deviates[0]
    size = between(jnp.stack([u.width, u.height, u.length]), 0.004, 0.03)
    size *= jnp.where(u.post < 0.6, jnp.array([0.4, 0.4, 15]), 1.0) * depth * shown
    exponents = jnp.array([0.12, 0.5, 1.0])[jnp.floor(3 * jnp.stack([u.cross_section, u.ends])).astype(int)]
    axes = axes_along(deviates[1] * jnp.array([1, 1, 0.3]), 2 * jnp.pi * u.angle)
    return (near + aside) * depth, axes, size, exponents, jnp.zeros(4)
