"""A run directory, or the shipped weights, as a model that predicts."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Float
from ml_collections import ConfigDict

from hpe_jax import checkpoint, configuration, geometry, heatmap, models
from hpe_jax.errors import UserError

WEIGHTS = Path(__file__).with_name('weights')  # shipped run directories, by name
SHIPPED = WEIGHTS / 'hands'
NEAR = 0.15  # mean distance of keypoints, of the crop's side: what answers are near each other


def make_forward(config: ConfigDict, model: nnx.Module) -> Callable:
    """(model state, images) -> the network in evaluation mode, for use inside jit.

    images: (B, H, W, 3) uint8, or float32 in [0, 1]. Returns {'heatmaps': (B, h, w, 21) in [0, 1], 'logits': those
    before the activation, and (B,) logits of each head, 'presence' and 'handedness'}.
    """
    graphdef = nnx.graphdef(model)

    def forward(state: nnx.State, images: jax.Array) -> dict[str, jax.Array]:
        model = nnx.merge(graphdef, state)
        model.eval()
        logits = model.logits(images)
        return logits | {'heatmaps': activate(config, logits['heatmaps']), 'logits': logits['heatmaps']}

    return forward


def activate(config: ConfigDict, logits: jax.Array) -> jax.Array:
    """The network's maps to heatmaps in [0, 1], as config.heatmap has it."""
    return heatmap.activate(logits, config.heatmap.activation, config.heatmap.sigma / config.heatmap.stride)


def decode(config: ConfigDict, heatmaps: jax.Array, decoder: str, codec: str = '') -> jax.Array:
    """(B, H, W, 21) heatmaps to (B, 21, 2) keypoints, by a decoder of config.eval.decoders with its options.

    codec: one of heatmap.CODECS; '' is the config's.
    """
    options = config.eval.decoders[decoder]
    codec = codec or config.heatmap.codec
    return jax.vmap(partial(heatmap.decode, decoder=decoder, codec=codec, **options))(heatmaps)


def heads(config: ConfigDict) -> list[str]:
    """The network's trained heads besides the keypoints' maps: 'presence', 'handedness', or none."""
    return [name for name in ('presence', 'handedness') if config.loss[name]]


def make_infer(config: ConfigDict, model: nnx.Module, decoder: str) -> Callable:
    """(model state, (B, H, W, 3) uint8) -> {'keypoints': (B, 21, 2), normalised; 'scores': (B, 21), the heatmaps'
    peaks; and where the network has these heads 'presence' and 'handedness': (B,), the probabilities that a hand is in
    the middle, and that it is a right one}.

    All that lies between crops and keypoints, for use inside jit: what the estimator runs and the export carries.
    """
    forward = make_forward(config, model)

    def infer(state: nnx.State, images: jax.Array) -> dict[str, jax.Array]:
        output = forward(state, images)
        heatmaps = output['heatmaps'].astype(jnp.float32)
        result = {'keypoints': decode(config, heatmaps, decoder), 'scores': heatmaps.max((1, 2))}
        return result | {name: jax.nn.sigmoid(output[name]) for name in heads(config)}

    return infer


