"""What a training leaves to look at: the best checkpoint's metrics in report.json, and figures."""

import time
from functools import partial
from pathlib import Path

import jax
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from hpe_jax import checkpoint, evaluate, files, logbook, optim, sharding, trained_model, visualize
from hpe_jax.data import sources

NUM_IMAGES = 16  # drawn with their skeletons


def write(
    config: ConfigDict,
    workdir: str | Path,
    model: nnx.Module,
    checkpoints: checkpoint.Checkpoints,
    history: list[dict],
    data: sources.Data,
) -> dict:
    """Scores the best checkpoint on the test split (or what there is), and writes report.json and the figures.

    model: is filled with the best checkpoint.

    Returns:
      the content of report.json.
    """
    best, began = checkpoints.best(), time.perf_counter()
    checkpoints.restore(best, model)
    split = next(name for name in ('test', 'validation', 'train') if len(data.splits[name]))
    eval_step = evaluate.make_eval_step(config, model, config.eval.decoders)
    result = evaluate.evaluate(eval_step, nnx.state(model), data.splits[split].once(config.eval.batch_size))
    batch, heatmaps, predicted = predict_some(config, model, data.splits, split)
    figures = {
        'curves': visualize.curves(history),
        'skeletons': draw_skeletons(batch, predicted),
        'heatmaps': visualize.heatmaps(as_uint8(batch['image'])[0], heatmaps[0]),
        'pck': visualize.pck({name: scores['pck_curve'] for name, scores in result['decoders'].items()}),
    }
    losses = [record['validation_loss'] for record in history]
    report = {
        'split': config.data[f'{split}_split'],
        'best_epoch': best,
        'epochs': len(history),
        'stopped_early': None not in losses and optim.should_stop(losses, **config.train.early_stopping),
        'wall_time_s': sum(record['seconds'] for record in history) + time.perf_counter() - began,
        **result,
        'channel_statistics': model.standardise.to_dict(),
        **logbook.environment(),
        'config': config.to_dict(),
    }
    if sharding.is_main():
        for name, figure in figures.items():
            visualize.save(figure, Path(workdir) / f'{name}.png')
        files.write_json(Path(workdir) / 'report.json', report)
    return report


def skeletons(config: ConfigDict, model: nnx.Module, splits: dict[str, sources.SplitSource], split: str) -> np.ndarray:
    """A uint8 image of the keypoints that the model predicts on some images of a split."""
    batch, _, predicted = predict_some(config, model, splits, split)
    return visualize.as_image(draw_skeletons(batch, predicted))


def predict_some(config: ConfigDict, model: nnx.Module, splits: dict[str, sources.SplitSource], split: str) -> tuple:
    """Images spread over a split (or over the training split, if it is empty).

    Returns:
      (batch, heatmaps, keypoints), NumPy arrays of up to NUM_IMAGES images.
    """
    source = splits[split] if len(splits[split]) else splits['train']
    num_images = min(NUM_IMAGES, len(source))
    indices = np.linspace(0, len(source) - 1, num_images).astype(int)
    batch = next(source.once(num_images + -num_images % sharding.mesh().size, indices))
    forward = trained_model.make_forward(config, model)

    @partial(jax.jit, out_shardings=sharding.replicated())
    def predict(state, batch):
        heatmaps = forward(state, batch['image'])['heatmaps']
        return batch, heatmaps, trained_model.decode(config, heatmaps, config.eval.decoder)

    predicted = predict(sharding.replicate(nnx.state(model)), batch)
    batch, heatmaps, keypoints = jax.tree.map(lambda array: np.array(array)[:num_images], predicted)
    if source.left is not None:
        visualize.mirror_back(source.left[indices], (batch['image'], heatmaps), (batch['keypoints'], keypoints))
    return batch, heatmaps, keypoints


def draw_skeletons(batch: dict, predicted: np.ndarray):
    return visualize.skeletons(as_uint8(batch['image']), batch['keypoints'], predicted, batch['visible'])


def as_uint8(images: np.ndarray) -> np.ndarray:
    """Images that are uint8 or floats in [0, 1]."""
    return images if images.dtype == np.uint8 else np.uint8(np.round(255 * images))
