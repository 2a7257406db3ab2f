"""A run directory as a model that predicts; a whole split, exactly once, through it and every decoder, to metrics."""

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Float
from ml_collections import ConfigDict

from hpe_jax import checkpoint, configuration, files, geometry, heatmap, losses, metrics, models, preprocess, sharding
from hpe_jax.data import prepared, resident
from hpe_jax.errors import UserError

SCORES = ('error_pct', 'epe_px128', 'epe_px224', 'pck@0.05_image', 'pck@0.2_box', 'auc_0_30px224')


def make_predict(config: ConfigDict, model: nnx.Module, mean: np.ndarray, std: np.ndarray) -> Callable:
    """(model state, batch) -> {'heatmaps': (B, H, W, 21) in [0, 1], and of each head 'presence' and 'handedness': (B,)
    logits}, the network in eval mode; for use inside jit."""
    graphdef = nnx.graphdef(model)

    def predict(state: nnx.State, batch: preprocess.Batch) -> dict[str, jax.Array]:
        model = nnx.merge(graphdef, state)
        model.eval()
        logits = model.logits(preprocess.inputs(batch, mean, std))
        return logits | {'heatmaps': activated(config, logits['heatmaps']), 'logits': logits['heatmaps']}

    return predict


def activated(config: ConfigDict, logits: jax.Array) -> jax.Array:
    """The network's maps as config.heatmap has them."""
    return heatmap.activate(logits, config.heatmap.activation, config.heatmap.sigma / config.heatmap.stride)


def keypoint_losses(config: ConfigDict, logits: jax.Array, batch: preprocess.Batch) -> jax.Array:
    """(B, 21): the loss of every keypoint's map."""
    maps = logits if config.loss.name in losses.OF_LOGITS else activated(config, logits)
    targets = preprocess.targets(batch, config.heatmap)
    return losses.per_keypoint(config.loss.name, maps, targets, **config.loss.options)


def decode(config: ConfigDict, heatmaps: jax.Array, decoder: str, codec: str = '') -> jax.Array:
    """(B, H, W, 21) heatmaps to (B, 21, 2) keypoints, by a decoder of config.eval.decoders with its options.

    `codec`: one of heatmap.CODECS; '' is the config's.
    """
    options = config.eval.decoders[decoder]
    codec = codec or config.heatmap.codec
    return jax.vmap(partial(heatmap.decode, decoder=decoder, codec=codec, **options))(heatmaps)


def heads(config: ConfigDict) -> list[str]:
    """The network's trained heads besides the keypoints' maps: 'presence', 'handedness', or none."""
    return [name for name in ('presence', 'handedness') if config.loss[name]]


def make_infer(config: ConfigDict, model: nnx.Module, mean: np.ndarray, std: np.ndarray, decoder: str) -> Callable:
    """(model state, (B, H, W, 3) uint8) -> {'keypoints': (B, 21, 2), normalised; 'scores': (B, 21), the heatmaps'
    peaks; and where the network has these heads 'presence' and 'handedness': (B,), the probabilities that a hand is in
    the middle, and that it is a right one}.

    All that lies between crops and keypoints, for use inside jit: what the estimator runs and the export carries.
    """
    predict = make_predict(config, model, mean, std)

    def infer(state: nnx.State, images: jax.Array) -> dict[str, jax.Array]:
        found = predict(state, {'image': images})
        heatmaps = found['heatmaps'].astype(jnp.float32)
        answer = {'keypoints': decode(config, heatmaps, decoder), 'scores': heatmaps.max((1, 2))}
        return answer | {name: jax.nn.sigmoid(found[name]) for name in heads(config)}

    return infer


def make_eval_step(
    config: ConfigDict, model: nnx.Module, mean: np.ndarray, std: np.ndarray, decoders: Iterable[str]
) -> Callable:
    """The jitted (model state, batch) -> {'loss': (sum, count), 'num_images': n, 'decoders': {name: metrics.Sums}}."""
    predict = make_predict(config, model, mean, std)

    @partial(jax.jit, out_shardings=sharding.replicated())
    def eval_step(state: nnx.State, batch: preprocess.Batch) -> dict:
        found = predict(state, batch)
        heatmaps, counted = found['heatmaps'], preprocess.counted(batch)
        loss = keypoint_losses(config, found['logits'], batch)
        sums = {}
        for name in decoders:
            hands = jax.vmap(metrics.count_hand)(decode(config, heatmaps, name), batch['keypoints'], counted)
            sums[name] = jax.tree.map(lambda x: x.sum(0), hands)
        loss = (loss * counted).sum(), counted.sum()
        return {'loss': loss, 'num_images': batch['mask'].sum(), 'decoders': sums}

    return eval_step


