import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from hpe_jax import heatmap, preprocess

MEAN, STD = np.float32([0.4, 0.5, 0.3]), np.float32([0.2, 0.1, 0.25])
HEATMAP = ConfigDict({'sigma': 2.0, 'codec': 'subpixel'})


def batch():
    rng = np.random.default_rng(0)
    return {
        'image': rng.integers(0, 256, (2, 16, 24, 3), np.uint8),
        'keypoints': rng.random((2, 21, 2), np.float32),
        'visible': rng.random((2, 21)) < 0.8,
        'mask': np.array([True, False]),
    }


def test_normalise_by_hand():
    image = np.full((1, 1, 1, 3), 51, np.float32)
    np.testing.assert_allclose(preprocess.normalise(image, MEAN, STD).ravel(), [-1, -3, -0.4], rtol=1e-5)


def test_to_uint8_undoes_normalise():
    photos = batch()['image']
    np.testing.assert_array_equal(
        preprocess.to_uint8(preprocess.normalise(np.float32(photos), MEAN, STD), MEAN, STD), photos
    )
    assert preprocess.to_uint8(photos, MEAN, STD) is photos


def test_photos_that_the_host_has_normalised_pass_through():
    photos = batch()['image']
    host = preprocess.normalise(np.float32(photos), MEAN, STD)
    assert preprocess.inputs({'image': host}, MEAN, STD) is host
    device = jax.jit(lambda b: preprocess.inputs(b, MEAN, STD))({'image': photos})
    np.testing.assert_allclose(device, host, atol=1e-5)


def test_targets_are_the_hosts_or_made_from_the_keypoints():
    plain = batch()
    made = preprocess.targets(plain, HEATMAP)
    expected = heatmap.encode(jnp.asarray(plain['keypoints']), jnp.asarray(plain['visible']), (16, 24), 2.0)
    np.testing.assert_array_equal(made, expected)
    host = np.zeros((2, 16, 24, 21), np.float32)
    assert preprocess.targets(plain | {'heatmaps': host}, HEATMAP) is host


def test_padding_and_invisible_keypoints_do_not_count():
    counted = preprocess.counted(batch())
    np.testing.assert_array_equal(counted[0], batch()['visible'][0])
    assert not counted[1].any()


@pytest.mark.parametrize('turns', range(4))
def test_a_turned_photo_carries_its_keypoints_along(turns):
    image = np.zeros((8, 8, 3), np.uint8)
    image[1, 6] = 200  # row 1, column 6: its centre is (6.5, 1.5) pixels
    keypoints = np.float32([[6.5, 1.5], [4, 4]]) / 8
    turned, moved = jax.jit(preprocess.turn)(image, keypoints, turns)
    row, column = np.argwhere(np.asarray(turned)[..., 0])[0]
    np.testing.assert_allclose(moved * 8, [[column + 0.5, row + 0.5], [4, 4]], atol=1e-6)
    np.testing.assert_array_equal(turned, np.rot90(image, turns))


def test_augment_is_off_by_default_and_a_pure_function_of_the_key():
    plain = batch() | {'image': batch()['image'][:, :, :16]}
    off, on = ConfigDict({'quarter_turns': False}), ConfigDict({'quarter_turns': True})
    assert preprocess.augment(plain, off, jax.random.key(0)) is plain
    many = jax.tree.map(lambda x: np.concatenate([x] * 20), plain)
    first, again, other = (preprocess.augment(many, on, jax.random.key(k)) for k in (0, 0, 1))
    np.testing.assert_array_equal(first['image'], again['image'])
    assert (np.asarray(first['image']) != np.asarray(other['image'])).any()
    seen = {image.tobytes() for image in np.asarray(first['image'][::2])}
    assert seen == {np.rot90(plain['image'][0], k).tobytes() for k in range(4)}
