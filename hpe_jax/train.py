"""The training loop: epochs of jitted steps, validation, plateau, early stopping, checkpoints, report.

A run is a pure function of (config, data, seed). All that later steps depend on is in the checkpoint, so a killed run
that is started again ends with the same parameters.
"""

import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from ml_collections import ConfigDict
from tqdm import tqdm

from hpe_jax import (
    checkpoint,
    configuration,
    epochs,
    evaluate,
    files,
    logbook,
    losses,
    models,
    optim,
    preprocess,
    sharding,
    visualize,
)
from hpe_jax.data import prepared, resident
from hpe_jax.errors import UserError

PICTURE_PHOTOS = 16


class TrainState(nnx.Module):
    """All that a step changes: parameters and BatchNorm statistics, and the optimiser's and the plateau's state."""

    def __init__(self, config: ConfigDict):
        self.model = models.make(config)
        tx = optim.make(config.optimizer, config.train.steps_per_epoch)
        self.optimizer = nnx.Optimizer(self.model, tx, wrt=nnx.Param)
        if config.train.average:
            self.averaged = nnx.clone(self.model)
            self.restart_average()

    def restart_average(self) -> None:
        """The average of the weights, if there is one, is the weights, in arrays of its own."""
        nnx.update(self.best_model, jax.tree.map(jnp.copy, nnx.state(self.model)))

    @property
    def best_model(self) -> nnx.Module:
        """What is evaluated and kept: the average of the weights where there is one."""
        return getattr(self, 'averaged', self.model)

    @property
    def rest(self) -> nnx.Module | nnx.Optimizer:
        """What a checkpoint keeps besides, to go on from."""
        return nnx.Dict(optimizer=self.optimizer, model=self.model) if hasattr(self, 'averaged') else self.optimizer


def make_train_step(
    config: ConfigDict, graphdef: nnx.GraphDef, mean: np.ndarray, std: np.ndarray, expand: Callable
) -> Callable:
    """The jitted (state, batch, horizon) -> (state, loss), with donated state.

    `expand` makes a batch of what was shipped; `horizon` is how many steps the whole training has.
    """

    def loss_fn(model: nnx.Module, batch: preprocess.Batch) -> jax.Array:
        logits = model.logits(preprocess.inputs(batch, mean, std))
        per_keypoint = evaluate.keypoint_losses(config, logits['heatmaps'], batch)
        loss = losses.masked_mean(per_keypoint, preprocess.counted(batch))
        for name in evaluate.heads(config):
            truth, counts = preprocess.head_truths(batch)[name]
            loss += config.loss[name] * losses.masked_mean(losses.binary(logits[name], truth), counts)
        return loss

    @partial(jax.jit, donate_argnums=0, out_shardings=sharding.replicated())
    def train_step(
        state: nnx.State, batch: preprocess.Batch, horizon: jax.Array | np.float32 | float = 1.0
    ) -> tuple[nnx.State, jax.Array]:
        train_state = nnx.merge(graphdef, state)
        key = jax.random.fold_in(jax.random.key(config.seed), train_state.optimizer.step[...])
        batch = preprocess.augment(expand(batch), config.augment, key)
        loss, grads = nnx.value_and_grad(loss_fn)(train_state.model, batch)
        number = train_state.optimizer.step[...]
        train_state.optimizer.update(train_state.model, grads, value=loss, horizon=horizon)
        if config.train.average:
            states = map(nnx.state, (train_state.averaged, train_state.model))
            nnx.update(train_state.averaged, optim.average(*states, number, config.train.average))
        return nnx.state(train_state), loss

    return train_step