def make_eval_epoch(eval_step: Callable) -> Callable:
    """The jitted (model state, arrays, indices) -> every batch's sums: `eval_step` over a resident split in one call.

    arrays: Resident.arrays. indices: (batches, B), padded with -1.
    """

    @partial(jax.jit, out_shardings=sharding.replicated())
    def eval_epoch(state: nnx.State, arrays: preprocess.Batch, indices: jax.Array) -> dict:
        def step(_, index):
            return None, eval_step(state, resident.Resident.expand(arrays | {'index': index}))

        return jax.lax.scan(step, None, indices)[1]

    return eval_epoch


def evaluate(eval_step: Callable, state: nnx.State, batches: Iterable[preprocess.Batch]) -> dict:
    """Runs the batches; returns as `summarise`."""
    state = sharding.replicate(state)
    return summarise(eval_step(state, batch) for batch in batches)


def summarise(batches: Iterable[dict]) -> dict:
    """Adds up what eval_step said of each batch, in float64.

    Returns:
      {'loss': float, 'num_images': int, 'decoders': {decoder: metrics.compute's dict}}; NaN where nothing counts.
    """
    loss, decoders, num_images = np.zeros(2), {}, 0
    for sums in batches:
        loss += np.asarray(sums['loss'], np.float64)
        num_images += int(sums['num_images'])
        decoders = {name: metrics.merge(decoders.get(name), x) for name, x in sums['decoders'].items()}
    return {
        'loss': float(loss[0] / loss[1]) if loss[1] else float('nan'),
        'num_images': num_images,
        'decoders': {name: metrics.compute(sums) for name, sums in decoders.items()},
    }


class Prediction(NamedTuple):
    """What a network says of B photos."""

    keypoints: Float[np.ndarray, 'b 21 2']  # (x, y), normalised: times (width, height) they are pixels of the photo
    heatmaps: Float[np.ndarray, 'b h w 21']
    peaks: Float[np.ndarray, 'b 21']  # highest value of each heatmap, in [0, 1]


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
    """The best checkpoint of a run directory, ready to predict; `load_run` makes it.

    model: in the state of that epoch. mean, std: (3,) channel statistics it was trained with.
    meta: what the checkpoint says of itself, its `history` among it.
    """

    workdir: Path
    config: ConfigDict
    epoch: int
    model: nnx.Module
    mean: np.ndarray
    std: np.ndarray
    meta: dict
    _decoders: dict = dataclasses.field(default_factory=dict, repr=False)

    @cached_property
    def _network(self) -> Callable:
        predict = make_predict(self.config, self.model, self.mean, self.std)
        return jax.jit(lambda state, batch: predict(state, batch)['heatmaps'])

    def predict(self, images: Sequence[np.ndarray] | np.ndarray, decoder: str = '') -> Prediction:
        """Predicts the hands in photos.

        Args:
          images: (B, H, W, 3) uint8 RGB, or a list of (H, W, 3) of several sizes: crops of one hand each, about square,
            which are resized to config.data.image_size squared.
          decoder: one of config.eval.decoders; '' is config.eval.decoder.

        Raises:
          UserError: the images are none, or the decoder is unknown.
        """
        decoder = self.known_decoder(decoder)
        size, step = self.config.data.image_size, self.config.eval.batch_size
        photos = np.array([resize(image, size) for image in images], np.uint8).reshape(-1, size, size, 3)
        state = nnx.state(self.model)
        side = size // self.config.heatmap.stride
        parts = [np.zeros((0, side, side, 21), np.float32)]
        for start in range(0, len(photos), step):
            parts.append(np.asarray(self._network(state, {'image': photos[start : start + step]})))
        heatmaps = np.concatenate(parts)
        return Prediction(self.decode(heatmaps, decoder), heatmaps, heatmaps.max((1, 2)))

    def known_decoder(self, decoder: str) -> str:
        """The decoder's name, that of the config for ''.

        Raises:
          UserError: it is none of config.eval.decoders.
        """
        known, decoder = self.config.eval.decoders, decoder or self.config.eval.decoder
        if decoder not in known:
            raise UserError(f'decoder {decoder!r}: unknown to this run; choose from {", ".join(known)}')
        return decoder

    def decode(self, heatmaps: np.ndarray, decoder: str, codec: str = '') -> Float[np.ndarray, 'b 21 2']:
        """`decode` above, compiled once a decoder and codec."""
        key = (decoder, codec or self.config.heatmap.codec)
        if key not in self._decoders:
            self._decoders[key] = jax.jit(lambda heatmaps: decode(self.config, heatmaps, *key))
        return np.asarray(self._decoders[key](heatmaps))


