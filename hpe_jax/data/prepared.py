"""A dataset's prepared copy on disk: made once by TFDS, then read by every source. Needs no TensorFlow."""

import contextlib
import dataclasses
import hashlib
import importlib
import json
import math
import os
import shutil
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import Bool, Float, Int, UInt8
from ml_collections import ConfigDict

from hpe_jax import files, geometry, runtime
from hpe_jax.data import features
from hpe_jax.errors import UserError, WriteError
from hpe_jax.inference import images

# The first half of `config.data.dataset` -> the module of its builder.
BUILDERS = {
    'freihand': 'hpe_jax.data.freihand.freihand_dataset_builder',
    'synthetic_hands': 'hpe_jax.data.synthetic_hands.synthetic_hands_dataset_builder',
    'coco_hands': 'hpe_jax.data.coco_hands.coco_hands_dataset_builder',
}
# Fields of config.data of which each data set of a mixture may have its own value.
PER_MEMBER = ('manual_dir', 'joints', 'handedness')


class Member(NamedTuple):
    """One of the data sets of `config.data.dataset`."""

    data: ConfigDict  # config.data of this set alone
    weight: float


def weighted(text: str, field: str) -> list[tuple[str, float]]:
    """Names and weights, of 'freihand/full:1, coco_hands:0.5'; the weight 1 may be left out.

    Raises:
      UserError: a weight is not a positive number; it names the field of config.data.
    """
    items = []
    for item in text.split(','):
        name, _, weight = item.strip().partition(':')
        try:
            weight = float(weight or 1)
        except ValueError:
            weight = math.nan
        if not 0 < weight < math.inf:
            raise UserError(f'config.data.{field}={text!r}: the weight of {name} must be a positive number')
        items.append((name, weight))
    return items


def members(data: ConfigDict) -> list[Member]:
    """The data sets of `data.dataset`, as `weighted` reads it.

    Raises:
      UserError: a weight is not a positive number, or a field names more or fewer values than there are sets.
    """
    items = weighted(data.dataset, 'dataset')
    found = []
    for i, (name, weight) in enumerate(items):
        own = data.copy_and_resolve_references()
        own.dataset = name
        for field in PER_MEMBER if len(items) > 1 else ():
            values = data.get(field, '').split(',')
            if len(values) not in (1, len(items)):
                expected = f'expected one, or one for each of the {len(items)} data sets'
                raise UserError(f'config.data.{field}={data[field]!r}: {len(values)} values; {expected}')
            own[field] = values[i % len(values)].strip()
        found.append(Member(own, weight))
    return found


def open_dataset(data: ConfigDict, keeper: Any = None) -> tfds.core.DatasetBuilder:
    """The TFDS builder of `data.dataset` ('name/config'), prepared on disk first if it is not there yet.

    Data from `data.manual_dir` goes to a separate folder, named after its content, so that no other set with the
    same name is ever mistaken for it.

    keeper: a resident.Keeper, which keeps the photos that a builder decodes anyhow while it prepares them.

    Raises:
      UserError: the dataset's name, its folder or its files are wrong, or another process is preparing it.
      WriteError: the disk is full, or can only be read.
    """
    if ',' in data.dataset:
        raise UserError(f'config.data.dataset={data.dataset!r}: several data sets where one is expected; name one')
    name, _, variant = data.dataset.partition(':')[0].partition('/')
    if name not in BUILDERS:
        raise UserError(f'config.data.dataset={data.dataset!r}: unknown dataset; there is {", ".join(BUILDERS)}')
    builder_class = importlib.import_module(BUILDERS[name]).Builder
    options = {option: data[option] for option in getattr(builder_class, 'OPTIONS', ())}
    config = builder_class.find_config(variant or next(iter(builder_class.builder_configs)), **options)
    if config is None:
        raise UserError(f'config.data.dataset={data.dataset!r}: {name} has {", ".join(builder_class.builder_configs)}')
    if name == 'coco_hands' and not data.manual_dir:
        raise UserError("config.data.dataset='coco_hands': set config.data.manual_dir to the folder of its JSON")
    root = Path(data.data_dir or tfds.core.constants.DATA_DIR).expanduser()
    manual_dir = data.manual_dir if hasattr(builder_class, 'fingerprint') else ''
    if manual_dir:
        root = root / f'manual-{builder_class.fingerprint(manual_dir, **options)}'
    try:
        builder = builder_class(config=config, data_dir=str(root))
    except Exception as e:  # of another file format, or damaged; TFDS and protobuf raise errors of their own
        reason = str(e).partition('\n')[0]
        raise UserError(f'{root / name} holds prepared data that cannot be used ({reason}): delete it') from e
    builder.cache_dir = data.get('cache_dir', '')  # see cache_path
    if hasattr(builder, 'keeper') and not builder.cache_dir:
        builder.keeper = keeper
    if not builder.data_path.exists():
        _prepare(builder, manual_dir)
    if not builder.info.splits:
        raise UserError(f'{builder.data_path} holds prepared data that cannot be used (no splits): delete it')
    return builder


