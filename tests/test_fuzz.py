"""Damaged files of every kind that a user hands over: each is read, or answered in one sentence.

Images have such a test beside their reader, in tests/inference/test_images.py.
"""

import json
import shutil
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import optax
import pytest
from flax import nnx

from hpe_jax import checkpoint, configuration, trained_model
from hpe_jax.data.coco_hands import annotations, coco_hands_dataset_builder
from hpe_jax.data.freihand import folder
from hpe_jax.errors import UserError
from hpe_jax.inference import images, inputs, outputs
from tests import drawn_coco

pytestmark = pytest.mark.slow
ODD = (None, True, '', 'x', 'a\0b', '../..', '\udc80', -1, 0, 0.5, 1e308, 1e-300, 10**400, float('nan'), float('inf'))
ODD += ([], {}, [[]], [None] * 3, ['x'] * 4, {'': None}, {'id': {}})


def damaged(rng: np.random.Generator, content: bytes) -> bytes:
    """Half of the time some bytes are other ones, or the end is cut off; else one value of the JSON is another one."""
    if rng.random() < 0.5:
        try:
            return json.dumps(exchanged(rng, json.loads(content))).encode(errors='surrogatepass')
        except ValueError:  # no JSON
            pass
    data = bytearray(content)
    for _ in range(rng.choice([1, 3, 10]) if data else 0):
        data[int(rng.integers(len(data)))] = int(rng.integers(256))
    return bytes(data[: rng.integers(len(data) + 1)] if rng.random() < 0.3 else data)


def exchanged(rng: np.random.Generator, value):
    """The value with one of its parts, at any depth, exchanged, left out or there twice."""
    if isinstance(value, float) and rng.random() < 0.5:
        return value * rng.uniform(0.5, 1.5)
    if not isinstance(value, dict | list) or not value or rng.random() < 0.1:
        return ODD[rng.integers(len(ODD))]
    keys = list(value) if isinstance(value, dict) else range(len(value))
    key, value = keys[rng.integers(len(keys))], value.copy()
    if rng.random() < 0.1:
        del value[key]
    elif isinstance(value, list) and rng.random() < 0.1:
        value.insert(key, value[key])
    else:
        value[key] = exchanged(rng, value[key])
    return value


def campaign(number: int, root: Path, use: Callable[[Path], None], tmp_path: Path, files: str = '**/*') -> Counter:
    """Damages one file of a copy of the folder at a time; `use` must succeed or raise an error of one sentence.

    Returns:
      how many times it was 'used' and 'refused'.
    """
    copy, answers = Path(shutil.copytree(root, tmp_path / 'copy')), Counter()
    paths = sorted(path for path in copy.glob(files) if path.is_file())
    for seed in range(number):
        rng = np.random.default_rng(seed)
        path = paths[rng.integers(len(paths))]
        content = path.read_bytes()
        path.write_bytes(damaged(rng, content))
        try:
            use(copy)
            answers['used'] += 1
        except UserError as e:
            assert '\n' not in str(e) and len(str(e)) < 1500, (seed, path)
            answers['refused'] += 1
        except Exception as e:
            raise AssertionError(f'damage {seed} of {path}: {type(e).__name__}') from e
        path.write_bytes(content)
    assert answers['used'] > 1
    return answers


def test_freihand_labels(freihand_like, tmp_path):
    assert campaign(100, freihand_like, lambda root: folder.find(root, 'training'), tmp_path, '*.json')['refused'] > 20


def test_freihand_photos(freihand_like, tmp_path):
    def use(root: Path) -> None:
        for path in root.glob('*.jpg'):
            folder.read_photo(path)

    (tmp_path / 'whole').mkdir()
    for i in range(3):
        shutil.copy(freihand_like / f'training/rgb/{i:08d}.jpg', tmp_path / 'whole')
    assert campaign(40, tmp_path / 'whole', use, tmp_path)['refused'] > 5


@pytest.mark.parametrize('dialect', drawn_coco.DIALECTS)
def test_coco_labels(tmp_path, dialect):
    drawn_coco.write(tmp_path / 'whole', dialect, 8)
    config = coco_hands_dataset_builder.CropsConfig(name='32px', size=32)

    def use(root: Path) -> None:
        annotations.fingerprint(root)
        for hand in (hands[0] for hands in annotations.load(root).values()):
            coco_hands_dataset_builder.crop_example(hand, images.read(hand.image), config)

    assert campaign(40, tmp_path / 'whole', use, tmp_path, '**/*.json')['refused'] > 5


def test_boxes(tmp_path):
    entry = {'file': 'a.jpg', 'frame': None, 'width': 9, 'height': 9, 'time': None, 'handedness': 'right', 'score': 0.5}
    entry |= {
        'keypoints': [[1.5, 2.5]] * 21,
        'scores': [0.5] * 21,
        'box': [1, 2, 3, 4],
        'model': 'm',
        'decoder': 'd',
        'presence': None,
    }
    (tmp_path / 'whole').mkdir()
    for form in outputs.FORMATS:
        outputs.write(tmp_path / 'whole', form, [entry, entry | {'file': 'b.jpg', 'frame': 2}], [], {'model': 'm'})
    (tmp_path / 'whole/plain.json').write_text('{"a.jpg": [1, 2, 3, 4], "b.jpg": [[1, 2, 3, 4, 0.5]], "c/a.jpg": null}')
    (tmp_path / 'whole/list.json').write_text('[{"file": "a.jpg", "box": [1, 2, 3, 4]}, {"file": "b.jpg", "box": []}]')

    def use(root: Path) -> None:
        for path in root.iterdir():
            inputs.Boxes(str(path), ['a.jpg', 'b.jpg', 'd/a.jpg'][: 2 + (path.stem == 'plain')])

    assert campaign(100, tmp_path / 'whole', use, tmp_path)['refused'] > 20


def test_journal(tmp_path):
    journal = outputs.Journal(tmp_path / 'whole', {'a': 1})
    for file in ('a.jpg', 'b.jpg'):
        journal.add({'file': file, 'keypoints': [[1.5, 2.5]] * 21})
        journal.finish(file)
    journal.close(remove=False)

    def use(root: Path) -> None:
        outputs.Journal(root, {'a': 1}).close(remove=False)

    # What is damaged in it is predicted again.
    assert campaign(40, tmp_path / 'whole', use, tmp_path) == {'used': 40}


@pytest.mark.parametrize('files', ['**/*', 'config.json'])
def test_run_directories(tiny_run, tmp_path, monkeypatch, files):
    """What is used all the same has the weights and the config that were saved."""
    monkeypatch.setattr(checkpoint.time, 'sleep', lambda seconds: None)  # see checkpoint._one_error
    monkeypatch.setattr(sys, 'unraisablehook', lambda raised: None)
    root = shutil.copytree(tiny_run, tmp_path / 'whole')
    model, sha256 = trained_model.load(root).model, configuration.digest(configuration.saved(root))
    weights, optimizer = nnx.state(model), nnx.Optimizer(model, optax.sgd(0.1), wrt=nnx.Param)
    checkpoint.Checkpoints(root).save(3, model, optimizer, {'config_sha256': sha256}, 0.5)

    def use(root: Path) -> None:
        loaded = trained_model.load(root)
        jax.tree.map(np.testing.assert_array_equal, nnx.state(loaded.model), weights)
        assert configuration.digest(loaded.config) == sha256

    assert campaign(60, root, use, tmp_path, files)['refused'] > 10
