"""The choice of a source; several data sets together, from every source that prepared images come from."""

import json
import sys
from itertools import islice

import numpy as np
import pytest

from configs import tiny
from hpe_jax import checkpoint, evaluate, train
from hpe_jax.data import prepared, resident, sources
from hpe_jax.errors import UserError
from hpe_jax.inference import images
from tests import drawn_coco, drawn_hands


@pytest.fixture(scope='module')
def config(freihand_like, tmp_path_factory):
    """Two parts of 10 FreiHAND photos, one part of 9 hands of COCO."""
    folder = tmp_path_factory.mktemp('coco')
    drawn_coco.write(folder, number=12)
    config = tiny.get_config()
    config.data.update(dataset='freihand/raw:2, coco_hands:1', manual_dir=f'{freihand_like}, {folder}')
    config.data.update(data_dir=str(tmp_path_factory.mktemp('tfds')), targets='device')
    return config


def with_source(config, source, **fields):
    config = config.copy_and_resolve_references()
    config.data.source = source
    config.data.update(fields)
    return config


@pytest.mark.parametrize('source', [pytest.param('tfdata', marks=pytest.mark.slow), 'resident'])
def test_an_epoch_draws_by_the_weights_and_can_start_anywhere(config, source):
    data = sources.open_data(with_source(config, source))
    split = sources.load(with_source(config, 'tfdata'), {'train': 'train'})['train']
    assert split.mixture == ((10, 2.0), (9, 1.0)) and len(data.splits['validation']) == 2 + 2
    assert split.names[0] == 'freihand/raw 0 gs' and split.names[10] == 'coco_hands 0.png 0'
    batches = list(islice(data.train.epochs(5, 0, steps=4, batch_size=6), 12))
    for epoch in range(3):
        order = prepared.mixed_order(split.mixture, 24, 5, epoch)
        assert (order < 10).sum() == 16
        keypoints = np.concatenate([batch['keypoints'] for batch in batches[4 * epoch : 4 * epoch + 4]])
        np.testing.assert_array_equal(keypoints, split.keypoints[order])
    again = next(data.train.epochs(5, 2, steps=4, batch_size=6))
    np.testing.assert_array_equal(again['image'], batches[8]['image'])


@pytest.mark.parametrize('train_split', ['train', 'train[:5]'])
def test_photos_are_decoded_once_while_they_are_prepared(freihand_like, tmp_path, monkeypatch, train_split):
    """But for a split that is a part of one that is prepared, and for the samples that check what is kept."""
    open_jpeg, decoded = images.open_jpeg, []
    monkeypatch.setattr(images, 'open_jpeg', lambda source: decoded.append(source) or open_jpeg(source))
    config = tiny.get_config()
    config.data.update(manual_dir=str(freihand_like), data_dir=str(tmp_path), source='resident', mean=(0.5,) * 3)
    config.data.update(std=(0.5,) * 3, train_split=train_split)
    data = sources.open_data(config)
    builder = prepared.open_dataset(config.data)
    num_photos = builder.info.splits.total_num_examples
    again = sum(min(resident.SAMPLES, len(split)) for split in data.splits.values())
    assert len(decoded) == num_photos + again + (5 if train_split != 'train' else 0)
    for name, split in data.splits.items():
        photos = prepared.load(builder, config.data[f'{name}_split']).photos
        expected = [resident.decode(photo, size=config.data.image_size) for photo in photos]
        np.testing.assert_array_equal(np.asarray(split.arrays['image'])[: len(split)], expected)


def test_photos_that_do_not_fit_are_not_kept_while_they_are_prepared(freihand_like, tmp_path, monkeypatch):
    config = tiny.get_config()
    config.data.update(manual_dir=str(freihand_like), data_dir=str(tmp_path), source='resident')
    monkeypatch.setattr(resident, 'free_memory', lambda: 10_000)
    with pytest.raises(UserError, match='10 photos of 32x32 take 0.00 GB, more than 90% of the 0.00 GB'):
        sources.open_data(config)
    assert not list(tmp_path.rglob('resident-*'))


