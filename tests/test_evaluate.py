import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from configs import tiny
from hpe_jax import evaluate, geometry, hand, heatmap, models, preprocess
from hpe_jax.errors import UserError

MEAN, STD = np.zeros(3, np.float32), np.ones(3, np.float32)
CONFIG = tiny.get_config()


def examples(number: int):
    rng = np.random.default_rng(0)
    return {
        'image': rng.integers(0, 256, (number, 32, 32, 3), np.uint8),
        'keypoints': rng.random((number, 21, 2), np.float32),
        'visible': rng.random((number, 21)) < 0.8,
        'mask': np.ones(number, bool),
    }


def batches(data, size):
    """Batches of one size; the last one is padded with a repeated, masked example."""
    number = len(data['mask'])
    for start in range(0, number, size):
        index = np.arange(start, start + size)
        batch = {name: array[np.minimum(index, number - 1)] for name, array in data.items()}
        yield batch | {'mask': index < number}


@pytest.fixture(scope='module')
def step_and_state():
    model = models.make(CONFIG)
    model(jax.random.normal(jax.random.key(0), (2, 32, 32, 3)))  # statistics that are not the initial ones
    return evaluate.make_eval_step(CONFIG, model, MEAN, STD, CONFIG.eval.decoders), nnx.state(model)


def assert_same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert x == pytest.approx(y, rel=2e-5, abs=1e-6, nan_ok=True)


def test_batches_of_7_and_of_64_give_the_same_numbers(step_and_state):
    data = examples(30)
    results = [evaluate.evaluate(*step_and_state, batches(data, size)) for size in (7, 64)]
    assert results[0]['num_images'] == results[1]['num_images'] == 30
    assert results[0]['decoders'].keys() == set(CONFIG.eval.decoders)
    assert_same(*results)


def test_padding_does_not_count(step_and_state):
    data = examples(8)
    alone = evaluate.evaluate(*step_and_state, [{name: array[:4] for name, array in data.items()}])
    masked = evaluate.evaluate(*step_and_state, [data | {'mask': np.arange(8) < 4}])
    assert_same(alone, masked)
    assert alone['num_images'] == 4


def test_perfect_heatmaps_score_perfectly(monkeypatch):
    data = examples(8)
    data['keypoints'] = 0.2 + 0.6 * data['keypoints']

    def perfect(state, batch):
        heatmaps = preprocess.targets(batch, CONFIG.heatmap)
        return {'heatmaps': heatmaps, 'logits': jnp.log(heatmaps + 1e-9) - jnp.log1p(1e-9 - heatmaps)}

    monkeypatch.setattr(evaluate, 'make_predict', lambda *_: perfect)
    model = models.make(CONFIG)
    step = evaluate.make_eval_step(CONFIG, model, MEAN, STD, ['window', 'mean'])
    result = evaluate.evaluate(step, nnx.state(model), [data])
    assert result['loss'] == pytest.approx(0, abs=1e-5)
    for scores in result['decoders'].values():
        assert scores['error_pct'] < 0.3 and scores['pck@0.05_image'] == 100


def test_table_shows_all_decoders_with_the_default_first_and_every_joint(step_and_state):
    result = evaluate.evaluate(*step_and_state, [examples(8)])
    text = evaluate.table(result, 'window')
    assert '| metric | window |' in text
    for word in (*evaluate.SCORES, *CONFIG.eval.decoders, *hand.JOINTS):
        assert word in text
    assert f'{result["decoders"]["mean"]["error_pct"]:.3f}' in text
    json.dumps(result)


@pytest.fixture(scope='module')
def run(tiny_run):
    return evaluate.load_run(tiny_run)


def test_a_run_predicts_from_photos_what_its_network_says(run):
    images = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), np.uint8)
    keypoints, heatmaps, peaks = run.predict(images)
    run.model.eval()
    expected = run.model(jnp.asarray(preprocess.normalise(np.float32(images), run.mean, run.std)))
    np.testing.assert_allclose(heatmaps, expected, atol=1e-5)
    np.testing.assert_array_equal(peaks, heatmaps.max((1, 2)))
    np.testing.assert_array_equal(keypoints, run.decode(heatmaps, run.config.eval.decoder))
    by_mean = run.predict(images, 'mean').keypoints
    np.testing.assert_allclose(by_mean, jax.vmap(lambda maps: heatmap.decode(maps, 'mean'))(heatmaps), atol=1e-6)
    half_a_pixel = by_mean - run.decode(heatmaps, 'mean', 'reference')
    np.testing.assert_allclose(half_a_pixel, 0.5 / 32, atol=1e-6)


def test_photos_of_any_size_are_resized_and_none_are_none(run):
    image = np.random.default_rng(0).integers(0, 256, (50, 50, 3), np.uint8)
    small = geometry.crop(image, (0, 0, 50, 50), 32)
    several = run.predict([image, small])
    np.testing.assert_array_equal(several.heatmaps[0], several.heatmaps[1])
    assert run.predict([]).keypoints.shape == (0, 21, 2)


@pytest.mark.parametrize('image', [np.zeros((32, 32, 3)), np.zeros((32, 32), np.uint8)])
def test_what_is_no_photo_is_told(run, image):
    with pytest.raises(UserError, match=r'a photo must be a uint8 array \(height, width, 3\), not '):
        run.predict([image])


def test_an_unknown_decoder_is_told(run):
    with pytest.raises(UserError, match="decoder 'best': unknown to this run; choose from argmax, mean"):
        run.predict(np.zeros((1, 32, 32, 3), np.uint8), 'best')


def test_a_run_that_was_moved_and_made_by_an_older_commit_is_the_same(run, tiny_run, tmp_path):
    """Older: neither the later fields of the config nor the digest in the checkpoint."""
    moved = shutil.copytree(tiny_run, tmp_path / 'elsewhere/run')
    config = json.loads((moved / 'config.json').read_text())
    del config['augment'], config['init_from'], config['data']['source'], config['data']['live_preset']
    (moved / 'config.json').write_text(json.dumps(config))
    meta = json.loads((moved / 'checkpoints/3/meta/metadata').read_text())
    del meta['sha256']
    (moved / 'checkpoints/3/meta/metadata').write_text(json.dumps(meta))
    old = evaluate.load_run(moved)
    assert old.epoch == run.epoch == 3 and json.loads(old.config.to_json()) == json.loads(run.config.to_json())
    images = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), np.uint8)
    np.testing.assert_array_equal(old.predict(images).heatmaps, run.predict(images).heatmaps)


def test_what_is_no_run_cannot_be_loaded(tmp_path):
    with pytest.raises(UserError, match='is no run directory: it holds no config.json'):
        evaluate.load_run(tmp_path / 'absent')
