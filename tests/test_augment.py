import colorsys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from configs import unet
from hpe_jax import augment, geometry, preprocess

RNG = np.random.default_rng(0)
PHOTO = RNG.integers(0, 256, (12, 20, 3)).astype(np.float32)
MANY = RNG.random((400, 10), np.float32)


def augmented(batch: dict, size: int = 0, **fields) -> dict:
    config = unet.get_config().augment
    config.update(fields)
    return jax.device_get(jax.jit(lambda b, key: preprocess.augment(b, config, key, size))(batch, jax.random.key(3)))


def batch_of(images: np.ndarray, keypoints: np.ndarray) -> dict:
    visible = ((keypoints >= 0) & (keypoints < 1)).all(-1)
    return {'image': images, 'keypoints': np.float32(keypoints), 'visible': visible, 'mask': np.ones(len(images), bool)}


@pytest.mark.parametrize('turns', range(4))
def test_a_turned_photo_carries_its_keypoints_along(turns):
    image = np.zeros((8, 8, 3), np.uint8)
    image[1, 6] = 200  # row 1, column 6: its centre is (6.5, 1.5) pixels
    keypoints = np.float32([[6.5, 1.5], [4, 4]]) / 8
    turned, moved = jax.jit(augment.rot90)(image, keypoints, turns)
    row, column = np.argwhere(np.asarray(turned)[..., 0])[0]
    np.testing.assert_allclose(moved * 8, [[column + 0.5, row + 0.5], [4, 4]], atol=1e-6)
    np.testing.assert_array_equal(turned, np.rot90(image, turns))
    np.testing.assert_allclose(geometry.rot90(np.asarray(moved), -turns), keypoints, atol=1e-6)


def test_a_dot_stays_on_its_keypoint_to_three_hundredths_of_a_pixel():
    size, sigma = 48, 2.0
    keypoints = np.random.default_rng(1).uniform(0.3, 0.7, (40, 1, 2))
    x, y = np.meshgrid(np.arange(size) + 0.5, np.arange(size) + 0.5)
    squares = (x - size * keypoints[..., :1]) ** 2 + (y - size * keypoints[..., 1:]) ** 2
    dots = np.uint8(np.round(40 + 215 * np.exp(-0.5 * squares / sigma**2)))
    plain = batch_of(np.repeat(dots[..., None], 3, -1), keypoints)
    made = augmented(plain, mirror=0.5, rotation=180, scale=0.25, shift=0.2, fill='replicate')
    weights = made['image'][..., 0] - 40.0
    assert (weights >= 0).all()  # no black
    found = np.stack([(weights * axis).sum((1, 2)) for axis in (x, y)], -1) / weights.sum((1, 2))[:, None]
    expected = size * made['keypoints'][:, 0]
    whole = ((expected > 5 * sigma) & (expected < size - 5 * sigma)).all(-1)
    assert whole.sum() > 15 and np.linalg.norm(expected - size * keypoints[:, 0], axis=-1)[whole].mean() > 5
    np.testing.assert_allclose(found[whole], expected[whole], atol=0.03)


def test_what_lies_around_a_crop_moves_into_it():
    """Where a photo alone leaves black, one that shows what lies around it has no black, and the rest is the same."""
    wide = np.full((40, 32, 32, 3), 200, np.uint8)
    wide[:, 8:-8, 8:-8] = 90
    keypoints = np.tile([[0.5, 0.5]], (40, 1, 1))
    fields = {'rotation': 30, 'scale': 0.3, 'shift': 0.05}
    alone, among = (augmented(batch_of(x, keypoints), 16, **fields) for x in (wide[:, 8:-8, 8:-8], wide))
    assert alone['image'].shape == among['image'].shape == (40, 16, 16, 3)
    assert (alone['image'] == 0).any() and among['image'].min() == 90
    assert np.mean((alone['image'] == 0) != (among['image'] == 200)) < 1e-3  # but for a tap that weighs nearly nothing
    np.testing.assert_array_equal(alone['keypoints'], among['keypoints'])
    still = augmented(batch_of(wide, keypoints), 16, brightness=0.1)['image']
    assert still.shape == (40, 16, 16, 3) and len(np.unique(still[0])) == 1