class Trainer:
    """One run directory: its data, its state, and the loop over both. `run` is the whole job."""

    def __init__(self, config: ConfigDict, workdir: str | Path):
        """Checks everything that can be wrong before any work, loads the data, and restores the last checkpoint."""
        configuration.check(config)
        for field in ('train.batch_size', 'eval.batch_size'):
            sharding.check_divides(configuration.fields(config)[field], f'config.{field}')
        if sharding.is_main():
            files.check_writable(workdir)
        configuration.check_same(config, workdir)
        self.config, self.workdir = config, Path(workdir)
        self.train_state = TrainState(config)
        self._load_data(self._initialise())
        with sharding.main_first():
            if sharding.is_main():
                configuration.save(config, workdir)
            configuration.check_alike(config, workdir)
        self.checkpoints = checkpoint.Checkpoints(workdir)
        self.history = self._restore(self.checkpoints.latest())
        decoder = config.eval.decoder
        self.eval_step = evaluate.make_eval_step(config, self.train_state.best_model, self.mean, self.std, [decoder])

    def _initialise(self) -> dict | None:
        """Fills the model of a fresh run from config.init_from; returns what the channel statistics come from, if any.

        Weights and BatchNorm statistics fit photos that are normalised as theirs were: the statistics come with them.
        """
        if not self.config.init_from:
            return None
        own = checkpoint.Checkpoints(self.workdir, read_only=True)
        if own.latest() is not None:
            return own.meta(own.latest())
        epoch, meta = evaluate.restore_best(self.config.init_from, self.train_state.model)
        self.train_state.restart_average()
        say(f'Starting from epoch {epoch} of {self.config.init_from} and its channel statistics.')
        return meta

    def _load_data(self, initial: dict | None) -> None:
        config, data = self.config, self.config.data
        expressions = {name: data[f'{name}_split'] for name in ('train', 'validation', 'test')}
        with sharding.main_first():
            builder = prepared.open_dataset(data)
        if data.source == 'resident':
            with sharding.main_first():
                splits = resident.load(builder, expressions, data.image_size)
        else:
            splits = {name: prepared.load(builder, expression) for name, expression in expressions.items()}
        for name, split in splits.items():
            say(f'{name:10s} {len(split):6d} photos ({data.dataset} {expressions[name]})')
        if not len(splits['train']):
            raise UserError(f'config.data.train_split={data.train_split!r} of {data.dataset} holds no photos')
        self.hand_side = prepared.hand_side(splits['train'])
        if not len(splits['validation']):
            say('No photos to validate on: no early stopping, and the best checkpoint is that of the training loss.')
        if data.mean:
            self.mean, self.std = np.float32(data.mean), np.float32(data.std)
        elif initial:
            self.mean, self.std = np.float32(initial['mean']), np.float32(initial['std'])
        else:
            encoded = None if data.source == 'resident' else splits['train'].photos.tolist()
            with sharding.main_first():
                self.mean, self.std = prepared.channel_statistics(builder, data.train_split, encoded)
        self.photos = self._open_splits(splits)
        self.source = self.photos['train']
        if data.source == 'live':
            from hpe_jax.data import live

            self.source = live.Live(data, config.seed)

    def _open_splits(self, splits: dict[str, prepared.Split]) -> dict:
        """What makes batches of each split: a Resident or a Pipeline."""
        config, data = self.config, self.config.data
        if data.source == 'resident':
            return {name: resident.Resident(split) for name, split in splits.items()}
        from hpe_jax.data import pipeline  # TensorFlow takes seconds to import, and may be absent

        if data.cache:
            splits |= {name: pipeline.cache(splits[name], data.image_size) for name in ('train', 'validation')}
        return {
            name: pipeline.Pipeline(split, data, config.heatmap, self.mean, self.std) for name, split in splits.items()
        }

    def _restore(self, epoch: int | None) -> list[dict]:
        """Fills the state from that epoch's checkpoint; returns the records of the epochs up to it."""
        if epoch is None:
            return []
        meta = self.checkpoints.restore(epoch, self.train_state.best_model, self.train_state.rest)
        if not np.array_equal(np.float32([meta['mean'], meta['std']]), [self.mean, self.std]):
            raise UserError(f'{self.workdir} holds a run on other photos: the channel statistics differ')
        say(f'Going on after epoch {epoch}.')
        return meta['history']

    def run(self) -> dict:
        """Trains to the end, then scores the best checkpoint and draws.

        Returns:
          the content of report.json.

        Raises:
          UserError: the loss became NaN or infinite.
        """
        train = self.config.train
        log = logbook.Logbook(self.workdir, self.history) if sharding.is_main() else None
        total, done = train.epochs * train.steps_per_epoch, len(self.history) * train.steps_per_epoch
        with tqdm(total=total, initial=done, unit='step', disable=None if log else True) as bar:
            began = time.perf_counter()
            for epoch in () if self._is_done() else self._epochs(bar):
                nnx.update(self.train_state, epoch.state)
                record = self._finish_epoch(epoch, began)
                began = time.perf_counter()
                if log:
                    log.record(self.history)
                    bar.write('  '.join(f'{name} {value:.6g}' for name, value in record.items() if value is not None))
                if len(self.history) % train.images_every == 0:
                    picture = visualize.as_image(self._draw('validation')[0])
                    if log:
                        log.image('predictions', picture, len(self.history))
                if self._is_done():
                    break
        if log:
            log.close()
        return self._report()

    def _epochs(self, bar: tqdm) -> Iterator[epochs.Epoch]:
        """The epochs to come."""
        graphdef, state = nnx.split(self.train_state)
        state = sharding.replicate(state)
        step = make_train_step(self.config, graphdef, self.mean, self.std, self.source.expand)
        run = epochs.scanned if self.config.train.scan_epochs else epochs.looped
        first = len(self.history)
        validation = self.photos['validation']
        return run(self.config, step, self.eval_step, state, self.source, validation, first, self._horizon, bar)

    def _horizon(self) -> np.float32:
        """How many steps the whole training has: all, or as many as config.train.minutes allow at the last speed."""
        train = self.config.train
        total, done = train.epochs * train.steps_per_epoch, len(self.history) * train.steps_per_epoch
        if not train.minutes or len(self.history) < 2:  # the first epoch's time is that of compilation
            return np.float32(total)
        left = 60 * train.minutes - sum(record['seconds'] for record in self.history)
        return np.float32(min(total, done + max(0, left) * train.steps_per_epoch / self.history[-1]['seconds']))

    def _finish_epoch(self, done: epochs.Epoch, began: float) -> dict:
        """Validates, appends a record to the history, and keeps a checkpoint."""
        train, epoch, step_losses = self.config.train, len(self.history) + 1, np.asarray(done.losses)
        self._check_finite(step_losses, epoch)
        validation = evaluate.summarise(done.validation)
        scores = validation['decoders'].get(self.config.eval.decoder, {})
        seconds = time.perf_counter() - began
        rate = optim.learning_rate(self.config.optimizer, self.train_state.optimizer.opt_state, self._horizon())
        record = {
            'epoch': epoch,
            'train_loss': float(step_losses.mean()),
            'validation_loss': validation['loss'] if scores else None,
            'validation_error_pct': scores.get('error_pct'),
            'learning_rate': rate,
            'seconds': seconds,
            'images_per_second': train.batch_size * train.steps_per_epoch / seconds,
        }
        self.history.append(record)
        if epoch % train.checkpoint_every == 0 or self._is_done():
            meta = {'history': self.history, 'mean': self.mean.tolist(), 'std': self.std.tolist()}
            meta['hand_side'] = self.hand_side
            loss = record['validation_loss'] if scores else record['train_loss']
            self.checkpoints.save(epoch, self.train_state.best_model, self.train_state.rest, meta, loss)
        return record

    def _check_finite(self, step_losses: np.ndarray, epoch: int) -> None:
        bad = np.flatnonzero(~np.isfinite(step_losses))
        if bad.size:
            kept = self.checkpoints.latest()
            raise UserError(
                f'the training loss is {step_losses[bad[0]]} at step {(epoch - 1) * len(step_losses) + bad[0] + 1} '
                f'(epoch {epoch}); {"no checkpoint was made yet" if kept is None else f"epoch {kept} is kept"} in '
                f'{self.workdir}; try a lower config.optimizer.learning_rate'
            )

    def _is_done(self) -> bool:
        half_an_epoch = self.config.train.steps_per_epoch / 2
        done = len(self.history) * self.config.train.steps_per_epoch > self._horizon() - half_an_epoch
        return done or self._should_stop()

    def _should_stop(self) -> bool:
        validation_losses = [record['validation_loss'] for record in self.history]
        return None not in validation_losses and optim.should_stop(
            validation_losses, **self.config.train.early_stopping
        )

    def _report(self) -> dict:
        """Scores the best checkpoint on the test split (or what there is), writes report.json and the pictures."""
        config, began = self.config, time.perf_counter()
        best = self.checkpoints.best()
        model = self.train_state.best_model
        self.checkpoints.restore(best, model)
        split = next(name for name in ('test', 'validation', 'train') if len(self.photos[name]))
        eval_step = evaluate.make_eval_step(config, model, self.mean, self.std, config.eval.decoders)
        batches = self.photos[split].once(config.eval.batch_size)
        result = evaluate.evaluate(eval_step, nnx.state(model), batches)
        skeletons, heatmaps = self._draw(split)
        curves = {name: scores['pck_curve'] for name, scores in result['decoders'].items()}
        pictures = {
            'curves': visualize.curves(self.history),
            'skeletons': skeletons,
            'heatmaps': heatmaps,
            'pck': visualize.pck(curves),
        }
        report = {
            'split': config.data[f'{split}_split'],
            'best_epoch': best,
            'epochs': len(self.history),
            'stopped_early': self._should_stop(),
            'wall_time_s': sum(r['seconds'] for r in self.history) + time.perf_counter() - began,
            **result,
            'channel_statistics': {'mean': self.mean.tolist(), 'std': self.std.tolist()},
            **logbook.surroundings(),
            'config': config.to_dict(),
        }
        if sharding.is_main():
            for name, figure in pictures.items():
                visualize.save(figure, self.workdir / f'{name}.png')
            files.write_json(self.workdir / 'report.json', report)
        return report

    def _draw(self, split: str):
        """Figures of photos spread over a split: their skeletons, and the first one's heatmaps."""
        photos = self.photos[split] if len(self.photos[split]) else self.photos['train']
        number = min(PICTURE_PHOTOS, len(photos))
        indices = np.linspace(0, len(photos) - 1, number).astype(int)
        batch = next(photos.once(number + -number % sharding.mesh().size, indices))
        model = self.train_state.best_model
        predict = evaluate.make_predict(self.config, model, self.mean, self.std)

        @partial(jax.jit, out_shardings=sharding.replicated())
        def look(state, batch):
            heatmaps = predict(state, batch)['heatmaps']
            return batch, heatmaps, evaluate.decode(self.config, heatmaps, self.config.eval.decoder)

        found = look(sharding.replicate(nnx.state(model)), batch)
        batch, heatmaps, predicted = jax.tree.map(lambda array: np.asarray(array)[:number], found)
        images = preprocess.to_uint8(batch['image'], self.mean, self.std)
        return (
            visualize.skeletons(images, batch['keypoints'], predicted, batch['visible']),
            visualize.heatmaps(images[0], heatmaps[0]),
        )


def say(text: str) -> None:
    """Prints a line, once however many processes train."""
    if sharding.is_main():
        print(text, flush=True)


def train_and_evaluate(config: ConfigDict, workdir: str | Path) -> dict:
    """The main job: data in; a trained, evaluated and drawn model in `workdir` out. See Trainer."""
    return Trainer(config, workdir).run()