def resize(image: np.ndarray, size: int) -> np.ndarray:
    """One (H, W, 3) uint8 photo to (size, size, 3), as the training data were.

    Raises:
      UserError: it is no such photo.
    """
    if not (isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim == 3 and image.shape[-1] == 3):
        what = f'{image.dtype} {image.shape}' if hasattr(image, 'dtype') else type(image).__name__
        raise UserError(f'a photo must be a uint8 array (height, width, 3), not {what}')
    return geometry.crop(image, (0, 0, image.shape[1], image.shape[0]), size)


def restore_best(workdir: str | Path, model: nnx.Module) -> tuple[int, dict]:
    """Fills the model in place from the best checkpoint of a run directory; returns its epoch and meta data.

    Raises:
      UserError: the directory holds no checkpoint, a corrupt one, or one of another model.
    """
    checkpoints = checkpoint.Checkpoints(workdir, read_only=True)
    epoch = checkpoints.best()
    if epoch is None:
        raise UserError(f'{workdir} holds no checkpoint; train one with --mode=train')
    return epoch, checkpoints.restore(epoch, model)


def load_run(workdir: str | Path, overrides: Mapping | None = None) -> Run:
    """The best checkpoint of a run directory, by the config that lies in it.

    Args:
      workdir: wherever it lies now, made by this commit or an older one.
      overrides: fields of that config to replace, such as {'data.manual_dir': 'FOLDER'}. Convolutions are XLA's own
        unless they say otherwise: the compilation cache keeps their programs, so that the next start is quick.

    Raises:
      UserError: it is no run directory, a field cannot work, or the checkpoint is corrupt or of another model.
    """
    config = configuration.load(workdir, {'model.conv': 'xla'} | dict(overrides or {}))
    model = nnx.eval_shape(lambda: models.make(config))  # the initial values are not needed
    epoch, meta = restore_best(workdir, model)
    return Run(Path(workdir), config, epoch, model, np.float32(meta['mean']), np.float32(meta['std']), meta)


def evaluate_run(workdir: str | Path, split: str = '', overrides: Mapping | None = None) -> dict:
    """Scores the best checkpoint of a run directory by all decoders, and writes `evaluate_<split>.json` into it.

    Args:
      workdir, overrides: as load_run has them.
      split: a TFDS split; '' is config.data.test_split.

    Raises:
      UserError: as load_run, or the split holds no photos.
    """
    run = load_run(workdir, overrides)
    config, split = run.config, split or run.config.data.test_split
    sharding.check_divides(config.eval.batch_size, 'config.eval.batch_size')
    with sharding.main_first():
        builder = prepared.open_dataset(config.data)
    if config.data.source == 'resident':
        with sharding.main_first():
            photos = resident.load(builder, {split: split}, config.data.image_size)[split]
    else:
        photos = prepared.load(builder, split)
    if not len(photos):
        raise UserError(f'split {split!r} of {config.data.dataset} holds no photos')
    if config.data.source == 'resident':
        photos = resident.Resident(photos)
    else:
        from hpe_jax.data import pipeline  # TensorFlow takes seconds to import: bad input is answered first

        photos = pipeline.Pipeline(photos, config.data, config.heatmap, run.mean, run.std)
    batches = photos.once(config.eval.batch_size)
    eval_step = make_eval_step(config, run.model, run.mean, run.std, config.eval.decoders)
    result = {'split': split, 'epoch': run.epoch, **evaluate(eval_step, nnx.state(run.model), batches)}
    result |= {'decoder': config.eval.decoder, 'dataset': config.data.dataset}
    if sharding.is_main():
        name = re.sub('[^a-z0-9]+', '_', split.lower()).strip('_')
        files.write_json(Path(workdir) / f'evaluate_{name}.json', result)
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