def over_rotations(infer: Callable, rotations: int) -> Callable:
    """`infer` of make_infer on turned copies of each image, which must be square: test-time augmentation.

    The keypoints are those that most copies agree on, see `agreed`; the rest are means.

    Args:
      rotations: how many copies, by equal angles of whole degrees; a multiple of 4, so that quarter turns of an image
        get the same answer. What turns in from beyond the image is black.
    """

    middle, step = jnp.array([0.5, 0.5]), 360 // rotations

    def agreeing(state: nnx.State, images: jax.Array) -> dict[str, jax.Array]:
        size, copies = images.shape[1:3], []
        for degrees in range(0, 90, step):
            matrix = geometry.similarity(middle * size[0], middle * size[0], 1.0, degrees)
            turned = jax.vmap(partial(geometry.warp, matrix=matrix, size=size))(images)  # the images themselves at 0
            copies += [jnp.rot90(jnp.round(turned).astype(images.dtype), k, (1, 2)) for k in range(4)]
        answer = infer(state, jnp.concatenate(copies))
        answer = {name: value.reshape(rotations, len(images), *value.shape[1:]) for name, value in answer.items()}
        keypoints = []
        for i, found in enumerate(answer['keypoints']):
            back = geometry.similarity(middle, middle, 1.0, -step * (i // 4))
            keypoints.append(geometry.transform(geometry.rot90(found, -(i % 4)), back))
        means = {name: value.mean(0) for name, value in answer.items()}
        return means | {'keypoints': agreed(jnp.stack(keypoints), answer['scores'].mean(-1))}

    return agreeing


def agreed(keypoints: Float[jax.Array, 'n b k 2'], peaks: Float[jax.Array, 'n b']) -> Float[jax.Array, 'b k 2']:
    """Of n answers to each of b crops the mean of those about the one that has most others near it.

    A median of each coordinate would join fingers of several answers where they disagree, such as on palm or back.

    Args:
      keypoints: normalised, see NEAR.
      peaks: the mean height of each answer's peaks, whose fourth power is its weight.
    """
    distances = jnp.linalg.norm(keypoints[:, None] - keypoints[None], axis=-1).mean(-1)
    near = jnp.exp(-((distances / NEAR) ** 2)) * jnp.maximum(peaks, 1e-6)[None] ** 4
    weights = jnp.take_along_axis(near, near.sum(1).argmax(0)[None, None], 0)[0]
    return jnp.einsum('nb,nbkd->bkd', weights / weights.sum(0, keepdims=True), keypoints)


class Prediction(NamedTuple):
    """The network's answer to B images."""

    keypoints: Float[np.ndarray, 'b 21 2']  # (x, y), normalised: times (width, height) they are pixels of the image
    heatmaps: Float[np.ndarray, 'b h w 21']
    peaks: Float[np.ndarray, 'b 21']  # highest value of each heatmap, in [0, 1]


@dataclasses.dataclass(frozen=True, eq=False)
class TrainedModel:
    """The best checkpoint of a run directory, ready to predict; `load` makes it.

    model: in the state of that epoch. meta: the checkpoint's meta data, its `history` among them.
    """

    workdir: Path
    config: ConfigDict
    epoch: int
    model: nnx.Module
    meta: dict
    _decoders: dict = dataclasses.field(default_factory=dict, repr=False)

    @cached_property
    def inference_model(self) -> nnx.Module:
        """The model with its BatchNorms folded into its convolutions, where it can: the UNet cannot, since its norms
        stand before convolutions with zero padding."""
        return self.model.folded() if hasattr(self.model, 'folded') else self.model

    @cached_property
    def _heatmaps(self) -> Callable:
        forward = make_forward(self.config, self.model)
        return jax.jit(lambda state, images: forward(state, images)['heatmaps'])

    def predict(self, images: Sequence[np.ndarray] | np.ndarray, decoder: str = '') -> Prediction:
        """Predicts the keypoints of one hand in each image.

        Args:
          images: (B, H, W, 3) uint8 RGB, or a list of (H, W, 3) of several sizes: crops of one hand each, about square,
            which are resized to config.data.image_size squared.
          decoder: one of config.eval.decoders; '' is config.eval.decoder.

        Raises:
          UserError: the images are of another type or shape, or the decoder is unknown.
        """
        decoder = self.known_decoder(decoder)
        size, step = self.config.data.image_size, self.config.eval.batch_size
        images = np.array([resize(image, size) for image in images], np.uint8).reshape(-1, size, size, 3)
        state, side = nnx.state(self.model), size // self.config.heatmap.stride
        parts = [np.zeros((0, side, side, 21), np.float32)]
        parts += [np.asarray(self._heatmaps(state, images[i : i + step])) for i in range(0, len(images), step)]
        heatmaps = np.concatenate(parts)
        return Prediction(self.decode(heatmaps, decoder), heatmaps, heatmaps.max((1, 2)))

    def known_decoder(self, decoder: str) -> str:
        """The decoder's name, that of the config for ''.

        Raises:
          UserError: it is not one of config.eval.decoders.
        """
        known, decoder = self.config.eval.decoders, decoder or self.config.eval.decoder
        if decoder not in known:
            raise UserError(f'decoder {decoder!r}: unknown to this run; choose from {", ".join(known)}')
        return decoder

    def decode(self, heatmaps: np.ndarray, decoder: str, codec: str = '') -> Float[np.ndarray, 'b 21 2']:
        """`decode` above, compiled once for each decoder and codec."""
        key = (decoder, codec or self.config.heatmap.codec)
        if key not in self._decoders:
            self._decoders[key] = jax.jit(lambda heatmaps: decode(self.config, heatmaps, *key))
        return np.asarray(self._decoders[key](heatmaps))


def resize(image: np.ndarray, size: int) -> np.ndarray:
    """One (H, W, 3) uint8 image to (size, size, 3), as the training data were.

    Raises:
      UserError: it is of another type or shape.
    """
    if not (isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim == 3 and image.shape[-1] == 3):
        what = f'{image.dtype} {image.shape}' if hasattr(image, 'dtype') else type(image).__name__
        raise UserError(f'an image must be a uint8 array (height, width, 3), not {what}')
    return geometry.crop(image, (0, 0, image.shape[1], image.shape[0]), size)


def locate(run: str | Path) -> Path:
    """A run directory, given as its path or by the name of one that is shipped, such as 'hands'."""
    shipped = WEIGHTS / run
    return shipped if Path(run).name == str(run) and shipped.is_dir() else Path(run)


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


def load(workdir: str | Path = SHIPPED, overrides: Mapping | None = None) -> TrainedModel:
    """The best checkpoint of a run directory, by the config in it.

    Args:
      workdir: wherever it lies now.
      overrides: fields of that config to replace, such as {'data.manual_dir': 'FOLDER'}. Convolutions are XLA's own
        unless they set another: the compilation cache keeps their programs, so that the next start is quick.

    Raises:
      UserError: it is no run directory, a field cannot work, or the checkpoint is corrupt or of another model.
    """
    _check_config(workdir)
    config = configuration.load(workdir, {'model.conv': 'xla'} | dict(overrides or {}))
    model = nnx.eval_shape(lambda: models.make(config))  # the initial values are not needed
    epoch, meta = restore_best(workdir, model)
    return TrainedModel(Path(workdir), config, epoch, model, meta)


def _check_config(workdir: str | Path) -> None:
    """Raises UserError if there is a config that is not that of the best checkpoint, before anything is made by it."""
    saved, checkpoints = configuration.saved(workdir), checkpoint.Checkpoints(workdir, read_only=True)
    best = None if saved is None else checkpoints.best()
    made_with = None if best is None else checkpoints.meta(best).get('config_sha256')
    digests = [configuration.digest(saved or {}, fixed) for fixed in ((), configuration.ONCE_FIXED)]
    if made_with not in (None, *digests):
        raise UserError(f'{workdir}/{configuration.FILE} is not the config that the checkpoint was made with')
