"""The optimiser chain from config, its schedules, the average of the weights, and early stopping."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict


def muon(learning_rate: float, **options) -> optax.GradientTransformation:
    """Muon for convolution kernels, each as a matrix (9 x channels in, channels out), and Adam for all else: the other
    parameters, and the kernel called `maps` that makes the answer. `adam_learning_rate` is Adam's, if not the same.

    Both with Nesterov momentum. Jordan et al., "Muon: an optimizer for hidden layers in neural networks", 2024. Its
    updates are scaled to the root mean square of Adam's, so that both share a rate: Liu et al., "Muon is scalable for
    LLM training", 2025.
    """

    def kernels(params):
        matrix = optax.contrib.MuonDimensionNumbers(reduction_axis=(0, 1, 2), output_axis=3)
        return jax.tree.map_with_path(
            lambda path, leaf: matrix if leaf.ndim == 4 and 'maps' not in jax.tree_util.keystr(path) else None, params
        )

    options = {'consistent_rms': 0.2, 'muon_weight_dimension_numbers': kernels, **options}
    return optax.contrib.muon(learning_rate, **options)


OPTIMIZERS = {'sgd': optax.sgd, 'adam': optax.adam, 'adamw': optax.adamw, 'muon': muon}


def make(config: ConfigDict, steps_per_epoch: int) -> optax.GradientTransformationExtraArgs:
    """The named optimiser, its rate scaled by a schedule (`config` is config.optimizer).

    Feed every step's loss, and how many steps the whole training has: `update(grads, state, params, value=loss,
    horizon=steps)`.
    """
    if config.get('schedule') == 'cosine':
        schedule = warmup_cosine(**config.cosine)
    else:
        schedule = reduce_on_plateau(steps_per_epoch, **config.plateau)
    clip = [optax.clip_by_global_norm(config.clip)] if config.get('clip') else []
    return optax.chain(*clip, OPTIMIZERS[config.name](config.learning_rate, **config.options), schedule)


def warmup_cosine(warmup: float, final: float) -> optax.GradientTransformationExtraArgs:
    """Scales updates by `cosine_factor` of the part of the training's steps that are done. How many these are is given
    at each step, so that a training may learn while it runs how long it can be."""

    def init(params):
        return optax.ScaleByScheduleState(count=jnp.zeros([], jnp.int32))

    def update(updates, state, params=None, *, horizon, **extra):
        factor = cosine_factor(state.count / horizon, warmup, final)
        return jax.tree.map(lambda u: factor * u, updates), optax.ScaleByScheduleState(count=state.count + 1)

    return optax.GradientTransformationExtraArgs(init, update)


def cosine_factor(progress, warmup: float, final: float) -> jax.Array:
    """The factor on the learning rate at a part of the training in [0, 1]: linearly up to 1 during the part `warmup`,
    then half a cosine down to `final`. Loshchilov, Hutter, "SGDR", 2017."""
    fall = jnp.clip((progress - warmup) / (1 - warmup), 0, 1)
    cosine = final + (1 - final) * (1 + jnp.cos(jnp.pi * fall)) / 2
    return jnp.where(progress < warmup, progress / max(warmup, 1e-9), cosine)


def average(averaged, state, step: jax.Array, decay: float):
    """One step of the exponential moving average of a model's state (any tree), which is shorter while it is young.

    The decay of step t (from 0) is min(decay, (1 + t) / (10 + t)), as in TensorFlow's ExponentialMovingAverage.
    """
    decay = jnp.minimum(decay, (1 + step) / (10 + step))
    return jax.tree.map(
        lambda a, x: a + (1 - decay) * (x - a) if jnp.issubdtype(x.dtype, jnp.floating) else x, averaged, state
    )


def reduce_on_plateau(steps_per_epoch: int, **options) -> optax.GradientTransformationExtraArgs:
    """optax's reduce_on_plateau on the epoch's mean loss, its verdict used from the next epoch on.

    optax alone would scale the epoch's last step by a verdict that includes that step; PyTorch's scheduler, stepped
    after the epoch, does not. optax halves when `patience` epochs were no better, PyTorch when more than its patience
    were: PyTorch's 20 is 21 here.
    """
    plateau = optax.contrib.reduce_on_plateau(accumulation_size=steps_per_epoch, **options)

    def update(updates, state, params=None, *, value, **extra):
        scaled = jax.tree.map(lambda u: state.scale * u, updates)
        _, state = plateau.update(updates, state, params, value=value)
        return scaled, state

    return optax.GradientTransformationExtraArgs(plateau.init, update)


def learning_rate(config: ConfigDict, opt_state: optax.OptState, horizon: np.float32 | float = 1.0) -> float:
    """The rate of the next step; the schedule is the chain's last link.

    horizon: steps of the whole training, for the schedule 'cosine'.
    """
    last = opt_state[-1]
    factor = (
        cosine_factor(int(last.count) / horizon, **config.cosine) if config.get('schedule') == 'cosine' else last.scale
    )
    return config.learning_rate * float(factor)


def should_stop(losses: Sequence[float], window: int, patience: int, digits: int = 5) -> bool:
    """Early stopping as the reference does it, a pure function of all validation losses so far.

    The mean over the last `window` epochs, rounded to `digits` decimals, is compared with its minimum; training stops
    when it has not fallen for more than `patience` epochs. During the first `window` epochs the minimum is the mean of
    what there is.
    """
    best, waited = np.inf, 0
    for epoch in range(len(losses)):
        mean = np.round(np.mean(losses[max(0, epoch + 1 - window) : epoch + 1]), digits)
        if epoch < window or mean < best:
            best, waited = mean, 0
        else:
            waited += 1
    return waited > patience
