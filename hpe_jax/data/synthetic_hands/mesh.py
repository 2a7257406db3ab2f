"""The hand: a skinned mesh with 21 keypoints, a forearm and an upper arm, posed by joint angles. Pure JAX.

Frame (right hand): wrist at the origin, y along the middle metacarpal, x to the thumb's side, z out of the palm;
metres.

A bone's frame has y along the bone, z out of its soft (palmar) side, x = y cross z. Bending turns y towards z, so it is
a rotation about x by the anatomical flexion angle, and a bone's rotation is its frame in the pose times its frame at
rest, transposed. Angles are thus anatomical (0 = straight) although the mesh rests curled and splayed.
"""

from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from hpe_jax.errors import UserError

FILE = Path(__file__).with_name('hand_mesh.npz')
FOREARM = 17  # the proximal forearm among the bones
FINGERS = ('index', 'middle', 'ring', 'little')

# Where each finger points at spread 0, in degrees from y to the thumb's side, and how far the palm's arch turns its
# soft side to the thumb. Bent fingers therefore converge, as real ones do.
FINGER_AZIMUTHS = (3.0, 0.0, -4.0, -8.0)
FINGER_ROLLS = (-4.0, 0.0, 4.0, 9.0)
OUTWARDS = (-1.0, -1.0, 1.0, 1.0)  # sense of spread around z, which turns y to the little finger's side


class HandMesh(NamedTuple):
    """A family of right hands at rest, and how they are posed; c coarse and v fine vertices, s shapes, b = 19 bones.

    Bones: palm, three of each finger from thumb to little, distal forearm, proximal forearm, upper arm.
    """

    vertices: Float[Array, 'c 3']  # mean of the population
    vertex_directions: Float[Array, 's c 3']  # one standard deviation each
    joints: Float[Array, '24 3']  # the keypoints in FreiHAND's order, elbow, shoulder, and the arm's turning point
    joint_directions: Float[Array, 's 24 3']
    weights: Float[Array, 'c b']  # skinning
    subdivision_ids: Int[Array, 'v k']  # each fine vertex is a weighted sum of coarse ones
    subdivision_weights: Float[Array, 'v k']
    triangles: Int[Array, 't 3']  # of fine vertices, counter-clockwise from outside
    rest: Float[Array, 'v 3']  # the mean hand's fine vertices: coordinates for textures
    palm: Float[Array, ' v']  # 1 on the palmar side, 0 on the back
    nail: Float[Array, ' v']  # 1 on nails
    crease: Float[Array, ' v']  # 1 around the fingers' joints
    tip: Float[Array, ' v']  # grows to 1 at finger tips
    arm: Float[Array, ' v']  # metres from the wrist along forearm and upper arm; negative on the hand


class Held(NamedTuple):
    """An object in a hand, in the hand's frame: an ellipsoid (kind 0) or a capsule (1); kind -1: no object."""

    kind: Int[Array, '']
    centre: Float[Array, '3']  # metres
    axis: Float[Array, '3']  # unit; of a capsule, or an ellipsoid's first radius
    radii: Float[Array, '2']  # metres: along the axis (a capsule's half length without its caps), and across


class Pose(NamedTuple):
    """Joint angles in radians; 0 is straight, and flexion is positive."""

    fingers: Float[Array, '4 4']  # index to little: MCP flexion, MCP spread (away from the middle finger), PIP, DIP
    thumb: Float[Array, '5']  # metacarpal: away from y in the palm's plane, out of it, pronation; MCP, IP flexion
    wrist: Float[Array, '2']  # flexion, ulnar deviation
    arm: Float[Array, '2']  # pronation of the forearm from rest, elbow flexion
    gesture: Int[Array, '']
    held: Held


class PosedHand(NamedTuple):
    """In the hand's frame, metres."""

    vertices: Float[Array, 'v 3']
    keypoints: Float[Array, '21 3']
    elbow: Float[Array, '3']


