"""All photos of a split as uint8 in device memory; training and evaluation take them by index. Needs no TensorFlow.

A photo and its labels take 3 * size² + 189 bytes: at 128x128 FreiHAND's 32,560 photos take 1.6 GB and all 130,240 take
6.4 GB, of which each of several devices holds an equal part. Beside them lies only what a step needs: its batch is
gathered, and 48 photos are 2.4 MB. The host holds no copy: it maps the file that the decoded photos are kept
in, see prepared.cache_path.
"""

import contextlib
import dataclasses
import hashlib
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import Int, UInt8

from hpe_jax import files, geometry, runtime, sharding
from hpe_jax.data import prepared
from hpe_jax.data.prepared import Split
from hpe_jax.errors import UserError
from hpe_jax.inference import images

SHARE = 0.9  # of the free memory that photos may take: a step's activations need the rest
LABELS = ('keypoints', 'xyz', 'names', 'occluded', 'labelled', 'left', 'side')  # of Split, kept beside the photos
ADVICE = ", take fewer (config.data.train_split='train[:10%]'), or set config.data.source='tfdata'"
SAMPLES = 5  # photos that are decoded again to check that a kept file is of this data


class Resident:
    """Makes batches (see preprocess.py) of a decoded split.

    arrays: `image`, `keypoints` and `visible` of the whole split, in equal parts on the devices, padded with zeros.
    """

    def __init__(self, split: Split):
        arrays = {'image': split.photos, 'keypoints': split.keypoints, 'visible': split.visible}
        self.arrays = {name: _spread(array) for name, array in arrays.items()}
        self._length, self.left, self._sets = len(split), split.left, split.sets

    def __len__(self) -> int:
        return self._length

    def order(self, seed: int, epoch: int, steps: int, batch_size: int) -> Int[np.ndarray, '{steps} {batch_size}']:
        """The indices of a training epoch; made by the host, so that they are those of every other source."""
        return prepared.mixed_order(self._sets, steps * batch_size, seed, epoch).reshape(steps, batch_size)

    def epochs(self, seed: int, first: int, steps: int, batch_size: int) -> Iterator[dict]:
        """Endless training batches, `steps` per epoch, from epoch `first` on.

        They are gathered before the step: inside it XLA fuses otherwise, and rounds otherwise than on tf.data's.
        """
        epoch = first
        while True:
            for index in self.order(seed, epoch, steps, batch_size):
                yield _gather(self.arrays | {'index': index})
            epoch += 1

    def once(self, batch_size: int, indices: np.ndarray | None = None) -> Iterator[dict]:
        """Every example once, in order (or those at `indices`); the last batch is padded and masked."""
        indices = np.arange(len(self)) if indices is None else indices
        for index in prepared.in_batches(indices, batch_size):
            yield _gather(self.arrays | {'index': index})

    @staticmethod
    def expand(batch: dict) -> dict:
        """Inside jit: the whole split and an index to the batch at that index; other batches pass through.

        Each device looks up what it holds and the batch alone is sent around, not the split (a test reads the HLO).
        """
        if 'index' not in batch:
            return batch
        taken = {name: batch[name][jnp.maximum(batch['index'], 0)] for name in ('image', 'keypoints', 'visible')}
        return jax.lax.with_sharding_constraint(taken | {'mask': batch['index'] >= 0}, sharding.split())


_gather = jax.jit(Resident.expand)


def _spread(array: np.ndarray) -> jax.Array:
    """The array in equal parts over the devices, padded with zeros; a host reads only the parts of its own devices."""

    def shard(at: tuple[slice, ...]) -> np.ndarray:
        rows = array[at[0]]
        missing = range(length)[at[0]].stop - range(length)[at[0]].start - len(rows)
        return np.pad(rows, [(0, missing)] + [(0, 0)] * (array.ndim - 1)) if missing else rows

    length = len(array) + -len(array) % sharding.mesh().size
    return jax.make_array_from_callback((length, *array.shape[1:]), sharding.split(), shard)


