import io
import json
import os
import shutil

import numpy as np
import pytest
import tensorflow_datasets as tfds
from ml_collections import ConfigDict
from PIL import Image

from hpe_jax import files
from hpe_jax.data import prepared
from hpe_jax.data.freihand import folder
from hpe_jax.errors import UserError, WriteError
from tests import drawn_hands


def config(tmp_path, manual_dir, dataset='freihand/raw'):
    return ConfigDict({'dataset': dataset, 'manual_dir': str(manual_dir), 'data_dir': str(tmp_path / 'tfds')})


def test_prepared_once_then_reused(freihand_like, tmp_path, monkeypatch):
    first = prepared.open_dataset(config(tmp_path, freihand_like))
    monkeypatch.setattr(prepared, '_prepare', lambda *_: pytest.fail('prepared twice'))
    again = prepared.open_dataset(config(tmp_path, freihand_like))
    assert again.data_path == first.data_path and again.info.splits['train'].num_examples == 10


def test_another_folder_is_never_mistaken_for_the_first(freihand_like, tmp_path):
    other = drawn_hands.write(tmp_path / 'other', 6, seed=1)
    prepared.open_dataset(config(tmp_path, freihand_like))
    assert prepared.open_dataset(config(tmp_path, other)).info.splits.total_num_examples == 6


@pytest.mark.parametrize(
    'error', [OSError(28, 'No space left on device'), RuntimeError('Failed: No space left on device')]
)
def test_a_full_disk_is_reported_and_leaves_nothing_under_the_final_name(freihand_like, tmp_path, monkeypatch, error):
    def write(*_):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(tfds.core.writer.ExampleWriter, 'write', write)
        with pytest.raises(WriteError, match='cannot write .*freihand/raw/1.0.0: .*No space left on device$'):
            prepared.open_dataset(config(tmp_path, freihand_like))
    assert prepared.open_dataset(config(tmp_path, freihand_like)).info.splits['train'].num_examples == 10


@pytest.mark.parametrize('dataset', ['freihnd/raw', 'freihand/ful'])
def test_unknown_dataset(tmp_path, dataset):
    with pytest.raises(UserError, match='freihand|raw, full'):
        prepared.open_dataset(config(tmp_path, tmp_path, dataset))


def test_split_expressions(freihand_like, shared, tmp_path):
    builder = prepared.open_dataset(config(tmp_path, freihand_like))
    assert prepared.resolve_split(builder, 'train[:3]+test') == 'train[:3]+test'
    with pytest.raises(UserError, match=r"'valid'.*holds train \(10\), validation \(2\), test \(1\)"):
        prepared.resolve_split(builder, 'valid')
    with pytest.raises(UserError, match="'evaluation'"):
        prepared.resolve_split(builder, 'evaluation')
    tiny = prepared.open_dataset(config(tmp_path, shared / 'freihand_mini'))
    assert prepared.resolve_split(tiny, 'train+validation+test') == 'train+test'
    assert prepared.resolve_split(tiny, 'validation[:50%]') == ''


def test_epoch_order_is_a_pure_function_and_a_permutation():
    order = prepared.epoch_order(10, 25, seed=1, epoch=3)
    np.testing.assert_array_equal(order, prepared.epoch_order(10, 25, seed=1, epoch=3))
    assert sorted(order[:10]) == sorted(order[10:20]) == list(range(10)) and len(set(order[20:])) == 5
    assert not np.array_equal(order[:10], order[10:20])
    for other in (prepared.epoch_order(10, 25, 1, 4), prepared.epoch_order(10, 25, 2, 3)):
        assert not np.array_equal(order, other)


def jpeg(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, 'JPEG', quality=95)
    return stream.getvalue()


def test_channel_statistics_are_over_all_pixels_and_kept(freihand_like, tmp_path):
    builder = prepared.open_dataset(config(tmp_path, freihand_like))
    # Two flat photos: a mean over photos of each one's own std would be zero.
    photos = [jpeg(np.full((8, 8, 3), grey, np.uint8)) for grey in (51, 204)]
    mean, std = prepared.channel_statistics(builder, 'train[:2]', photos)
    np.testing.assert_allclose(mean, 0.5, atol=1e-6)
    np.testing.assert_allclose(std, 0.3, atol=1e-6)
    kept = prepared.channel_statistics(builder, 'train[:2]', [])
    np.testing.assert_array_equal(kept, (mean, std))
    splits = {json.loads(path.read_text())['split'] for path in builder.data_path.glob('channel_statistics-*')}
    assert splits == {'train', 'validation', 'test', 'train[:2]'}
    other, _ = prepared.channel_statistics(builder, 'train[:1]', photos[:1])
    np.testing.assert_allclose(other, 0.2, atol=1e-6)


