import http.server
import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from hpe_jax import geometry
from hpe_jax.data import features
from hpe_jax.data.freihand import Builder, folder, freihand_dataset_builder
from hpe_jax.errors import UserError
from tests import drawn_hands


def build(tmp_path, source, variant='raw'):
    builder = Builder(config=variant, data_dir=str(tmp_path / 'tfds'))
    builder.download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir=str(source)))
    return builder


def read(builder, split):
    """All examples of a whole split, read without TensorFlow; images stay encoded."""
    source = builder.as_data_source(split, decoders={'image': tfds.decode.SkipDecoding()})
    return [source[i] for i in range(len(source))]


@pytest.fixture
def broken(freihand_like, tmp_path) -> Path:
    """A copy of the folder that a test may spoil."""
    return Path(shutil.copytree(freihand_like, tmp_path / 'broken'))


def test_reference_split_of_the_real_set_and_its_proportions():
    bounds = features.split_bounds(32560)
    assert bounds == {'train': range(26000), 'validation': range(26000, 31000), 'test': range(31000, 32560)}
    for n in range(1, 200):
        parts = features.split_bounds(n)
        assert [i for part in parts.values() for i in part] == list(range(n))


def test_raw_holds_the_photos_and_labels_as_they_are(freihand_like, tmp_path):
    builder = build(tmp_path, freihand_like)
    part = folder.find(freihand_like, 'training')
    assert {name: split.num_examples for name, split in builder.info.splits.items()} == {
        'train': 10,
        'validation': 2,
        'test': 1,
    }
    for example in (e for split in ('train', 'validation', 'test') for e in read(builder, split)):
        i = int(example['sample_id'])
        assert example['image'] == part.photos[i].read_bytes()
        assert example['version'] == 0
        np.testing.assert_allclose(example['xyz'], part.xyz[i], rtol=1e-6)
        uvw = part.K[i] @ part.xyz[i].T
        np.testing.assert_allclose(example['uv'], (uvw[:2] / uvw[2]).T, rtol=1e-5)


def test_full_keeps_all_versions_of_a_photo_in_one_split_with_one_label(freihand_like, tmp_path):
    builder = build(tmp_path, freihand_like, 'full')
    part = folder.find(freihand_like, 'training')
    ids = {split: [] for split in builder.info.splits}
    for split in ids:
        for example in read(builder, split):
            i, version = int(example['sample_id']), int(example['version'])
            ids[split].append(i)
            assert example['image'] == part.photos[i + 13 * version].read_bytes()
            np.testing.assert_allclose(example['uv'], geometry.project(part.xyz[i], part.K[i]), rtol=1e-5)
    assert sorted(ids['train']) == sorted(4 * list(range(10)))
    assert not set(ids['train']) & set(ids['test']) | set(ids['train']) & set(ids['validation'])
    assert sum(map(len, ids.values())) == 52


def test_nested_folder_and_evaluation_half(freihand_like, tmp_path):
    nested = tmp_path / 'download' / 'FreiHAND_pub_v2'
    shutil.copytree(freihand_like, nested)
    shutil.copytree(nested / 'training', nested / 'evaluation')
    for name in ('xyz', 'K'):
        labels = json.loads((nested / f'training_{name}.json').read_text())
        (nested / f'evaluation_{name}.json').write_text(json.dumps(labels * 4))
    builder = build(tmp_path, tmp_path / 'download')
    assert builder.info.splits['evaluation'].num_examples == 52
    assert [int(e['sample_id']) for e in read(builder, 'evaluation')] == list(range(52))


def test_real_photos(shared, tmp_path):
    builder = build(tmp_path, shared / 'freihand_mini', 'full')
    assert {name: split.num_examples for name, split in builder.info.splits.items()} == {'train': 4, 'test': 4}
    keypoints = np.load(shared / 'reference/parity.npz')['keypoints_true']
    for example in read(builder, 'train') + read(builder, 'test'):
        np.testing.assert_allclose(example['uv'] / 224, keypoints[int(example['sample_id'])], atol=1e-6)


@pytest.mark.slow
def test_tfds_build_command(freihand_like, tmp_path):
    """The body of `tfds build`; the program around it imports apache_beam, which nothing here needs."""
    arguments = ['--config=raw', f'--manual_dir={freihand_like}', f'--data_dir={tmp_path}']
    script = (
        'import simple_parsing\n'
        'from tensorflow_datasets.scripts.cli import build\n'
        f'simple_parsing.parse(build.Args, args={arguments}).execute()\n'
    )
    source = Path(freihand_dataset_builder.__file__).parent
    environment = os.environ | {'PYTHONPATH': str(source.parents[2])}
    done = subprocess.run([sys.executable, '-c', script], cwd=source, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / 'freihand/raw/1.0.0/dataset_info.json').exists()