def cache_path(builder: tfds.core.DatasetBuilder, name: str) -> Path:
    """Where a file is kept that was computed from the prepared data of open_dataset: beside these data if it is there;
    or in config.data.cache_dir; by default beside the data, and where they can only be read, in the user's cache."""
    beside, chosen = Path(builder.data_path), builder.cache_dir
    if (beside / name).exists() or (not chosen and os.access(beside, os.W_OK)):
        return beside / name
    place = f'{builder.info.full_name.replace("/", "-")}-{hashlib.sha256(bytes(beside.resolve())).hexdigest()[:8]}'
    return Path(chosen or '~/.cache/hpe_jax/data').expanduser() / place / name


def _prepare(builder: tfds.core.DatasetBuilder, manual_dir: str) -> None:
    if not sys.stderr.isatty():
        tfds.disable_progress_bar()
    source = f' from {manual_dir}' if manual_dir else ''
    folder = Path(builder.data_path).parent
    print(f'Preparing {builder.info.full_name}{source} in {builder.data_path}', flush=True)
    files.check_writable(folder)
    recorded = Path(sys.modules[type(builder).__module__].__file__).with_name('checksums.tsv').read_text().strip()
    download = tfds.download.DownloadConfig(manual_dir=manual_dir or None, register_checksums=not recorded)
    try:
        with files.locked(folder):
            for left in folder.glob('incomplete.*'):  # by a preparation that was killed: TFDS writes there first
                shutil.rmtree(left, ignore_errors=True)
            builder.download_and_prepare(download_config=download)
        for split, sums in getattr(builder, 'channel_sums', {}).items():
            _keep_statistics(builder, split, builder.info.splits[split].num_examples, sums)
        files.sync_tree(Path(builder.data_path))
    except (OSError, RuntimeError) as e:  # array_record raises the second where the disk is full
        reason = getattr(e, 'strerror', None) or str(e).partition('\n')[0]
        raise WriteError(f'cannot write {builder.data_path}: {reason}') from e


@dataclasses.dataclass(frozen=True)
class Split:
    """One split in host memory.

    photos: (n,) JPEG bytes, or (n, S, S, 3) uint8 once they are decoded.
    keypoints: (n, 21, 2) float32, normalised: [0, 1] spans the crop.
    xyz: (n, 21, 3) float32, metres, camera frame; None where the dataset has none.
    names: (n,) str, unique in the dataset: sample_id and version, such as '12 hom'.
    occluded: (n, 21) bool, hidden by the hand itself or by a thing; None where the dataset does not state it.
    labelled: (n, 21) bool, false where a keypoint has no label; None: all have.
    left: (n,) bool, a left hand, which is stored mirrored; None: all are right.
    side: (n,) float32, of the stored crop in pixels of the original photo; None where photos are stored as they are.
    mixture: size and weight of each of several data sets, in their order; () of a single one.
    context: (n,) float32, how much wider an encoded photo is than the crop in its middle; None: the photo is the crop.
    margin: pixels around the crop that a decoded photo keeps, for augmentation.
    """

    photos: np.ndarray
    keypoints: Float[np.ndarray, 'n 21 2']
    xyz: Float[np.ndarray, 'n 21 3'] | None
    names: np.ndarray
    occluded: Bool[np.ndarray, 'n 21'] | None = None
    labelled: Bool[np.ndarray, 'n 21'] | None = None
    left: Bool[np.ndarray, ' n'] | None = None
    side: Float[np.ndarray, ' n'] | None = None
    mixture: tuple[tuple[int, float], ...] = ()
    context: Float[np.ndarray, ' n'] | None = None
    margin: int = 0

    def __len__(self) -> int:
        return len(self.photos)

    @property
    def visible(self) -> Bool[np.ndarray, 'n 21']:
        """Which keypoints are labelled and lie inside the frame."""
        inside = geometry.inside_frame(self.keypoints)
        return inside if self.labelled is None else inside & self.labelled

    def digest(self) -> str:
        """A hash of all photos and labels, in their order."""
        with ThreadPoolExecutor() as pool:
            photos = b''.join(pool.map(lambda photo: hashlib.sha256(photo).digest(), self.photos))
        labels = np.ascontiguousarray(self.keypoints).tobytes() + self.visible.tobytes()
        left = b'' if self.left is None else self.left.tobytes()
        return hashlib.sha256(photos + labels + left).hexdigest()

    def image(self, i: int | np.integer) -> UInt8[np.ndarray, 'h w 3']:
        """The crop of an encoded photo, of the size in which it is stored."""
        photo = np.asarray(images.open_jpeg(self.photos[i]).convert('RGB'))
        context = 1 if self.context is None else float(self.context[i])
        top, left = (round(n * (1 - 1 / context) / 2) for n in photo.shape[:2])
        return photo[top : len(photo) - top, left : photo.shape[1] - left]

    @property
    def sets(self) -> tuple[tuple[int, float], ...]:
        """Size and weight of each data set, as `mixed_order` takes them."""
        return self.mixture or ((len(self), 1.0),)