def test_a_keypoint_that_leaves_is_invisible_and_one_that_enters_stays_so():
    keypoints = np.tile([[0.05, 0.5], [-0.05, 0.5]], (40, 1, 1))
    made = augmented(batch_of(np.full((40, 8, 8, 3), 90, np.uint8), keypoints), shift=0.3)
    assert set(made['image'][:, 3:5, 3:5].ravel()) == {90} and (made['image'] == 0).any()  # filled with black
    inside = made['keypoints'][..., 0] >= 0
    np.testing.assert_array_equal(made['visible'], inside & [True, False])
    assert 0 < inside[:, 0].mean() < 1 and inside[:, 1].any()


def test_affine_maps_span_their_ranges():
    config = unet.get_config().augment
    config.update({'rotation': 30, 'scale': 0.25, 'shift': 0.1})
    numbers = {name: RNG.permutation(MANY) for name in ('rotation', 'scale', 'shift')}
    maps = np.asarray(jax.jit(jax.vmap(lambda numbers: augment.draw_affine(numbers, (40, 80), config)))(numbers))
    degrees = np.degrees(np.arctan2(maps[:, 0, 1], maps[:, 0, 0]))
    scale = np.hypot(maps[:, 0, 0], maps[:, 0, 1])
    shift = (maps @ [40, 20, 1] - [40, 20]) / [80, 40]
    for values, limit in (degrees, 30), (np.log(scale), np.log(1.25)), (shift[:, 0], 0.1), (shift[:, 1], 0.1):
        assert 0.97 < values.max() / limit < 1.0001 and 0.97 < -values.min() / limit < 1.0001
        assert abs(values.mean()) < 0.1 * limit


def test_a_mirrored_photo_carries_its_keypoints_along_and_no_label_is_erased():
    images = np.random.default_rng(2).integers(0, 256, (60, 8, 8, 3), np.uint8)
    plain = batch_of(images, np.tile([[0.2, 0.6]], (60, 1, 1)))
    made, hidden = augmented(plain, mirror=0.3), augmented(plain, mirror=0.3, erasing=1)
    flipped = made['keypoints'][:, 0, 0] > 0.5
    expected = np.where(flipped[:, None, None, None], images[:, :, ::-1], images)
    np.testing.assert_array_equal(made['image'], expected)
    points = np.where(flipped[:, None], [[0.8, 0.6]], [[0.2, 0.6]])
    np.testing.assert_allclose(made['keypoints'][:, 0], points, rtol=1e-6)
    assert 0.1 < flipped.mean() < 0.5
    np.testing.assert_array_equal(hidden['keypoints'], made['keypoints'])  # one field alters no other's numbers
    assert hidden['visible'].all()
    changed = (hidden['image'] != made['image']).any(-1)
    assert changed.any((1, 2)).all() and not changed.all((1, 2)).any()


def test_brightness_and_contrast_by_hand():
    np.testing.assert_allclose(augment.brighten(PHOTO, 1.5), np.minimum(1.5 * PHOTO, 255), rtol=1e-6)
    luma = (PHOTO @ [0.299, 0.587, 0.114]).mean()
    for factor in (0.0, 0.5, 1.0, 1.5):
        expected = np.clip(luma + factor * (PHOTO - luma), 0, 255)
        np.testing.assert_allclose(augment.stretch_contrast(PHOTO, factor), expected, atol=1e-3)


def test_hue_turns_as_colorsys_has_it():
    turn = jax.jit(augment.shift_hue)

    def expected(pixel, turns):
        h, s, v = colorsys.rgb_to_hsv(*pixel / 255)
        return 255 * np.array(colorsys.hsv_to_rgb((h + turns) % 1, s, v))

    for turns in (0.3, -0.2):
        wanted = [[expected(np.float64(pixel), turns) for pixel in row] for row in PHOTO]
        np.testing.assert_allclose(turn(PHOTO, turns), wanted, atol=2e-3)
    np.testing.assert_allclose(turn(PHOTO, 1.0), PHOTO, atol=1e-3)
    grey = np.repeat(PHOTO[..., :1], 3, -1)
    np.testing.assert_array_equal(turn(grey, 0.4), grey)


