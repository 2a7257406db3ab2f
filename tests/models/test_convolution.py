import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hpe_jax.models import convolution


@pytest.fixture(autouse=True)
def nothing_kept():
    """No program is written to the compilation cache here, and elsewhere as before."""
    before = jax.config.jax_persistent_cache_min_compile_time_secs
    convolution.keep_no_programs()
    yield
    jax.config.update('jax_persistent_cache_min_compile_time_secs', before)


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


@pytest.mark.parametrize('kind', convolution.KINDS)
@pytest.mark.parametrize(('size', 'stride', 'shape'), [(3, 1, (8, 6)), (3, 2, (8, 6)), (3, 2, (7, 9)), (1, 1, (5, 7))])
def test_every_kind_is_xlas_convolution(kind, size, stride, shape):
    if kind.startswith('onednn') and not onednn:
        pytest.skip('this jaxlib has no oneDNN convolution that works')
    rng = np.random.default_rng(0)
    x, kernel = integers(rng, 2, *shape, 3), integers(rng, size, size, 3, 4)
    value, pull = jax.vjp(lambda x, k: convolution.conv(x, k, stride, kind), x, kernel)
    expected, expected_pull = jax.vjp(lambda x, k: convolution._xla(x, k, stride, (size // 2, size // 2)), x, kernel)
    dy = integers(rng, *expected.shape)
    for ours, theirs in zip((value, *pull(dy)), (expected, *expected_pull(dy)), strict=True):
        # Small whole numbers are exact, in bfloat16 up to 256.
        np.testing.assert_allclose(ours, theirs, atol=0 if np.abs(theirs).max() <= 256 else 1e-2 * np.abs(theirs).max())


onednn = convolution.onednn_works.__wrapped__()


def test_auto_is_the_one_for_the_backend(monkeypatch):
    monkeypatch.setattr(convolution, 'onednn_works', lambda: False)
    assert convolution.choose('auto') == 'im2col_grad'
    assert convolution.choose('xla') == 'xla'
    monkeypatch.setattr(convolution, 'onednn_works', lambda: True)
    jax.config.update('jax_persistent_cache_min_compile_time_secs', 1.0)
    assert convolution.choose('xla') == 'xla' and jax.config.jax_persistent_cache_min_compile_time_secs == 1
    assert convolution.choose('auto') == 'onednn' and jax.config.jax_persistent_cache_min_compile_time_secs == np.inf
    monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
    assert convolution.choose('auto') == 'xla'


@pytest.mark.parametrize('code', ['import os; os.abort()', 'print("other")', 'raise SystemExit(1)'])
def test_onednn_is_not_used_where_its_trial_fails(monkeypatch, tmp_path, code):
    monkeypatch.setenv('JAX_COMPILATION_CACHE_DIR', str(tmp_path))
    monkeypatch.setattr(convolution, 'TRIAL', code)
    assert convolution.onednn_works.__wrapped__() is False
    kept = list(tmp_path.iterdir())
    assert len(kept) == 1 and json.loads(kept[0].read_text()) == {'works': False}
    monkeypatch.setattr(convolution, 'TRIAL', 'print("works")')
    assert convolution.onednn_works.__wrapped__() is False  # it was tried before


def test_onednn_is_for_x86_linux_and_known_jaxlibs(monkeypatch, tmp_path):
    monkeypatch.setenv('JAX_COMPILATION_CACHE_DIR', str(tmp_path))
    monkeypatch.setattr(convolution, 'TRIAL', 'print("works")')
    monkeypatch.setattr(convolution.platform, 'machine', lambda: 'aarch64')
    assert convolution.onednn_works.__wrapped__() is False
    monkeypatch.setattr(convolution.platform, 'machine', lambda: 'x86_64')
    monkeypatch.setattr(convolution, 'ONEDNN_JAXLIBS', ((0, 1), (0, 2)))
    assert convolution.onednn_works.__wrapped__() is False
    monkeypatch.setattr(convolution, 'ONEDNN_JAXLIBS', ((0, 1), (9, 0)))
    assert convolution.onednn_works.__wrapped__() is (sys.platform == 'linux')
