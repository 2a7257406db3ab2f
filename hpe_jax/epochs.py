"""Training epochs, each with its validation: step by step on the host, or each as one call on the device.

Both take the same photos in the same order and leave the same numbers, up to rounding.
"""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import islice
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from ml_collections import ConfigDict
from tqdm import tqdm

from hpe_jax import evaluate, preprocess, sharding
from hpe_jax.data import prepared


class Epoch(NamedTuple):
    """What an epoch leaves; the host has waited for none of it yet."""

    state: nnx.State  # of the TrainState, after its last step
    losses: jax.Array  # (steps,)
    validation: Iterable[dict]  # what eval_step says of each batch


def make_train_epoch(step: Callable) -> Callable:
    """The jitted (state, arrays, order, horizon) -> (state, losses): a whole epoch in one call, with donated state.

    step: of train.make_train_step. arrays: Resident.arrays. order: (steps, B) indices of photos.
    """

    @partial(jax.jit, donate_argnums=0, out_shardings=sharding.replicated())
    def train_epoch(
        state: nnx.State, arrays: preprocess.Batch, order: jax.Array, horizon: jax.Array | np.float32 | float = 1.0
    ) -> tuple[nnx.State, jax.Array]:
        return jax.lax.scan(lambda state, index: step(state, arrays | {'index': index}, horizon), state, order)

    return train_epoch


def looped(
    config: ConfigDict, step, eval_step, state, source, validation, first: int, horizon, bar: tqdm
) -> Iterator[Epoch]:
    """Epochs `first` (counted from 0) to the config's last, step by step, of any source.

    step, eval_step: of train.make_train_step and evaluate.make_eval_step. state: donated.
    source, validation: what makes batches of the photos. horizon: returns how many steps the whole training has.
    """
    train = config.train
    batches = source.epochs(config.seed, first, train.steps_per_epoch, train.batch_size)
    for epoch in range(first, train.epochs):
        losses = []
        for batch in islice(batches, train.steps_per_epoch):
            state, loss = step(state, batch, horizon())
            losses.append(loss)
            bar.update()
        held = validation.once(config.eval.batch_size, drawn(config, len(validation), epoch))
        yield Epoch(state, jnp.stack(losses), map(partial(eval_step, evaluated(state)), held))


def scanned(
    config: ConfigDict, step, eval_step, state, source, validation, first: int, horizon, bar: tqdm
) -> Iterator[Epoch]:
    """The same of Resident photos, an epoch a call, begun before the host looks at the one before it."""
    train = config.train
    train_epoch, eval_epoch, before = make_train_epoch(step), evaluate.make_eval_epoch(eval_step), None
    for epoch in range(first, train.epochs):
        order = source.order(config.seed, epoch, train.steps_per_epoch, train.batch_size)
        state, losses = train_epoch(state, source.arrays, order, horizon())
        held = prepared.in_batches(drawn(config, len(validation), epoch), config.eval.batch_size)
        sums = eval_epoch(evaluated(state), validation.arrays, held) if len(held) else {}
        for array in jax.tree.leaves((losses, sums)):
            array.copy_to_host_async()
        kept = _copy(state)  # the next epoch is given the buffers of `state`
        if before:
            yield before
            bar.update(train.steps_per_epoch)
        before = Epoch(kept, losses, _unstacked(sums, len(held)))
    if before:
        yield before
        bar.update(train.steps_per_epoch)


def evaluated(state: nnx.State) -> nnx.State:
    """The part of a TrainState that is evaluated: the average of the weights where there is one."""
    return state['averaged' if 'averaged' in state else 'model']


_copy = jax.jit(lambda state: jax.tree.map(jnp.copy, state))


def _unstacked(sums: dict, number: int) -> Iterator[dict]:
    """The first axis of each leaf apart; fetched from the device when the first one is asked for."""
    sums = jax.device_get(sums)
    for i in range(number):
        yield jax.tree.map(lambda x, i=i: x[i], sums)


def drawn(config: ConfigDict, held: int, epoch: int) -> np.ndarray:
    """Which of the held photos an epoch validates on: as many as validation_batches hold, drawn anew in each."""
    number = min(held, config.train.validation_batches * config.train.batch_size)
    return prepared.epoch_order(held, number, config.seed, epoch + 1) if held else np.arange(0)
