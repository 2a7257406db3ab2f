"""A whole split, exactly once, through the network and every decoder, to metrics."""

import re
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import jax
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from hpe_jax import checkpoint, configuration, files, heatmap, losses, metrics, models, preprocess
from hpe_jax.data import prepared
from hpe_jax.errors import UserError

SCORES = ('error_pct', 'epe_px128', 'epe_px224', 'pck@0.05_image', 'pck@0.2_box', 'auc_0_30px224')


def make_predict(model: nnx.Module, mean: np.ndarray, std: np.ndarray) -> Callable:
    """(model state, batch) -> heatmaps (B, H, W, 21), the network in eval mode; for use inside jit."""
    graphdef = nnx.graphdef(model)

    def predict(state: nnx.State, batch: preprocess.Batch) -> jax.Array:
        model = nnx.merge(graphdef, state)
        model.eval()
        return model(preprocess.inputs(batch, mean, std))

    return predict


def decode(config: ConfigDict, heatmaps: jax.Array, decoder: str) -> jax.Array:
    """(B, H, W, 21) heatmaps to (B, 21, 2) keypoints, by a decoder of config.eval.decoders with its options."""
    options = config.eval.decoders[decoder]
    return jax.vmap(partial(heatmap.decode, decoder=decoder, codec=config.heatmap.codec, **options))(heatmaps)


def make_eval_step(
    config: ConfigDict, model: nnx.Module, mean: np.ndarray, std: np.ndarray, decoders: Iterable[str]
) -> Callable:
    """The jitted (model state, batch) -> {'loss': (sum, count), decoder: metrics.Sums}."""
    predict = make_predict(model, mean, std)

    @jax.jit
    def eval_step(state: nnx.State, batch: preprocess.Batch) -> dict:
        heatmaps = predict(state, batch)
        counted = preprocess.counted(batch)
        targets = preprocess.targets(batch, config.heatmap)
        loss = losses.per_keypoint(config.loss.name, heatmaps, targets, **config.loss.options)
        sums = {'loss': ((loss * counted).sum(), counted.sum())}
        for name in decoders:
            hands = jax.vmap(metrics.count_hand)(decode(config, heatmaps, name), batch['keypoints'], counted)
            sums[name] = jax.tree.map(lambda x: x.sum(0), hands)
        return sums

    return eval_step


def evaluate(eval_step: Callable, state: nnx.State, batches: Iterable[preprocess.Batch]) -> dict:
    """Runs the batches.

    Returns:
      {'loss': float, 'num_images': int, 'decoders': {decoder: metrics.compute's dict}}; NaN where nothing counts.
    """
    loss, decoders, num_images = np.zeros(2), {}, 0
    for batch in batches:
        sums = eval_step(state, batch)
        loss += np.asarray(sums.pop('loss'), np.float64)
        decoders = {name: metrics.merge(decoders.get(name), sums[name]) for name in sums}
        num_images += int(batch['mask'].sum())
    return {
        'loss': float(loss[0] / loss[1]) if loss[1] else float('nan'),
        'num_images': num_images,
        'decoders': {name: metrics.compute(sums) for name, sums in decoders.items()},
    }


def evaluate_run(config: ConfigDict, workdir: str | Path, split: str) -> dict:
    """Scores the best checkpoint of a run directory by all decoders, and writes `evaluate_<split>.json` into it.

    Raises:
      UserError: the directory holds no checkpoint, or one of another model; the split holds no photos.
    """
    from hpe_jax.data import pipeline  # TensorFlow takes seconds to import: bad input is answered first

    configuration.check(config)
    configuration.check_same(config, workdir, section='model')
    checkpoints = checkpoint.Checkpoints(workdir, read_only=True)
    epoch = checkpoints.best()
    if epoch is None:
        raise UserError(f'{workdir} holds no checkpoint to evaluate; train one with --mode=train')
    model = models.make(config.model, config.seed)
    meta = checkpoints.restore(epoch, model)
    mean, std = np.float32(meta['mean']), np.float32(meta['std'])
    photos = prepared.load(prepared.open_dataset(config.data), split)
    if not len(photos):
        raise UserError(f'split {split!r} of {config.data.dataset} holds no photos')
    batches = pipeline.Pipeline(photos, config.data, config.heatmap, mean, std).once(config.eval.batch_size)
    eval_step = make_eval_step(config, model, mean, std, config.eval.decoders)
    result = {'split': split, 'epoch': epoch, **evaluate(eval_step, nnx.state(model), batches)}
    files.write_json(Path(workdir) / f'evaluate_{re.sub("[^a-z0-9]+", "_", split.lower()).strip("_")}.json', result)
    return result


def table(result: dict, decoder: str) -> str:
    """Markdown: all decoders side by side, the given one first; then every joint by that decoder."""
    scores = {decoder: result['decoders'][decoder]} | result['decoders']
    rows = [['metric', *scores], ['---'] + ['---:'] * len(scores)]
    rows += [[name, *(f'{score[name]:.3f}' for score in scores.values())] for name in SCORES]
    joints = scores[decoder]['per_joint']
    rows += [[], [f'joint ({decoder})', *joints], ['---'] + ['---:'] * len(joints)]
    rows += [[joint, *(f'{values[joint]:.3f}' for values in joints.values())] for joint in next(iter(joints.values()))]
    lines = ['| ' + ' | '.join(row) + ' |' if row else '' for row in rows]
    return '\n'.join([f'{result["num_images"]} images, loss {result["loss"]:.4f}', '', *lines])