def load(builder: tfds.core.DatasetBuilder, expression: str, indices: np.ndarray | None = None) -> Split:
    """Reads a split (any TFDS expression) in its own order, with its JPEG bytes as they are; it may be empty.

    `indices`: reads only the examples there.

    Raises:
      UserError: the prepared data are damaged.
    """
    expression = resolve_split(builder, expression)
    decoders = {'image': tfds.decode.SkipDecoding()}
    try:
        source = builder.as_data_source(expression, decoders=decoders) if expression else []
        examples = [source[int(i)] for i in (range(len(source)) if indices is None else indices)]
    except (OSError, RuntimeError, ValueError) as e:  # array_record raises any of them
        reason = str(e).partition('\n')[0]
        raise UserError(f'{builder.data_path} is damaged ({reason}): delete it, and it is prepared again') from e
    photos = np.array([example['image'] for example in examples], object)
    height, width, _ = builder.info.features['image'].shape
    uv = np.array([example['uv'] for example in examples], np.float32).reshape(-1, 21, 2)
    keypoints = uv / np.float32([width, height])
    context = context_of(builder)
    if context > 1:
        keypoints = (keypoints - 0.5) * np.float32(context) + 0.5

    def array(name: str, dtype: type, *shape: int) -> np.ndarray | None:
        if name not in builder.info.features:
            return None
        return np.array([example[name] for example in examples], dtype).reshape(len(examples), *shape)

    if 'name' in builder.info.features:
        names = np.array([example['name'].decode() for example in examples], str)
    else:
        version = builder.info.features['version'].int2str
        names = np.array([f'{example["sample_id"]} {version(int(example["version"]))}' for example in examples], str)
    handedness, crop = array('handedness', bool), array('crop', np.float32, 4)
    return Split(
        photos,
        keypoints,
        array('xyz', np.float32, 21, 3),
        names,
        array('occluded', bool, 21),
        array('labelled', bool, 21),
        left=handedness,  # 0 is right, 1 is left
        side=None if crop is None else crop[:, 2] - crop[:, 0],
        context=np.full(len(photos), context, np.float32) if context > 1 else None,
    )


def context_of(builder: tfds.core.DatasetBuilder) -> float:
    """How much wider its stored photos are than the crops in their middle."""
    return getattr(builder.builder_config, 'context', 1.0)


def mix(splits: Sequence[Split], names: Sequence[str], weights: Sequence[float]) -> Split:
    """One split of several data sets, one after the other; what one of them does not have is None."""
    if len(splits) == 1:
        return splits[0]
    labelled = [np.ones((len(s), 21), bool) if s.labelled is None else s.labelled for s in splits]
    left = [np.zeros(len(s), bool) if s.left is None else s.left for s in splits]

    def joined(field: str) -> np.ndarray | None:
        arrays = [getattr(split, field) for split in splits]
        return None if any(array is None for array in arrays) else np.concatenate(arrays)

    return Split(
        joined('photos'),
        joined('keypoints'),
        joined('xyz'),
        np.array(
            [f'{name} {example}' for name, split in zip(names, splits, strict=True) for example in split.names], str
        ),
        joined('occluded'),
        np.concatenate(labelled),
        np.concatenate(left),
        joined('side'),
        tuple(zip(map(len, splits), weights, strict=True)),
        np.concatenate([np.ones(len(s), np.float32) if s.context is None else s.context for s in splits]),
        splits[0].margin,
    )


def relative_hand_size(split: Split) -> float:
    """Median of the longer side of the hands' boxes, as a fraction of the image size.

    Of hands that lie in the photo as a whole, if there are such.
    """
    whole = split.visible.all(-1)
    sides = geometry.box_side(split.keypoints, split.visible)
    return float(np.median(sides[whole] if whole.any() else sides))