def test_blur_is_scipys_gaussian_and_keeps_the_mean():
    blur = jax.jit(augment.blur)
    for sigma in (0.6, 1.7):
        expected = ndimage.gaussian_filter(PHOTO, (sigma, sigma, 0), mode='reflect', truncate=7)
        blurred = blur(PHOTO, sigma)
        np.testing.assert_allclose(blurred, expected, atol=0.01)
        np.testing.assert_allclose(blurred.mean((0, 1)), PHOTO.mean((0, 1)), rtol=1e-5)
    np.testing.assert_allclose(blur(np.full_like(PHOTO, 77), 1.7), 77, rtol=1e-6)
    np.testing.assert_allclose(blur(PHOTO, 0.0), PHOTO, rtol=1e-6)


def test_an_unsharp_mask_is_the_photo_and_its_difference_from_a_blurred_one():
    expected = PHOTO + 0.5 * (PHOTO - ndimage.gaussian_filter(PHOTO, (2, 2, 0), mode='reflect', truncate=7))
    np.testing.assert_allclose(augment.sharpen(PHOTO, 0.5, 2.0), np.clip(expected, 0, 255), atol=0.02)
    np.testing.assert_allclose(augment.sharpen(np.full_like(PHOTO, 77), 3.0, 2.0), 77, rtol=1e-5)


def test_gamma_is_an_exponent_of_either_way_that_keeps_black_and_white():
    images = np.tile(np.uint8([0, 64, 255]).reshape(1, 1, 3, 1), (200, 3, 1, 3))
    made = augmented(batch_of(images, np.zeros((200, 1, 2))), gamma=0.5)['image']
    assert (made[:, :, 0] == 0).all() and (made[:, :, 2] == 255).all()
    exponents = np.log(made[:, 0, 1, 0] / 255) / np.log(64 / 255)
    assert 1 / 1.51 < exponents.min() < 1 / 1.45 and 1.45 < exponents.max() < 1.51
    assert abs(np.log(exponents).mean()) < 0.05


def test_noise_has_its_standard_deviation_and_is_each_pixels_own():
    noise = np.asarray(augment.add_noise(np.full((60, 60, 3), 128, np.float32), 20.0, jax.random.key(0))) - 128
    assert noise.std() == pytest.approx(20, rel=0.03) and abs(noise.mean()) < 0.7
    for other in (noise[1:, :] * noise[:-1, :], noise[:, 1:] * noise[:, :-1], noise[..., 1:] * noise[..., :-1]):
        assert abs(other.mean()) < 0.05 * 20**2


def test_each_photo_has_a_factor_and_a_noise_of_its_own_within_their_ranges():
    plain = batch_of(np.full((60, 16, 16, 3), 100, np.uint8), np.zeros((60, 1, 2)))
    made = augmented(plain, brightness=0.4, noise=0.05)
    means, stds = made['image'].mean((1, 2, 3)), made['image'].std((1, 2, 3))
    assert 59 < means.min() < 70 and 130 < means.max() < 141
    assert stds.min() < 2 and 10 < stds.max() < 13.5
    assert abs(np.corrcoef(means, stds)[0, 1]) < 0.4
    np.testing.assert_array_equal(made['keypoints'], plain['keypoints'])
    np.testing.assert_array_equal(made['visible'], plain['visible'])


def test_one_rectangle_is_erased():
    draw = jax.jit(jax.vmap(lambda numbers: augment.draw_erased(numbers, (60, 80), 0.7)))
    boxes = np.asarray(draw(MANY))
    width, height = (boxes[:, 2:] - boxes[:, :2]).T
    drawn = width > 0
    assert drawn.mean() == pytest.approx(0.7, abs=0.07) and (height[~drawn] == 0).all()
    assert (boxes[:, :2] >= 0).all() and (boxes[:, 2:] <= [80, 60]).all()
    area, whole = (width * height / 4800)[drawn], drawn & (height < 60) & (width < 80)
    aspect = width[whole] / height[whole]
    assert 0.018 < area.min() < 0.04 and 0.3 < area.max() < 0.345
    assert 0.27 < aspect.min() < 0.4 and 2.5 < aspect.max() < 3.7
    box = np.array([3, 2, 9, 6])
    changed = np.asarray(augment.erase(np.full_like(PHOTO, 300), box, jax.random.key(0))) != 300
    expected = np.zeros_like(changed)
    expected[2:6, 3:9] = True
    np.testing.assert_array_equal(changed, expected)


