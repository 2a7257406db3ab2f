"""A JAX function as TFLite by TensorFlow's converter, as far as the models and decoders go.

jax.experimental.jax2tf converts to the same, but for a batch of any size it has the model compute the shape of every
broadcast while it runs, and LiteRT then leaves its fast convolutions: eleven times as long. Here all shapes follow from
that of the input, which is set before the model runs.
"""

import math
from collections.abc import Callable

import numpy as np
import tensorflow as tf
from jax.extend.core import JaxprEqn

from hpe_jax.errors import UserError
from hpe_jax.export.jaxpr import aligned, is_batch, lower, trace

tf.config.set_visible_devices([], 'GPU')  # the accelerator is JAX's
CHANNELS_LAST = ((0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2))  # NHWC, HWIO, NHWC
Value = np.ndarray | tf.Tensor


def _elementwise(operator: Callable) -> Callable:
    """JAX and TensorFlow both broadcast as NumPy does."""
    return lambda eqn, *inputs: operator(*inputs)


def _reduction(operator: Callable) -> Callable:
    return lambda eqn, x: operator(x, [int(axis) for axis in eqn.params['axes']])


def _reshape(x: Value, shape: tuple) -> tf.Tensor:
    return tf.reshape(x, [-1 if is_batch(size) else size for size in shape])


def _to_shape(eqn: JaxprEqn, x: Value) -> tf.Tensor:
    return _reshape(x, eqn.outvars[0].aval.shape)


def _broadcast(eqn: JaxprEqn, x: Value) -> tf.Tensor:
    """By a product with ones, whose shape is known. The axis of the batch stays 1 if it is new: what x meets has it."""
    shape = eqn.outvars[0].aval.shape
    x = _reshape(x, aligned(eqn))
    if aligned(eqn) == shape:
        return x
    ones = np.ones([1 if is_batch(size) else size for size in shape], eqn.invars[0].aval.dtype)
    return tf.logical_and(x, ones) if ones.dtype == bool else tf.multiply(x, ones)


def _convolution(eqn: JaxprEqn, x: Value, kernel: np.ndarray) -> tf.Tensor:
    p = eqn.params
    plain = set(p['lhs_dilation']) == {1} and p['batch_group_count'] == p['feature_group_count'] == 1
    if not plain or tuple(p['dimension_numbers']) != CHANNELS_LAST:
        raise UserError('TFLite: convolutions with gaps in their input, or in groups, have no rule')
    reach = [step * (size - 1) for step, size in zip(p['rhs_dilation'], kernel.shape[:2], strict=True)]
    same = set(p['window_strides']) == {1} and all(
        (low, high) == (n / 2, n / 2) for (low, high), n in zip(p['padding'], reach, strict=True)
    )
    padding = 'SAME' if same else [(0, 0), *p['padding'], (0, 0)]
    return tf.nn.conv2d(x, kernel, p['window_strides'], padding, dilations=p['rhs_dilation'])


def _dot(eqn: JaxprEqn, x: Value, y: Value) -> tf.Tensor:
    """As a product of matrices: (*batch, free, summed) with (*batch, summed, free)."""
    summed, batch = eqn.params['dimension_numbers']
    ranks = [len(factor.aval.shape) for factor in eqn.invars]
    free = [[axis for axis in range(ranks[i]) if axis not in (*summed[i], *batch[i])] for i in (0, 1)]
    if max(map(len, (*summed, *free))) > 1:
        raise UserError('TFLite: products of more than matrices have no rule')
    x = tf.transpose(x, [*batch[0], *free[0], *summed[0]])
    y = tf.transpose(y, [*batch[1], *summed[1], *free[1]])
    x, y = x if free[0] else tf.expand_dims(x, -2), y if free[1] else tf.expand_dims(y, -1)
    return _to_shape(eqn, tf.matmul(x, y))


def _slice(eqn: JaxprEqn, x: Value) -> tf.Tensor:
    p, sizes = eqn.params, eqn.invars[0].aval.shape
    cuts = zip(p['start_indices'], p['limit_indices'], p['strides'] or (1,) * len(sizes), strict=True)
    whole = [slice(None) if cut == (0, size, 1) else slice(*cut) for cut, size in zip(cuts, sizes, strict=True)]
    return x[tuple(whole)]


RULES = {
    'add': _elementwise(tf.add),
    'broadcast_in_dim': _broadcast,
    'concatenate': lambda eqn, *parts: tf.concat(parts, eqn.params['dimension']),
    'conv_general_dilated': _convolution,
    'convert_element_type': lambda eqn, x: tf.cast(x, np.dtype(eqn.params['new_dtype'])),
    'div': _elementwise(tf.divide),
    'dot_general': _dot,
    'eq': _elementwise(tf.equal),
    'exp': _elementwise(tf.exp),
    'gt': _elementwise(tf.greater),
    'integer_pow': lambda eqn, x: math.prod([x] * eqn.params['y']),
    'le': _elementwise(tf.less_equal),
    'logistic': _elementwise(tf.sigmoid),
    'max': _elementwise(tf.maximum),
    'min': _elementwise(tf.minimum),
    'mul': _elementwise(tf.multiply),
    'reduce_max': _reduction(tf.reduce_max),
    'reduce_min': _reduction(tf.reduce_min),
    'reduce_sum': _reduction(tf.reduce_sum),
    'reshape': _to_shape,
    'select_n': lambda eqn, which, no, yes: tf.where(which, yes, no),
    'slice': _slice,
    'sqrt': _elementwise(tf.sqrt),
    'squeeze': _to_shape,
    'stack': lambda eqn, *parts: tf.stack(parts, eqn.params['axis']),
    'sub': _elementwise(tf.subtract),
    'transpose': lambda eqn, x: tf.transpose(x, eqn.params['permutation']),
}


def convert(function: Callable, size: int) -> bytes:
    """The TFLite model of a function of `images` (batch, size, size, 3) uint8 to a dict of arrays.

    Raises:
      UserError: the function is made of something that is not written here.
    """
    jaxpr, shapes = trace(function, size)
    module = tf.Module()  # with which the inputs and outputs keep their names

    @tf.function(input_signature=[tf.TensorSpec((None, size, size, 3), tf.uint8, 'images')], autograph=False)
    def whole(images):
        return dict(zip(shapes, lower(jaxpr, [images], RULES), strict=True))

    module.whole = whole
    return tf.lite.TFLiteConverter.from_concrete_functions([whole.get_concrete_function()], module).convert()
