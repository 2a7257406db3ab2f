"""Where the camera stands: a crop of one hand as FreiHAND cuts it. Pure JAX.

The camera's frame is FreiHAND's: x right, y down, z forward, metres; K's principal point is the image's middle, so
that the hand's place in the image is in its xyz. `geometry.project(xyz, K)` is uv.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from hpe_jax.data.synthetic_hands.texture import between, named_uniforms

# Of a 224-pixel crop, as in FreiHAND; a fist is cut out closer than a flat hand, so its focal length is longer.
FOCAL_RANGE = (320.0, 900.0)
DISTANCE_RANGE = (0.45, 1.0)  # metres
CANDIDATES = 32
STEPS = 10


class View(NamedTuple):
    """A point x in the hand's frame lies at R @ x + t in the camera's."""

    R: Float[Array, '3 3']
    t: Float[Array, '3']
    K: Float[Array, '3 3']  # pixels


def to_camera(view: View, points: Float[Array, 'n 3']) -> Float[Array, 'n 3']:
    """Hand's frame -> camera's frame."""
    return points @ view.R.T + view.t[None]


def mirror(xyz: Float[Array, 'n 3']) -> Float[Array, 'n 3']:
    """The left hand in the mirrored image: u goes to width - u, as K's principal point is the middle."""
    return xyz * jnp.array([[-1.0, 1.0, 1.0]])


def sample_view(
    key: Key[Array, ''],
    keypoints: Float[Array, '21 3'],
    elbow: Float[Array, '3'],
    *,
    size: int = 224,
    max_tilt: float = jnp.pi / 2,
    frontal: float = 0.25,
    box: tuple[float, float] = (0.35, 0.60),
    jitter: float = 0.05,
    inside: bool = True,
    away: float = 0.0,
) -> View:
    """A random view of the hand.

    Args:
      keypoints: in the hand's frame, metres.
      elbow: in the hand's frame, whose origin is the wrist.
      size: side of the square image, pixels.
      max_tilt: largest angle between the line of sight and the palm's normal (either side), radians.
      frontal: fraction of views drawn within 45 degrees of that normal on top of the even ones.
      box: range of the longer side of the keypoints' 2-D box, as a fraction of the image.
      jitter: standard deviation of the box's middle around the image's, as a fraction of the image.
      inside: whether all keypoints must lie in the image; if not, the box is moved about four times as far.
      away: fraction of images that a detector must not take for one of a hand: it is far off the middle or out of the
        image, far too small, or far too large.
    """
    k_direction, k_roll, k_box, k_distance, k_place, k_away = jax.random.split(key, 6)
    eye = sample_direction(k_direction, elbow, max_tilt, frontal)
    R = look_from(eye, jax.random.uniform(k_roll, maxval=2 * jnp.pi))
    side = jax.random.uniform(k_box, minval=box[0], maxval=box[1])
    room = (0.97 - side) / 2 if inside else jnp.inf
    place = jax.random.normal(k_place, (2,)) * (jitter if inside else 4 * jitter)
    place = 0.5 + jnp.clip(place, -room, room)
    if away:
        side, place = _away(k_away, away, side, place)
    distance = jax.random.uniform(k_distance, minval=DISTANCE_RANGE[0], maxval=DISTANCE_RANGE[1])

    points = keypoints @ R.T
    middle = (points.max(0) + points.min(0)) / 2
    extent = (points.max(0) - points.min(0))[:2].max()
    focal = jnp.clip(side * distance / extent, FOCAL_RANGE[0] / 224, FOCAL_RANGE[1] / 224)  # in image sides
    t = jnp.append(-middle[:2], focal * extent / side - middle[2])
    t = jax.lax.fori_loop(0, STEPS, lambda _, t: fit_step(points, t, focal, side, place), t)
    K = jnp.array([[focal, 0, 0.5], [0, focal, 0.5], [0, 0, 1 / size]]) * size
    return View(R, t, K)


def _away(key, fraction, side, place):
    """Side and middle of the hand's box, in some of the images those that `away` of sample_view says."""
    u = named_uniforms(key, 'is_away kind size distance angle')
    small, large = between(u.size, 0.06, 0.17), between(u.size, 1.2, 1.8)
    angle = 2 * jnp.pi * u.angle
    far = between(u.distance, 0.45, 1.1) * jnp.stack([jnp.cos(angle), jnp.sin(angle)])
    sides = jnp.where(u.kind < 0.25, small, jnp.where(u.kind < 0.35, large, side))
    places = jnp.where(u.kind < 0.25, 0.5 + 0.3 * far, jnp.where(u.kind < 0.35, place, 0.5 + far))
    is_away = u.is_away < fraction
    return jnp.where(is_away, sides, side), jnp.where(is_away, places, place)


def fit_step(points, t, focal, side, place):
    """One step of moving the hand so that its 2-D box gets that side and middle; converges fast."""
    xyz = points + t[None]
    uv = focal * xyz[:, :2] / xyz[:, 2:] + 0.5
    low, high = uv.min(0), uv.max(0)
    depth = xyz[:, 2].mean()
    nearer = depth * ((high - low).max() / side - 1)
    shift = (place - (low + high) / 2) * depth / focal
    return t + jnp.append(shift, nearer)


def sample_direction(
    key: Key[Array, ''], elbow: Float[Array, '3'], max_tilt: float, frontal: float
) -> Float[Array, '3']:
    """Unit vector from the hand to the camera, even on the sphere within the tilt.

    Not along the arm: from behind the elbow (within 40 degrees) the arm hides the hand, and straight from the front
    (20) the hand hides itself. The first of some candidates that obeys is taken.
    """
    k_frontal, k_height, k_side, k_around = jax.random.split(key, 4)
    tilt = jnp.where(jax.random.bernoulli(k_frontal, frontal), jnp.minimum(max_tilt, jnp.pi / 4), max_tilt)
    z = jax.random.uniform(k_height, (CANDIDATES,), minval=jnp.cos(tilt), maxval=1.0)
    z = z * jax.random.rademacher(k_side, (CANDIDATES,), dtype=z.dtype)
    around = jax.random.uniform(k_around, (CANDIDATES,), maxval=2 * jnp.pi)
    radius = jnp.sqrt(1 - z**2)
    eyes = jnp.stack([radius * jnp.cos(around), radius * jnp.sin(around), z], -1)
    along = eyes @ elbow / jnp.linalg.norm(elbow)
    obeys = (along < jnp.cos(jnp.deg2rad(40))) & (along > -jnp.cos(jnp.deg2rad(20)))
    return eyes[jnp.argmax(obeys)]


def look_from(eye: Float[Array, '3'], roll: Float[Array, '']) -> Float[Array, '3 3']:
    """Rotation of a camera that looks from the unit vector `eye` to the origin, turned by `roll` around its axis."""
    z = -eye
    helper = jnp.where(jnp.abs(z[0]) < 0.7, jnp.array([1.0, 0.0, 0.0]), jnp.array([0.0, 1.0, 0.0]))
    a = jnp.cross(z, helper)
    a = a / jnp.linalg.norm(a)
    x = jnp.cos(roll) * a + jnp.sin(roll) * jnp.cross(z, a)
    return jnp.stack([x, jnp.cross(z, x), z])