def test_what_is_computed_of_data_that_can_only_be_read_goes_elsewhere(freihand_like, tmp_path, monkeypatch):
    data = config(tmp_path, freihand_like)
    builder, photos = prepared.open_dataset(data), [jpeg(np.full((8, 8, 3), 51, np.uint8))]
    monkeypatch.setenv('HOME', str(tmp_path / 'home'))
    prepared.channel_statistics(builder, 'before', photos)
    monkeypatch.setattr(os, 'access', lambda path, mode: False)  # root may write anywhere, so that chmod is no test
    names = {path.name for path in builder.data_path.iterdir()}
    prepared.channel_statistics(builder, 'before', [])  # is there, and is read
    mean, _ = prepared.channel_statistics(builder, 'train[:1]', photos)
    np.testing.assert_allclose(mean, 0.2, atol=1e-6)
    assert {path.name for path in builder.data_path.iterdir()} == names
    kept = list((tmp_path / 'home/.cache/hpe_jax/data').rglob('channel_statistics-*.json'))
    assert [json.loads(path.read_text())['split'] for path in kept] == ['train[:1]']
    np.testing.assert_array_equal(prepared.channel_statistics(builder, 'train[:1]', [])[0], mean)

    data.cache_dir = str(tmp_path / 'chosen')
    prepared.channel_statistics(prepared.open_dataset(data), 'train[:1]', photos)
    assert len(list((tmp_path / 'chosen').rglob('channel_statistics-*.json'))) == 1


def test_preparing_decodes_each_photo_once_for_its_check_and_the_statistics(freihand_like, tmp_path, monkeypatch):
    decode, decoded = folder.images.open_jpeg, []
    monkeypatch.setattr(folder.images, 'open_jpeg', lambda source: decoded.append(source) or decode(source))
    builder = prepared.open_dataset(config(tmp_path, freihand_like, 'freihand/full'))
    kept = prepared.channel_statistics(builder, 'train')
    assert sorted(decoded) == sorted((freihand_like / 'training/rgb').iterdir())
    again = prepared.channel_statistics(builder, 'train[:100%]')
    np.testing.assert_array_equal(kept, again)


def test_what_a_killed_preparation_left_is_removed(freihand_like, tmp_path):
    builder = prepared.open_dataset(config(tmp_path, freihand_like))
    shutil.rmtree(builder.data_path)
    left = builder.data_path.parent / 'incomplete.ABCDEF_1.0.0'
    left.mkdir()
    (left / 'part').write_text('of a file')
    prepared.open_dataset(config(tmp_path, freihand_like))
    assert not left.exists() and builder.data_path.exists()
    with files.locked(str(left.parent)):  # as another process that prepares it does
        shutil.rmtree(builder.data_path)
        with pytest.raises(UserError, match='in use by process .* wait for its end'):
            prepared.open_dataset(config(tmp_path, freihand_like))
    prepared.open_dataset(config(tmp_path, freihand_like))


def test_channel_statistics_of_photos(freihand_like, tmp_path):
    builder = prepared.open_dataset(config(tmp_path, freihand_like))
    paths = folder.find(freihand_like, 'training').photos[:5]
    mean, std = prepared.channel_statistics(builder, 'x', [p.read_bytes() for p in paths])
    pixels = np.stack([np.asarray(Image.open(p)) for p in paths]) / 255
    np.testing.assert_allclose(mean, pixels.mean((0, 1, 2)), rtol=1e-6)
    np.testing.assert_allclose(std, pixels.std((0, 1, 2)), rtol=1e-6)


@pytest.mark.slow
def test_no_example_is_lost_in_writing(tmp_path):
    """TFDS 4.9.10 keeps only a part of a split of more than 100 when it writes Parquet."""
    builder = prepared.open_dataset(config(tmp_path, drawn_hands.write(tmp_path / 'many', 420)))
    split = prepared.load(builder, 'train+validation+test')
    assert len(split) == 420 and len({photo for photo in split.photos}) == 420


def test_the_digest_is_of_all_photos_and_labels():
    def split(photos=(b'ab', b'c'), at=0.5, **fields):
        keypoints = np.full((2, 21, 2), at, np.float32)
        return prepared.Split(np.array(photos, object), keypoints, None, np.array(['0', '1']), **fields)

    others = [
        split((b'c', b'ab')),
        split((b'a', b'bc')),
        split(at=0.25),
        split(labelled=np.zeros((2, 21), bool)),
        split(left=np.ones(2, bool)),
    ]
    assert split().digest() == split().digest()
    assert len({split().digest(), *(other.digest() for other in others)}) == 6


def test_relative_hand_size_is_the_median_of_hands_that_lie_in_the_photo():
    keypoints = np.full((3, 21, 2), 0.5, np.float32)
    keypoints[:, 0] = [[0.3, 0.4], [0.1, 0.4], [-0.1, 0.5]]
    split = prepared.Split(np.empty(3, object), keypoints, np.zeros((3, 21, 3), np.float32), np.array(['a', 'b', 'c']))
    assert prepared.relative_hand_size(split) == pytest.approx((0.2 + 0.4) / 2)
    keypoints[:2, 1] = -1
    assert prepared.relative_hand_size(split) == pytest.approx(0.2)