def load(
    builder: tfds.core.DatasetBuilder, expressions: dict[str, str], size: int, margins: Mapping[str, int] | None = None
) -> dict[str, Split]:
    """Splits with all photos decoded, from the files of prepared.cache_path, which are made first if need be.

    Args:
      expressions: TFDS split expressions by the names to return them under.
      size: the crops' side in pixels.
      margins: pixels around the crops to keep, by the same names; 0 where one is missing.

    Raises:
      UserError: they do not fit into the device's memory; a split cannot be read; a file cannot be written.
    """
    margins = dict.fromkeys(expressions, 0) | dict(margins or {})
    check_fits(count(builder, expressions), size + 2 * max(margins.values(), default=0))
    return {
        name: _load(builder, prepared.resolve_split(builder, split), size, margins[name])
        for name, split in expressions.items()
    }


def count(builder: tfds.core.DatasetBuilder, expressions: dict[str, str]) -> int:
    """How many photos the splits hold together."""
    resolved = (prepared.resolve_split(builder, expression) for expression in expressions.values())
    return sum(builder.info.splits[expression].num_examples for expression in resolved if expression)


def check_fits(num_images: int, size: int, advice: str = ADVICE) -> None:
    """Raises UserError, which ends with the advice, if a device's part of the photos is more than SHARE of its free
    memory."""
    devices, each, free = sharding.mesh().size, 3 * size**2 + 189, free_memory()
    needed = -(-num_images // devices) * each
    if free is not None and needed > SHARE * free:
        per_device = f', {needed / 1e9:.2f} GB on each of {devices} devices' if devices > 1 else ''
        raise UserError(
            f'{num_images} photos of {size}x{size} take {num_images * each / 1e9:.2f} GB{per_device}, '
            f'more than {SHARE:.0%} of the {free / 1e9:.2f} GB that are free on {jax.local_devices()[0]}: lower '
            f'config.data.image_size{advice}'
        )


def free_memory() -> int | None:
    """Bytes that the fullest device of this host has free, or its part of the host's memory where that is the device's.

    None if neither reports it.
    """
    stats = [device.memory_stats() for device in jax.local_devices()]
    if all(stats):
        return min(stat['bytes_limit'] - stat['bytes_in_use'] for stat in stats)
    meminfo = Path('/proc/meminfo')
    lines = meminfo.read_text().splitlines() if meminfo.exists() else []
    free = next((int(line.split()[1]) * 1024 for line in lines if line.startswith('MemAvailable')), None)
    return free and free // len(stats)


def _load(builder: tfds.core.DatasetBuilder, expression: str, size: int, margin: int) -> Split:
    """One split; its photos are a read-only map of their file."""
    path = _path(builder, expression, size, margin)
    if not expression:
        return dataclasses.replace(prepared.load(builder, ''), photos=_empty(size + 2 * margin), margin=margin)
    photos_kept, labels_kept = _what_is_kept(builder, expression, size, margin, path)
    if not (photos_kept and labels_kept):
        split = prepared.load(builder, expression)
        if not photos_kept:
            _keep_photos(split, size, margin, path)
        _keep_labels(split, path)
    return _open(path, margin)


def _path(builder: tfds.core.DatasetBuilder, expression: str, size: int, margin: int) -> Path:
    """Of the photos; the labels lie beside them in an .npz of the same name."""
    key = hashlib.sha256(expression.encode()).hexdigest()[:8]
    return prepared.cache_path(builder, f'resident-{key}-{size}{f"+{margin}" if margin else ""}.npy')


def _empty(size: int) -> UInt8[np.ndarray, '0 {size} {size} 3']:
    return np.zeros((0, size, size, 3), np.uint8)


def _open(path: Path, margin: int = 0) -> Split:
    return Split(_photos(path), **({'xyz': None} | _labels(path)), margin=margin)


def _photos(path: Path) -> UInt8[np.ndarray, 'n s s 3']:
    return np.load(path, mmap_mode='r')


def _labels(path: Path) -> dict[str, np.ndarray]:
    with path.with_suffix('.npz').open('rb') as file, np.load(file) as labels:
        return dict(labels)


def _what_is_kept(
    builder: tfds.core.DatasetBuilder, expression: str, size: int, margin: int, path: Path
) -> tuple[bool, bool]:
    """Whether the photos, and the labels, are whole and of this data, by their shapes and by SAMPLES of them."""
    num_images, side = builder.info.splits[expression].num_examples, size + 2 * margin
    at = np.linspace(0, num_images - 1, min(SAMPLES, num_images)).astype(int)
    fresh = prepared.load(builder, expression, at)

    def same(read: Callable[[], dict[str, np.ndarray]], expected: dict[str, np.ndarray]) -> bool:
        try:
            kept = read()
            pairs = [(kept[name], array) for name, array in expected.items()]
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile):  # absent, cut off, no arrays
            return False
        return all(
            len(old) == num_images
            and old.shape[1:] == new.shape[1:]
            and old.dtype.kind == new.dtype.kind
            and np.array_equal(old[at], new)
            for old, new in pairs
        )

    photos = np.array(list(_decoded(fresh, size, margin, map))).reshape(-1, side, side, 3)
    labels = {'keypoints': fresh.keypoints, 'names': fresh.names}
    return same(lambda: {'photos': _photos(path)}, {'photos': photos}), same(lambda: _labels(path), labels)


