"""Random shapes and poses of a hand. Pure JAX; one hand per key, so vmap at the edge.

A pose is drawn around a gesture (gestures.py), with noise that neighbouring fingers share; fingers close until they
touch palm or object, the thumb until it touches anything (contact.py). Of a few candidates the first without
penetration is taken, or else the one with the least.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from hpe_jax.data.synthetic_hands import contact, gestures
from hpe_jax.data.synthetic_hands.mesh import Held, Pose, load_mesh, pose_bones

NUM_SHAPES = 12
CANDIDATES = 4
TOLERANCE = 0.001  # metres of penetration beyond skin depth
NAMES = tuple(gestures.GESTURES)

THUMB_AWAY = np.array([16, 16, -8, -20, -25], np.float32)  # degrees: from where the thumb comes to its place

# How much of one finger's noise its neighbours share; rows have unit norm.
_SHARED = 0.6 ** np.abs(np.subtract.outer(np.arange(4), np.arange(4)))
SHARED = np.linalg.cholesky(_SHARED).astype(np.float32)


def sample_shape(key: Key[Array, '']) -> Float[Array, ' s']:
    """Standard deviations along the population's principal directions, at most 2.5."""
    return jax.random.truncated_normal(key, -2.5, 2.5, (NUM_SHAPES,))


@functools.cache
def mean_joints() -> np.ndarray:
    """The mean hand's joints, (24, 3)."""
    with jax.ensure_compile_time_eval():  # the first call may come from within a jit
        return np.asarray(load_mesh().joints)


def sample_pose(
    key: Key[Array, ''], joints: Float[Array, '24 3'] | None = None, gesture: Int[Array, ''] | int | None = None
) -> Pose:
    """A random pose.

    Args:
      joints: of the hand's shape (mesh.shape_joints), so that objects fit it; by default the mean hand's.
      gesture: index into NAMES; by default drawn by the gestures' weights.
    """
    joints = jnp.asarray(mean_joints() if joints is None else joints)
    k_gesture, k_candidates, k_arm = jax.random.split(key, 3)
    gesture = sample_gesture(k_gesture) if gesture is None else jnp.asarray(gesture, jnp.int32)
    wrist, arm = sample_arm(k_arm)
    draw = functools.partial(sample_candidate, joints=joints, gesture=gesture, wrist=wrist, arm=arm)
    candidates = jax.vmap(draw)(jax.random.split(k_candidates, CANDIDATES))
    deepest = jax.vmap(functools.partial(contact.penetration, joints))(candidates)
    best = jnp.where((deepest <= TOLERANCE).any(), jnp.argmax(deepest <= TOLERANCE), jnp.argmin(deepest))
    return jax.tree.map(lambda x: x[best], candidates)


def sample_gesture(key: Key[Array, '']) -> Int[Array, '']:
    """Index into NAMES."""
    return jax.random.categorical(key, jnp.log(gestures.table()['weight'].astype(np.float32)))


def sample_arm(key: Key[Array, '']) -> tuple[Float[Array, '2'], Float[Array, '2']]:
    """Wrist and arm angles, radians."""
    k_wrist, k_twist, k_elbow = jax.random.split(key, 3)
    wrist = jnp.array([-6.0, 5.0]) + jnp.array([24.0, 10.0]) * jax.random.normal(k_wrist, (2,))
    twist = 30 * jax.random.normal(k_twist)
    elbow = jax.random.uniform(k_elbow, minval=5.0, maxval=80.0)  # beyond, the upper arm hides the hand
    return limited(wrist, gestures.WRIST_LIMITS), limited(jnp.stack([twist, elbow]), gestures.ARM_LIMITS)


def limited(degrees: Float[Array, '*n k'], limits: Float[np.ndarray, 'k 2']) -> Float[Array, '*n k']:
    """Clipped to anatomical limits; radians."""
    low, high = (np.broadcast_to(limit, degrees.shape) for limit in limits.T)
    return jnp.deg2rad(jnp.clip(degrees, low, high))