@pytest.mark.slow
def test_archives_are_downloaded_extracted_and_their_checksums_recorded(freihand_like, tmp_path, monkeypatch):
    served = tmp_path / 'served'
    shutil.make_archive(served / 'FreiHAND_pub_v2', 'zip', freihand_like)
    evaluation = tmp_path / 'evaluation'
    shutil.copytree(freihand_like / 'training/rgb', evaluation / 'evaluation/rgb')
    for name in ('xyz', 'K'):
        labels = json.loads((freihand_like / f'training_{name}.json').read_text())
        (evaluation / f'evaluation_{name}.json').write_text(json.dumps(labels))
    shutil.make_archive(served / 'FreiHAND_pub_v2_eval', 'zip', evaluation)

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(served))

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Quiet)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(freihand_dataset_builder, 'URL', f'http://127.0.0.1:{server.server_port}/')
    recorded = tmp_path / 'checksums.tsv'
    recorded.touch()
    monkeypatch.setattr(Builder, '_checksums_path', recorded, raising=False)
    try:
        builder = Builder(config='raw', data_dir=str(tmp_path / 'tfds'))
        builder.download_and_prepare(download_config=tfds.download.DownloadConfig(register_checksums=True))
    finally:
        server.shutdown()
        server.server_close()
    assert {name: s.num_examples for name, s in builder.info.splits.items()}['evaluation'] == 13
    assert 'FreiHAND_pub_v2_eval.zip' in recorded.read_text()


@pytest.mark.parametrize(
    ('spoil', 'message'),
    [
        (lambda f: shutil.rmtree(f), 'no such FreiHAND folder'),
        (lambda f: (f / 'training_xyz.json').unlink(), 'lacks training_xyz.json'),
        (lambda f: (f / 'training_K.json').unlink(), 'lacks training_K.json'),
        (lambda f: shutil.rmtree(f / 'training'), 'lacks training/rgb'),
        (lambda f: [p.unlink() for p in (f / 'training/rgb').iterdir()], 'holds no photos'),
        (lambda f: (f / 'training/rgb/00000007.jpg').unlink(), '00000007.jpg is missing'),
        (
            lambda f: (f / 'training/rgb/00000051.jpg').unlink(),
            'holds 51 photos but training_xyz.json has labels for 13',
        ),
        (lambda f: shorten(f / 'training_K.json'), 'labels 12 photos but training_xyz.json labels 13'),
        (lambda f: [shorten(f / f'training_{n}.json') for n in ('K', 'xyz')], 'has labels for 12'),
        (lambda f: (f / 'training_K.json').write_text('[[1, 2'), 'not a list of 3x3 number arrays'),
        (lambda f: (f / 'training_K.json').write_text('[[[1, 2], [3]]]'), 'not a list of 3x3 number arrays'),
        (lambda f: (f / 'training_K.json').write_text('[' * 100_000), 'not a list of 3x3 number arrays'),
        (lambda f: (f / 'training_K.json').write_text(f'[{[[10**400] * 3] * 3}]'), 'not a list of 3x3 number arrays'),
        (lambda f: (f / 'training_K.json').unlink() or (f / 'training_K.json').mkdir(), 'cannot be read: Is a dir'),
        (lambda f: (f / 'training_xyz.json').write_text(json.dumps(np.ones((13, 20, 3)).tolist())), r'\(13, 20, 3\)'),
        (
            lambda f: (f / 'training_xyz.json').write_text(json.dumps(np.zeros((13, 21, 3)).tolist())),
            'xyz.json: hand 0 lies behind the camera',
        ),
        (lambda f: change(f / 'training_xyz.json', (3, 5, 2), 1e-300), 'xyz.json: hand 3 lies behind the camera or in'),
        (lambda f: change(f / 'training_xyz.json', (3, 5, 2), 1e300), 'xyz.json: hand 3 has no finite pixels'),
        (lambda f: change(f / 'training_xyz.json', (3, 5, 0), 1e308), 'xyz.json: hand 3 has no finite pixels'),
        (lambda f: change(f / 'training_xyz.json', (3, 5, 0), 1e39), 'xyz.json: hand 3 has no finite pixels'),
        (lambda f: normalise(f / 'training_K.json'), 'xyz.json: hand 0 is smaller than a pixel by its matrix in'),
        (lambda f: change(f / 'training_K.json', 4, 0), 'K.json: matrix 4 is that of no camera; expected'),
        (lambda f: change(f / 'training_K.json', (4, 1, 1), 0), 'K.json: matrix 4 is that of no camera; expected'),
        (lambda f: change(f / 'training_K.json', 4, 1e300), 'K.json: matrix 4 is that of no camera; expected'),
        (
            lambda f: change(f / 'training_K.json', (slice(7), slice(2), 2), -1000),
            '7 of 13 hands, the first is hand 0, lie outside of their photos by training_K.json',
        ),
        (
            lambda f: (f / 'training_K.json').write_text(json.dumps([[['1'] * 3] * 3] * 13)),
            'not a list of 3x3 number arrays',
        ),
        (
            lambda f: (f / 'training_K.json').write_text(json.dumps([[[True] * 3] * 3] * 13)),
            'not a list of 3x3 number arrays',
        ),
    ],
)
def test_a_wrong_folder_is_answered_in_one_sentence(broken, spoil, message):
    spoil(broken)
    with pytest.raises(UserError, match=message) as error:
        folder.find(broken, 'training')
    assert str(broken) in str(error.value) and '\n' not in str(error.value)


