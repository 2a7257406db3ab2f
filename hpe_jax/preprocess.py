"""From a batch to what the network eats, inside jit; shared by training and evaluation.

A batch is a dict of arrays with a leading axis B:

    image      (B, H, W, 3)   uint8, or float32 if the host has normalised it already
    keypoints  (B, 21, 2)     (x, y), normalised
    visible    (B, 21)        bool: the keypoint lies in the frame
    mask       (B,)           bool: false for the padding of the last batch
    heatmaps   (B, H, W, 21)  only if the host has made them (`config.data.targets = 'host'`)
    right      (B,)           bool: false for a hand that augmentation has mirrored; absent where it mirrors none
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Key, UInt8
from ml_collections import ConfigDict

from hpe_jax import geometry, heatmap
from hpe_jax.augment import is_on, turn, vary
from hpe_jax.geometry import AnyArray

Batch = dict[str, AnyArray]


def normalise(image, mean: np.ndarray, std: np.ndarray):
    """Grey levels (float32, 0 to 255, (..., 3); NumPy, JAX or TensorFlow) to [0, 1], then standardised per channel."""
    mean, std = (np.reshape(np.float32(x), (1,) * (len(image.shape) - 1) + (3,)) for x in (mean, std))
    return (image / 255 - mean) / std


def to_uint8(image: np.ndarray, mean: np.ndarray, std: np.ndarray) -> UInt8[np.ndarray, 'b h w 3']:
    """The photos of a batch as they were before `normalise`, to be drawn."""
    return image if image.dtype == np.uint8 else np.uint8(np.round((image * std + mean) * 255))


def augment(batch: Batch, config: ConfigDict, key: Key[Array, '']) -> Batch:
    """Varies the photos of a training batch and their labels (`config` is config.augment); needs device targets.

    `left` mirrors photos for the heads alone (`right` in the batch). `quarter_turns` turns each photo by a random
    multiple of 90 degrees: exact, without resampling. The rest is augment.py's. With everything off the batch passes
    through.
    """
    number = batch['mask'].shape
    if config.left:
        right = jax.random.uniform(jax.random.fold_in(key, 2), number) >= config.left
        image = jnp.where(right[:, None, None, None], batch['image'], batch['image'][:, :, ::-1])
        x, y = batch['keypoints'][..., 0], batch['keypoints'][..., 1]
        keypoints = jnp.stack([jnp.where(right[:, None], x, 1 - x), y], -1)
        batch = batch | {'image': image, 'keypoints': keypoints, 'right': right}
    if config.quarter_turns:
        turns = jax.random.randint(key, number, 0, 4)
        image, keypoints = jax.vmap(turn)(batch['image'], batch['keypoints'], turns)
        batch = batch | {'image': image, 'keypoints': keypoints}
    if is_on(config):
        keys = jax.random.split(jax.random.fold_in(key, 1), number)
        varied = jax.vmap(partial(vary, config=config))(batch['image'], batch['keypoints'], batch['visible'], keys)
        batch = batch | dict(zip(('image', 'keypoints', 'visible'), varied, strict=True))
    return batch


def inputs(batch: Batch, mean: np.ndarray, std: np.ndarray) -> Float[AnyArray, 'b h w 3']:
    """The network's input; float photos pass through, since the host has normalised them."""
    image = batch['image']
    if image.dtype != jnp.uint8:
        return image
    return normalise(image.astype(jnp.float32), mean, std)


def targets(batch: Batch, config: ConfigDict) -> Float[AnyArray, 'b h w 21']:
    """The true heatmaps: the host's, or made here from the keypoints (`config` is config.heatmap)."""
    if 'heatmaps' in batch:
        return batch['heatmaps']
    stride = config.get('stride', 1)
    size = tuple(n // stride for n in batch['image'].shape[1:3])
    return heatmap.encode(batch['keypoints'], batch['visible'], size, config.sigma / stride, config.codec)


def counted(batch: Batch) -> Bool[AnyArray, 'b 21']:
    """The keypoints that count: visible ones of right hands, in photos that are no padding."""
    counts = batch['visible'] & batch['mask'][:, None]
    return counts & batch['right'][:, None] if 'right' in batch else counts


def head_truths(batch: Batch) -> dict[str, tuple[Bool[AnyArray, ' b'], Bool[AnyArray, ' b']]]:
    """What each of a network's heads should answer, and for which photos that counts.

    presence: whether the hand's box lies in the middle of the photo and is of a size that a crop around a hand has. In
    between, nobody can tell. handedness: whether it is a right hand, where there is one.
    """
    there, absent = jax.vmap(geometry.is_centred)(batch['keypoints'])
    right = batch.get('right', jnp.ones_like(there))
    return {'presence': (there, (there | absent) & batch['mask']), 'handedness': (right, there & batch['mask'])}
