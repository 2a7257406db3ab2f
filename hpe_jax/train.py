"""Training: the state, the step, and the loop, `run`, which reads from top to bottom.

A run is a pure function of (config, data, seed). All that later steps depend on is in the checkpoint, so a killed run
that is started again ends with the same parameters.
"""

import contextlib
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from ml_collections import ConfigDict
from tqdm import tqdm

from hpe_jax import (
    checkpoint,
    configuration,
    evaluate,
    files,
    logbook,
    losses,
    models,
    optim,
    preprocess,
    report,
    runtime,
    sharding,
    trained_model,
)
from hpe_jax.data import prepared, sources
from hpe_jax.errors import UserError, WriteError


class TrainState(nnx.Module):
    """All that a step changes: parameters and BatchNorm statistics, and the optimiser's and the plateau's state."""

    def __init__(self, config: ConfigDict):
        self.model = models.make(config)
        tx = optim.make(config.optimizer, config.train.steps_per_epoch)
        self.optimizer = nnx.Optimizer(self.model, tx, wrt=trained(config))
        if config.train.average:
            self.averaged = nnx.clone(self.model)

    def restart_average(self) -> None:
        """Makes the average of the weights, if there is one, the weights themselves, in separate arrays."""
        nnx.update(self.best_model, jax.tree.map(jnp.copy, nnx.state(self.model)))

    @property
    def best_model(self) -> nnx.Module:
        """What is evaluated and kept: the average of the weights where there is one."""
        return getattr(self, 'averaged', self.model)

    @property
    def rest(self) -> nnx.Module | nnx.Optimizer:
        """What a checkpoint keeps besides, to go on from."""
        return nnx.Dict(optimizer=self.optimizer, model=self.model) if hasattr(self, 'averaged') else self.optimizer


def trained(config: ConfigDict) -> nnx.filterlib.Filter:
    """What training changes: all parameters, or with config.train.heads_only those of the heads alone."""
    if not config.train.heads_only:
        return nnx.Param
    parts = models.MODELS[config.model.name].HEAD_PARTS
    return nnx.All(nnx.Param, nnx.Any(*map(nnx.PathContains, parts)))


def make_train_step(config: ConfigDict, graphdef: nnx.GraphDef, expand: Callable) -> Callable:
    """The jitted (state, batch, horizon) -> (state, loss), with donated state.

    expand: of a sources.Source. horizon: number of steps of the whole training, for the schedule.
    """

    def loss_fn(model: nnx.Module, batch: preprocess.Batch) -> jax.Array:
        logits = model.logits(batch['image'])
        per_keypoint = evaluate.keypoint_losses(config, logits['heatmaps'], batch)
        loss = losses.masked_mean(per_keypoint, preprocess.keypoint_mask(batch))
        for name in trained_model.heads(config):
            truth, mask = preprocess.head_truths(batch)[name]
            loss += config.loss[name] * losses.masked_mean(losses.binary(logits[name], truth), mask)
        return loss

    @partial(jax.jit, donate_argnums=0, out_shardings=sharding.replicated())
    def train_step(
        state: nnx.State, batch: preprocess.Batch, horizon: jax.Array | np.float32 | float = 1.0
    ) -> tuple[nnx.State, jax.Array]:
        train_state = nnx.merge(graphdef, state)
        step = train_state.optimizer.step[...]
        key = jax.random.fold_in(jax.random.key(config.seed), step)
        batch = preprocess.augment(expand(batch), config.augment, key, config.data.image_size)
        if config.train.heads_only:
            train_state.model.eval()  # its BatchNorms keep their statistics
        differentiate = nnx.value_and_grad(loss_fn, argnums=nnx.DiffState(0, trained(config)))
        loss, grads = differentiate(train_state.model, batch)
        train_state.optimizer.update(train_state.model, grads, value=loss, horizon=horizon)
        if config.train.average:
            states = map(nnx.state, (train_state.averaged, train_state.model))
            nnx.update(train_state.averaged, optim.average(*states, step, config.train.average))
        return nnx.state(train_state), loss

    return train_step


def make_train_epoch(step: Callable) -> Callable:
    """The jitted (state, arrays, order, horizon) -> (state, losses): a whole epoch in one call, with donated state.

    step: of make_train_step. arrays: Resident.arrays. order: (steps, B) indices of images.
    """

    @partial(jax.jit, donate_argnums=0, out_shardings=sharding.replicated())
    def train_epoch(
        state: nnx.State, arrays: preprocess.Batch, order: jax.Array, horizon: jax.Array | np.float32 | float = 1.0
    ) -> tuple[nnx.State, jax.Array]:
        return jax.lax.scan(lambda state, index: step(state, arrays | {'index': index}, horizon), state, order)

    return train_epoch


