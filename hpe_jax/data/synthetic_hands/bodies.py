"""Faces and bare limbs, flat but in all their parts, seen from near: what networks took for hands."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Key

from hpe_jax.data.synthetic_hands import texture
from hpe_jax.data.synthetic_hands.collage import Shapes
from hpe_jax.data.synthetic_hands.texture import between, log_between, named_uniforms

NEAREST = 1.85  # the layer of a body's farthest part: before nearly all other things
FACES = 0.65  # of the bodies; the others are limbs

# From near to far, in half widths of the head: x, y, half sides, roundness, and how far the part moves when the face
# turns: 1 for what lies on its front, 0 for what looks the same from all sides.
FACE = {
    'left lens': (-0.42, -0.12, 0.32, 0.22, 0.7, 1),
    'right lens': (0.42, -0.12, 0.32, 0.22, 0.7, 1),
    'left iris': (-0.42, -0.12, 0.08, 0.08, 1, 1),
    'right iris': (0.42, -0.12, 0.08, 0.08, 1, 1),
    'left eye': (-0.42, -0.12, 0.19, 0.08, 1.2, 1),
    'right eye': (0.42, -0.12, 0.19, 0.08, 1.2, 1),
    'left socket': (-0.42, -0.14, 0.28, 0.17, 1, 1),
    'right socket': (0.42, -0.14, 0.28, 0.17, 1, 1),
    'left brow': (-0.43, -0.36, 0.27, 0.055, 0.8, 1),
    'right brow': (0.43, -0.36, 0.27, 0.055, 0.8, 1),
    'teeth': (0, 0.78, 0.24, 0.05, 1, 1),
    'lips': (0, 0.78, 0.34, 0.1, 1.2, 1),
    'left nostril': (-0.1, 0.47, 0.06, 0.03, 1, 1),
    'right nostril': (0.1, 0.47, 0.06, 0.03, 1, 1),
    'tip of the nose': (0, 0.4, 0.14, 0.1, 1, 1.15),
    'nose': (0, 0.14, 0.09, 0.36, 0.8, 1.1),
    'shadow of the nose': (0.06, 0.2, 0.17, 0.36, 1, 1.05),
    'left cheek': (-0.55, 0.35, 0.27, 0.22, 1, 1),
    'right cheek': (0.55, 0.35, 0.27, 0.22, 1, 1),
    'beard': (0, 0.95, 0.72, 0.5, 0.8, 0.5),
    'fringe': (0, -0.95, 0.95, 0.38, 0.9, 0.3),
    'chin': (0, 0.65, 0.72, 0.72, 0.9, 0.2),
    'head': (0, -0.1, 1, 1.2, 0.95, 0),
    'left ear': (-1, 0.05, 0.16, 0.3, 1, 0),
    'right ear': (1, 0.05, 0.16, 0.3, 1, 0),
    'hair': (0, -0.2, 1.2, 1.3, 0.9, 0),
    'neck': (0, 1.5, 0.55, 0.8, 0.5, 0),
    'torso': (0, 3.4, 2.5, 1.6, 0.5, 0),
}
MIDDLE = np.array([0.0, 0.15])  # of a face, as above
TURN = 1.2  # radians that a face turns to either side, at most
TOES = np.array([1.4, 1.1, 1, 0.9, 0.8])  # sizes, from the big one


def random_body(key: Key[Array, ''], fraction: float) -> list[Shapes]:
    """A face or a limb about the middle of that fraction of images."""
    k_which, k_face, k_limb = jax.random.split(key, 3)
    drawn = jax.random.uniform(k_which) / fraction
    return [random_face(k_face, drawn < FACES), random_limb(k_limb, (drawn >= FACES) & (drawn < 1))]


def _of(*names: str) -> np.ndarray:
    """Which parts of FACE these are, left and right alike."""
    return np.array([part.removeprefix('left ').removeprefix('right ') in names for part in FACE])


def random_face(key: Key[Array, ''], shown: Bool[Array, '']) -> Shapes:
    """Head, neck and shoulders, turned and tilted, with or without hair, beard and dark glasses."""
    k_uniform, k_pose, k_colour, k_skin, k_parts = jax.random.split(key, 5)
    u = named_uniforms(
        k_uniform,
        'size slope_x slope_y yaw pitch hair eyes lips socket nose cheek bald long_hair bearded smile white shades '
        'bulge',
    )
    pose, parts = jax.random.normal(k_pose, (6,)), jax.random.normal(k_parts, (len(FACE), 4))
    x, y, *half, roundness, turning = np.array(list(FACE.values()), np.float32).T

    # The front is a cylinder about the head's upright axis.
    at, yaw = np.arcsin(np.clip(x, -0.9, 0.9)), between(u.yaw, -TURN, TURN)
    x = x + turning * (jnp.sin(at + yaw) - np.sin(at))
    narrowing = 1 + np.minimum(turning, 1) * (jnp.clip(jnp.cos(at + yaw) / np.cos(at), 0, 1) - 1)
    centre = jnp.stack([x, y + 0.15 * turning * pose[0]], -1) + 0.03 * (turning > 0)[:, None] * parts[:, :2]
    half = jnp.stack([half[0] * narrowing, half[1]], -1)
    half *= jnp.exp(np.where(turning >= 1, 0.2, 0.06)[:, None] * parts[:, 2:])
    long_hair = _of('hair') * (u.long_hair < 0.4)
    half, centre = half.at[:, 1].add(1.2 * long_hair), centre.at[:, 1].add(0.9 * long_hair)
    missing = _of('fringe') & (u.bald <= 0.25) | _of('beard') & (u.bearded >= 0.3)
    missing |= _of('teeth') & (u.smile >= 0.5) | _of('lens') & (u.shades >= 0.12)

    tilt, middle, scale = 0.3 * pose[1], 0.5 + 0.12 * pose[2:4], log_between(u.size, 0.1, 0.45) * shown
    rotation = jnp.array([[jnp.cos(tilt), -jnp.sin(tilt)], [jnp.sin(tilt), jnp.cos(tilt)]])
    round_parts = _of('head', 'chin', 'neck', 'nose', 'torso')  # darker towards left and right
    half = scale * half * ~missing[:, None]
    return Shapes(
        centre=middle + scale * (centre - MIDDLE) @ rotation.T,
        half=jnp.where(round_parts[:, None], half[:, ::-1], half),
        angle=tilt + round_parts * (jnp.pi / 2),
        roundness=jnp.asarray(roundness),
        colour=_face_colours(k_colour, texture.skin_like(k_skin, 1)[0], u),
        pattern=jnp.where(_of('hair', 'fringe', 'beard', 'torso'), 0.4, 0.06),
        slope=0.8 * round_parts[:, None] * (jnp.stack([u.slope_x, u.slope_y]) - 0.5),
        bulge=round_parts * between(u.bulge, 0.1, 0.7),
        layer=NEAREST + 0.005 * jnp.arange(len(FACE), 0, -1),
    )


def _face_colours(key, skin, u) -> Float[Array, 'n 3']:
    """Linear RGB of each part of FACE."""
    deviates = jax.random.normal(key, (6, 3))
    hair = jnp.array([0.05, 0.035, 0.025]) * log_between(u.hair, 0.3, 10) * jnp.exp(0.2 * deviates[0])
    white = between(u.white, 0.3, 1) * jnp.maximum(skin, 0.15).max() * jnp.exp(0.1 * deviates[2])
    colours = {
        'lens': 0.02 * jnp.exp(0.3 * deviates[1]),
        'iris': jnp.array([0.05, 0.04, 0.03]) * jnp.exp(0.6 * deviates[3]),
        'eye': jnp.where(u.eyes < 0.15, 0.7 * skin, white),  # closed, or open
        'socket': between(u.socket, 0.55, 1) * skin,
        'brow': 0.7 * hair + 0.2 * skin,
        'teeth': white,
        'lips': between(u.lips, 0.5, 1.1) * skin * jnp.array([1.0, 0.6, 0.65]),
        'nostril': 0.3 * skin,
        'tip of the nose': between(u.nose, 1, 1.15) * skin,
        'nose': between(u.nose, 1, 1.25) * skin,
        'shadow of the nose': between(u.nose, 0.9, 0.65) * skin,
        'cheek': skin * (1 + (u.cheek - 0.3) * jnp.array([0.1, -0.1, -0.1])),
        'beard': 0.8 * hair + 0.2 * skin,
        'fringe': hair,
        'chin': skin,
        'head': skin,
        'ear': 0.85 * skin,
        'hair': hair,
        'neck': 0.75 * skin,
        'torso': 0.3 * jnp.exp(0.7 * deviates[4, 0] + 0.4 * deviates[5]),
    }
    return jnp.stack([colours[part.removeprefix('left ').removeprefix('right ')] for part in FACE])


def random_limb(key: Key[Array, ''], shown: Bool[Array, '']) -> Shapes:
    """An arm or a leg, bent, perhaps with a sleeve or a trouser leg, or with a foot."""
    k_uniform, k_place, k_skin, k_cloth = jax.random.split(key, 4)
    u = named_uniforms(k_uniform, 'heading bend length width foot ankle sleeve taper light')
    angles = jnp.cumsum(jnp.stack([2 * jnp.pi * u.heading, between(u.bend, -1.8, 1.8), between(u.ankle, -1.6, 1.6)]))
    upper, lower, sole = jnp.stack([jnp.cos(angles), jnp.sin(angles)], -1)
    length = between(u.length, 0.2, 0.5)
    width, has_foot = length * between(u.width, 0.15, 0.4), u.foot < 0.6

    # The foot is near the middle where there is one, and else the elbow or knee.
    joint = 0.5 + 0.12 * jax.random.normal(k_place, (2,)) - 2 * length * has_foot * lower
    foot = joint + 1.9 * length * lower + 0.5 * length * sole
    aside = 0.3 * width * jnp.stack([-sole[1], sole[0]])
    toes = foot + 0.55 * length * sole + (np.arange(5) - 2)[:, None] * aside
    parts = [  # middle, half sides along and across, angle, roundness, brightness, order
        (joint - 1.5 * length * upper, length * (u.sleeve < 0.5), 1.25 * width, angles[0], 0.3, 1.0, 12),
        (joint, width, width, angles[0], 1.0, 0.95, 8),
        (joint - length * upper, 1.1 * length, width, angles[0], 0.5, 1.0, 7),
        (joint + length * lower, 1.1 * length, between(u.taper, 0.6, 1) * width, angles[1], 0.6, 1.0, 6),
        (foot, 0.6 * length * has_foot, 0.75 * width, angles[2], 0.8, 1.0, 9),
    ]
    parts += [
        (toe, 0.2 * size * width * has_foot, 0.14 * size * width, angles[2], 0.9, 1.05, 11 + i)
        for i, (toe, size) in enumerate(zip(toes, TOES, strict=True))
    ]
    columns = [jnp.stack([jnp.asarray(value, jnp.float32) for value in column]) for column in zip(*parts, strict=True)]
    centre, along, across, angle, roundness, brightness, order = columns
    skin, cloth = texture.skin_like(k_skin, 1), texture.palette(k_cloth, 1, 0.4, 0.5)
    is_cloth = np.arange(len(parts)) == 0
    return Shapes(
        centre=centre,
        half=shown * jnp.stack([along, across], -1),
        angle=angle,
        roundness=roundness,
        colour=brightness[:, None] * jnp.where(is_cloth[:, None], cloth, skin),
        pattern=jnp.where(is_cloth, 0.4, 0.08),
        slope=(u.light - 0.5) * jnp.tile(jnp.array([0.0, 0.8]), (len(parts), 1)),
        bulge=jnp.full(len(parts), 0.7),
        layer=NEAREST + 0.005 * order,
    )
