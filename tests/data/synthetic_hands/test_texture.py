import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hpe_jax.data.synthetic_hands import scene, sensor, skin, texture

pytestmark = pytest.mark.slow


def test_octave_noise_has_unit_variance():
    noise = texture.octave_noise(jax.random.key(0), 64, 40, 0.7)
    assert noise.shape == (40, 64, 64)
    assert abs(noise.mean()) < 0.1 and 0.9 < noise.std() < 1.1


def test_lookup_is_bilinear_and_mirrored():
    tiles = jnp.array([[[0.0, 1.0, 4.0]] * 3, [[2.0, 2.0, 2.0], [4.0, 4.0, 4.0], [8.0, 8.0, 8.0]]])
    uv = jnp.array([[1.0, 0.5], [0.75, 0.5], [0.0, 0.5], [1.25, 0.5], [-1.0, 0.5], [0.3, 0.25], [0.3, 1.0]])
    value = texture.lookup(tiles, jnp.array([0, 0, 0, 0, 0, 1, 1]), uv)
    np.testing.assert_allclose(value, [0, 0.5, 4, 0.5, 0, 6, 2], atol=1e-6)


@pytest.mark.parametrize('sigma', [0.0, 1.5])
def test_blur_keeps_a_flat_picture_and_spreads_a_point(sigma):
    flat = jnp.full((20, 30, 3), 0.3)
    np.testing.assert_allclose(texture.gaussian_blur(flat, sigma), flat, rtol=1e-5)
    point = jnp.zeros((21, 31, 1)).at[10, 15].set(1)
    blurred = texture.gaussian_blur(point, sigma)[..., 0]
    rows = np.arange(21) - 10
    np.testing.assert_allclose((blurred.sum(1) * rows**2).sum() / blurred.sum(), sigma**2, atol=0.02)


def test_skin_tones_span_the_scale_and_stay_skin():
    ita = jnp.linspace(*skin.ITA_RANGE, 30)
    tones = np.asarray(jax.vmap(lambda angle: skin.tone(angle, 0.0, 0.0))(ita))
    assert (np.diff(tones.sum(1)) > 0).all()  # from dark to light
    assert (tones[:, 0] > tones[:, 1]).all() and (tones[:, 1] > tones[:, 2]).all()
    assert tones[0].mean() < 0.08 and tones[-1].mean() > 0.4


def test_blotches_and_lines_do_not_tell_the_palm_from_the_back():
    palm = jnp.asarray(scene.hand_mesh()[0].palm)
    keys = jax.random.split(jax.random.key(0), 300)
    blood, melanin = jax.jit(jax.vmap(lambda key: skin.spots(key, palm, scene.noises())))(keys)
    for pigment in map(np.asarray, (blood, melanin)):
        front, back = (np.abs(pigment[:, side]).mean() for side in (np.asarray(palm) > 0.9, np.asarray(palm) < 0.1))
        assert front == pytest.approx(back, rel=0.25) and back > 0.01


def test_relief_is_of_millimetres_and_differs_between_people():
    heights = jax.jit(jax.vmap(lambda key: skin.relief(key, scene.noises())))(jax.random.split(jax.random.key(0), 100))
    assert np.abs(heights).max() < 0.005
    assert 2e-4 < np.std(np.mean(heights, 1)) < 1e-3 and 2e-4 < np.mean(np.std(heights, 1)) < 1e-3


def test_named_uniforms_are_one_draw():
    key = jax.random.key(0)
    u = texture.named_uniforms(jax.random.clone(key), 'first second', (3,))
    np.testing.assert_array_equal([u.first, u.second], jax.random.uniform(key, (2, 3)))


def test_lab_white_and_black():
    np.testing.assert_allclose(skin.lab_to_linear(jnp.array([100.0, 0, 0])), 1, atol=2e-3)
    np.testing.assert_allclose(skin.lab_to_linear(jnp.array([0.0, 0, 0])), 0.01, atol=1e-6)  # never quite black


def test_borders_spare_the_keypoints():
    keep = jnp.array([[0.3, 0.4], [0.7, 0.6]])
    shown = jax.jit(jax.vmap(lambda key: sensor.borders(key, jnp.ones((50, 50, 3)), keep, 1.0)))
    picture, content = shown(jax.random.split(jax.random.key(0), 200))
    assert content[:, 20:30, 15:35].all() and not content.all()
    np.testing.assert_array_equal(picture[..., 0] > 0, content)
    _, whole = sensor.borders(jax.random.key(0), jnp.ones((50, 50, 3)), keep, 0.0)
    assert whole.all()


def test_to_bytes_rounds_to_whole_levels():
    np.testing.assert_array_equal(
        sensor.to_bytes(jnp.array([-0.1, 0.0, 0.6 / 255, 0.5, 1.0, 7.0])), [0, 0, 1, 128, 255, 255]
    )
