"""A JAX function of images, traced for any number of them and lowered, primitive by primitive, to another format.

The rules of a format are a table from a primitive's name to a function (equation, *inputs) -> output. Inputs are arrays
where they are known already, and otherwise whatever the format computes with.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax import export
from jax.extend import core

from hpe_jax.errors import UserError

BATCH = 'batch'


def trace(function: Callable, size: int) -> tuple[core.ClosedJaxpr, dict[str, tuple]]:
    """The jaxpr of a function of (batch, size, size, 3) uint8 to a dict of arrays, and their shapes by sorted names."""
    images = jax.ShapeDtypeStruct(export.symbolic_shape(f'{BATCH}, {size}, {size}, 3'), np.uint8)
    traced = jax.jit(function).trace(images)
    return traced.jaxpr, {name: out.shape for name, out in sorted(traced.out_info.items())}


def is_batch(size) -> bool:
    """Whether a size of a traced shape is that of the batch, which is not a number."""
    return not isinstance(size, int | np.integer)


def aligned(eqn: core.JaxprEqn) -> tuple:
    """The shape of what a broadcast_in_dim is given, with an axis of 1 for each new one."""
    kept = dict(zip(map(int, eqn.params['broadcast_dimensions']), eqn.invars[0].aval.shape, strict=True))
    return tuple(kept.get(axis, 1) for axis in range(len(eqn.outvars[0].aval.shape)))


def lower(closed: core.ClosedJaxpr, arguments: Sequence, rules: Mapping[str, Callable]) -> list[Any]:
    """The outputs of a jaxpr in another format. What does not depend on the images is computed here and now.

    Raises:
      UserError: there is no rule for a primitive.
    """
    jaxpr = closed.jaxpr
    values = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*map(np.asarray, closed.consts), *arguments], strict=True))

    def read(atom):
        return np.asarray(atom.val, atom.aval.dtype) if isinstance(atom, core.Literal) else values[atom]

    for eqn in jaxpr.eqns:
        inputs, name = [read(atom) for atom in eqn.invars], eqn.primitive.name
        inner = [x for x in eqn.params.values() if isinstance(x, core.ClosedJaxpr)]  # of jit, custom_jvp, custom_vjp
        known = all(isinstance(x, np.ndarray) for x in inputs)
        if inner:
            outputs = lower(inner[0], inputs, rules)
        elif known and not any(map(is_batch, eqn.outvars[0].aval.shape)):
            outputs = [np.asarray(eqn.primitive.bind(*inputs, **eqn.params))]
        elif name == 'stop_gradient':
            outputs = inputs
        elif name in rules:
            outputs = [rules[name](eqn, *inputs)]
        else:
            raise UserError(f"JAX's primitive {name!r}, which this model uses, has no rule for this format")
        values.update(zip(eqn.outvars, outputs, strict=True))
    return [read(atom) for atom in jaxpr.outvars]
