import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import unet
from hpe_jax import augment, geometry, heatmap, preprocess

EVERYTHING = {name: {'hue': 0.5, 'rotation': 180, 'blur': 1.5}.get(name, 0.4) for name in augment.RANGES} | {
    'fill': 'random'
}
HEATMAP = ConfigDict({'sigma': 2.0, 'codec': 'subpixel'})


def batch():
    rng = np.random.default_rng(0)
    return {
        'image': rng.integers(0, 256, (2, 16, 24, 3), np.uint8),
        'keypoints': rng.random((2, 21, 2), np.float32),
        'visible': rng.random((2, 21)) < 0.8,
        'mask': np.array([True, False]),
    }


def test_targets_are_the_hosts_or_made_from_the_keypoints():
    plain = batch()
    made = preprocess.targets(plain, HEATMAP)
    expected = heatmap.encode(jnp.asarray(plain['keypoints']), jnp.asarray(plain['visible']), (16, 24), 2.0)
    np.testing.assert_array_equal(made, expected)
    host = np.zeros((2, 16, 24, 21), np.float32)
    assert preprocess.targets(plain | {'heatmaps': host}, HEATMAP) is host


def test_padding_and_invisible_keypoints_do_not_count():
    mask = preprocess.keypoint_mask(batch())
    np.testing.assert_array_equal(mask[0], batch()['visible'][0])
    assert not mask[1].any()


def test_augment_is_off_by_default_and_quarter_turns_are_a_pure_function_of_the_key():
    plain = batch() | {'image': batch()['image'][:, :, :16]}
    off, on = unet.get_config().augment, unet.get_config().augment
    on.quarter_turns = True
    assert preprocess.augment(plain, off, jax.random.key(0)) is plain
    many = jax.tree.map(lambda x: np.concatenate([x] * 20), plain)
    first, again, other = (preprocess.augment(many, on, jax.random.key(k)) for k in (0, 0, 1))
    np.testing.assert_array_equal(first['image'], again['image'])
    assert (np.asarray(first['image']) != np.asarray(other['image'])).any()
    seen = {image.tobytes() for image in np.asarray(first['image'][::2])}
    assert seen == {np.rot90(plain['image'][0], k).tobytes() for k in range(4)}


@pytest.fixture(scope='module')
def varied():
    """Six equal photos, an outer keypoint among theirs, and all that `augment` makes of them by its key."""
    config = unet.get_config().augment
    config.update(EVERYTHING)
    same = jax.tree.map(lambda x: np.repeat(x[:1], 6, 0), batch())
    same['keypoints'][:, 3] = [1.02, 0.5]
    same['visible'] = np.array(geometry.inside_frame(same['keypoints']))
    function = jax.jit(lambda key: preprocess.augment(same, config, key))
    return same, [jax.device_get(function(jax.random.key(seed))) for seed in (0, 0, 1)]


@pytest.mark.slow
def test_all_at_once_is_a_pure_function_of_the_key_and_differs_between_photos(varied):
    plain, (first, again, other) = varied
    assert jax.tree.map(lambda x: (x.shape, x.dtype), first) == jax.tree.map(lambda x: (x.shape, x.dtype), plain)
    jax.tree.map(np.testing.assert_array_equal, first, again)
    photos = [*first['image'], *other['image']]
    assert len({photo.tobytes() for photo in photos}) == 12
    assert len({points.tobytes() for points in [*first['keypoints'], *other['keypoints']]}) == 12
    np.testing.assert_array_equal(first['mask'], plain['mask'])


def test_only_what_was_visible_and_lies_in_the_frame_is_visible(varied):
    plain, made = varied
    for result in made:
        inside = geometry.inside_frame(result['keypoints'])
        assert not (result['visible'] & ~(plain['visible'] & inside)).any()
    assert any(geometry.inside_frame(result['keypoints'])[:, 3].any() for result in made)
    assert 0.3 < np.mean([result['visible'] for result in made]) < 0.95


def test_what_the_heads_should_answer():
    """A hand in the middle, one at the edge, a tiny one, one between; a mirrored one; and padding."""
    hand = np.random.default_rng(1).uniform(-0.2, 0.2, (21, 2)).astype(np.float32)
    hand[:2] = [[-0.2, -0.2], [0.2, 0.2]]
    places = [0.5 + hand, 0.95 + hand, 0.5 + hand / 4, 0.5 + hand + [0.3, 0], 0.5 + hand, 0.5 + hand]
    one = {'keypoints': np.float32(places), 'mask': np.arange(6) < 5, 'right': np.arange(6) != 4}
    truths = jax.tree.map(np.asarray, preprocess.head_truths(one))
    presence, mask = truths['presence']
    assert presence.tolist() == [True, False, False, False, True, True]
    assert mask.tolist() == [True, True, True, False, True, False]
    right, mask = truths['handedness']
    assert right[mask].tolist() == [True, False] and mask.tolist() == [True, False, False, False, True, False]
    unmirrored = preprocess.head_truths({name: one[name] for name in ('keypoints', 'mask')})
    assert np.asarray(unmirrored['handedness'][0]).all()
