import io
import json

import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from hpe_jax.data import prepared
from hpe_jax.data.freihand import folder
from hpe_jax.errors import UserError
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
    mean, std = prepared.channel_statistics(builder, 'train', photos)
    np.testing.assert_allclose(mean, 0.5, atol=1e-6)
    np.testing.assert_allclose(std, 0.3, atol=1e-6)
    kept = prepared.channel_statistics(builder, 'train', [])
    np.testing.assert_array_equal(kept, (mean, std))
    assert json.loads(next(builder.data_path.glob('channel_statistics-*')).read_text())['split'] == 'train'
    other, _ = prepared.channel_statistics(builder, 'train[:1]', photos[:1])
    np.testing.assert_allclose(other, 0.2, atol=1e-6)


def test_channel_statistics_of_photos(freihand_like, tmp_path):
    builder = prepared.open_dataset(config(tmp_path, freihand_like))
    paths = folder.find(freihand_like, 'training').photos[:5]
    mean, std = prepared.channel_statistics(builder, 'x', [p.read_bytes() for p in paths])
    pixels = np.stack([np.asarray(Image.open(p)) for p in paths]) / 255
    np.testing.assert_allclose(mean, pixels.mean((0, 1, 2)), rtol=1e-6)
    np.testing.assert_allclose(std, pixels.std((0, 1, 2)), rtol=1e-6)


def test_no_example_is_lost_in_writing(tmp_path):
    """TFDS 4.9.10 keeps only a part of a split of more than 100 when it writes Parquet."""
    builder = prepared.open_dataset(config(tmp_path, drawn_hands.write(tmp_path / 'many', 420)))
    split = prepared.load(builder, 'train+validation+test')
    assert len(split) == 420 and len({photo for photo in split.photos}) == 420


def test_relative_hand_size_is_the_median_of_hands_that_lie_in_the_photo():
    keypoints = np.full((3, 21, 2), 0.5, np.float32)
    keypoints[:, 0] = [[0.3, 0.4], [0.1, 0.4], [-0.1, 0.5]]
    split = prepared.Split(np.empty(3, object), keypoints, np.zeros((3, 21, 3), np.float32), np.array(['a', 'b', 'c']))
    assert prepared.relative_hand_size(split) == pytest.approx((0.2 + 0.4) / 2)
    keypoints[:2, 1] = -1
    assert prepared.relative_hand_size(split) == pytest.approx(0.2)
