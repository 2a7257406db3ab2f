"""Light on vertices: three lamps, a sky, the key light's shadow map, and darkness between fingers.

The subdivided mesh has about one vertex a pixel, so lighting vertices loses nothing against lighting pixels and costs a
tenth. Directions and points are in the camera's frame: x right, y down, z forward, metres.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from hpe_jax.data.synthetic_hands import rasterise
from hpe_jax.data.synthetic_hands.texture import between, log_between, named_uniforms

LAMPS = 3  # the first one casts the shadows
SHADOW_MAP = 160  # pixels of the shadow map's side
SHADOW_REACH = 0.17  # metres around the hand's middle that it covers
TAPS = 12

# Light that enters skin comes out a little further on, red the furthest: it wraps around the terminator.
WRAP = np.array([0.30, 0.12, 0.08], np.float32)


class Light(NamedTuple):
    """Unit directions towards the lamps and their colours; colours of the sky above and of the ground below."""

    direction: Float[Array, 'lamps 3']
    colour: Float[Array, 'lamps 3']
    sky: Float[Array, '3']
    ground: Float[Array, '3']
    softness: Float[Array, '']  # tangent of the key light's half angle


def random_light(key: Key[Array, '']) -> Light:
    """From a bright sun to an overcast room; tinted between candle and blue sky."""
    keys = jax.random.split(key, 2)
    u = named_uniforms(keys[0], 'contrast ground softness spare')
    deviates = jax.random.normal(keys[1], (LAMPS + 2, 9))
    # Light mostly comes from above and from the camera's side; the last lamp may also stand behind, as a rim.
    direction = deviates[:LAMPS, :3] + np.array([[0, -0.8, -0.8], [0, -0.3, -0.6], [0, -0.5, 0.3]])
    direction /= jnp.linalg.norm(direction, axis=-1, keepdims=True)
    tint = jnp.exp(0.15 * deviates[:, 3:4] * np.array([1.0, 0.1, -1.0]) + 0.04 * deviates[:, 4:7])
    contrast = u.contrast**0.7  # 0 overcast, 1 one hard lamp
    power = jnp.exp(0.35 * deviates[:LAMPS, 7:8])
    weight = jnp.stack([0.3 + 1.3 * contrast, 0.3, 0.3])[:, None]
    ambient = (0.9 - 0.7 * contrast) * jnp.exp(0.3 * deviates[0, 8])
    return Light(
        direction=direction,
        colour=power * weight * tint[:LAMPS],
        sky=ambient * tint[-2],
        ground=ambient * between(u.ground, 0.2, 0.8) * tint[-1],
        softness=log_between(u.softness, 0.03, 0.4),
    )


def blocked_sky(
    points: Float[Array, 'v 3'], normals: Float[Array, 'v 3'], balls: Float[Array, 'b 3'], radii: Float[Array, ' b']
) -> Float[Array, ' v']:
    """Share of the sky that each point still sees past balls: ambient occlusion in closed form.

    A ball of radius r at distance d covers the share cos(angle) (r / d)^2 of the cosine-weighted hemisphere. Balls that
    a point itself lies on are behind its surface (cos < 0), so they need no exception.
    """
    square = jnp.maximum((points**2).sum(-1)[:, None] + (balls**2).sum(-1) - 2 * points @ balls.T, 1e-6)
    ahead = normals @ balls.T - (normals * points).sum(-1)[:, None]
    covered = jnp.maximum(ahead, 0) * jax.lax.rsqrt(square) * jnp.minimum(radii**2 / square, 1)
    return jnp.exp(-1.2 * covered.sum(-1))


def hand_balls(keypoints: Float[Array, '21 3'], parents: Int[np.ndarray, ' 20']) -> tuple[Array, Array]:
    """Balls that stand for the flesh: at the joints and between them."""
    middles = (keypoints[1:] + keypoints[parents]) / 2
    fat = np.array([0.02] + [0.013, 0.010, 0.009, 0.007] + [0.011, 0.009, 0.008, 0.006] * 4, np.float32)
    return jnp.concatenate([keypoints, middles]), jnp.concatenate([fat, (fat[1:] + fat[parents]) / 2])


def key_light_seen(
    key: Key[Array, ''],
    points: Float[Array, 'v 3'],
    normals: Float[Array, 'v 3'],
    faces: Int[np.ndarray, 'f 3'],
    middle: Float[Array, '3'],
    light: Light,
) -> Float[Array, ' v']:
    """Share of the key light that reaches each vertex, by a shadow map with a penumbra."""
    towards = light.direction[0]
    right = jnp.cross(jnp.where(jnp.abs(towards[0]) < 0.7, jnp.eye(3)[0], jnp.eye(3)[1]), towards)
    right /= jnp.linalg.norm(right)
    frame = jnp.stack([right, jnp.cross(right, towards), towards])  # right, down and near, seen from the lamp

    def place(p):
        local = (p - middle) @ frame.T
        return (local[:, :2] / SHADOW_REACH + 1) * (SHADOW_MAP / 2), local[:, 2] + 1  # nearness is positive

    buffer = rasterise.rasterise(*place(points), faces, SHADOW_MAP, SHADOW_MAP)
    occluder = rasterise.inv_z_at(buffer, len(faces)).reshape(-1)
    # Looked up from a little above the surface, so that it does not shadow itself.
    xy, nearness = place(points + 0.002 * normals)
    reach = 0.012 * light.softness / SHADOW_REACH * SHADOW_MAP / 0.37 + 0.7
    angle = jax.random.uniform(key) + jnp.arange(TAPS) * 2.39996  # a sunflower's spiral
    spiral = jnp.sqrt((jnp.arange(TAPS) + 0.5) / TAPS)[:, None] * jnp.stack([jnp.cos(angle), jnp.sin(angle)], -1)
    at = jnp.floor(xy[:, None] + reach * spiral).astype(jnp.int32)
    inside = ((at >= 0) & (at < SHADOW_MAP)).all(-1)
    depth = occluder[jnp.where(inside, at[..., 1] * SHADOW_MAP + at[..., 0], 0)]
    gap = jnp.where(inside, depth, -jnp.inf) - nearness[:, None]
    return 1 - jnp.clip(gap / 0.002 - 0.5, 0, 1).mean(-1)


def light_vertices(
    points: Float[Array, 'v 3'],
    normals: Float[Array, 'v 3'],
    gloss: Float[Array, ' v'],
    is_skin: Bool[Array, ' v'],
    light: Light,
    seen: Float[Array, ' v'],
    sky: Float[Array, ' v'],
) -> tuple[Float[Array, 'v 3'], Float[Array, 'v 3']]:
    """Diffuse light on each vertex (to be multiplied by its reflectance) and specular light off it."""
    up = 0.5 - 0.5 * normals[:, 1:2]
    # Light bounces between fingers before it is lost: what remains in the gaps is reddish.
    open_sky = sky[:, None] ** jnp.where(is_skin[:, None], jnp.array([0.75, 1.0, 1.05]), 1.0)
    diffuse = (light.ground * (1 - up) + light.sky * up) * open_sky
    eye = -points / jnp.linalg.norm(points, axis=-1, keepdims=True)
    rim = (1 - jnp.clip((normals * eye).sum(-1), 0, 1)) ** 4
    sharpness = 6 + 60 * gloss**2
    strength = 0.03 + 0.10 * gloss
    specular = (0.05 + 0.3 * strength * rim)[:, None] * strength[:, None] * diffuse * 4
    wrap = jnp.where(is_skin[:, None], WRAP, 0.0)
    for lamp in range(LAMPS):
        reach = seen if lamp == 0 else 0.3 + 0.7 * sky
        facing = normals @ light.direction[lamp]
        lambert = jnp.clip((facing[:, None] + wrap) / (1 + wrap), 0, None)
        half = eye + light.direction[lamp]
        half /= jnp.linalg.norm(half, axis=-1, keepdims=True)
        shine = jnp.clip((normals * half).sum(-1), 0, 1) ** sharpness * (sharpness + 8) / 25
        shine *= strength * (1 + 5 * rim) * jnp.clip(facing * 4, 0, 1) * reach
        # A shadow's edge on skin is red as well.
        reach = reach[:, None] ** jnp.where(is_skin[:, None], 1 - WRAP, 1.0)
        diffuse += lambert * reach * light.colour[lamp]
        specular += shine[:, None] * light.colour[lamp]
    return diffuse, specular