def test_the_content_ends_inside_the_frame():
    content = np.asarray(jax.jit(jax.vmap(lambda numbers: augment.draw_content(numbers, (40, 80), 0.6)))(MANY))
    widths = np.concatenate([content[:, :2], [80, 40] - content[:, 2:]], 1)
    has = widths.any(1)
    assert has.mean() == pytest.approx(0.6, abs=0.08)
    assert ((widths >= 0) & (widths <= [20, 10, 20, 10])).all()
    np.testing.assert_allclose((widths[has] > 0).mean(0), 1 / 4 + 3 / 4 / 2, atol=0.1)
    assert set((widths[has] > 0).sum(1)) == {1, 2, 3, 4}


@pytest.mark.parametrize('replicate', [False, True])
def test_a_border_is_black_or_the_nearest_pixel_and_takes_its_keypoints(replicate):
    image = jnp.asarray(PHOTO[:4, :5])
    content = np.array([1, 0, 4, 3])
    inner = PHOTO[:3, 1:4]
    expected = np.pad(inner, ((0, 1), (1, 1), (0, 0)), 'edge' if replicate else 'constant')
    np.testing.assert_array_equal(augment.border(image, content, replicate), expected)
    points = np.float32([[0.99, 0], [1, 0], [3.99, 2.99], [4, 1], [2, 3]]) / [[5, 4]]
    seen = augment.in_content(np.float32(points), content, (4, 5))
    np.testing.assert_array_equal(seen, [False, True, True, False, False])


def test_borders_and_the_fill_through_config():
    keypoints = np.tile([[0.01, 0.5], [0.5, 0.5]], (30, 1, 1))
    plain = batch_of(np.full((30, 16, 16, 3), 90, np.uint8), keypoints)
    made = augmented(plain, borders=1, fill='random')
    assert made['visible'][:, 1].all() and 0.15 < made['visible'][:, 0].mean() < 0.6
    black = (made['image'] == 0).any((1, 2, 3))
    assert 0.2 < black.mean() < 0.8 and set(made['image'].ravel()) == {0, 90}
    np.testing.assert_array_equal(made['image'][black][:, 8, 0, 0] > 0, made['visible'][black][:, 0])


def test_left_hands_are_mirrored_for_the_heads_alone():
    images = np.random.default_rng(5).integers(0, 256, (80, 8, 8, 3), np.uint8)
    plain = batch_of(images, np.tile([[0.2, 0.6]], (80, 21, 1)))
    made = augmented(plain, left=0.4)
    right = made['right']
    assert 0.4 < right.mean() < 0.8
    np.testing.assert_array_equal(made['image'][right], images[right])
    np.testing.assert_array_equal(made['image'][~right], images[~right, :, ::-1])
    np.testing.assert_allclose(made['keypoints'][..., 0], np.where(right, 0.2, 0.8)[:, None].repeat(21, 1), atol=1e-6)
    np.testing.assert_array_equal(preprocess.keypoint_mask(made).any(1), right)


def test_tint_scales_each_channel_by_a_factor_of_its_own():
    made = augmented(batch_of(np.full((60, 4, 4, 3), 100, np.uint8), np.zeros((60, 1, 2))), tint=0.2)
    factors = made['image'][:, 0, 0] / 100
    assert (made['image'] == made['image'][:, :1, :1]).all()
    assert 0.8 <= factors.min() < 0.83 and 1.17 < factors.max() <= 1.2
    assert np.abs(np.corrcoef(factors.T)[np.triu_indices(3, 1)]).max() < 0.4


def test_saturation_moves_colours_from_their_luma_and_grey_takes_them_away():
    red = np.broadcast_to(np.uint8([120, 60, 60]), (60, 4, 4, 3))
    luma = 0.299 * 120 + 0.701 * 60
    image = np.asarray(augment.saturate(np.float32(red[0]), 0.5))
    np.testing.assert_allclose(image[0, 0], [luma + 0.5 * (120 - luma), *[luma + 0.5 * (60 - luma)] * 2], rtol=1e-5)
    np.testing.assert_allclose(np.float32(image) @ np.float32(augment.LUMA), luma, rtol=1e-5)
    made = augmented(batch_of(red, np.zeros((60, 1, 2))), grey=0.3)
    grey = (np.ptp(made['image'], axis=-1) == 0).all((1, 2))
    assert 0.1 < grey.mean() < 0.5 and (made['image'][~grey] == red[~grey]).all()


