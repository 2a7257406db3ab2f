import dataclasses
import sys
from itertools import islice

import numpy as np
import pytest

from configs import tiny
from hpe_jax import geometry
from hpe_jax.data import prepared, resident
from hpe_jax.errors import UserError

MEAN, STD = np.float32([0.4, 0.5, 0.3]), np.float32([0.2, 0.1, 0.25])


@pytest.fixture
def builder(data_dir, freihand_like):
    config = tiny.get_config().data
    config.manual_dir, config.data_dir = str(freihand_like), str(data_dir)
    return prepared.open_dataset(config)


@pytest.fixture(scope='module')
def data_dir(tmp_path_factory):
    return tmp_path_factory.mktemp('tfds')


@pytest.fixture
def split(builder):
    return resident.load(builder, {'train': 'train'}, 32)['train']


@pytest.fixture
def decoded(monkeypatch):
    """The photos that resident.decode is given."""
    given, decode = [], resident.decode
    monkeypatch.setattr(
        resident, 'decode', lambda photo, *rest, **how: given.append(photo) or decode(photo, *rest, **how)
    )
    return given


def kept(builder):
    return next(builder.data_path.glob('resident-*-32.npy'))


@pytest.mark.slow
@pytest.mark.parametrize('size', [32, 48, 100, 128, 224, 256])
def test_photos_are_tensorflows_to_the_last_grey_level(builder, size):
    from hpe_jax.data import pipeline

    for photo in prepared.load(builder, 'train').photos:
        np.testing.assert_array_equal(resident.decode(photo, size=size), pipeline.decode(photo, size=size).numpy())


@pytest.mark.slow
def test_a_resize_of_a_wide_photo_is_tensorflows():
    import tensorflow as tf

    image = np.random.default_rng(0).random((31, 77, 3), np.float32) * 255
    expected = tf.image.resize(image, (13, 77), 'bilinear', antialias=True)
    np.testing.assert_allclose(geometry.resize_rows(image, 13), expected, rtol=1e-6)


def test_labels_are_kept_beside_the_photos(builder, tmp_path):
    read = prepared.load(builder, 'train')
    hidden = np.arange(read.visible.size).reshape(read.visible.shape) % 3 == 0
    for name, split in {'told': dataclasses.replace(read, occluded=hidden), 'untold': read}.items():
        resident._keep_photos(split, 32, 0, tmp_path / f'{name}.npy')
        resident._keep_labels(split, tmp_path / f'{name}.npy')
        found = resident._open(tmp_path / f'{name}.npy')
        for field in ('keypoints', 'visible', 'xyz', 'names', 'occluded'):
            np.testing.assert_array_equal(getattr(found, field), getattr(split, field))
    assert found.occluded is None


@pytest.fixture
def both(builder, split):
    """The same split as a Pipeline and as a Resident."""
    from hpe_jax.data import pipeline

    config = tiny.get_config()
    config.data.targets = 'device'
    photos = prepared.load(builder, 'train')
    return pipeline.Pipeline(photos, config.data, config.heatmap), resident.Resident(split)


def assert_same(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name in theirs:
        np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)
        assert ours[name].dtype == theirs[name].dtype


@pytest.mark.slow
def test_training_batches_are_those_of_tf_data(both):
    theirs, ours = (source.epochs(5, 2, steps=3, batch_size=4) for source in both)
    for a, b in islice(zip(theirs, ours, strict=False), 7):
        assert_same(b, a)


@pytest.mark.slow
@pytest.mark.parametrize('indices', [None, np.array([7, 0, 7, 2, 9])])
def test_evaluation_batches_are_those_of_tf_data(both, indices):
    theirs, ours = (list(source.once(4, indices)) for source in both)
    assert len(theirs) == len(ours) == (3 if indices is None else 2)
    for a, b in zip(theirs, ours, strict=True):
        assert_same(b, a)


def test_a_batch_that_is_one_already_passes_through():
    batch = {'image': np.zeros((2, 32, 32, 3), np.uint8)}
    assert resident.Resident.expand(batch) is batch


@pytest.mark.slow
def test_the_memory_it_takes_is_what_the_arithmetic_says(both):
    assert sum(x.nbytes for x in both[1].arrays.values()) == 10 * (3 * 32**2 + 189)


def test_labels_are_kept_too(builder, split):
    fresh = prepared.load(builder, 'train')
    for name in ('keypoints', 'visible', 'xyz', 'names'):
        np.testing.assert_array_equal(getattr(split, name), getattr(fresh, name))


def test_the_second_start_decodes_samples_alone(builder, split, decoded):
    again = resident.load(builder, {'train': 'train', 'test': 'test[:0]'}, 32)
    assert len(decoded) == resident.SAMPLES
    np.testing.assert_array_equal(again['train'].photos, split.photos)
    assert again['test'].photos.shape == (0, 32, 32, 3) and len(resident.Resident(again['test'])) == 0


def truncate(path):
    path.write_bytes(path.read_bytes()[:-1000])


def truncate_labels(path):
    truncate(path.with_suffix('.npz'))


def of_another_length(path):
    np.save(path, np.load(path)[1:])


def of_other_photos(path):
    np.save(path, np.load(path)[::-1])


def of_text(path):
    path.write_text('not an array')


@pytest.mark.parametrize('spoil', [truncate, truncate_labels, of_another_length, of_other_photos, of_text])
def test_a_file_that_is_not_of_this_data_is_made_anew(builder, split, decoded, spoil):
    expected = np.array(split.photos)
    spoil(kept(builder))
    np.testing.assert_array_equal(resident.load(builder, {'train': 'train'}, 32)['train'].photos, expected)
    assert len(decoded) == resident.SAMPLES + (0 if spoil is truncate_labels else 10)
    del decoded[:]
    resident.load(builder, {'train': 'train'}, 32)
    assert len(decoded) == resident.SAMPLES


def test_what_does_not_fit_is_told_with_numbers(builder, monkeypatch, decoded):
    monkeypatch.setattr(resident, 'free_memory', lambda: 500_000_000)
    resident.check_fits(9_000, 128)  # 0.444 GB
    with pytest.raises(
        UserError, match=r"32560 photos .* take 1.61 GB, more than 90% of the 0.50 GB .*source='tfdata'"
    ):
        resident.check_fits(32_560, 128)
    monkeypatch.setattr(resident, 'free_memory', lambda: 10_000)
    with pytest.raises(UserError, match='11 photos of 64x64'):
        resident.load(builder, {'train': 'train', 'test': 'test'}, 64)
    assert not decoded


@pytest.mark.skipif(sys.platform != 'linux', reason='only Linux tells what is free')
def test_a_cpu_has_the_hosts_memory():
    assert 1e6 < resident.free_memory() < 1e14
