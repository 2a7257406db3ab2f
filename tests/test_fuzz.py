"""500 damaged files of all kinds that a user gives: read, or refused in one sentence, soon and in little memory."""

import io
import json
import resource
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hpe_jax import trained_model
from hpe_jax.data.coco_hands import annotations
from hpe_jax.data.freihand import folder
from hpe_jax.errors import UserError
from hpe_jax.inference import images, outputs
from tests import drawn_coco

pytestmark = pytest.mark.slow

SECONDS, BYTES = 30, 2e9  # that one file may take


def damaged(content: bytes, rng: np.random.Generator) -> bytes:
    """Content with flipped bits, other bytes, a hole, a repeated part, or its end cut off."""
    data, kind = bytearray(content), rng.integers(5)
    at, length = int(rng.integers(len(data))), int(rng.integers(1, 1 + len(data) // 4))
    if kind == 0:
        for place in rng.integers(len(data), size=rng.integers(1, 9)):
            data[place] ^= 1 << int(rng.integers(8))
    elif kind == 1:
        data[at : at + length] = rng.bytes(length)
    elif kind == 2:
        del data[at : at + length]
    elif kind == 3:
        data[at:at] = data[at : at + length]
    else:
        del data[at:]
    return bytes(data)


VALUES = (None, [], {}, 'x', '', True, -1, 0, 2**63, 1e308, -1e-300, float('nan'), float('inf'), [[]], [0] * 70)


def with_another_value(content: bytes, rng: np.random.Generator) -> bytes:
    """JSON with one of its values, at any depth, replaced, left out, or twice there."""
    whole = json.loads(content)
    place = whole
    while True:
        keys = list(place) if isinstance(place, dict) else range(len(place))
        key = keys[rng.integers(len(keys))]
        inner = place[key]
        if not (isinstance(inner, dict | list) and len(inner)) or rng.random() < 0.2:
            break
        place = inner
    kind = rng.integers(6)
    if kind == 0:
        del place[key]
    elif kind == 1 and isinstance(place, list):
        place.append(inner)
    else:
        place[key] = VALUES[rng.integers(len(VALUES))]
    return json.dumps(whole).encode()


def attack(read: Callable, path: Path, times: int, seed: int, damage: Callable = damaged) -> int:
    """Damages a file and has it read, again and again; returns how many were refused."""
    content, rng, refused = path.read_bytes(), np.random.default_rng(seed), 0
    for number in range(times):
        path.write_bytes(damage(content, rng))
        began = time.perf_counter()
        try:
            read()
        except UserError as e:
            refused += 1
            assert str(e).strip() and 'Traceback' not in str(e), f'{path.name}, number {number}'
        except Exception as e:
            raise AssertionError(f'{path.name}, number {number} of seed {seed}: {type(e).__name__}') from e
        assert time.perf_counter() - began < SECONDS, f'{path.name}, number {number}'
    path.write_bytes(content)
    read()  # whole again
    assert 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < peak() + BYTES
    return refused


def peak() -> float:
    """Bytes that the process has had at most before the first attack."""
    if not hasattr(peak, 'bytes'):
        peak.bytes = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak.bytes


@pytest.mark.parametrize('kind', ['jpeg', 'png', 'gif', 'webp', 'tiff', 'bmp', 'tga', 'ppm'])
def test_images(tmp_path, kind):
    peak()
    noise = np.random.default_rng(0).integers(0, 256, (9, 12, 3), np.uint8)
    picture = Image.fromarray(noise).resize((60, 45))
    stream = io.BytesIO()
    more = {'save_all': True, 'append_images': [picture.rotate(90)]} if kind in ('gif', 'webp', 'tiff') else {}
    picture.save(stream, kind, **more)
    path = tmp_path / f'photo.{kind}'
    path.write_bytes(stream.getvalue())
    assert attack(lambda: images.read(path, first_frame=True), path, 25, seed=1) > 0


def test_labels_of_freihand(freihand_like, tmp_path):
    peak()
    root = shutil.copytree(freihand_like, tmp_path / 'photos')
    for name in ('training_xyz.json', 'training_K.json'):
        for seed, damage in enumerate((damaged, with_another_value)):
            assert attack(lambda: folder.find(root, 'training'), root / name, 25, seed, damage) > 15


@pytest.mark.parametrize('dialect', drawn_coco.DIALECTS)
def test_coco_keypoints(tmp_path, dialect):
    peak()
    drawn_coco.write(tmp_path, dialect, 6)
    path = sorted(tmp_path.rglob('*.json'))[0]
    joints = 'interhand' if dialect == 'interhand' else 'freihand'
    for seed, damage in enumerate((damaged, with_another_value)):
        assert attack(lambda: annotations.load(tmp_path, joints), path, 15, seed, damage) > 3


@pytest.mark.parametrize(
    'content', [{'a.jpg': [[1, 2, 30, 40]], 'b.jpg': []}, [{'file': 'a.jpg', 'box': [1, 2, 3, 4]}]]
)
def test_boxes(tmp_path, content):
    peak()
    path = tmp_path / 'boxes.json'
    path.write_text(json.dumps(content))
    for seed, damage in enumerate((damaged, with_another_value)):
        assert attack(lambda: outputs.read_boxes(path), path, 20, seed, damage) > 5


@pytest.mark.filterwarnings('ignore::pytest.PytestUnraisableExceptionWarning')  # orbax leaves tasks behind that failed
def test_run_directories(tiny_run, tmp_path):
    peak()
    run = shutil.copytree(tiny_run, tmp_path / 'run')
    paths = [path for path in sorted(run.rglob('*')) if path.is_file() and path.stat().st_size]
    refused = sum(attack(lambda: trained_model.load(run), path, 1, seed) for seed, path in enumerate(paths))
    assert len(paths) > 10 and refused > len(paths) / 4
