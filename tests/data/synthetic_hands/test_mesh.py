import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hpe_jax import hand
from hpe_jax.data.synthetic_hands import gestures, mesh, poses
from hpe_jax.errors import UserError

pose_hand = jax.jit(mesh.pose_hand)
LOADED = mesh.load_mesh()
NO_SHAPE = jnp.zeros(len(LOADED.joint_directions))
NOTHING = mesh.Held(jnp.int32(-1), jnp.zeros(3), jnp.array([0.0, 1.0, 0.0]), jnp.zeros(2))


def angles_of(fingers=((0, 0, 0, 0),) * 4, thumb=(45, 30, 0, 0, 0), wrist=(0, 0), arm=(0, 30)):
    radians = [jnp.deg2rad(jnp.array(a, jnp.float32)) for a in (fingers, thumb, wrist, arm)]
    return mesh.Pose(*radians, gesture=jnp.int32(0), held=NOTHING)


def random_pose(seed):
    """Any angles within the limits, however impossible together."""
    keys = jax.random.split(jax.random.key(seed), 4)
    limits = (gestures.FINGER_LIMITS, gestures.THUMB_LIMITS, gestures.WRIST_LIMITS, gestures.ARM_LIMITS)
    shapes = ((4, 4), (5,), (2,), (2,))
    drawn = [
        jnp.deg2rad(jax.random.uniform(k, s, minval=np.broadcast_to(a[:, 0], s), maxval=np.broadcast_to(a[:, 1], s)))
        for k, a, s in zip(keys, limits, shapes, strict=True)
    ]
    return mesh.Pose(*drawn, gesture=jnp.int32(0), held=NOTHING)


def bone_lengths(keypoints):
    return np.linalg.norm(keypoints[1:] - keypoints[np.array(hand.PARENTS[1:])], axis=1)


def outward_distance(points, vertices, triangles):
    """Winding number of the closed surface around each point: 1 inside, 0 outside (van Oosterom and Strackee)."""
    a, b, c = np.moveaxis(vertices[triangles][None] - points[:, None, None], 2, 0)
    la, lb, lc = (np.linalg.norm(v, axis=-1) for v in (a, b, c))
    top = np.sum(a * np.cross(b, c), -1)
    below = la * lb * lc + np.sum(a * b, -1) * lc + np.sum(b * c, -1) * la + np.sum(c * a, -1) * lb
    return np.sum(np.arctan2(top, below), -1) / (2 * np.pi)


@pytest.mark.parametrize('seed', range(5))
def test_bone_lengths_are_constant_under_pose(seed):
    shape = poses.sample_shape(jax.random.key(seed))
    posed = pose_hand(LOADED, shape, random_pose(seed))
    rest = mesh.shape_joints(LOADED, shape)[:21]
    np.testing.assert_allclose(bone_lengths(posed.keypoints), bone_lengths(rest), rtol=1e-5)


def test_proportions_are_those_of_freihand():
    """Palm: wrist to middle MCP is 1.43 times as long as index MCP to little MCP; in MakeHuman's own joints 1.69."""
    joints = np.asarray(LOADED.joints)
    breadth = np.linalg.norm(joints[5] - joints[17])
    assert np.linalg.norm(joints[9] - joints[0]) / breadth == pytest.approx(1.43, rel=0.03)
    assert bone_lengths(joints[:21])[5] / breadth == pytest.approx(0.52, rel=0.05)  # index MCP to PIP
    np.testing.assert_array_equal(joints[0], 0)


def test_flexion_is_the_angle_between_bones_and_turns_to_the_palm():
    posed = pose_hand(LOADED, NO_SHAPE, angles_of(fingers=[(30, 0, 50, 20)] * 4)).keypoints
    for base in (5, 9, 13, 17):
        directions = np.diff(posed[base : base + 4], axis=0)
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        bends = np.rad2deg(np.arccos(np.sum(directions[1:] * directions[:-1], 1)))
        np.testing.assert_allclose(bends, (50, 20), atol=0.1)
        assert np.rad2deg(np.arcsin(directions[0, 2])) == pytest.approx(30, abs=1)
        assert directions[0, 2] > 0 and np.all(np.diff(directions[:, 1]) < 0)