def train_and_evaluate(config: ConfigDict, workdir: str | Path) -> dict:
    """The main job: data in; a trained, evaluated and drawn model in `workdir` out.

    Returns:
      the content of report.json.

    Raises:
      UserError: the config, the data or the run directory cannot be used, the disk is full or can only be read, or the
        loss became NaN or infinite.
      runtime.Stopped: by a signal; the last step is saved, and the same call goes on from it.
    """
    check(config, workdir)
    with files.locked(workdir) if sharding.is_main() else contextlib.nullcontext():
        try:
            return run(config, workdir)
        except (OSError, WriteError) as e:
            kept = checkpoint.Checkpoints(workdir, read_only=True).latest()
            last = 'there is no checkpoint yet' if kept is None else f'the last good checkpoint is epoch {kept}'
            raise UserError(f'{e}; {last}; mend that and give the same command again, which goes on from there') from e


def run(config: ConfigDict, workdir: str | Path) -> dict:
    """`train_and_evaluate`, of what has been checked already."""
    data = sources.open_data(config)
    train_state = TrainState(config)
    checkpoints, history, step_losses = start(config, workdir, data, train_state)
    train = config.train
    graphdef, state = nnx.split(train_state)
    state = sharding.replicate(state)
    step = make_train_step(config, graphdef, data.train.expand)
    eval_step = evaluate.make_eval_step(config, train_state.best_model, [config.eval.decoder])
    batches = data.train.epochs(config.seed, len(history), train.steps_per_epoch, train.batch_size)
    validation = data.splits['validation']
    in_one_call = EpochInOneCall(config, step, eval_step, data, state) if train.scan_epochs else None

    log = logbook.Logbook(workdir, history) if sharding.is_main() else None
    bar = tqdm(
        total=train.epochs * train.steps_per_epoch,
        initial=len(history) * train.steps_per_epoch + len(step_losses),
        unit='step',
        disable=None if log else True,
    )
    for _ in step_losses:  # the part of an epoch that was done before
        next(batches)
    began = time.perf_counter()
    first = len(history)
    # Of several processes each would stop after a different step, and wait for the others for ever.
    stop_signals = runtime.StopSignals(noted=jax.process_count() == 1)
    with stop_signals as signals, contextlib.closing(log) if log else contextlib.nullcontext():
        for epoch in range(first, first if is_done(config, history) else train.epochs):
            if in_one_call:
                finished = in_one_call(epoch, horizon(config, history))
                bar.update(train.steps_per_epoch)
            else:
                for batch in islice(batches, train.steps_per_epoch - len(step_losses)):
                    state, loss = step(state, batch, horizon(config, history))
                    step_losses.append(loss)
                    bar.update()
                    if signals.received:
                        nnx.update(train_state, state)
                        save(config, checkpoints, train_state, history, data, step_losses)
                        text = f'Stopped after step {len(step_losses)} of epoch {epoch + 1}; the same command goes on.'
                        raise runtime.Stopped(text, signals.received)
                indices = validation_indices(config, len(validation), epoch)
                scored = validation.once(config.eval.batch_size, indices)
                finished = Epoch(state, jnp.stack(step_losses), map(partial(eval_step, evaluated(state)), scored))
                step_losses = []

            nnx.update(train_state, finished.state)
            check_finite(config, np.asarray(finished.losses), epoch, checkpoints)
            result = evaluate.summarise(finished.validation)
            seconds, began = time.perf_counter() - began, time.perf_counter()
            history.append(make_record(config, history, train_state, finished.losses, result, seconds))
            done = is_done(config, history)
            if len(history) % train.checkpoint_every == 0 or done or signals.received:
                save(config, checkpoints, train_state, history, data)
            if signals.received and not done:
                text = f'Stopped after epoch {len(history)}; the same command goes on.'
                raise runtime.Stopped(text, signals.received)
            if log:
                log.record(history)
                bar.write('  '.join(f'{name} {value:.6g}' for name, value in history[-1].items() if value is not None))
            if len(history) % train.images_every == 0:
                image = report.skeletons(config, train_state.best_model, data.splits, 'validation')
                if log:
                    log.image('predictions', image, len(history))
            if done:
                break
    bar.close()
    return report.write(config, workdir, train_state.best_model, checkpoints, history, data)


class Epoch(NamedTuple):
    """What an epoch leaves; the host has waited for none of it yet."""

    state: nnx.State  # of the TrainState, after its last step
    losses: jax.Array  # (steps,)
    validation: Iterable[dict]  # what eval_step returns for each batch


