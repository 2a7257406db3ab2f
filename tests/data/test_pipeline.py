import dataclasses
import io
from itertools import islice

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from PIL import Image

from configs import tiny
from hpe_jax import evaluate, geometry, heatmap, models, preprocess
from hpe_jax.data import prepared
from hpe_jax.data.freihand import folder

pytestmark = pytest.mark.slow  # TensorFlow takes ten seconds to import

MEAN, STD = np.float32([0.4, 0.5, 0.3]), np.float32([0.2, 0.1, 0.25])


@pytest.fixture(scope='module')
def builder(freihand_like, tmp_path_factory):
    config = tiny.get_config().data
    config.manual_dir, config.data_dir = str(freihand_like), str(tmp_path_factory.mktemp('tfds'))
    return prepared.open_dataset(config)


@pytest.fixture(scope='module')
def split(builder):
    return prepared.load(builder, 'train')


def make(split, targets='host', size=32, codec='subpixel'):
    from hpe_jax.data import pipeline

    config = tiny.get_config()
    config.data.targets, config.data.image_size, config.heatmap.codec = targets, size, codec
    return pipeline.Pipeline(split, config.data, config.heatmap)


def test_load_keeps_bytes_order_and_normalises_keypoints(split, freihand_like):
    part = folder.find(freihand_like, 'training')
    assert split.photos.tolist() == [photo.read_bytes() for photo in part.photos[:10]]
    np.testing.assert_allclose(split.keypoints, geometry.project(part.xyz[:10], part.K[:10]) / 224, rtol=1e-5)
    assert split.visible.all()


def test_load_takes_any_expression_and_an_empty_split_is_empty(builder, split):
    np.testing.assert_array_equal(prepared.load(builder, 'train[4:6]').keypoints, split.keypoints[4:6])
    np.testing.assert_array_equal(prepared.load(builder, 'test+train[:2]').keypoints[-2:], split.keypoints[:2])
    assert len(prepared.load(builder, 'train[:0]')) == 0


def test_resized_photos_are_pils(split):
    from hpe_jax.data import pipeline

    for photo in split.photos[:4]:
        expected = Image.open(io.BytesIO(photo)).resize((128, 128), Image.BILINEAR)
        difference = np.abs(pipeline.decode(photo, size=128).numpy().astype(float) - np.asarray(expected))
        assert difference.mean() < 0.3 and difference.max() <= 1  # grey levels of 255


def test_resized_real_photos_are_the_references(shared):
    from hpe_jax.data import pipeline

    expected = np.load(shared / 'reference/parity.npz')['images_u8']
    for photo, image in zip(folder.find(shared / 'freihand_mini', 'training').photos, expected, strict=True):
        difference = np.abs(pipeline.decode(photo.read_bytes(), size=128).numpy().astype(float) - image)
        assert difference.mean() < 0.3 and difference.max() <= 1


@pytest.mark.parametrize('codec', heatmap.CODECS)
def test_host_and_device_targets_give_the_same_numbers(split, codec):
    config = tiny.get_config()
    config.heatmap.codec = codec
    host, device = (next(make(split, targets).once(4)) for targets in ('host', 'device'))
    assert 'heatmaps' not in device and device['image'].dtype == np.uint8
    np.testing.assert_allclose(device['image'] / np.float32(255), host['image'], atol=1e-6)
    host_maps = next(make(split, codec=codec).once(4))['heatmaps']
    np.testing.assert_allclose(preprocess.targets(device, config.heatmap), host_maps, atol=1e-6)
    assert host_maps.shape == (4, 32, 32, 21) and host_maps.max((1, 2)).min() > 0.8


def test_host_and_device_targets_give_the_same_loss(split):
    config = tiny.get_config()
    model = models.make(config)
    step = evaluate.make_eval_step(config, model, ['window'])
    losses = [
        evaluate.evaluate(step, nnx.state(model), make(split, targets).once(4))['loss']
        for targets in ('host', 'device')
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_cached_photos_give_the_same_batches(split):
    from hpe_jax.data import pipeline

    cached = pipeline.cache(split, 32)
    assert cached.photos.shape == (10, 32, 32, 3) and cached.photos.dtype == np.uint8
    for plain, fast in zip(make(split).once(4), make(cached).once(4), strict=True):
        for name in plain:
            np.testing.assert_array_equal(plain[name], fast[name])


def test_once_shows_every_example_once_and_masks_the_padding(split):
    batches = list(make(split, 'device').once(4))
    assert [batch['mask'].tolist() for batch in batches] == [[True] * 4, [True] * 4, [True, True, False, False]]
    seen = np.concatenate([batch['keypoints'][batch['mask']] for batch in batches])
    np.testing.assert_array_equal(seen, split.keypoints)


def test_epochs_follow_the_order_of_seed_and_epoch_and_can_start_anywhere(split):
    def keypoints(first, number, seed=7):
        batches = make(split, 'device').epochs(seed, first, steps=3, batch_size=4)
        return np.stack([batch['keypoints'] for batch in islice(batches, number)])

    whole = keypoints(0, 9)
    for epoch in range(3):
        order = prepared.epoch_order(10, 12, seed=7, epoch=epoch)
        expected = split.keypoints[order].reshape(3, 4, 21, 2)
        np.testing.assert_array_equal(whole[3 * epoch : 3 * epoch + 3], expected)
    np.testing.assert_array_equal(keypoints(2, 3), whole[6:])
    assert not np.array_equal(keypoints(0, 3, seed=8), whole[:3])


def test_a_keypoint_outside_the_frame_is_masked_and_not_an_empty_target(split):
    keypoints = split.keypoints.copy()
    keypoints[0, 5] = [1.2, 0.5]
    outside = dataclasses.replace(split, keypoints=keypoints)
    batch = next(make(outside).once(2))
    assert not batch['visible'][0, 5] and batch['visible'].sum() == 41
    assert not batch['heatmaps'][0, ..., 5].any()
    assert not preprocess.keypoint_mask(batch)[0, 5]
    assert jnp.asarray(batch['heatmaps'][0, ..., 4]).max() > 0.8
