"""A JAX function as ONNX, as far as the models and decoders go.

The converters that there are do not serve: jax2onnx 0.17 refuses the orbax-checkpoint of requirements.txt, its older
releases fail with this JAX, and tf2onnx, which can start from a TFLite file, makes a graph that takes twice the time.
"""

import string
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
from jax.extend.core import JaxprEqn
from onnx import TensorProto, checker, helper, numpy_helper

from hpe_jax.errors import UserError
from hpe_jax.export.jaxpr import BATCH, aligned, is_batch, lower, trace

OPSET, IR_VERSION = 18, 8  # of 2022, so that runtimes of some age read it too
Value = np.ndarray | str  # what is known already, or the name of what a node computes


class Graph:
    """The nodes and constants so far."""

    def __init__(self, images: str):
        self.nodes, self.constants = [], {}
        self._given = self.add('Shape', images, start=0, end=1)
        self._batch = self.add('Max', self._given, np.int64([1]))

    def at_least_one(self, images: str) -> str:
        """The images, or one black one in the place of none."""
        missing = self.add('Sub', self._batch, self._given)
        pads = self.add('Concat', np.zeros(4, np.int64), missing, np.zeros(3, np.int64), axis=0)
        return self.add('Pad', images, pads)

    def cut(self, result: Value) -> str:
        """As many rows as images were given."""
        return self.add('Slice', result, np.int64([0]), self._given, np.int64([0]))

    def add(self, operator: str, *inputs: Value, **attributes) -> str:
        """One more node; returns the name of its output."""
        name = f'{operator}_{len(self.nodes)}'
        names = [x if isinstance(x, str) else self._constant(x) for x in inputs]
        self.nodes.append(helper.make_node(operator, names, [name], name, **attributes))
        return name

    def reshape(self, x: Value, shape: Sequence) -> str:
        return self.add('Reshape', x, np.int64([-1 if is_batch(size) else size for size in shape]))

    def expand(self, x: Value, shape: Sequence) -> str:
        sizes = [self._batch if is_batch(size) else np.int64([size]) for size in shape]
        return self.add('Expand', x, self.add('Concat', *sizes, axis=0))

    def _constant(self, array: np.ndarray) -> str:
        key = array.dtype.str, array.shape, array.tobytes()
        if key not in self.constants:
            self.constants[key] = numpy_helper.from_array(array, f'constant_{len(self.constants)}')
        return self.constants[key].name


def _elementwise(operator: str) -> Callable:
    """JAX and ONNX both broadcast as NumPy does."""
    return lambda graph, eqn, *inputs: graph.add(operator, *inputs)


def _reduction(operator: str) -> Callable:
    return lambda graph, eqn, x: graph.add(operator, x, np.int64(eqn.params['axes']), keepdims=0)


def _reshape(graph: Graph, eqn: JaxprEqn, x: Value) -> str:
    return graph.reshape(x, eqn.outvars[0].aval.shape)


def _broadcast(graph: Graph, eqn: JaxprEqn, x: Value) -> str:
    shape = eqn.outvars[0].aval.shape
    x = graph.reshape(x, aligned(eqn))
    return x if aligned(eqn) == shape else graph.expand(x, shape)


def _cast(graph: Graph, eqn: JaxprEqn, x: Value) -> str:
    return graph.add('Cast', x, to=helper.np_dtype_to_tensor_dtype(np.dtype(eqn.params['new_dtype'])))


def _convolution(graph: Graph, eqn: JaxprEqn, x: Value, kernel: np.ndarray) -> str:
    p = eqn.params
    if set(p['lhs_dilation']) != {1} or p['batch_group_count'] != 1:
        raise UserError('ONNX: convolutions with gaps in their input, or with groups of images, have no rule')
    x_axes, kernel_axes, y_axes = p['dimension_numbers']
    window = {'strides': p['window_strides'], 'dilations': p['rhs_dilation'], 'group': p['feature_group_count']}
    pads = np.transpose(p['padding']).ravel()
    x, kernel = graph.add('Transpose', x, perm=x_axes), np.transpose(kernel, kernel_axes)
    return graph.add('Transpose', graph.add('Conv', x, kernel, pads=pads, **window), perm=np.argsort(y_axes))