def load_mesh(path: Path = FILE) -> HandMesh:
    """Reads the arrays that experiments/hand_mesh/make_hand_mesh.py made."""
    try:
        with np.load(path) as file:
            arrays = dict(file)
    except FileNotFoundError:
        remedy = 'restore it from git, or remake it with experiments/hand_mesh/make_hand_mesh.py'
        raise UserError(f'{path}: the hand mesh is missing; {remedy}') from None
    quads = arrays.pop('quads').astype(np.int32)
    arrays['triangles'] = np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]])
    mesh = {k: jnp.asarray(a, jnp.int32 if a.dtype.kind in 'iu' else jnp.float32) for k, a in arrays.items()}
    mesh['rest'] = subdivide(mesh['vertices'], mesh['subdivision_ids'], mesh['subdivision_weights'])
    return HandMesh(**mesh)


def subdivide(coarse: Float[Array, 'c 3'], ids: Int[Array, 'v k'], weights: Float[Array, 'v k']) -> Float[Array, 'v 3']:
    """One step of Catmull-Clark."""
    return jnp.einsum('vk,vkd->vd', weights, coarse[ids])


def shape_joints(mesh: HandMesh, shape: Float[Array, ' s']) -> Float[Array, '24 3']:
    """Joints at rest of the hand of that shape."""
    return mesh.joints + jnp.tensordot(shape, mesh.joint_directions, 1)


def pose_hand(mesh: HandMesh, shape: Float[Array, ' s'], pose: Pose) -> PosedHand:
    """The hand of that shape in that pose, by linear blend skinning of the coarse mesh, and subdivision.

    Args:
      shape: standard deviations along the population's principal directions.
    """
    joints = shape_joints(mesh, shape)
    rest = mesh.vertices + jnp.tensordot(shape, mesh.vertex_directions, 1)
    keypoints, rotations, offsets = pose_bones(joints, pose)
    rotation = jnp.einsum('vb,bij->vij', mesh.weights, rotations)
    coarse = jnp.einsum('vij,vj->vi', rotation, rest) + mesh.weights @ offsets
    vertices = subdivide(coarse, mesh.subdivision_ids, mesh.subdivision_weights)
    return PosedHand(vertices, keypoints, elbow=rotations[FOREARM] @ joints[21] + offsets[FOREARM])


def pose_bones(
    joints: Float[Array, '24 3'], pose: Pose
) -> tuple[Float[Array, '21 3'], Float[Array, 'b 3 3'], Float[Array, 'b 3']]:
    """Keypoints, and the bones' rotations and offsets: a point x at rest goes to rotation @ x + offset."""
    rest = joints[:21]
    starts = rest[1:].reshape(5, 4, 3)  # of each finger, thumb first: base, two joints, tip
    bones = starts[:, 1:] - starts[:, :-1]
    rotations = finger_frames(pose) @ rest_frames(bones).swapaxes(-1, -2)
    posed = jnp.cumsum(jnp.concatenate([starts[:, :1], jnp.einsum('fbij,fbj->fbi', rotations, bones)], 1), 1)
    keypoints = jnp.concatenate([rest[:1], posed.reshape(20, 3)])
    offsets = posed[:, :3] - jnp.einsum('fbij,fbj->fbi', rotations, starts[:, :3])
    arm_rotations, arm_offsets = pose_arm(joints[21:], pose)
    rotations = jnp.concatenate([jnp.eye(3)[None], rotations.reshape(15, 3, 3), arm_rotations])
    return keypoints, rotations, jnp.concatenate([jnp.zeros((1, 3)), offsets.reshape(15, 3), arm_offsets])


def rest_frames(bones: Float[Array, '5 3 3']) -> Float[Array, '5 3 3 3']:
    """Frames (columns x, y, z) of the bones at rest, thumb first.

    A finger's soft side is the palm's. The thumb's is cross(palm normal, bone): it faces the other fingers.
    """
    y = bones / jnp.linalg.norm(bones, axis=-1, keepdims=True)
    normal = jnp.broadcast_to(jnp.array([0.0, 0.0, 1.0]), y.shape)
    side = jnp.concatenate([normal[:1] - y[:1] * y[:1, :, 2:], jnp.cross(y[1:], normal[1:])])
    x = side / jnp.linalg.norm(side, axis=-1, keepdims=True)
    return jnp.stack([x, y, jnp.cross(x, y)], -1)