def sample_candidate(key, joints, gesture, wrist, arm) -> Pose:
    """One pose of the gesture, closed until it touches, but perhaps still with overlaps."""
    k_fingers, k_thumb, k_radius, k_grasped, k_pinched = jax.random.split(key, 5)
    row = {field: jnp.asarray(values)[gesture] for field, values in gestures.table().items()}
    fingers = sample_fingers(k_fingers, row)
    thumb = row['thumb'] + row['noise'] * jax.random.normal(k_thumb, (5,))
    thumb = limited(thumb, gestures.THUMB_LIMITS)
    radius = held_radius(k_radius, row, joints)
    held = sample_grasped(k_grasped, row, joints, radius)

    # A grasp closes whole fingers, and then their outer joints; another finger only rolls up its outer joints.
    grasps = held.kind >= 0
    opening = jnp.where(grasps, jnp.array([0.9, 0.0, 0.9, 0.9]), jnp.array([0.0, 0.0, 0.5, 0.5]))
    pose = Pose(fingers - opening[None] * jnp.maximum(fingers, 0), thumb, wrist, arm, gesture, held)
    pose = contact.close_fingers(joints, pose, fingers)
    pose = contact.close_fingers(joints, pose, fingers.at[:, :2].set(pose.fingers[:, :2]))

    gap = jnp.where(row['holds'] == gestures.BEAD, 2 * radius, 0.0)
    met = contact.meet(joints, pose, jnp.maximum(row['meets'], 0), gap)
    pose = jax.tree.map(lambda a, b: jnp.where(row['meets'] >= 0, a, b), met, pose)
    away = jnp.clip(pose.thumb + jnp.deg2rad(THUMB_AWAY), *contact.THUMB_RANGE)
    pose = contact.close_thumb(joints, pose._replace(thumb=away), pose.thumb)
    return pose._replace(held=sample_pinched(k_pinched, row, joints, pose, radius))


def sample_fingers(key: Key[Array, ''], row: dict) -> Float[Array, '4 4']:
    """Angles of the four fingers, radians: the gesture's, with noise that neighbours share."""
    noise = SHARED @ jax.random.normal(key, (4, 4))
    mean = jnp.stack([*row['fingers'].T, row['dip'] * row['fingers'][:, 2]], 1)
    spread = row['noise'] * jnp.array([[1.0, 0.4, 1.2, 0.0]])
    angles = mean + spread * noise
    dip = row['dip'] * angles[:, 2] + 0.6 * row['noise'] * noise[:, 3]
    return limited(angles.at[:, 3].set(dip), gestures.FINGER_LIMITS)


def held_radius(key: Key[Array, ''], row: dict, joints: Float[Array, '24 3']) -> Float[Array, '']:
    """Radius of the held object, metres."""
    low, high = row['radius']
    return jax.random.uniform(key, minval=low, maxval=high) * contact.hand_scale(joints)


def sample_grasped(key: Key[Array, ''], row: dict, joints: Float[Array, '24 3'], radius: Float[Array, '']) -> Held:
    """A ball in the palm, or a bar across it, for the fingers to close around; kind -1 for other gestures."""
    k_place, k_slant, k_length, k_long = jax.random.split(key, 4)
    scale = contact.hand_scale(joints)
    is_bar = row['holds'] == gestures.BAR
    kind = jnp.select([row['holds'] == gestures.BALL, is_bar], [0, 1], -1)
    # The palm's skin lies 14 mm out of the joints' plane. Big objects sit nearer the fingers.
    place = jnp.array([-0.002, 0.051, 0.015]) + 0.005 * jax.random.normal(k_place, (3,)) * jnp.array([1.0, 1.0, 0.3])
    slant = jnp.deg2rad(jax.random.uniform(k_slant, minval=3.0, maxval=30.0))
    axis = jnp.stack([jnp.cos(slant), jnp.sin(slant), jnp.zeros(())])
    centre = place * scale + radius * jnp.array([0.0, 0.6, 1.0])
    length = jnp.where(
        is_bar,
        jax.random.uniform(k_length, minval=0.06, maxval=0.16),
        radius * jax.random.uniform(k_long, minval=1.0, maxval=1.25),
    )
    return Held(kind, centre, axis, jnp.stack([length, radius]))


def sample_pinched(
    key: Key[Array, ''], row: dict, joints: Float[Array, '24 3'], pose: Pose, radius: Float[Array, '']
) -> Held:
    """A pen or a small thing between the pads of thumb and index finger; what is grasped already, else."""
    k_length, k_axis = jax.random.split(key)
    points, _ = contact.touch_points(joints, pose)
    keypoints = pose_bones(joints, pose)[0]
    between = (points[0] + points[1]) / 2
    # A pen rests on the web of the thumb, beside the index knuckle.
    web = keypoints[5] + jnp.array([0.012, -0.006, 0.004]) * contact.hand_scale(joints)
    axis = (web - between) / jnp.linalg.norm(web - between)
    half = jax.random.uniform(k_length, minval=0.055, maxval=0.075)
    pen = Held(jnp.int32(1), between + (half - 0.03) * axis, axis, jnp.stack([half, radius]))
    anyhow = jax.random.normal(k_axis, (3,))
    bead = Held(jnp.int32(0), between, anyhow / jnp.linalg.norm(anyhow), jnp.stack([radius, radius]))

    def pick(grasped, pen, bead):
        return jnp.select([row['holds'] == gestures.PEN, row['holds'] == gestures.BEAD], [pen, bead], grasped)

    return jax.tree.map(pick, pose.held, pen, bead)