def _dot(graph: Graph, eqn: JaxprEqn, x: Value, y: Value) -> str:
    (x_summed, y_summed), (x_batch, y_batch) = eqn.params['dimension_numbers']
    x_axes = string.ascii_lowercase[: len(eqn.invars[0].aval.shape)]
    y_axes = list(string.ascii_uppercase[: len(eqn.invars[1].aval.shape)])
    for i, j in zip((*x_summed, *x_batch), (*y_summed, *y_batch), strict=True):
        y_axes[j] = x_axes[i]
    summed, batch = {x_axes[i] for i in x_summed}, [x_axes[i] for i in x_batch]
    free = [axis for axis in (*x_axes, *y_axes) if axis not in summed and axis not in batch]
    return graph.add('Einsum', x, y, equation=f'{x_axes},{"".join(y_axes)}->{"".join(batch + free)}')


def _logistic(graph: Graph, eqn: JaxprEqn, x: Value) -> str:
    """Not Sigmoid: onnxruntime's is good to 1e-7 of 1, which in the many empty pixels of a heatmap moves its mean."""
    one = np.ones((), eqn.invars[0].aval.dtype)
    return graph.add('Div', one, graph.add('Add', one, graph.add('Exp', graph.add('Neg', x))))


def _power(graph: Graph, eqn: JaxprEqn, x: Value) -> str:
    return graph.add('Pow', x, np.array(eqn.params['y'], eqn.invars[0].aval.dtype))


def _slice(graph: Graph, eqn: JaxprEqn, x: Value) -> str:
    p, sizes = eqn.params, eqn.invars[0].aval.shape
    starts, ends, steps = p['start_indices'], p['limit_indices'], p['strides'] or (1,) * len(sizes)
    cuts = zip(starts, ends, range(len(sizes)), steps, strict=True)
    cuts = [cut for cut, size in zip(cuts, sizes, strict=True) if cut[:2] != (0, size) or cut[3] != 1]
    return graph.add('Slice', x, *np.int64(cuts).T)


def _stack(graph: Graph, eqn: JaxprEqn, *parts: Value) -> str:
    axis = eqn.params['axis']
    return graph.add('Concat', *(graph.add('Unsqueeze', x, np.int64([axis])) for x in parts), axis=axis)


RULES = {
    'add': _elementwise('Add'),
    'broadcast_in_dim': _broadcast,
    'concatenate': lambda graph, eqn, *parts: graph.add('Concat', *parts, axis=eqn.params['dimension']),
    'conv_general_dilated': _convolution,
    'convert_element_type': _cast,
    'div': _elementwise('Div'),
    'dot_general': _dot,
    'eq': _elementwise('Equal'),
    'exp': _elementwise('Exp'),
    'gt': _elementwise('Greater'),
    'integer_pow': _power,
    'le': _elementwise('LessOrEqual'),
    'logistic': _logistic,
    'max': _elementwise('Max'),
    'min': _elementwise('Min'),
    'mul': _elementwise('Mul'),
    'reduce_max': _reduction('ReduceMax'),
    'reduce_min': _reduction('ReduceMin'),
    'reduce_sum': _reduction('ReduceSum'),
    'reshape': _reshape,
    'select_n': lambda graph, eqn, which, no, yes: graph.add('Where', which, yes, no),
    'slice': _slice,
    'sqrt': _elementwise('Sqrt'),
    'squeeze': _reshape,
    'stack': _stack,
    'sub': _elementwise('Sub'),
    'transpose': lambda graph, eqn, x: graph.add('Transpose', x, perm=eqn.params['permutation']),
}


def convert(function: Callable, size: int, metadata: Mapping[str, str] | None = None) -> bytes:
    """The serialised ONNX model of a function of `images` (batch, size, size, 3) uint8 to a dict of float32 arrays.

    An empty batch, which onnxruntime would divide by, is computed as one black image and cut off again.

    Args:
      metadata: the model's `metadata_props`.

    Raises:
      UserError: the function is made of something that is not written here.
    """
    jaxpr, shapes = trace(function, size)
    graph = Graph('images')
    images = graph.at_least_one('images')
    results = lower(jaxpr, [images], {name: partial(rule, graph) for name, rule in RULES.items()})
    outputs = []
    for (name, shape), result in zip(shapes.items(), results, strict=True):
        graph.nodes.append(helper.make_node('Identity', [graph.cut(result)], [name]))
        sizes = [BATCH if is_batch(size) else size for size in shape]
        outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, sizes))
    images = helper.make_tensor_value_info('images', TensorProto.UINT8, [BATCH, size, size, 3])
    whole = helper.make_graph(graph.nodes, 'hand_pose', [images], outputs, list(graph.constants.values()))
    model = helper.make_model(whole, opset_imports=[helper.make_opsetid('', OPSET)], ir_version=IR_VERSION)
    helper.set_model_props(model, dict(metadata or {}))
    checker.check_model(model, full_check=True)
    return model.SerializeToString()
