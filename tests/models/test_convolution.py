import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hpe_jax.models import convolution

LAYOUT = ('NHWC', 'HWIO', 'NHWC')


def integers(rng, *shape):
    """Small whole numbers: their products and sums are exact in float32, in whatever order."""
    return jnp.asarray(rng.integers(-3, 4, shape), jnp.float32)


@pytest.mark.parametrize('shape', [(6, 8, 5, 3), (2, 3, 7, 2), (3, 1, 1, 2)])
@pytest.mark.parametrize('strip', [1, 1 << 20])  # bytes: a photo a strip, all photos in one
def test_gradients_equal_those_of_xla_exactly(monkeypatch, shape, strip):
    monkeypatch.setattr(convolution, 'STRIP', strip)
    rng = np.random.default_rng(0)
    x, kernel, dy = integers(rng, *shape), integers(rng, 3, 3, shape[-1], 4), integers(rng, *shape[:-1], 4)
    xla = {'window_strides': (1, 1), 'padding': 'SAME', 'dimension_numbers': LAYOUT}
    expected, expected_pull = jax.vjp(lambda x, k: jax.lax.conv_general_dilated(x, k, **xla), x, kernel)
    value, pull = jax.vjp(lambda x, k: convolution.CONVS['im2col_grad'](x, k, **xla), x, kernel)
    np.testing.assert_array_equal(value, expected)
    for gradient, wanted in zip(pull(dy), expected_pull(dy), strict=True):
        np.testing.assert_array_equal(gradient, wanted)


def test_bfloat16_is_summed_in_float32():
    ones = jnp.ones((1, 40, 40, 1), jnp.bfloat16)
    gradient = convolution.weight_gradient(ones, ones)  # 1,600 pixels; bfloat16 alone would stop counting at 256
    assert gradient.dtype == jnp.bfloat16 and gradient[1, 1, 0, 0] == 1600


def test_auto_is_the_one_for_the_backend(monkeypatch):
    assert convolution.choose('auto') == 'im2col_grad'
    assert convolution.choose('xla') == 'xla'
    monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
    assert convolution.choose('auto') == 'xla'
