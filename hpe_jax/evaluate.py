"""Scores a whole split, each image exactly once, by every decoder."""

import re
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path

import jax
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from hpe_jax import files, geometry, losses, metrics, preprocess, sharding, trained_model
from hpe_jax.data import resident, sources
from hpe_jax.errors import UserError


def keypoint_losses(config: ConfigDict, logits: jax.Array, batch: preprocess.Batch) -> jax.Array:
    """(B, 21): the loss of every keypoint's map."""
    maps = logits if config.loss.name in losses.OF_LOGITS else trained_model.activate(config, logits)
    targets = preprocess.targets(batch, config.heatmap)
    return losses.per_keypoint(config.loss.name, maps, targets, **config.loss.options)


def make_eval_step(config: ConfigDict, model: nnx.Module, decoders: Iterable[str]) -> Callable:
    """The jitted (model state, batch) -> {'mask': (B, 21), the keypoints that metrics are over; 'loss': (B, 21);
    'box': (B,), longer sides of the true boxes; 'present': (B,), false for padding; 'distance': {decoder: (B, 21)}}, in
    image sizes."""
    forward = trained_model.make_forward(config, model)

    @partial(jax.jit, out_shardings=sharding.replicated())
    def eval_step(state: nnx.State, batch: preprocess.Batch) -> dict:
        batch = preprocess.crop_middle(batch, config.data.image_size)
        output, mask = forward(state, batch['image']), preprocess.keypoint_mask(batch)
        keypoints = {name: trained_model.decode(config, output['heatmaps'], name) for name in decoders}
        return {
            'mask': mask,
            'loss': keypoint_losses(config, output['logits'], batch),
            'box': geometry.box_side(batch['keypoints'], mask),
            'present': batch['mask'],
            'distance': {name: metrics.distances(k, batch['keypoints']) for name, k in keypoints.items()},
        }

    return eval_step


def make_eval_epoch(eval_step: Callable) -> Callable:
    """The jitted (model state, arrays, indices) -> `eval_step` of every batch of a resident split, in one call.

    arrays: Resident.arrays. indices: (batches, B), padded with -1. What comes out has a leading axis of batches.
    """

    @partial(jax.jit, out_shardings=sharding.replicated())
    def eval_epoch(state: nnx.State, arrays: preprocess.Batch, indices: jax.Array) -> dict:
        def step(_, index):
            return None, eval_step(state, resident.Resident.expand(arrays | {'index': index}))

        return jax.lax.scan(step, None, indices)[1]

    return eval_epoch


def evaluate(
    eval_step: Callable, state: nnx.State, batches: Iterable[preprocess.Batch], side: np.ndarray | None = None
) -> dict:
    """Runs the batches; arguments and result as `summarise` has them."""
    state = sharding.replicate(state)
    return summarise((eval_step(state, batch) for batch in batches), side)


def summarise(batches: Iterable[dict], side: np.ndarray | None = None) -> dict:
    """The metrics of what eval_step returned for each batch.

    side: (n,) of the images but for padding, in pixels of the photos that they were cropped from.

    Returns:
      {'loss': float, 'num_images': int, 'decoders': {decoder: metrics.compute's dict}}; NaN over no keypoints.
    """
    batches = [jax.tree.map(np.asarray, batch) for batch in batches]
    if not batches:
        return {'loss': float('nan'), 'num_images': 0, 'decoders': {}}
    whole = jax.tree.map(lambda *arrays: np.concatenate(arrays), *batches)
    mask = whole['mask']
    if side is not None:
        padded = np.zeros(len(mask), np.float32)
        padded[whole['present']] = side
        side = padded
    return {
        'loss': float(whole['loss'][mask].mean(dtype=np.float64)) if mask.any() else float('nan'),
        'num_images': int(whole['present'].sum()),
        'decoders': {name: metrics.compute(d, mask, whole['box'], side) for name, d in whole['distance'].items()},
    }


def evaluate_run(workdir: str | Path, split: str = '', overrides: Mapping | None = None) -> dict:
    """Scores the best checkpoint of a run directory by all decoders, and writes `evaluate_<split>.json` into it.

    Args:
      workdir, overrides: as trained_model.load has them.
      split: a TFDS split; '' is config.data.test_split.

    Raises:
      UserError: as trained_model.load, or the split holds no photos.
    """
    run = trained_model.load(workdir, overrides)
    config, split = run.config, split or run.config.data.test_split
    sharding.check_divides(config.eval.batch_size, 'config.eval.batch_size')
    sources.check_installed(config)
    images = sources.load(config, {split: split})[split]
    if not len(images):
        raise UserError(f'split {split!r} of {config.data.dataset} holds no photos')
    batches = sources.open_split(images, config).once(config.eval.batch_size)
    eval_step = make_eval_step(config, run.model, config.eval.decoders)
    result = {'split': split, 'epoch': run.epoch, **evaluate(eval_step, nnx.state(run.model), batches, images.side)}
    result |= {'decoder': config.eval.decoder, 'dataset': config.data.dataset}
    if sharding.is_main():
        name = re.sub('[^a-z0-9]+', '_', split.lower()).strip('_')
        files.write_json(Path(workdir) / f'evaluate_{name}.json', result)
    return result


def table(result: dict, decoder: str) -> str:
    """Markdown: all decoders side by side, the given one first; then every joint by that decoder."""
    scores = {decoder: result['decoders'][decoder]} | result['decoders']
    rows = [['metric', *scores], ['---'] + ['---:'] * len(scores)]
    names = [name for name in (*metrics.NAMES, 'epe_px_original') if name in scores[decoder]]
    rows += [[name, *(f'{score[name]:.3f}' for score in scores.values())] for name in names]
    joints = scores[decoder]['per_joint']
    rows += [[], [f'joint ({decoder})', *joints], ['---'] + ['---:'] * len(joints)]
    rows += [[joint, *(f'{values[joint]:.3f}' for values in joints.values())] for joint in next(iter(joints.values()))]
    lines = ['| ' + ' | '.join(row) + ' |' if row else '' for row in rows]
    return '\n'.join([f'{result["num_images"]} images, loss {result["loss"]:.4f}', '', *lines])