def resolve_split(builder: tfds.core.DatasetBuilder, expression: str) -> str:
    """The split expression without the parts that no photo falls into; '' if nothing is left.

    A set of very few unique photos lacks 'validation', 'test' or 'train'; TFDS has no empty splits.

    Raises:
      UserError: the expression names no split of this dataset, or is not an expression.
    """
    splits = builder.info.splits
    empty = {'train', 'validation', 'test'} - set(splits)
    expression = '+'.join(term for term in expression.split('+') if term.partition('[')[0].strip() not in empty)
    try:
        return expression if expression and splits[expression].num_examples else ''
    except (KeyError, ValueError, AssertionError) as e:
        known = ', '.join(f'{name} ({splits[name].num_examples})' for name in splits)
        raise UserError(f'split {expression!r} of {builder.info.full_name} cannot be read; it holds {known}') from e


def epoch_order(num_examples: int, length: int, seed: int, epoch: int) -> np.ndarray:
    """Which examples an epoch sees: a pure function of (seed, epoch).

    Returns:
      (length,) int64 indices. Every example comes once before any comes twice.
    """
    rng = np.random.default_rng((seed, epoch))
    passes = -(-length // num_examples)
    return np.concatenate([rng.permutation(num_examples) for _ in range(passes)])[:length]


def ends(weights: Sequence[float], number: int) -> Int[np.ndarray, ' {len(weights)}']:
    """Where the parts end of `number` things that are divided by the weights, to the next whole one."""
    cumulative = np.cumsum(weights)
    return np.round(number * cumulative / cumulative[-1]).astype(int)


def mixed_order(sets: Sequence[tuple[int, float]], length: int, seed: int, epoch: int) -> Int[np.ndarray, ' {length}']:
    """`epoch_order` of several sets that lie one after the other.

    Each set gets its weight's fraction of the epoch, to the next whole example, and each of its examples comes once
    before any comes twice.

    sets: (number of examples, weight) of each.
    """
    if len(sets) == 1:
        return epoch_order(sets[0][0], length, seed, epoch)
    sizes, weights = zip(*sets, strict=True)
    sizes = np.array(sizes)
    counts = np.diff(ends(weights, length), prepend=0)
    rng, drawn = np.random.default_rng((seed, epoch)), []
    for first, size, count in zip(sizes.cumsum() - sizes, sizes, counts, strict=True):
        passes = [rng.permutation(size) for _ in range(-(-count // size))]
        drawn.append(first + np.concatenate([*passes, np.zeros(0, np.int64)])[:count])
    return rng.permutation(np.concatenate(drawn))


def in_batches(indices: np.ndarray, batch_size: int) -> Int[np.ndarray, 'batches {batch_size}']:
    """(n,) indices in batches, the last one padded with -1."""
    return np.concatenate([indices, np.full(-len(indices) % batch_size, -1)]).astype(np.int64).reshape(-1, batch_size)


def channel_statistics(
    builder: tfds.core.DatasetBuilder, split: str, photos: list[bytes] | None = None
) -> tuple[Float[np.ndarray, '3'], Float[np.ndarray, '3']]:
    """Per-channel mean and standard deviation over all pixels of all photos, in [0, 1].

    Computed once per split and kept, see cache_path.

    Args:
      builder: whose data folder keeps the result.
      split: the name to keep it under.
      photos: the split's encoded photos, None to read them; decoded only if the result is not there.
    """
    path = _statistics_path(builder, split)
    with contextlib.suppress(FileNotFoundError, ValueError, KeyError, TypeError):  # absent or damaged: computed again
        kept = json.loads(path.read_text())
        return np.array(kept['mean'], np.float32).reshape(3), np.array(kept['std'], np.float32).reshape(3)
    photos = load(builder, split).photos.tolist() if photos is None else photos
    each = runtime.parallel(_channel_sums, photos)
    sums = sum(runtime.progress(each, len(photos), 'photo', 'Channel statistics'))
    return _keep_statistics(builder, split, len(photos), sums)


def _statistics_path(builder: tfds.core.DatasetBuilder, split: str) -> Path:
    return cache_path(builder, f'channel_statistics-{hashlib.sha256(split.encode()).hexdigest()[:8]}.json')


def _channel_sums(photo: bytes) -> np.ndarray:
    return features.channel_sums(np.asarray(images.open_jpeg(photo).convert('RGB')))


def _keep_statistics(
    builder: tfds.core.DatasetBuilder, split: str, num_photos: int, sums: Float[np.ndarray, '3 3']
) -> tuple[Float[np.ndarray, '3'], Float[np.ndarray, '3']]:
    """Mean and standard deviation of the sum of features.channel_sums over a split's photos."""
    count, total, squares = sums.T
    mean = total / count
    std = np.sqrt(squares / count - mean**2)
    about = {'split': split, 'photos': num_photos, 'mean': mean.tolist(), 'std': std.tolist()}
    files.write_json(_statistics_path(builder, split), about)
    return np.float32(mean), np.float32(std)