@pytest.mark.slow
@pytest.mark.parametrize('scale', [0.0, 0.4])
def test_both_sources_give_the_same_batches(config, scale):
    """Crops alone, since FreiHAND's photos have nothing around them."""
    config = with_source(config, '')
    config.augment.scale = scale
    both = [sources.open_data(with_source(config, source)) for source in ('tfdata', 'resident')]
    for ours, theirs in islice(zip(*(data.train.epochs(0, 0, 3, 4) for data in both), strict=True), 6):
        for name in theirs:
            np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)
        assert ours['image'].shape == (4, config.data.image_size, config.data.image_size, 3)
    np.testing.assert_array_equal(both[0].mean, both[1].mean)
    np.testing.assert_array_equal(both[0].train.left, both[1].train.left)


@pytest.mark.slow
def test_channel_statistics_are_pooled_by_the_weights(config):
    data = sources.open_data(with_source(config, 'tfdata'))
    alone = [
        prepared.channel_statistics(prepared.open_dataset(member.data), 'train')
        for member in prepared.members(config.data)
    ]
    means, squares = ([x[0] for x in alone], [x[1] ** 2 + x[0] ** 2 for x in alone])
    np.testing.assert_allclose(data.mean, (2 * means[0] + means[1]) / 3, rtol=1e-5)
    np.testing.assert_allclose(data.std**2 + data.mean**2, (2 * squares[0] + squares[1]) / 3, rtol=1e-5)


def test_a_set_without_training_photos_is_named(config):
    with pytest.raises(UserError, match=r"train_split='train\[9:\]' of coco_hands holds no photos"):
        sources.open_data(with_source(config, 'tfdata', train_split='train[9:]'))


@pytest.mark.parametrize('source', ['tfdata', 'resident'])
def test_a_split_without_a_visible_keypoint_is_refused(tmp_path, source):
    folder = drawn_hands.write(tmp_path / 'hands', 6)
    K = np.repeat(drawn_hands.CAMERA[None], 6, 0)
    K[5, :2, 2] -= 1000  # the only photo of the split 'test'
    (folder / 'training_K.json').write_text(json.dumps(K.tolist()))
    config = with_source(tiny.get_config(), source, manual_dir=str(folder), data_dir=str(tmp_path / 'tfds'))
    assert len(sources.load(config, {'some': 'all'})['some']) == 6
    with pytest.raises(UserError, match='freihand/raw test: none of its 1 images has a labelled keypoint inside its'):
        sources.load(config, {'some': 'test'})


@pytest.mark.slow
def test_a_mixtures_run_that_was_stopped_goes_on_bit_for_bit(config, tmp_path):
    config = with_source(config, 'resident')
    config.train.epochs = 2
    train.train_and_evaluate(config, tmp_path / 'undisturbed')
    config.train.epochs = 1
    train.train_and_evaluate(config, tmp_path / 'stopped')
    config.train.epochs = 2
    train.train_and_evaluate(config, tmp_path / 'stopped')
    states = []
    for name in ('undisturbed', 'stopped'):
        state = train.TrainState(config)
        checkpoint.Checkpoints(tmp_path / name, read_only=True).restore(2, state.model, state.optimizer)
        states.append(checkpoint.leaves(state.model) | checkpoint.leaves(state.optimizer))
    for name, leaf in states[0].items():
        np.testing.assert_array_equal(leaf, states[1][name], err_msg=name)


def test_tf_data_without_tensorflow_is_refused_before_any_work(tiny_run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'tensorflow', None)
    config, message = tiny.get_config(), "config.data.source='tfdata' needs TensorFlow, .*: pip install '.\\[data\\]'"
    with pytest.raises(UserError, match=message):
        train.check(config, tmp_path / 'run')
    with pytest.raises(UserError, match=message):
        evaluate.evaluate_run(tiny_run)
    assert not list(tmp_path.iterdir())
    config.data.source = 'resident'
    sources.check_installed(config)
