"""The only tf.data file: photos of a split -> order -> decode, resize, heatmaps -> batches.

Host memory holds the split, encoded or (config.data.cache) decoded and resized, so every order of examples is a plain
list of indices: no shuffle buffer, and any epoch can be produced on its own.
"""

import dataclasses
import os
from collections.abc import Iterator

os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
os.environ.setdefault('TF_ENABLE_ONEDNN_OPTS', '0')  # the same numbers on every processor

import numpy as np
import tensorflow as tf
import tensorflow.experimental.numpy as tnp
from ml_collections import ConfigDict

from hpe_jax import heatmap, runtime, sharding
from hpe_jax.data.prepared import Split, in_batches, mixed_order

tf.config.set_visible_devices([], 'GPU')  # the accelerator is JAX's


def decode(photo: tf.Tensor | bytes, context: tf.Tensor | float = 1.0, *, size: int, margin: int = 0) -> tf.Tensor:
    """JPEG bytes to a uint8 crop and `margin` pixels around it, resized as PIL's BILINEAR does it: antialiased.

    context: see prepared.Split. size: of the crop alone.
    """
    image = tf.io.decode_jpeg(photo, channels=3, dct_method='INTEGER_ACCURATE')
    outside = 1 - (size + 2 * margin) / (size * tf.cast(context, tf.float64))  # fraction of the photo
    edge = tf.cast(tf.round(outside / 2 * tf.cast(tf.shape(image)[:2], tf.float64)), tf.int32)
    image = image[edge[0] : tf.shape(image)[0] - edge[0], edge[1] : tf.shape(image)[1] - edge[1]]
    image = tf.image.resize(image, 2 * (size + 2 * margin,), 'bilinear', antialias=True)
    return tf.cast(tf.round(image), tf.uint8)


def cache(split: Split, size: int) -> Split:
    """The split with all its photos decoded and resized: 3 bytes a pixel."""
    side = size + 2 * split.margin
    photos = np.empty((len(split), side, side, 3), np.uint8)
    decoded = tf.data.Dataset.from_tensor_slices((split.photos, contexts(split))).map(
        lambda photo, context: decode(photo, context, size=size, margin=split.margin),
        num_parallel_calls=tf.data.AUTOTUNE,
    )
    decoded = runtime.progress(decoded.as_numpy_iterator(), len(split), 'photo', 'Decoding photos')
    for i, photo in enumerate(decoded):
        photos[i] = photo
    return dataclasses.replace(split, photos=photos)


def contexts(split: Split) -> np.ndarray:
    return np.ones(len(split), np.float32) if split.context is None else split.context


class Pipeline:
    """Makes batches (see preprocess.py) of a split, split over the devices; each host makes those of its own devices.

    Args:
      split: its photos, encoded or cached.
      data, heatmap: the config's sections.
    """

    def __init__(self, split: Split, data: ConfigDict, heatmap: ConfigDict):
        arrays = (split.photos, contexts(split), split.keypoints, split.visible)
        self._arrays = tuple(tf.constant(x) for x in arrays)
        self._margin, self._length, self._data, self._heatmap = split.margin, len(split), data, heatmap
        self.left, self._sets = split.left, split.sets

    def __len__(self) -> int:
        return self._length

    def epochs(self, seed: int, first: int, steps: int, batch_size: int) -> Iterator[dict]:
        """Endless training batches, `steps` per epoch, from epoch `first` on."""
        where = sharding.local_slice(batch_size)
        length = steps * (where.stop - where.start)

        def order(epoch):
            indices = mixed_order(self._sets, steps * batch_size, seed, int(epoch))
            return indices.reshape(steps, batch_size)[:, where].ravel()

        def epoch_indices(epoch):
            indices = tf.numpy_function(order, [epoch], tf.int64, stateful=False)
            return tf.data.Dataset.from_tensor_slices(tf.ensure_shape(indices, (length,)))

        return self._batches(tf.data.Dataset.range(first, np.iinfo(np.int64).max).flat_map(epoch_indices), where)

    def expand(self, batch: dict) -> dict:
        """Inside the training step: tf.data has made the whole batch already."""
        return batch

    def once(self, batch_size: int, indices: np.ndarray | None = None) -> Iterator[dict]:
        """Every example once, in order (or those at `indices`); the last batch is padded and masked."""
        indices = np.arange(len(self)) if indices is None else indices
        where = sharding.local_slice(batch_size)
        order = in_batches(indices, batch_size)[:, where].ravel()
        return self._batches(tf.data.Dataset.from_tensor_slices(order), where)

    def _batches(self, indices: tf.data.Dataset, where: slice) -> Iterator[dict]:
        """Batches of which this host makes its own examples, of their indices alone."""
        examples = indices.map(self._example, num_parallel_calls=tf.data.AUTOTUNE)
        batches = examples.batch(where.stop - where.start, drop_remainder=True)
        if self._data.targets == 'host':
            batches = batches.map(self._with_heatmaps, num_parallel_calls=tf.data.AUTOTUNE)
        return map(sharding.shard, batches.prefetch(2).as_numpy_iterator())

    def _example(self, index: tf.Tensor) -> dict:
        """One example; index -1 is padding, shown as example 0 with mask False."""
        photo, context, keypoints, visible = (tf.gather(x, tf.maximum(index, 0)) for x in self._arrays)
        size = self._data.image_size
        side = size + 2 * self._margin
        decoded = photo.dtype == tf.uint8
        image = photo if decoded else decode(photo, context, size=size, margin=self._margin)
        image = tf.ensure_shape(image, (side, side, 3))
        return {'image': image, 'keypoints': keypoints, 'visible': visible, 'mask': index >= 0}

    def _with_heatmaps(self, batch: dict) -> dict:
        """The images as floats, and the heatmaps; of a batch, since 1.4 MB an example would be copied into it."""
        size, sigma, codec = 2 * (self._data.image_size,), self._heatmap.sigma, self._heatmap.codec
        heatmaps = heatmap.encode(batch['keypoints'], batch['visible'], size, sigma, codec, xp=tnp)
        return batch | {'image': tf.cast(batch['image'], tf.float32) / 255, 'heatmaps': heatmaps}
