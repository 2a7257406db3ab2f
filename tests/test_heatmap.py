import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hpe_jax import heatmap

SIZE = (48, 80)  # not square: a swapped axis shows
ALL = np.ones(3, bool)
KEYPOINTS = np.float32([[0.31, 0.52], [0.777, 0.333], [0.503, 0.61]])


def pixels(error):
    """Normalised (x, y) differences in pixels of SIZE."""
    return np.abs(np.asarray(error)) * [SIZE[1], SIZE[0]]


def test_encode_by_hand():
    # x = 1.5 / 4 is the centre of column 1, y = 2 / 4 the edge between rows 1 and 2.
    maps = heatmap.encode(np.float32([[1.5 / 4, 0.5]]), np.array([True]), (4, 4), 2.0, xp=np)
    rows, columns = np.array([1.5, 0.5, -0.5, -1.5]), np.array([1, 0, -1, -2])
    expected = np.exp(-(rows[:, None] ** 2 + columns[None, :] ** 2) / 8)
    np.testing.assert_allclose(maps[..., 0], expected, rtol=1e-6)


@pytest.mark.slow  # TensorFlow takes ten seconds to import
def test_numpy_tensorflow_and_jax_make_the_same_maps():
    import tensorflow.experimental.numpy as tnp

    import hpe_jax.data.pipeline  # noqa: F401  quietens TensorFlow

    for codec in heatmap.CODECS:
        maps = [
            np.asarray(heatmap.encode(xp.asarray(KEYPOINTS), xp.asarray(ALL), SIZE, 2.0, codec, xp))
            for xp in (np, jnp, tnp)
        ]
        np.testing.assert_allclose(maps[1], maps[0], atol=1e-6)
        np.testing.assert_allclose(maps[2], maps[0], atol=1e-6)


@pytest.mark.parametrize('codec', heatmap.CODECS)
def test_an_invisible_keypoint_has_an_empty_map_wherever_it_lies(codec):
    keypoints = jnp.array([[0.5, 0.5], [jnp.nan, 0.5], [-3.0, 7.0]])
    maps = heatmap.encode(keypoints, jnp.array([True, False, False]), SIZE, 2.0, codec)
    assert maps[..., 0].max() > 0.9
    assert not jnp.nan_to_num(maps[..., 2]).any()
    assert not maps[..., 2].any()


@pytest.mark.parametrize('decoder', ['mean', 'window', 'softargmax'])
def test_round_trip_to_a_hundredth_of_a_pixel(decoder):
    maps = heatmap.encode(jnp.asarray(KEYPOINTS), jnp.asarray(ALL), SIZE, 3.0)
    assert pixels(heatmap.decode(maps, decoder) - KEYPOINTS).max() < 0.01


def test_argmax_is_the_centre_of_the_nearest_pixel():
    maps = heatmap.encode(jnp.asarray(KEYPOINTS), jnp.asarray(ALL), SIZE, 2.0)
    centres = (np.floor(KEYPOINTS * [SIZE[1], SIZE[0]]) + 0.5) / [SIZE[1], SIZE[0]]
    np.testing.assert_allclose(heatmap.decode(maps, 'argmax'), centres, atol=1e-6)


@pytest.mark.parametrize('decoder', heatmap.DECODERS)
def test_shifting_the_map_shifts_the_answer(decoder):
    maps = heatmap.encode(jnp.asarray(KEYPOINTS), jnp.asarray(ALL), SIZE, 2.0)
    moved = jnp.roll(maps, (4, -3), (0, 1))
    shift = pixels(heatmap.decode(moved, decoder) - heatmap.decode(maps, decoder))
    np.testing.assert_allclose(shift, np.tile([3, 4], (3, 1)), atol=2e-3)


def test_background_pulls_the_mean_to_the_middle_and_leaves_the_window_alone():
    maps = heatmap.encode(jnp.asarray(KEYPOINTS), jnp.asarray(ALL), SIZE, 2.0) + 0.01
    assert pixels(heatmap.decode(maps, 'mean') - KEYPOINTS).max() > 5
    assert pixels(heatmap.decode(maps, 'window', radius=6.0) - KEYPOINTS).max() < 0.1


def test_window_passes_over_a_second_lower_peak():
    other = heatmap.encode(jnp.asarray(KEYPOINTS[::-1].copy()), jnp.asarray(ALL), SIZE, 2.0)
    maps = heatmap.encode(jnp.asarray(KEYPOINTS), jnp.asarray(ALL), SIZE, 2.0)
    found = heatmap.decode(jnp.maximum(maps, 0.7 * other), 'window', radius=6.0)
    assert pixels(found - KEYPOINTS).max() < 0.02


