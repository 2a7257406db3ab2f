"""Where images come from, as config.data.source has it: tf.data, the device's memory, or the renderer.

    tfdata     pipeline.py: the host decodes, resizes, and perhaps makes heatmaps
    resident   resident.py: all images lie on the device
    live       live.py: training images are rendered, inside the step or before the first one; validation and test
               images are resident

A new source implements Source or SplitSource and is chosen in `open_split` or `open_data`.
"""

import dataclasses
import hashlib
from collections.abc import Iterator
from importlib import util
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from ml_collections import ConfigDict

from hpe_jax import augment, sharding
from hpe_jax.data import features, prepared, resident
from hpe_jax.errors import UserError

Batch = dict  # see preprocess.py


@runtime_checkable
class Source(Protocol):
    """Endless training batches."""

    def epochs(self, seed: int, first: int, steps: int, batch_size: int) -> Iterator[Batch]:
        """Batches from epoch `first` (counted from 0) on, `steps` an epoch: a pure function of these arguments."""

    def expand(self, batch: Batch) -> Batch:
        """Inside jit: what `epochs` yields to a whole batch, with the fields that preprocess.py names."""


@runtime_checkable
class SplitSource(Source, Protocol):
    """The images of one split."""

    left: np.ndarray | None  # (n,) bool, a left hand, whose image is mirrored; None: all are right

    def __len__(self) -> int: ...

    def once(self, batch_size: int, indices: np.ndarray | None = None) -> Iterator[Batch]:
        """Every image once, in order (or those at `indices`); the last batch is padded and masked."""


class Data(NamedTuple):
    """All that a training reads."""

    train: Source
    splits: dict[str, SplitSource]  # 'train', 'validation' and 'test'; each may be empty
    mean: np.ndarray  # (3,) channel statistics of the training split, in [0, 1]
    std: np.ndarray
    relative_hand_size: float  # see prepared.relative_hand_size
    sha256: str  # of all photos and labels


def check_installed(config: ConfigDict) -> None:
    """Raises UserError if the source needs TensorFlow, which pip brings with the extra `data` only."""
    if config.data.source == 'tfdata' and not util.find_spec('tensorflow'):
        raise UserError(
            "config.data.source='tfdata' needs TensorFlow, which is not installed: pip install '.[data]' in the "
            "checkout, or set config.data.source='resident'"
        )


def load(config: ConfigDict, expressions: dict[str, str]) -> dict[str, prepared.Split]:
    """Splits by name, decoded already where the source keeps them on the device; the data are prepared if need be.

    expressions: TFDS split expressions by name.

    Raises:
      UserError: the data, or a split, cannot be read, do not fit into memory, or have no visible keypoint.
    """
    members = prepared.members(config.data)
    with sharding.main_first():
        return _load(config, expressions, members, open_datasets(config, expressions, members))


def open_datasets(config: ConfigDict, expressions: dict[str, str], members: list) -> list:
    """The TFDS builders of prepared.members, prepared on disk first if need be, and for a source that has the photos on
    the device decoded in the same pass where the builder can do that."""
    on_device = config.data.source != 'tfdata'
    keeper = resident.Keeper(config.data.image_size, tuple(expressions.values())) if on_device else None
    return [prepared.open_dataset(member.data, keeper) for member in members]


def _load(config: ConfigDict, expressions: dict[str, str], members: list, builders: list) -> dict[str, prepared.Split]:
    names, weights = [member.data.dataset for member in members], [member.weight for member in members]
    margins = {'train': margin(config, builders)} if 'train' in expressions else {}
    if config.data.source == 'tfdata':
        loaded = [
            {
                name: dataclasses.replace(prepared.load(builder, split), margin=margins.get(name, 0))
                for name, split in expressions.items()
            }
            for builder in builders
        ]
    else:
        size = config.data.image_size
        side = size + 2 * margins.get('train', 0)
        resident.check_fits(sum(resident.count(builder, expressions) for builder in builders), side)
        loaded = [resident.load(builder, expressions, size, margins) for builder in builders]
    for dataset, own in zip(names, loaded, strict=True):
        for name, split in own.items():
            if len(split) and not split.visible.any():
                raise UserError(
                    f'{dataset} {expressions[name]}: none of its {len(split)} images has a labelled keypoint inside '
                    'its frame, so that there is nothing to learn or to score; check the labels'
                )
    return {split: prepared.mix([one[split] for one in loaded], names, weights) for split in expressions}


