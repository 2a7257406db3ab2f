import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hpe_jax.data.synthetic_hands import contact, gestures, mesh, poses

pytestmark = pytest.mark.slow

JOINTS = mesh.load_mesh().joints
PER_GESTURE = 8
GESTURES = np.repeat(np.arange(len(poses.NAMES)), PER_GESTURE)


sample = jax.jit(jax.vmap(lambda key, gesture: poses.sample_pose(key, JOINTS, gesture)))


@pytest.fixture(scope='module')
def sampled():
    """PER_GESTURE poses of each gesture."""
    return sample(jax.random.split(jax.random.key(0), len(GESTURES)), jnp.asarray(GESTURES))


def of(sampled, name):
    number = poses.NAMES.index(name)
    return jax.tree.map(lambda x: np.asarray(x)[number == GESTURES], sampled)


@pytest.mark.parametrize('part', ['fingers', 'thumb', 'wrist', 'arm'])
def test_angles_stay_within_their_limits(sampled, part):
    limits = {
        'fingers': gestures.FINGER_LIMITS,
        'thumb': gestures.THUMB_LIMITS,
        'wrist': gestures.WRIST_LIMITS,
        'arm': gestures.ARM_LIMITS,
    }[part]
    degrees = np.rad2deg(getattr(sampled, part))
    assert np.all(degrees >= limits[:, 0] - 1e-3) and np.all(degrees <= limits[:, 1] + 1e-3)


def test_no_finger_passes_through_palm_neighbour_or_object(sampled):
    deepest = np.asarray(jax.jit(jax.vmap(lambda pose: contact.penetration(JOINTS, pose)))(sampled))
    assert np.mean(deepest <= poses.TOLERANCE) > 0.9
    assert deepest.max() < 0.006


def test_dip_follows_pip(sampled):
    relaxed = of(sampled, 'relaxed').fingers
    assert np.corrcoef(relaxed[..., 2].ravel(), relaxed[..., 3].ravel())[0, 1] > 0.5
    assert np.median(relaxed[..., 3] / relaxed[..., 2]) == pytest.approx(gestures.DIP_PER_PIP, abs=0.1)


def test_neighbouring_fingers_move_together():
    row = {field: values[poses.NAMES.index('free')] for field, values in gestures.table().items()}
    fingers = jax.vmap(lambda key: poses.sample_fingers(key, row))(jax.random.split(jax.random.key(0), 500))
    together = np.corrcoef(np.asarray(fingers)[..., 0].T)
    assert together[0, 1] > together[0, 2] > together[0, 3] > 0


def test_named_gestures_are_what_they_say(sampled):
    pip = {name: np.rad2deg(of(sampled, name).fingers[..., 2]) for name in ('fist', 'flat', 'pointing', 'shaka')}
    assert pip['fist'].min() > 60 and pip['flat'].max() < 25
    assert pip['pointing'][:, 0].max() < 30 and pip['pointing'][:, 1:].min() > 60
    assert pip['shaka'][:, 3].max() < 30 and pip['shaka'][:, :3].min() > 60


@pytest.mark.parametrize(('name', 'finger'), [('pinch', 1), ('ok', 1), ('pinch_middle', 2)])
def test_the_thumb_meets_the_finger(sampled, name, finger):
    points, _ = jax.vmap(lambda pose: contact.touch_points(JOINTS, pose))(of(sampled, name))
    gap = np.linalg.norm(points[:, 0] - points[:, finger], axis=-1)
    assert np.median(gap) < 0.010


@pytest.mark.parametrize('name', ['ball', 'bar', 'tool'])
def test_fingers_close_around_what_they_hold(sampled, name):
    def gaps(pose):
        keypoints = mesh.pose_bones(JOINTS, pose)[0]
        return contact.overlaps_around(keypoints, pose.held, contact.hand_scale(JOINTS))[1][1:].max(1)

    touching = np.asarray(jax.jit(jax.vmap(gaps))(of(sampled, name))) > -0.006
    assert touching.mean() > 0.7


def test_only_grasps_hold(sampled):
    holding = {poses.NAMES[g] for g in np.unique(GESTURES[np.asarray(sampled.held.kind) >= 0])}
    assert holding == {name for name, g in gestures.GESTURES.items() if g.holds != gestures.NOTHING}
    for gesture, kind in zip(GESTURES, np.asarray(sampled.held.kind), strict=True):
        assert (kind >= 0) == (gestures.GESTURES[poses.NAMES[gesture]].holds != gestures.NOTHING)
    np.testing.assert_allclose(np.linalg.norm(sampled.held.axis, axis=1), 1, rtol=1e-5)


def test_gestures_come_by_their_weights():
    drawn = np.asarray(jax.vmap(poses.sample_gesture)(jax.random.split(jax.random.key(0), 3000)))
    weights = gestures.table()['weight']
    expected, found = weights / weights.sum() * len(drawn), np.bincount(drawn, minlength=len(weights))
    assert (found[weights == 0] == 0).all()  # those of a preset only
    chi_squared = np.sum((found - expected)[weights > 0] ** 2 / expected[weights > 0])
    assert chi_squared < 2 * len(weights)


def test_same_key_same_pose_in_any_batch(sampled):
    chosen, gesture = 3 * PER_GESTURE + 1, 3
    key = jax.random.split(jax.random.key(0), len(GESTURES))[chosen]
    alone = jax.jit(lambda key: poses.sample_pose(key, JOINTS, gesture))(key)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b[chosen], rtol=1e-3, atol=1e-4), alone, sampled)


def test_it_fits_the_size_of_the_hand():
    """What a small hand grasps is as small."""
    key, ball = jax.random.key(1), jnp.array([poses.NAMES.index('ball')])
    row = {field: jnp.asarray(values)[ball[0]] for field, values in gestures.table().items()}
    small, large = (
        poses.sample_grasped(jax.random.clone(key), row, size * JOINTS, jnp.float32(size * 0.03)) for size in (0.8, 1.2)
    )
    np.testing.assert_allclose(large.radii, small.radii * 1.5, rtol=1e-5)
    np.testing.assert_allclose(large.centre, small.centre * 1.5, rtol=1e-5)


def test_segment_distance():
    def segments(*ends):
        return jnp.array(ends, jnp.float32)

    x = segments((0, 0, 0), (1, 0, 0))
    assert contact.segment_distance(x, segments((0.5, -1, 2), (0.5, 1, 2))) == pytest.approx(2)  # crossing
    assert contact.segment_distance(x, segments((0, 1, 0), (1, 1, 0))) == pytest.approx(1)  # parallel
    assert contact.segment_distance(x, segments((4, 4, 0), (5, 9, 0))) == pytest.approx(5)  # ends: 3, 4, 5
    assert contact.segment_distance(x, segments((2, 0, 0), (3, 0, 0))) == pytest.approx(1)  # in line


def test_shapes_are_limited_and_varied():
    shapes = np.asarray(jax.vmap(poses.sample_shape)(jax.random.split(jax.random.key(0), 200)))
    assert shapes.shape == (200, len(mesh.load_mesh().joint_directions))
    assert np.abs(shapes).max() <= 2.5 and 0.8 < shapes.std() < 1