def change(path: Path, at, value: float) -> None:
    labels = np.array(json.loads(path.read_text()))
    labels[at] = value
    path.write_text(json.dumps(labels.tolist()))


def test_a_few_hands_may_lie_outside_of_their_photos(broken):
    change(broken / 'training_K.json', (slice(6), slice(2), 2), -1000)
    change(broken / 'training_K.json', (3, 2, 2), 0.9999999)  # a 1 that was rounded
    assert len(folder.find(broken, 'training').xyz) == 13


def normalise(path):
    K = np.array(json.loads(path.read_text())) / np.array([[224.0], [224.0], [1.0]])
    path.write_text(json.dumps(K.tolist()))


def shorten(path: Path) -> None:
    path.write_text(json.dumps(json.loads(path.read_text())[:-1]))


def test_a_truncated_photo_is_named_and_nothing_is_left_under_the_final_name(broken, tmp_path):
    photo = broken / 'training/rgb/00000003.jpg'
    photo.write_bytes(photo.read_bytes()[:2000])
    with pytest.raises(UserError, match='00000003.jpg: unreadable or truncated JPEG'):
        build(tmp_path, broken)
    assert not list(tmp_path.glob('tfds/**/1.0.0'))


def test_a_photo_of_another_size_is_named(broken):
    photo = broken / 'training/rgb/00000003.jpg'
    Image.new('RGB', (100, 80)).save(photo)
    with pytest.raises(UserError, match='00000003.jpg: 100x80 pixels'):
        folder.read_photo(photo)


@pytest.mark.parametrize('mode', ['L', 'CMYK'])
def test_a_photo_of_other_colours_is_named(broken, mode):
    photo = broken / 'training/rgb/00000003.jpg'
    Image.new(mode, (224, 224)).save(photo)
    with pytest.raises(UserError, match=f'00000003.jpg: its colours are {mode}, but FreiHAND photos are RGB'):
        folder.read_photo(photo)


def test_a_photo_that_claims_to_be_huge_is_named(broken):
    photo = broken / 'training/rgb/00000003.jpg'
    data = bytearray(photo.read_bytes())
    at = data.index(b'\xff\xc0') + 5
    data[at : at + 4] = (65000).to_bytes(2, 'big') * 2
    photo.write_bytes(data)
    with pytest.raises(UserError, match='00000003.jpg: 65000x65000 pixels, but FreiHAND photos are 224x224'):
        folder.read_photo(photo)


def test_hidden_files_are_no_photos(broken):
    """Those that macOS adds, and a temporary one that a killed rendering leaves."""
    for name in ('._00000000.jpg', '.d0e28ac7.1375.jpg'):
        (broken / 'training/rgb' / name).write_bytes(b'\0\5\x16\7')
    assert len(folder.find(broken, 'training').photos) == 52


def test_all_files_are_taken_from_one_folder(broken, tmp_path):
    (broken / 'training_K.json').rename(tmp_path / 'training_K.json')
    with pytest.raises(UserError, match='broken: not a whole FreiHAND folder, it lacks training_K.json'):
        folder.find(tmp_path, 'training')


def test_full_from_green_screen_photos_alone(tmp_path):
    source = drawn_hands.write(tmp_path / 'raw', 3)
    with pytest.raises(UserError, match="use 'freihand/raw'"):
        build(tmp_path, source, 'full')


def test_the_fingerprint_follows_the_content_and_not_the_place(freihand_like, broken):
    assert folder.fingerprint(freihand_like) == folder.fingerprint(broken)
    photo = broken / 'training/rgb/00000000.jpg'
    before = photo.read_bytes()
    for content in before + b'\0', before[:-1] + b'\0':  # the second one is as long as the first photo
        photo.write_bytes(content)
        assert folder.fingerprint(freihand_like) != folder.fingerprint(broken)