def test_a_cover_hides_a_rectangle_behind_one_colour_or_another_part_of_the_photo():
    size, number = 40, 120
    ramp = np.broadcast_to(np.uint8(np.arange(size) * 2 + 100)[None, None, :, None], (number, size, size, 3))
    plain = batch_of(ramp, np.tile([[0.5, 0.5]], (number, 1, 1)))
    made = augmented(plain, cover=1.0, fill='replicate')
    np.testing.assert_array_equal(made['keypoints'], plain['keypoints'])
    assert made['visible'].all()
    changed = (made['image'] != ramp).any(-1)
    share = [(np.ptp(np.argwhere(one), axis=0) + 1) / size for one in changed if one.any()]
    assert len(share) > 0.9 * number and np.min(share) > 0.05 and np.max(share) <= 0.37
    colours = [len(np.unique(made['image'][i][changed[i]], axis=0)) for i in range(number) if changed[i].any()]
    assert 0.3 < np.mean(np.array(colours) == 1) < 0.7  # the others show a part of the ramp


def test_away_makes_any_place_the_middle_and_most_hands_leave():
    rng = np.random.default_rng(6)
    hands = np.repeat(0.5 + 0.15 * rng.uniform(-1, 1, (1, 21, 2)), 200, 0)
    made = augmented(batch_of(np.full((200, 8, 8, 3), 90, np.uint8), hands), away=0.5)
    there, absent = (np.asarray(x) for x in jax.vmap(geometry.is_centred)(jnp.asarray(made['keypoints'])))
    unmoved = np.isclose(made['keypoints'], hands, atol=1e-5).all((1, 2))
    assert 0.35 < unmoved.mean() < 0.65 and there[unmoved].all()
    assert 0.4 < there.mean() < 0.75 and 0.15 < absent.mean() < 0.5 and not (there & absent).any()
    assert np.ptp(made['keypoints'], axis=1).max() > 1.5 * np.ptp(hands, axis=1).max()


def test_a_random_fill_is_black_the_nearest_pixel_or_the_mirror_image():
    image = np.uint8(np.arange(1, 41))[None, None, :, None] * np.ones((1, 40, 1, 3), np.uint8)
    one = jnp.asarray(image[0])
    source = jnp.asarray(np.stack(np.meshgrid(np.arange(-4, 44) + 0.5, np.arange(40) + 0.5), -1), jnp.float32)
    black, nearest, mirrored = (
        np.asarray(geometry.sample(one, source, *options))[0, :, 0]
        for options in ((False,), (jnp.array(True),), (jnp.array(False), jnp.array(True)))
    )
    np.testing.assert_array_equal(black[:4], 0)
    np.testing.assert_array_equal(nearest[:4], 1)
    np.testing.assert_array_equal(mirrored[:4], [4, 3, 2, 1])
    np.testing.assert_array_equal(mirrored[-4:], [40, 39, 38, 37])
    for row in (black, nearest, mirrored):
        np.testing.assert_array_equal(row[4:-4], np.arange(1, 41))


def test_noise_is_bell_shaped_uncorrelated_and_a_function_of_the_key():
    grey = jnp.full((64, 64, 3), 128.0)
    first, again, other = (np.asarray(augment.add_noise(grey, 10.0, jax.random.key(k))) - 128 for k in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert abs(first.mean()) < 0.3 and first.std() == pytest.approx(10, rel=0.03)
    z = first.ravel() / first.std()
    assert abs((z**3).mean()) < 0.08 and 2.5 < (z**4).mean() < 3.05  # four bytes: 2.7; a normal one: 3
    neighbours = first[:, 1:] * first[:, :-1], first[1:] * first[:-1], first[..., 1:] * first[..., :-1], first * other
    assert max(abs(product.mean()) for product in neighbours) < 3