def test_a_mixtures_members_have_their_own_fields(tmp_path):
    data = config(tmp_path, 'a, b, ', 'freihand/full:1, coco_hands:0.5,synthetic_hands/full')
    data.joints, data.handedness = 'rhd', 'right,left,right'
    (first, *rest), weights = zip(*prepared.members(data), strict=True)
    assert weights == (1, 0.5, 1) and [one.dataset for one in rest] == ['coco_hands', 'synthetic_hands/full']
    assert (first.manual_dir, rest[0].manual_dir, rest[1].manual_dir) == ('a', 'b', '')
    assert (first.joints, rest[1].joints, rest[0].handedness) == ('rhd', 'rhd', 'left')
    alone = config(tmp_path, 'a,b')
    assert prepared.members(alone) == [(alone, 1.0)]


@pytest.mark.parametrize('weight', ['0', '-1', 'nan', 'inf', 'much'])
def test_weights_are_positive_numbers(tmp_path, weight):
    with pytest.raises(UserError, match='the weight of freihand/raw must be a positive number'):
        prepared.members(config(tmp_path, '', f'freihand/raw:{weight}, coco_hands'))


def test_fields_of_a_mixture_have_one_value_or_one_for_each_set(tmp_path):
    with pytest.raises(UserError, match="manual_dir='a,b': 2 values; expected one, or one for each of the 3 data sets"):
        prepared.members(config(tmp_path, 'a,b', 'freihand/raw, coco_hands, synthetic_hands'))
    with pytest.raises(UserError, match='several data sets where one is expected'):
        prepared.open_dataset(config(tmp_path, '', 'freihand/raw, coco_hands'))


def test_the_order_of_one_set_is_epoch_order():
    for parts in ([(10, 1.0)], [(10, 0.3)]):
        np.testing.assert_array_equal(prepared.mixed_order(parts, 25, 3, 4), prepared.epoch_order(10, 25, 3, 4))


def test_a_mixture_is_drawn_by_its_weights_and_is_a_pure_function():
    parts = [(50, 1.0), (7, 0.5), (1000, 2.5)]
    order = prepared.mixed_order(parts, 401, seed=1, epoch=3)
    np.testing.assert_array_equal(order, prepared.mixed_order(parts, 401, seed=1, epoch=3))
    drawn = np.split(np.sort(order), np.searchsorted(np.sort(order), [50, 57]))
    assert [len(one) for one in drawn] == [100, 50, 251]
    for (number, _), one in zip(parts, drawn, strict=True):  # each comes once before any comes twice
        counts = np.bincount(one - one.min(), minlength=number if number < len(one) else 0)
        assert np.ptp(counts[counts > 0]) <= 1 and (number > len(one) or len(np.unique(one)) == number)
    first = np.searchsorted([50, 57], order[:100], 'right')  # spread over the epoch
    assert 10 < (first == 0).sum() < 40
    for other in (prepared.mixed_order(parts, 401, 1, 4), prepared.mixed_order(parts, 401, 2, 3)):
        assert not np.array_equal(order, other)


@pytest.mark.parametrize('content', ['', '[]', '{"mean": [0.1, 0.2], "std": [1, 1, 1]}'])
def test_damaged_channel_statistics_are_computed_again(freihand_like, tmp_path, content):
    builder = prepared.open_dataset(config(tmp_path, freihand_like))
    whole = prepared.channel_statistics(builder, 'train')
    kept = builder.data_path.glob('channel_statistics-*.json')
    (path,) = (path for path in kept if json.loads(path.read_text())['split'] == 'train')
    path.write_text(content)
    np.testing.assert_array_equal(prepared.channel_statistics(builder, 'train'), whole)
    assert json.loads(path.read_text())['photos'] == 10


@pytest.mark.parametrize('name', ['dataset_info.json', 'freihand-train.array_record*'])
@pytest.mark.parametrize('damage', ['empty', 'cut', 'deleted'])
def test_damaged_prepared_data_are_named_in_a_sentence(freihand_like, tmp_path, name, damage):
    (path,) = prepared.open_dataset(config(tmp_path, freihand_like)).data_path.glob(name)
    content = path.read_bytes()
    path.unlink() if damage == 'deleted' else path.write_bytes(content[: len(content) // 2 if damage == 'cut' else 0])
    with pytest.raises(UserError, match=r'freihand.* (cannot be used|is damaged) \(.*\): delete it') as error:
        prepared.load(prepared.open_dataset(config(tmp_path, freihand_like)), 'train')
    assert '\n' not in str(error.value)
