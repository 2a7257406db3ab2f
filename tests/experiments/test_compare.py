"""Several models on the same crops: the numbers are those of evaluation; MediaPipe's square by hand."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from configs import unet
from experiments import compare, mediapipe_hands
from hpe_jax import evaluate, geometry
from hpe_jax.errors import UserError
from tests import drawn_coco

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp('coco')
    drawn_coco.write(folder, number=8)
    data = unet.get_config().data
    data.update(dataset='coco_hands', manual_dir=str(folder), data_dir=str(tmp_path_factory.mktemp('tfds')))
    return data


@pytest.mark.slow
def test_scores_are_those_of_evaluation_on_the_same_crops(tiny_run, data):
    result = compare.compare([str(tiny_run)], data, 'train')
    (scores,) = result['models'].values()
    overrides = {f'data.{name}': data[name] for name in ('dataset', 'manual_dir', 'data_dir')}
    expected = evaluate.evaluate_run(tiny_run, 'train', overrides)
    assert result['num_images'] == expected['num_images'] == 6
    for name in (*compare.COLUMNS, 'epe_px_original'):
        assert scores[name] == pytest.approx(expected['decoders'][expected['decoder']][name], rel=1e-4)
    assert scores['ms'] > 0
    rows = compare.table(result['models']).splitlines()
    assert rows[0].startswith('| model | nme_box |') and len(rows) == 3 and f'{scores["nme_box"]:.3f}' in rows[2]


def test_models_that_cannot_be_used(tiny_run, data, tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
    with pytest.raises(UserError, match='mediapipe: its landmark model was not found; pip install'):
        compare.load('mediapipe')
    with pytest.raises(UserError, match='absent is no run directory'):
        compare.load(str(tmp_path / 'absent'))
    with pytest.raises(UserError, match=r"split 'train\[:0\]' of coco_hands holds no photos"):
        compare.compare([str(tiny_run)], data, 'train[:0]')


@pytest.mark.slow
def test_published_weights_as_they_are(shared, data):
    pytest.importorskip('torch', reason='reading PyTorch weights needs PyTorch, which is optional')
    predict = compare.load(str(shared / 'reference/model_final.pth'))
    parity = np.load(shared / 'reference/parity.npz')
    np.testing.assert_allclose(predict(list(parity['images_u8'])), parity['keypoints_pred'], atol=1e-5)


@pytest.mark.slow
def test_the_command(tiny_run, data, tmp_path):
    command = [sys.executable, '-m', 'experiments.compare', f'--models={tiny_run}', '--split=all']
    command += [f'--{name}={data[name]}' for name in ('dataset', 'manual_dir', 'data_dir')]
    done = subprocess.run([*command, f'--output={tmp_path}'], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    kept = json.loads((tmp_path / 'compare.json').read_text())
    assert kept['num_images'] == 8 and kept['command'] and '| model |' in done.stdout


@pytest.mark.parametrize('degrees', [0.0, 70.0, 200.0])
def test_mediapipes_square_turns_with_the_hand_and_has_it_upright(degrees):
    keypoints = drawn_coco.draw(1).keypoints
    centre, side, turn = mediapipe_hands.square_of(keypoints)
    matrix = mediapipe_hands.upright(centre, side, turn)
    seen = geometry.transform(keypoints, matrix)
    knuckles = (seen[5] / 2 + seen[13] / 2 + seen[9]) / 2
    assert knuckles[0] == pytest.approx(seen[0, 0]) and knuckles[1] < seen[0, 1]
    palm = seen[list(mediapipe_hands.PALM)]
    assert np.ptp(palm, axis=0).max() == pytest.approx(224 / 2)
    moved = geometry.transform(
        keypoints, geometry.similarity(np.array([5.0, 7.0]), np.array([90.0, 40.0]), 1.7, degrees)
    )
    again = geometry.transform(moved, mediapipe_hands.upright(*mediapipe_hands.square_of(moved)))
    np.testing.assert_allclose(again, seen, atol=1e-6)