class EpochInOneCall:
    """Epochs of resident images, each as one call; the next one begins before the host looks at the one before it.

    They see the same images in the same order as step by step, and leave the same numbers, up to rounding.
    """

    def __init__(self, config: ConfigDict, step: Callable, eval_step: Callable, data: sources.Data, state: nnx.State):
        self._config, self._data, self._state, self._begun = config, data, state, None
        self._train_epoch, self._eval_epoch = make_train_epoch(step), evaluate.make_eval_epoch(eval_step)

    def __call__(self, epoch: int, horizon: np.float32) -> Epoch:
        """Epochs must be asked for one after the other."""
        ready = self._begun or self._begin(epoch, horizon)
        self._begun = self._begin(epoch + 1, horizon) if epoch + 1 < self._config.train.epochs else None
        return ready

    def _begin(self, epoch: int, horizon: np.float32) -> Epoch:
        config, train, validation = self._config, self._config.train, self._data.splits['validation']
        order = self._data.train.order(config.seed, epoch, train.steps_per_epoch, train.batch_size)
        self._state, losses = self._train_epoch(self._state, self._data.train.arrays, order, horizon)
        indices = validation_indices(config, len(validation), epoch)
        batches = prepared.in_batches(indices, config.eval.batch_size)
        scored = self._eval_epoch(evaluated(self._state), validation.arrays, batches) if len(batches) else {}
        for array in jax.tree.leaves((losses, scored)):
            array.copy_to_host_async()
        kept = _copy(self._state)  # the next epoch is given the buffers of the state
        return Epoch(kept, losses, _unstacked(scored, len(batches)))


_copy = jax.jit(lambda state: jax.tree.map(jnp.copy, state))


def _unstacked(batches: dict, num_batches: int) -> Iterable[dict]:
    """The first axis of each leaf apart; fetched from the device when the first one is asked for."""
    batches = jax.device_get(batches)
    for i in range(num_batches):
        yield jax.tree.map(lambda x, i=i: x[i], batches)


def check(config: ConfigDict, workdir: str | Path) -> None:
    """Raises UserError for all that can be wrong before any work."""
    configuration.check(config)
    configuration.check_options(config)
    sources.check_installed(config)
    for field in ('train.batch_size', 'eval.batch_size'):
        sharding.check_divides(configuration.fields(config)[field], f'config.{field}')
    if sharding.is_main():
        files.check_writable(workdir)
    configuration.check_same(config, workdir)


def start(
    config: ConfigDict, workdir: str | Path, data: sources.Data, train_state: TrainState
) -> tuple[checkpoint.Checkpoints, list[dict], list[jax.Array]]:
    """Fills the state: from the run directory's last checkpoint, or else from config.init_from or the seed.

    Weights and BatchNorm statistics fit images that are standardised as theirs were: a run that starts from another
    takes its channel statistics, unless config.data.mean sets its own.

    Returns:
      the run directory's checkpoints, the records of the epochs that are done, and the losses of the steps that are
      done of the next one.
    """
    with sharding.main_first():
        if sharding.is_main():
            checkpoint.Checkpoints.recover(workdir)
    last = checkpoint.Checkpoints(workdir, read_only=True).latest()
    if last is None:
        if config.init_from:
            epoch, _ = trained_model.restore_best(trained_model.locate(config.init_from), train_state.model)
            sharding.log(f'Starting from epoch {epoch} of {config.init_from} and its channel statistics.')
        if not config.init_from or config.data.mean:
            train_state.model.standardise.set(data.mean, data.std)
        train_state.restart_average()
    with sharding.main_first():
        if sharding.is_main():
            configuration.save(config, workdir)
        configuration.check_alike(config, workdir)
    checkpoints = checkpoint.Checkpoints(workdir)
    if last is None:
        return checkpoints, [], []
    last, meta = restore_latest(checkpoints, train_state)
    check_same_data(config, workdir, train_state, meta, data)
    history, step_losses = meta['history'], list(map(jnp.float32, meta['step_losses']))
    sharding.log(f'Going on after epoch {len(history)}' + (f', step {len(step_losses)}.' if step_losses else '.'))
    return checkpoints, history, step_losses


def check_same_data(
    config: ConfigDict, workdir: str | Path, train_state: TrainState, meta: dict, data: sources.Data
) -> None:
    """Raises UserError if the restored run was trained on other images or labels."""
    if 'data_sha256' in meta:
        same = meta['data_sha256'] == data.sha256
    else:  # an older checkpoint
        statistics = {'mean': data.mean.tolist(), 'std': data.std.tolist()}
        same = config.init_from or train_state.model.standardise.to_dict() == statistics
    if not same:
        raise UserError(
            f'{workdir} holds a run on other images or labels than those that config.data names now; bring back those '
            'that it began with, or use another --workdir'
        )