def test_straight_fingers_lie_in_the_palms_plane():
    posed = pose_hand(LOADED, NO_SHAPE, angles_of()).keypoints
    for base in (5, 9, 13, 17):
        np.testing.assert_allclose(posed[base : base + 4, 2], posed[base, 2], atol=1e-5)


def test_spread_moves_fingers_away_from_the_middle_one():
    straight = pose_hand(LOADED, NO_SHAPE, angles_of()).keypoints
    spread = pose_hand(LOADED, NO_SHAPE, angles_of(fingers=[(0, 10, 0, 0)] * 4)).keypoints
    moved = np.asarray(spread - straight)[[8, 16, 20], 0]
    assert moved[0] > 0.008 and np.all(moved[1:] < -0.008)


def test_it_is_a_right_hand():
    """Seen onto the palm, fingers up: the thumb is on the right."""
    x, y, z = np.eye(3)
    np.testing.assert_array_equal(np.cross(x, y), z)
    joints = np.asarray(LOADED.joints)
    assert joints[4, 0] > joints[5, 0] > joints[17, 0] and joints[12, 1] > joints[9, 1] > 0
    palm, nail = (np.asarray(a) > 0.9 for a in (LOADED.palm, LOADED.nail))
    rest = np.asarray(LOADED.rest)
    middle = (np.abs(rest[:, 0]) < 0.02) & (rest[:, 1] > 0.05) & (rest[:, 1] < 0.08)
    assert rest[palm & middle, 2].mean() > rest[~palm & middle, 2].mean() + 0.01
    assert nail.any() and not np.any(palm & nail)


@pytest.mark.parametrize('seed', range(3))
def test_keypoints_lie_inside_the_flesh(seed):
    shape = poses.sample_shape(jax.random.key(seed))
    posed = pose_hand(LOADED, shape, angles_of(fingers=[(15 * seed, 3, 25 * seed, 15 * seed)] * 4))
    inside = outward_distance(*(np.asarray(a, np.float64) for a in (posed.keypoints, posed.vertices)), LOADED.triangles)
    np.testing.assert_allclose(inside, 1, atol=1e-3)
    depth = np.linalg.norm(posed.vertices[None] - posed.keypoints[4::4, None], axis=-1).min(1)
    assert np.all((depth > 0.001) & (depth < 0.009))


def test_surface_is_closed_and_faces_outwards():
    triangles = np.asarray(LOADED.triangles)
    sides = np.concatenate([triangles[:, [0, 1]], triangles[:, [1, 2]], triangles[:, [2, 0]]])
    near = np.asarray(LOADED.arm)[sides[:, 0]] < 0.5  # the ragged cut through the upper arm lies beyond
    assert len(np.unique(sides[near], axis=0)) == near.sum()
    np.testing.assert_array_equal(np.unique(sides, axis=0), np.unique(sides[:, ::-1], axis=0))
    corners = np.asarray(LOADED.rest, np.float64)[triangles]
    assert np.sum(corners[:, 0] * np.cross(corners[:, 1], corners[:, 2])) > 0


def test_weights_are_averages():
    np.testing.assert_allclose(LOADED.weights.sum(1), 1, atol=2e-3)
    np.testing.assert_allclose(LOADED.subdivision_weights.sum(1), 1, atol=1e-5)
    assert LOADED.weights.min() >= 0


def test_the_arm_bends_and_the_hand_stays():
    still = pose_hand(LOADED, NO_SHAPE, angles_of())
    bent = pose_hand(LOADED, NO_SHAPE, angles_of(wrist=(50, 10), arm=(40, 90)))
    np.testing.assert_array_equal(still.keypoints, bent.keypoints)
    fingers = np.asarray(LOADED.rest)[:, 1] > 0.1
    np.testing.assert_allclose(still.vertices[fingers], bent.vertices[fingers], atol=1e-6)
    far = np.asarray(LOADED.arm) > 0.5
    assert np.linalg.norm((still.vertices - bent.vertices)[far], axis=1).min() > 0.05
    assert float(LOADED.arm.max()) > 0.5  # metres: out of any picture
    # A flexed wrist brings the forearm to the palm's side, seen from the hand.
    assert bent.elbow[2] > still.elbow[2] + 0.1


def test_missing_arrays_are_one_sentence(tmp_path):
    with pytest.raises(UserError, match='hand mesh is missing; restore it from git'):
        mesh.load_mesh(tmp_path / 'none.npz')
