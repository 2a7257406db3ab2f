import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hpe_jax import geometry
from hpe_jax.data.synthetic_hands import camera, mesh

pytestmark = pytest.mark.slow

KEYPOINTS = mesh.load_mesh().joints[:21]
ELBOW = jnp.array([0.0, -0.24, 0.02])
N = 500


@functools.cache
def views(seed=0, **kwargs):
    sample = jax.jit(jax.vmap(lambda key: camera.sample_view(key, KEYPOINTS, ELBOW, **kwargs)))
    return sample(jax.random.split(jax.random.key(seed), N))


def project(view):
    xyz = jax.vmap(camera.to_camera, (0, None))(view, KEYPOINTS)
    return xyz, np.asarray(geometry.project(xyz, view.K))


def directions(view):
    """Unit vectors from the hand to the camera, in the hand's frame."""
    return -np.asarray(view.R)[:, 2]


@pytest.mark.parametrize('size', [64, 224])
def test_box_and_place_in_the_picture(size):
    view = views(size=size)
    xyz, uv = project(view)
    assert np.asarray(xyz)[..., 2].min() > 0.2
    assert uv.min() >= 0 and uv.max() <= size
    side = (uv.max(1) - uv.min(1)).max(1) / size
    assert 0.345 < side.min() < 0.37 and 0.58 < side.max() < 0.605
    middle = (uv.max(1) + uv.min(1)) / 2 / size
    np.testing.assert_allclose(middle.mean(0), 0.5, atol=0.01)
    np.testing.assert_allclose(middle.std(0), 0.05, atol=0.01)
    np.testing.assert_array_equal(np.asarray(view.K)[:, :2, 2], size / 2)


def test_projection_is_exactly_the_pinhole():
    view = views()
    xyz, uv = project(view)
    focal, centre = np.asarray(view.K)[:, 0, 0], 112.0
    by_hand = focal[:, None, None] * np.asarray(xyz)[..., :2] / np.asarray(xyz)[..., 2:] + centre
    np.testing.assert_allclose(uv, by_hand, atol=1e-4)


def test_cameras_are_rotations_and_stay_away_from_the_arm():
    view = views()
    R = np.asarray(view.R)
    np.testing.assert_allclose(R @ R.swapaxes(1, 2), np.broadcast_to(np.eye(3), R.shape), atol=1e-5)
    np.testing.assert_allclose(np.linalg.det(R), 1, atol=1e-5)
    along = directions(view) @ np.asarray(ELBOW) / np.linalg.norm(ELBOW)
    assert along.max() <= np.cos(np.deg2rad(40)) and along.min() >= -np.cos(np.deg2rad(20))


def test_views_cover_the_sphere():
    eyes = directions(views(frontal=0.0))
    octants = np.unique(np.sign(eyes).astype(int), axis=0, return_counts=True)[1]
    assert len(octants) == 8 and octants.min() > N / 8 / 2
    up = directions_of_fingers(views())
    turns = np.histogram(np.arctan2(up[:, 1], up[:, 0]), 8, (-np.pi, np.pi))[0]
    assert turns.min() > N / 8 / 2


def directions_of_fingers(view):
    """Where the hand's y axis points in the picture."""
    return np.asarray(view.R)[:, :2, 1]


def test_max_tilt_limits_the_angle_to_the_palms_normal():
    eyes = directions(views(max_tilt=np.deg2rad(60)))
    assert np.abs(eyes[:, 2]).min() >= np.cos(np.deg2rad(60)) - 1e-6
    assert 0.35 < np.mean(eyes[:, 2] > 0) < 0.65  # palm and back


def test_keypoints_leave_the_frame_only_if_asked():
    _, uv = project(views(inside=False))
    outside = ((uv < 0) | (uv >= 224)).any((1, 2))
    assert 0.1 < outside.mean() < 0.9


def test_a_fraction_of_the_views_shows_no_hand_in_the_middle():
    _, uv = project(views(away=0.4))
    there, absent = (np.asarray(x) for x in jax.vmap(geometry.is_centred)(jnp.asarray(uv) / 224))
    assert 0.5 < there.mean() < 0.7 and 0.25 < absent.mean() < 0.45
    side = geometry.box_side(uv / 224, np.ones(uv.shape[:2], bool))
    assert (side < 0.18).any() and (side > 1.1).any()
    _, centred = project(views())
    assert np.asarray(jax.vmap(geometry.is_centred)(jnp.asarray(centred) / 224)[0]).all()


def test_left_is_the_mirror_of_right():
    view = views()
    xyz, uv = project(view)
    mirrored = geometry.project(jax.vmap(camera.mirror)(xyz), view.K)
    np.testing.assert_allclose(mirrored[..., 0], 224 - uv[..., 0], atol=1e-4)
    np.testing.assert_array_equal(mirrored[..., 1], uv[..., 1])


def test_same_key_same_view_in_any_batch():
    keys = jax.random.split(jax.random.key(7), 3)
    alone = jax.jit(lambda key: camera.sample_view(key, KEYPOINTS, ELBOW))(jax.random.clone(keys)[1])
    together = jax.jit(jax.vmap(lambda key: camera.sample_view(key, KEYPOINTS, ELBOW)))(keys)
    for a, b in zip(alone, together, strict=True):
        np.testing.assert_allclose(a, b[1], rtol=1e-5, atol=1e-6)


def test_fits_fists_too():
    """However small or deep the hand, its box has the right size and stays in the picture."""

    def one(key):
        k_size, k_view = jax.random.split(key)
        keypoints = KEYPOINTS * jax.random.uniform(k_size, (3,), minval=0.3, maxval=1.0)[None]
        view = camera.sample_view(k_view, keypoints, ELBOW)
        return geometry.project(camera.to_camera(view, keypoints), view.K)

    uv = np.asarray(jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(0), N)))
    side = (uv.max(1) - uv.min(1)).max(1) / 224
    assert uv.min() >= 0 and uv.max() <= 224
    assert side.min() > 0.34 and side.max() < 0.61