def finger_frames(pose: Pose) -> Float[Array, '5 3 3 3']:
    """Frames of the bones in the pose, thumb first."""
    fingers = jax.vmap(bent_frames)(finger_bases(), pose.fingers, jnp.array(OUTWARDS))
    return jnp.concatenate([thumb_frames(pose.thumb)[None], fingers])


def finger_bases() -> Float[Array, '4 3 3']:
    """Frames of the straight fingers at spread 0."""
    azimuths, rolls = jnp.deg2rad(jnp.array([FINGER_AZIMUTHS, FINGER_ROLLS]))
    return turn_z(-azimuths) @ turn_y(rolls)


def bent_frames(
    base: Float[Array, '3 3'], angles: Float[Array, '4'], outwards: Float[Array, '']
) -> Float[Array, '3 3 3']:
    """Frames of one finger's bones."""
    mcp, spread, pip, dip = angles
    proximal = base @ turn_x(mcp) @ turn_z(outwards * spread)
    middle = proximal @ turn_x(pip)
    return jnp.stack([proximal, middle, middle @ turn_x(dip)])


def thumb_frames(thumb: Float[Array, '5']) -> Float[Array, '3 3 3']:
    """Frames of the thumb's bones; without pronation its soft side faces the fingers."""
    azimuth, elevation, pronation, mcp, ip = thumb
    metacarpal = turn_z(-azimuth) @ turn_x(elevation) @ turn_y(-jnp.pi / 2 - pronation)
    proximal = metacarpal @ turn_x(mcp)
    return jnp.stack([metacarpal, proximal, proximal @ turn_x(ip)])


def pose_arm(joints: Float[Array, '3 3'], pose: Pose) -> tuple[Float[Array, '3 3 3'], Float[Array, '3 3']]:
    """Rotations and offsets of distal forearm, proximal forearm and upper arm; the hand stays, the arm moves.

    The forearm's twist is spread over its length: a third of it near the wrist, all of it near the elbow.

    Args:
      joints: elbow, shoulder, and the point between hand and forearm about which the arm turns. The keypoint `wrist`
        is another one, a little inside the hand.
    """
    elbow, shoulder, hand = joints
    flexion, deviation = pose.wrist
    pronation, bend = pose.arm
    hinge = jnp.cross(elbow - hand, shoulder - elbow)
    rest, rest_upper = hinged_frame(hand - elbow, hinge), hinged_frame(elbow - shoulder, hinge)
    forearm_rest = hinged_frame(hand - elbow, jnp.array([0.0, 0.0, 1.0]))
    wrist = (turn_x(flexion) @ turn_z(deviation)).T
    forearm = wrist @ turn_y(jnp.stack([pronation / 3, pronation])) @ forearm_rest.T
    upper = forearm[1] @ rest @ turn_z(bend) @ rest_upper.T
    rotations = jnp.concatenate([forearm, upper[None]])
    moved_elbow = hand + forearm[1] @ (elbow - hand)
    return rotations, jnp.stack([hand - forearm[0] @ hand, hand - forearm[1] @ hand, moved_elbow - upper @ elbow])


def hinged_frame(y: Float[Array, '3'], z: Float[Array, '3']) -> Float[Array, '3 3']:
    """Frame with that y, and z as near as can be."""
    y = y / jnp.linalg.norm(y)
    x = jnp.cross(y, z)
    x = x / jnp.linalg.norm(x)
    return jnp.stack([x, y, jnp.cross(x, y)], -1)


def turn_x(angle: Float[Array, '*n']) -> Float[Array, '*n 3 3']:
    """Rotation from y to z."""
    return _turn(0, angle)


def turn_y(angle: Float[Array, '*n']) -> Float[Array, '*n 3 3']:
    """Rotation from z to x."""
    return _turn(1, angle)


def turn_z(angle: Float[Array, '*n']) -> Float[Array, '*n 3 3']:
    """Rotation from x to y."""
    return _turn(2, angle)


def _turn(axis, angle):
    along = np.outer(np.eye(3)[axis], np.eye(3)[axis])
    basis = np.stack([along, np.eye(3) - along, np.cross(np.eye(3)[axis], np.eye(3)).T]).astype(np.float32)
    return jnp.tensordot(jnp.stack([jnp.ones_like(angle), jnp.cos(angle), jnp.sin(angle)], -1), basis, 1)
