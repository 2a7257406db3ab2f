"""Augmentation, targets and masks of a batch, inside jit; shared by training and evaluation.

A batch is a dict of arrays with a leading axis B:

    image      (B, H, W, 3)   uint8, or float32 in [0, 1] where the host makes the heatmaps; in training perhaps
                              wider than the crop, which is its middle
    keypoints  (B, 21, 2)     (x, y), normalised: [0, 1] spans the crop
    visible    (B, 21)        bool: the keypoint lies in the frame
    mask       (B,)           bool: false for the padding of the last batch
    heatmaps   (B, H, W, 21)  only if the host has made them (`config.data.targets = 'host'`)
    right      (B,)           bool: false for a hand that augmentation has mirrored; absent where it mirrors none
"""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key
from ml_collections import ConfigDict

from hpe_jax import geometry, heatmap
from hpe_jax.augment import augment_example, is_on, rot90
from hpe_jax.geometry import AnyArray

Batch = dict[str, AnyArray]


def crop_middle(batch: Batch, size: int) -> Batch:
    """The crops alone of images that show what lies around them, too."""
    edge = (batch['image'].shape[1] - size) // 2
    return batch | {'image': batch['image'][:, edge : edge + size, edge : edge + size]} if edge else batch


def augment(batch: Batch, config: ConfigDict, key: Key[Array, ''], size: int = 0) -> Batch:
    """Varies the photos of a training batch and their labels (`config` is config.augment); needs device targets.

    `left` mirrors photos for the heads alone (`right` in the batch). `quarter_turns` rotates each photo by a random
    multiple of 90 degrees: exact, without resampling. The rest is augment.py's. With everything off the batch passes
    through.

    size: of the crops, pixels, if the images show what lies around them, too, which augmentation may move into them.
    """
    margin = (batch['image'].shape[1] - size) // 2 if size else 0
    batch_shape = batch['mask'].shape
    if config.left:
        right = jax.random.uniform(jax.random.fold_in(key, 2), batch_shape) >= config.left
        image = jnp.where(right[:, None, None, None], batch['image'], batch['image'][:, :, ::-1])
        x, y = batch['keypoints'][..., 0], batch['keypoints'][..., 1]
        keypoints = jnp.stack([jnp.where(right[:, None], x, 1 - x), y], -1)
        batch = batch | {'image': image, 'keypoints': keypoints, 'right': right}
    if config.quarter_turns:
        turns = jax.random.randint(key, batch_shape, 0, 4)
        image, keypoints = jax.vmap(rot90)(batch['image'], batch['keypoints'], turns)
        batch = batch | {'image': image, 'keypoints': keypoints}
    if is_on(config):
        keys = jax.random.split(jax.random.fold_in(key, 1), batch_shape)
        augmented = jax.vmap(partial(augment_example, config=config, margin=margin))(
            batch['image'], batch['keypoints'], batch['visible'], keys
        )
        batch = batch | dict(zip(('image', 'keypoints', 'visible'), augmented, strict=True))
    elif margin:
        batch = crop_middle(batch, size)
    return batch


def targets(batch: Batch, config: ConfigDict) -> Float[AnyArray, 'b h w 21']:
    """The true heatmaps: the host's, or made here from the keypoints (`config` is config.heatmap)."""
    if 'heatmaps' in batch:
        return batch['heatmaps']
    stride = config.get('stride', 1)
    size = tuple(n // stride for n in batch['image'].shape[1:3])
    return heatmap.encode(batch['keypoints'], batch['visible'], size, config.sigma / stride, config.codec)


def keypoint_mask(batch: Batch) -> Bool[AnyArray, 'b 21']:
    """The keypoints that loss and metrics are over: visible ones of right hands, in images that are not padding."""
    mask = batch['visible'] & batch['mask'][:, None]
    return mask & batch['right'][:, None] if 'right' in batch else mask


def head_truths(batch: Batch) -> dict[str, tuple[Bool[AnyArray, ' b'], Bool[AnyArray, ' b']]]:
    """What each of a network's heads should answer, and for which photos that counts.

    presence: whether the hand's box lies in the middle of the photo and is of a size that a crop around a hand has. In
    between, nobody knows. handedness: whether it is a right hand, where there is one.
    """
    there, absent = jax.vmap(geometry.is_centred)(batch['keypoints'])
    right = batch.get('right', jnp.ones_like(there))
    return {'presence': (there, (there | absent) & batch['mask']), 'handedness': (right, there & batch['mask'])}
