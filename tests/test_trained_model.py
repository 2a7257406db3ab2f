import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from hpe_jax import geometry, heatmap, trained_model
from hpe_jax.errors import UserError


@pytest.fixture(scope='module')
def run(tiny_run):
    return trained_model.load(tiny_run)


@pytest.mark.slow
def test_a_run_predicts_from_photos_what_its_network_says(run):
    images = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), np.uint8)
    keypoints, heatmaps, peaks = run.predict(images)
    run.model.eval()
    expected = run.model(jnp.asarray(images))
    np.testing.assert_allclose(heatmaps, expected, atol=1e-5)
    np.testing.assert_array_equal(peaks, heatmaps.max((1, 2)))
    np.testing.assert_array_equal(keypoints, run.decode(heatmaps, run.config.eval.decoder))
    by_mean = run.predict(images, 'mean').keypoints
    np.testing.assert_allclose(by_mean, jax.vmap(lambda maps: heatmap.decode(maps, 'mean'))(heatmaps), atol=1e-6)
    half_a_pixel = by_mean - run.decode(heatmaps, 'mean', 'reference')
    np.testing.assert_allclose(half_a_pixel, 0.5 / 32, atol=1e-6)


@pytest.mark.parametrize('rotations', [4, 8, 12])
def test_turned_copies_are_turned_back_and_agree(rotations):
    """The network's answer here: where the image is bright; and nonsense of the first copy."""

    def infer(state, images):
        light = images[..., 0].astype(jnp.float32)
        centres = jnp.stack(jnp.meshgrid(*[geometry.pixel_centres(64)] * 2), -1)
        points = jnp.einsum('bij,ijd->bd', light, centres) / light.sum((1, 2))[:, None]
        points = jnp.where(jnp.arange(len(images))[:, None] < 2, 9.0, points)
        return {'keypoints': jnp.tile(points[:, None], (1, 21, 1)), 'scores': 1.0 + jnp.arange(len(images))[:, None]}

    images = np.zeros((2, 64, 64, 3), np.uint8)
    images[0, 20:24, 40:44] = images[1, 30:36, 10:16] = 200
    answer = jax.jit(trained_model.over_rotations(infer, rotations))(nnx.State({}), jnp.asarray(images))
    expected = np.array([[42, 22], [13, 33]])[:, None] / 64
    np.testing.assert_allclose(answer['keypoints'], np.tile(expected, (1, 21, 1)), atol=2e-3)
    np.testing.assert_allclose(answer['scores'][:, 0], [rotations, rotations + 1])


def test_most_answers_decide_and_none_is_mixed_with_another():
    """Two answers far apart, at 0.2 and 0.8: the more frequent one, or of as many the one with higher peaks."""
    low, high = jnp.full((1, 21, 2), 0.2), jnp.full((1, 21, 2), 0.8)
    answers, equal = jnp.stack([low, high, low, low, high]), jnp.ones((5, 1))
    np.testing.assert_allclose(trained_model.agreed(answers, equal), low, atol=1e-6)
    np.testing.assert_allclose(trained_model.agreed(answers[:2], jnp.array([[0.5], [0.6]])), high, atol=1e-6)
    surer = jnp.where(answers[:, :, 0, 0] > 0.5, 0.6, 0.5)  # 2 * 0.6 ** 4 > 3 * 0.5 ** 4
    np.testing.assert_allclose(trained_model.agreed(answers, surer), high, atol=1e-6)


def test_answers_that_are_near_are_averaged_by_their_weights():
    """Half of NEAR apart: the one that is chosen has the weight 1, the other exp(-1/4), by equal peaks."""
    first = jnp.full((1, 21, 2), 0.5)
    second = first.at[..., 0].add(trained_model.NEAR / 2)
    apart = trained_model.agreed(jnp.stack([first, second]), jnp.full((2, 1), 0.3))[..., 0] - 0.5
    np.testing.assert_allclose(apart, trained_model.NEAR / 2 * np.exp(-0.25) / (1 + np.exp(-0.25)), rtol=1e-4)
    peaks = jnp.array([[0.3], [0.6]])  # 16 times the weight, and so the second is chosen
    apart = trained_model.agreed(jnp.stack([first, second]), peaks)[..., 0] - 0.5
    np.testing.assert_allclose(apart, trained_model.NEAR / 2 * 16 / (16 + np.exp(-0.25)), rtol=1e-4)


def test_answers_without_any_peak_are_finite():
    assert jnp.isfinite(trained_model.agreed(jnp.zeros((4, 1, 21, 2)), jnp.zeros((4, 1)))).all()


def test_photos_of_any_size_are_resized_and_none_are_none(run):
    image = np.random.default_rng(0).integers(0, 256, (50, 50, 3), np.uint8)
    small = geometry.crop(image, (0, 0, 50, 50), 32)
    several = run.predict([image, small])
    np.testing.assert_array_equal(several.heatmaps[0], several.heatmaps[1])
    assert run.predict([]).keypoints.shape == (0, 21, 2)


@pytest.mark.parametrize('image', [np.zeros((32, 32, 3)), np.zeros((32, 32), np.uint8)])
def test_what_is_no_photo_is_told(run, image):
    with pytest.raises(UserError, match=r'an image must be a uint8 array \(height, width, 3\), not '):
        run.predict([image])


def test_an_unknown_decoder_is_told(run):
    with pytest.raises(UserError, match="decoder 'best': unknown to this run; choose from argmax, mean"):
        run.predict(np.zeros((1, 32, 32, 3), np.uint8), 'best')


def test_a_run_that_was_moved_is_the_same(run, tiny_run, tmp_path):
    moved = trained_model.load(shutil.copytree(tiny_run, tmp_path / 'elsewhere/run'))
    assert moved.epoch == run.epoch == 3 and json.loads(moved.config.to_json()) == json.loads(run.config.to_json())
    images = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), np.uint8)
    np.testing.assert_array_equal(moved.predict(images).heatmaps, run.predict(images).heatmaps)


def test_what_is_no_run_cannot_be_loaded(tmp_path):
    with pytest.raises(UserError, match='is no run directory: it holds no config.json'):
        trained_model.load(tmp_path / 'absent')


def test_a_run_is_located_by_its_path_or_a_shipped_ones_name(tmp_path, monkeypatch):
    monkeypatch.setattr(trained_model, 'WEIGHTS', tmp_path)
    (tmp_path / 'hands').mkdir()
    assert trained_model.locate('hands') == tmp_path / 'hands'
    assert str(trained_model.locate('runs/hands')) == 'runs/hands' and str(trained_model.locate('unet')) == 'unet'
