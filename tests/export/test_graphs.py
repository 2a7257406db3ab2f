"""onnx_graph and tflite_graph: what the runtimes compute of a graph is what JAX computes of the function."""

import os

os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from hpe_jax.errors import UserError
from hpe_jax.export import formats

pytestmark = pytest.mark.slow

SIZE = 6
RNG = np.random.default_rng(1)
KERNEL, GROUPED = (RNG.normal(size=(3, 2, c, 6)).astype(np.float32) for c in (3, 1))
SQUARE, MATRIX = (RNG.normal(size=size).astype(np.float32) for size in ((3, 3, 3, 2), (4, 6)))


def convolution(x, kernel=KERNEL, strides=(2, 1), padding=((1, 2), (0, 3)), **options):
    axes = 'NHWC', 'HWIO', 'NHWC'
    return lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=axes, **options)


def first(x):
    return lax.slice_in_dim(x, 0, 1, 1, 3)


FUNCTIONS = {
    'arithmetic': lambda x: (
        (x + 1) * x - x / 3 + jnp.maximum(x, 0.2) - jnp.minimum(x, x.mean((1, 2, 3), keepdims=True))
    ),
    'powers': lambda x: x**2 - x**3 + jnp.exp(x) + jax.nn.sigmoid(20 * (x - 1)),
    'comparisons': lambda x: jnp.where(x > 0.501, x, 0.0) + jnp.where(0 * x <= 0, 1.0, x) + (x == x.max()),
    'reductions': lambda x: x.max((1, 3)) + x.min((1, 3)) - x.sum((2, 3)),
    'convolution': convolution,
    'dilated convolution': lambda x: convolution(x, rhs_dilation=(1, 2)),
    'same convolution': lambda x: convolution(x, SQUARE, strides=(1, 1), padding='SAME'),
    'shifted convolution': lambda x: convolution(x, SQUARE, strides=(1, 1), padding=((0, 2), (2, 0))),
    'product': lambda x: jnp.einsum('bijc,bikc->bcjk', x, x + x.max()),
    'product with a vector': lambda x: jnp.einsum('bijc,bic->bij', x, x.max(2)),
    'slices': lambda x: lax.slice_in_dim(x, 1, 5, 2, 1) + lax.slice_in_dim(x, 2, 4, 1, 1),
    'shapes': lambda x: jnp.stack([x.reshape(-1, 3, 36).transpose(0, 2, 1), x.reshape(-1, 36, 3)], 1)[:, :, None],
    'concatenation': lambda x: jnp.concatenate([x, 2 * x.reshape(-1, 6, 2, 9).reshape(-1, 6, 6, 3), x], 2),
    'broadcasts': lambda x: jnp.concatenate([jnp.broadcast_to(first(x), x.shape), x], 1),
    'broadcasts of booleans': lambda x: jnp.concatenate([jnp.broadcast_to(first(x) > 0.5, x.shape), x > 0.5], 1),
    'a constant for each photo': lambda x: (
        jnp.broadcast_to(MATRIX, (x.shape[0], 4, 6)) - x.max((1, 2, 3))[:, None, None]
    ),
    'inner functions': lambda x: jax.jit(jax.nn.relu)(x - 0.5),
}
ONNX_ONLY = {
    'grouped convolution': lambda x: convolution(x, GROUPED, feature_group_count=3),
    'product with a matrix': lambda x: jnp.einsum('ij,bjkc->bkic', MATRIX, x),
}


@pytest.fixture
def computed(tmp_path) -> Callable:
    """(format, function, photos) -> its outputs by the format's runtime."""

    def computed(name: str, function: Callable, *batches: np.ndarray) -> list:
        for package in formats.FORMATS[name].packages:
            pytest.importorskip(package, reason='formats are optional')
        (tmp_path / 'file').write_bytes(formats.FORMATS[name].make(function, SIZE))
        return [formats.FORMATS[name].load(tmp_path / 'file')(images) for images in batches]

    return computed


def photos(number: int, low: int = 0) -> np.ndarray:
    return np.random.default_rng(number).integers(low, 256, (number, SIZE, SIZE, 3), np.uint8)


@pytest.mark.parametrize(
    ('name', 'function'),
    [(name, function) for name in ('onnx', 'tflite') for function in FUNCTIONS] + [('onnx', f) for f in ONNX_ONLY],
)
def test_a_graph_computes_what_its_function_does(computed, name, function):
    def whole(images):
        out = (FUNCTIONS | ONNX_ONLY)[function](images / 255.0)
        return {'second': (images / 255.0).max((1, 2, 3)), 'first': out.astype(jnp.float32)}

    batches = photos(1), photos(5)
    for images, found in zip(batches, computed(name, whole, *batches), strict=True):
        expected = whole(jnp.asarray(images))
        assert found.keys() == expected.keys()
        for output, value in found.items():
            assert value.dtype == np.float32 and value.shape == expected[output].shape
            np.testing.assert_allclose(value, expected[output], rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize('name', ['onnx', 'tflite'])
def test_an_empty_pixel_keeps_its_digits(computed, name):
    """Where ONNX's own Sigmoid may give 0 or 1e-7."""
    images = photos(1, low=150)
    (found,) = computed(name, lambda images: {'out': jax.nn.sigmoid(images / -10.0)}, images)
    np.testing.assert_allclose(found['out'], 1 / (1 + np.exp(images / np.float64(10))), rtol=1e-5)


@pytest.mark.parametrize(
    ('name', 'function', 'message'),
    [
        ('onnx', jnp.sin, "JAX's primitive 'sin', which this model uses, has no rule"),
        ('tflite', jnp.sin, "JAX's primitive 'sin', which this model uses, has no rule"),
        ('onnx', lambda x: lax.conv_transpose(x, MATRIX[None, None, :3], (2, 2), 'SAME'), 'gaps in their input'),
        ('tflite', lambda x: lax.conv_transpose(x, MATRIX[None, None, :3], (2, 2), 'SAME'), 'gaps in their input'),
        ('tflite', ONNX_ONLY['grouped convolution'], 'in groups'),
        ('tflite', ONNX_ONLY['product with a matrix'], 'more than matrices'),
    ],
)
def test_what_is_not_written_is_told(computed, name, function, message):
    with pytest.raises(UserError, match=message):
        computed(name, lambda images: {'out': function(images / 255.0)})
