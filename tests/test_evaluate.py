import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from configs import tiny
from hpe_jax import evaluate, hand, metrics, models, preprocess, trained_model

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
    return evaluate.make_eval_step(CONFIG, model, CONFIG.eval.decoders), nnx.state(model)


def assert_same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert x == pytest.approx(y, rel=2e-5, abs=1e-6, nan_ok=True)


@pytest.mark.slow
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

    def perfect(state, images):
        heatmaps = preprocess.targets(data, CONFIG.heatmap)
        return {'heatmaps': heatmaps, 'logits': jnp.log(heatmaps + 1e-9) - jnp.log1p(1e-9 - heatmaps)}

    monkeypatch.setattr(trained_model, 'make_forward', lambda *_: perfect)
    model = models.make(CONFIG)
    step = evaluate.make_eval_step(CONFIG, model, ['window', 'mean'])
    result = evaluate.evaluate(step, nnx.state(model), [data])
    assert result['loss'] == pytest.approx(0, abs=1e-5)
    for scores in result['decoders'].values():
        assert scores['error_pct'] < 0.3 and scores['pck@0.05_image'] == 100


def test_table_shows_all_decoders_with_the_default_first_and_every_joint(step_and_state):
    result = evaluate.evaluate(*step_and_state, [examples(8)])
    text = evaluate.table(result, 'window')
    assert '| metric | window |' in text
    for word in (*metrics.NAMES, *CONFIG.eval.decoders, *hand.JOINTS):
        assert word in text
    assert f'{result["decoders"]["mean"]["error_pct"]:.3f}' in text
    json.dumps(result)