@contextlib.contextmanager
def _writing(path: Path, num_images: int, side: int) -> Iterator[Callable[[np.ndarray], None]]:
    """A function that takes the photos of a file one by one; the file gets its name when they are all there."""
    # Not by a map of the file: where the disk is full, its writes end the process.
    with files.replacing(path) as temporary, temporary.open('wb') as file:
        shape = num_images, side, side, 3
        np.lib.format.write_array_header_1_0(file, {'descr': '|u1', 'fortran_order': False, 'shape': shape})
        yield lambda photo: file.write(photo.tobytes())


def _keep_photos(split: Split, size: int, margin: int, path: Path) -> None:
    """Decodes all photos into one file."""
    with _writing(path, len(split), size + 2 * margin) as write:
        decoded = _decoded(split, size, margin, runtime.parallel)
        for photo in runtime.progress(decoded, len(split), 'photo', 'Decoding photos'):
            write(photo)


def _keep_labels(split: Split, path: Path) -> None:
    with files.replacing(path.with_suffix('.npz')) as temporary:
        labels = {name: getattr(split, name) for name in LABELS}
        np.savez(temporary, **{name: label for name, label in labels.items() if label is not None})


class Keeper(NamedTuple):
    """Keeps the photos that a builder decodes while it prepares them, as `load` wants them, so that they are decoded
    once. For sets whose photos are the crops.

    size: the crops' side in pixels.
    splits: those that are kept; of each a builder gives all photos, in their order.
    """

    size: int
    splits: tuple[str, ...]

    def crop(self, photo: UInt8[np.ndarray, 'h w 3']) -> UInt8[np.ndarray, 's s 3']:
        return crop(photo, 1.0, self.size)

    def file(self, builder: tfds.core.DatasetBuilder, split: str, num_images: int) -> contextlib.AbstractContextManager:
        """Of a function that takes the split's crops one by one.

        Raises:
          UserError: they do not fit into the device's memory.
        """
        check_fits(num_images, self.size)
        return _writing(_path(builder, split, self.size, 0), num_images, self.size)


def _decoded(split: Split, size: int, margin: int, map_: Callable) -> Iterator[np.ndarray]:
    contexts = np.ones(len(split), np.float32) if split.context is None else split.context
    photos = list(zip(split.photos, map(float, contexts), strict=True))
    return map_(lambda photo: decode(*photo, size=size, margin=margin), photos)


def decode(photo: bytes, context: float = 1.0, *, size: int, margin: int = 0) -> UInt8[np.ndarray, 's s 3']:
    """JPEG bytes to a crop and `margin` pixels around it, equal to pipeline.decode's in every grey level.

    context: see Split. size: of the crop alone.
    """
    return crop(np.asarray(images.open_jpeg(photo).convert('RGB')), context, size, margin)


def crop(photo: UInt8[np.ndarray, 'h w 3'], context: float, size: int, margin: int = 0) -> UInt8[np.ndarray, 's s 3']:
    """`decode` of a photo that is decoded already."""
    part = (size + 2 * margin) / (size * context)  # of the photo
    low, high = (1 - part) / 2, (1 + part) / 2
    height, width = photo.shape[:2]
    return geometry.crop(photo, (low * width, low * height, high * width, high * height), size + 2 * margin)