def restore_latest(checkpoints: checkpoint.Checkpoints, train_state: TrainState) -> tuple[int, dict]:
    """Fills the state from the newest whole checkpoint, and deletes those after it; returns epoch and meta data.

    Raises:
      UserError: there is no whole one, or they are of another model.
    """
    *before, epoch = checkpoints.epochs()
    try:
        return epoch, checkpoints.restore(epoch, train_state.best_model, train_state.rest)
    except checkpoint.CorruptCheckpoint as e:
        if not before:
            raise
        sharding.log(f'{e}\nGoing on from the one before.')
        with sharding.main_first():
            if sharding.is_main():
                checkpoints.remove(epoch)
            checkpoints.reload()
        return restore_latest(checkpoints, train_state)


def horizon(config: ConfigDict, history: list[dict]) -> np.float32:
    """Number of steps of the whole training: all, or as many as config.train.minutes allow at the last speed."""
    train = config.train
    total, done = train.epochs * train.steps_per_epoch, len(history) * train.steps_per_epoch
    if not train.minutes or len(history) < 2:  # the first epoch's time is that of compilation
        return np.float32(total)
    left = 60 * train.minutes - sum(record['seconds'] for record in history)
    return np.float32(min(total, done + max(0, left) * train.steps_per_epoch / history[-1]['seconds']))


def is_done(config: ConfigDict, history: list[dict]) -> bool:
    """Whether the epochs or the minutes are used up, or early stopping ends the run."""
    steps = config.train.steps_per_epoch
    return bool((len(history) + 0.5) * steps > horizon(config, history)) or should_stop(config, history)


def should_stop(config: ConfigDict, history: list[dict]) -> bool:
    validation_losses = [record['validation_loss'] for record in history]
    return None not in validation_losses and optim.should_stop(validation_losses, **config.train.early_stopping)


def validation_indices(config: ConfigDict, num_images: int, epoch: int) -> np.ndarray:
    """Which validation images an epoch is scored on: validation_batches of them, drawn again in each epoch."""
    length = min(num_images, config.train.validation_batches * config.train.batch_size)
    return prepared.epoch_order(num_images, length, config.seed, epoch + 1) if num_images else np.arange(0)


def evaluated(state: nnx.State) -> nnx.State:
    """The part of a TrainState that is evaluated: the average of the weights where there is one."""
    return state['averaged' if 'averaged' in state else 'model']


def check_finite(config: ConfigDict, step_losses: np.ndarray, epoch: int, checkpoints: checkpoint.Checkpoints) -> None:
    bad = np.flatnonzero(~np.isfinite(step_losses))
    if bad.size:
        kept = checkpoints.latest()
        raise UserError(
            f'the training loss is {step_losses[bad[0]]} at step {epoch * len(step_losses) + bad[0] + 1} '
            f'(epoch {epoch + 1}); {"no checkpoint was made yet" if kept is None else f"epoch {kept} is kept"} in '
            f'{checkpoints.folder.parent}; try a lower config.optimizer.learning_rate'
        )


def make_record(
    config: ConfigDict, history: list[dict], train_state: TrainState, step_losses, validation: dict, seconds: float
) -> dict:
    """What metrics.jsonl holds of an epoch; `history`: the epochs before it."""
    train, metrics = config.train, validation['decoders'].get(config.eval.decoder, {})
    rate = optim.learning_rate(config.optimizer, train_state.optimizer.opt_state, horizon(config, history))
    return {
        'epoch': len(history) + 1,
        'train_loss': float(np.mean(step_losses)),
        'validation_loss': validation['loss'] if metrics else None,
        'validation_error_pct': metrics.get('error_pct'),
        'learning_rate': rate,
        'seconds': seconds,
        'images_per_second': train.batch_size * train.steps_per_epoch / seconds,
    }


def save(
    config: ConfigDict,
    checkpoints: checkpoint.Checkpoints,
    train_state: TrainState,
    history: list[dict],
    data: sources.Data,
    step_losses: Sequence[jax.Array] = (),
) -> None:
    """Keeps an epoch, or the part of the next one whose steps had these losses, which is never the best checkpoint.

    The best one is that of the lowest validation loss, or training loss without one.
    """
    meta = {'history': history, 'relative_hand_size': data.relative_hand_size}
    meta |= {'config_sha256': configuration.digest(config), 'data_sha256': data.sha256}
    meta['step_losses'] = np.asarray(step_losses, np.float64).tolist()
    if step_losses:
        epoch, loss = len(history) + 1, None
    else:
        last = history[-1]
        epoch, loss = last['epoch'], last['train_loss'] if last['validation_loss'] is None else last['validation_loss']
    checkpoints.save(epoch, train_state.best_model, train_state.rest, meta, loss)