@pytest.mark.parametrize('decoder', ['argmax', 'window'])
def test_looking_up_and_multiplying_by_ones_and_zeros_are_the_same(decoder):
    rng = np.random.default_rng(0)
    for size in (SIZE, (5, 40)):
        maps = jnp.asarray(rng.random((*size, 4), np.float32))
        found = heatmap.decode(maps, decoder, gather=False)
        np.testing.assert_allclose(found, heatmap.decode(maps, decoder), atol=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize('codec', heatmap.CODECS)
def test_window_is_two_discs_over_the_whole_map(codec):
    """Near borders and corners too, on maps with background, and on one that is smaller than the discs."""
    rng = np.random.default_rng(0)
    for size in (SIZE, (5, 40)):
        keypoints = np.float32([[0.01, 0.02], [0.98, 0.5], [0.4, 0.99], [0.5, 0.5], [-0.01, 1.01]])
        maps = np.asarray(heatmap.encode(jnp.asarray(keypoints), jnp.ones(5, bool), size, 3.0))
        maps = maps + 0.3 * rng.random(maps.shape).astype(np.float32) ** 8
        rows, columns = np.mgrid[: size[0], : size[1]]
        for found, one in zip(
            heatmap.decode(jnp.asarray(maps), 'window', codec), np.moveaxis(maps, -1, 0), strict=True
        ):
            y, x = np.unravel_index(one.argmax(), size)
            for _ in range(2):
                mass = np.where((rows - y) ** 2 + (columns - x) ** 2 <= 81, np.float64(one), 0)
                y, x = (mass * rows).sum() / mass.sum(), (mass * columns).sum() / mass.sum()
            half = 0.5 if codec == 'subpixel' else 0
            np.testing.assert_allclose(found, [(x + half) / size[1], (y + half) / size[0]], atol=1e-6)


def test_of_equal_peaks_the_first_one_counts_and_an_empty_map_decodes_to_its_middle():
    maps = np.zeros((*SIZE, 1), np.float32)
    np.testing.assert_allclose(heatmap.decode(jnp.asarray(maps), 'window')[0], [0.5, 0.5], atol=1e-6)
    maps[7, 60], maps[7, 9], maps[30, 4] = 1, 1, 1
    for decoder in ('argmax', 'window'):
        found = heatmap.decode(jnp.asarray(maps), decoder, **({'radius': 2.0} if decoder == 'window' else {}))
        np.testing.assert_allclose(found[0], [9.5 / SIZE[1], 7.5 / SIZE[0]], rtol=1e-6)


@pytest.mark.parametrize('decoder', heatmap.DECODERS)
def test_an_empty_map_decodes_to_a_finite_place(decoder):
    assert jnp.isfinite(heatmap.decode(jnp.zeros((*SIZE, 1)), decoder)).all()


def test_soft_argmax_has_a_gradient_that_points_to_where_mass_is_missing():
    maps = heatmap.encode(jnp.asarray(KEYPOINTS[:1]), jnp.asarray(ALL[:1]), SIZE, 2.0)[..., 0]
    gradient = jax.grad(lambda m: heatmap.softargmax(m)[0])(maps)
    x = int(KEYPOINTS[0, 0] * SIZE[1])
    assert gradient[:, x + 2 :].max() > 0 > gradient[:, : x - 1].min()
    assert gradient[:, : x - 1].max() <= 0


def blurred_one(position: float, n: int, sigma: float) -> np.ndarray:
    """What the reference computes along one axis, by brute force: a 1 at int(position * n), convolved with a
    51-tap Gaussian at OpenCV's default border (reflect 101), divided by its maximum."""
    line = np.zeros(n)
    line[int(position * n)] = 1
    taps = np.exp(-(np.arange(-25, 26) ** 2) / (2 * sigma**2))
    blurred = np.convolve(np.pad(line, 25, mode='reflect'), taps / taps.sum(), mode='valid')
    return blurred / blurred.max()


@pytest.mark.parametrize('x', [0.0, 0.004, 0.01, 0.03, 0.5, 0.517, 0.97, 0.985, 0.9999])
def test_reference_codec_is_a_blurred_pixel_with_reflecting_borders(x):
    maps = heatmap.encode(jnp.array([[x, 0.4]]), jnp.array([True]), (96, 128), 3.0, 'reference')
    expected = np.outer(blurred_one(0.4, 96, 3.0), blurred_one(x, 128, 3.0))
    np.testing.assert_allclose(maps[..., 0], expected, atol=2e-6)


def test_reference_codec_loses_the_fraction_of_a_pixel():
    truth = np.float32([[70.75 / 128, 60.25 / 128]])
    maps = heatmap.encode(jnp.asarray(truth), jnp.array([True]), (128, 128), 3.0, 'reference')
    np.testing.assert_allclose(heatmap.decode(maps, 'mean', 'reference') * 128, [[70, 60]], atol=1e-3)


def test_softmax_of_an_ideal_map_has_the_peak_1_and_its_keypoint():
    keypoints = jnp.array([[[0.4, 0.6], [0.52, 0.3]]])
    target = heatmap.encode(keypoints, jnp.ones((1, 2), bool), (32, 32), 1.25)
    maps = heatmap.activate(jnp.log(target + 1e-12), 'softmax', 1.25)
    np.testing.assert_allclose(maps, target, atol=2e-3)
    np.testing.assert_allclose(heatmap.decode(maps[0], radius=3.0), keypoints[0], atol=1e-3)
    assert (heatmap.activate(100 * jnp.log(target + 1e-12), 'softmax', 1.25) <= 1).all()
    np.testing.assert_array_equal(heatmap.activate(jnp.log(target), 'sigmoid', 1.0), jax.nn.sigmoid(jnp.log(target)))