def margin(config: ConfigDict, builders: list) -> int:
    """Pixels around each training crop that augmentation may move into it: what all of the data sets have."""
    context = min(map(prepared.context_of, builders)) if augment.is_on(config.augment) else 1.0
    return features.margin(config.data.image_size, context)


def open_split(split: prepared.Split, config: ConfigDict) -> SplitSource:
    if config.data.source != 'tfdata':
        return resident.Resident(split)
    from hpe_jax.data import pipeline  # TensorFlow takes seconds to import, and may be absent

    return pipeline.Pipeline(split, config.data, config.heatmap)


def split_expressions(data: ConfigDict) -> dict[str, str]:
    """TFDS split expressions of config.data by name."""
    return {name: data[f'{name}_split'] for name in ('train', 'validation', 'test')}


def open_data(config: ConfigDict) -> Data:
    """Reads all splits that the config names.

    Raises:
      UserError: as `load`, or the training split is empty.
    """
    data = config.data
    expressions = split_expressions(data)
    members = prepared.members(data)
    with sharding.main_first():
        builders = open_datasets(config, expressions, members)
        splits = _load(config, expressions, members, builders)
    for name, split in splits.items():
        sharding.log(f'{name:10s} {len(split):6d} images ({data.dataset} {expressions[name]})')
    for (size, _), member in zip(splits['train'].sets, members, strict=True):
        if not size:
            raise UserError(f'config.data.train_split={data.train_split!r} of {member.data.dataset} holds no photos')
    if not len(splits['validation']):
        sharding.log('No images to validate on: no early stopping, and the best checkpoint is by the training loss.')
    if data.mean:
        mean, std = np.float32(data.mean), np.float32(data.std)
    else:
        with sharding.main_first():
            mean, std = _channel_statistics(builders, splits['train'], data)
    relative_hand_size = prepared.relative_hand_size(splits['train'])
    sha256 = hashlib.sha256(''.join(split.digest() for split in splits.values()).encode()).hexdigest()
    if data.source == 'tfdata' and data.cache:
        from hpe_jax.data import pipeline

        splits |= {name: pipeline.cache(splits[name], data.image_size) for name in ('train', 'validation')}
    opened = {name: open_split(split, config) for name, split in splits.items()}
    train = opened['train']
    if data.source == 'live':
        from hpe_jax.data import live

        train = live.Live(data, config.seed)
        if data.live_pool:
            resident.check_fits(data.live_pool, data.image_size, ' or config.data.live_pool')
            train = resident.Resident(train.pool(data.live_pool))
    return Data(train, opened, mean, std, relative_hand_size, sha256)


def _channel_statistics(builders: list, train: prepared.Split, data: ConfigDict) -> tuple[np.ndarray, np.ndarray]:
    """Those of each set's training split, pooled by the sets' weights."""
    sizes, weights = zip(*train.sets, strict=True)
    of_sets = [
        prepared.channel_statistics(builder, data.train_split, photos.tolist() if data.source == 'tfdata' else None)
        for builder, photos in zip(builders, np.split(train.photos, np.cumsum(sizes)[:-1]), strict=True)
    ]
    if len(of_sets) == 1:
        return of_sets[0]
    means, stds = map(np.float64, zip(*of_sets, strict=True))
    mean, square = (np.average(x, 0, weights) for x in (means, stds**2 + means**2))
    return np.float32(mean), np.float32(np.sqrt(square - mean**2))
