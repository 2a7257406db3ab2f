"""COCO keypoint JSON: the hands that it labels, in one form whatever tool wrote it. README.md has the dialects."""

import dataclasses
import hashlib
import itertools
import os
import re
from collections import defaultdict
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from hpe_jax.data.coco_hands import stream
from hpe_jax.data.features import split_bounds
from hpe_jax.errors import UserError
from hpe_jax.hand import JOINTS, NUM_KEYPOINTS, ORDERS

SPLITS = {'train': 'train', 'training': 'train', 'val': 'validation', 'valid': 'validation', 'validation': 'validation'}
SPLITS |= {'test': 'test', 'testing': 'test'}  # words in a JSON's name -> the split
EXPECTED = 'expected train.json, val.json and test.json, or one JSON for all; config.data.manual_dir may name it'
HANDEDNESS = ('right', 'left')


@dataclasses.dataclass(frozen=True, eq=False, slots=True)
class Hand:
    """One labelled hand, in pixels of its image."""

    source: Path  # the JSON
    annotation: int | str  # its id there
    image: str  # its path: text, of which hundreds of thousands take little memory
    size: tuple | None  # (width, height) of the image in the JSON; None where it has none
    points: Float[np.ndarray, '21 3']  # float32: (x, y, v), in the order of hand.JOINTS
    box: Float[np.ndarray, '4']  # x0, y0, x1, y1
    handedness: str
    name: str  # of the image, the annotation, and of two hands of one annotation the handedness

    @property
    def keypoints(self) -> Float[np.ndarray, '21 2']:
        return self.points[:, :2]

    @property
    def labelled(self) -> Bool[np.ndarray, '21']:
        return self.points[:, 2] > 0

    @property
    def occluded(self) -> Bool[np.ndarray, '21']:
        return self.points[:, 2] == 1


def load(root: str | Path, joints: str = 'freihand', handedness: str = 'right') -> dict[str, list[Hand]]:
    """The hands of each split in a folder, or in one JSON, whose images are split as features.split_bounds has it.

    Args:
      joints: the order of the JSON's keypoints: one of hand.ORDERS, or 'names' (of its category).
      handedness: of hands whose annotation has none.

    Raises:
      UserError: files are missing or unreadable, or an annotation cannot be used; names the file and its id.
    """
    root = Path(root).expanduser()
    files = json_files(root)
    folder = root.parent if root.is_file() else root
    find_image = _Finder(folder.parent if folder.name == 'annotations' else folder)
    hands = {split: read(path, find_image, joints, handedness) for split, path in files.items()}
    if '' not in hands:
        _check_apart(hands)
        return hands
    index = {}
    for hand in hands['']:
        index.setdefault(hand.image, len(index))
    bounds = split_bounds(len(index))
    return {split: [hand for hand in hands[''] if index[hand.image] in ids] for split, ids in bounds.items() if ids}


def fingerprint(root: str | Path, **options) -> str:
    """A short hash of the labels, the images' names, sizes and times of change, and the options.

    Another content gives another hash, unless a photo keeps both size and time of change; no image is read.
    """
    hands = load(root, **{name: options[name] for name in ('joints', 'handedness') if name in options})
    digest = hashlib.sha256(str(sorted(options.items())).encode())
    images = set()
    for split, members in hands.items():
        digest.update(split.encode())
        for hand in members:
            digest.update(f'{hand.name} {hand.handedness}'.encode() + hand.points.tobytes() + hand.box.tobytes())
            images.add(hand.image)
    for image in sorted(images):
        stat = os.stat(image)
        digest.update(f'{os.path.basename(image)} {stat.st_size} {stat.st_mtime_ns}'.encode())
    return digest.hexdigest()[:12]


def json_files(root: Path) -> dict[str, Path]:
    """The JSON of each split; that of all under ''."""
    if root.is_file():
        return {'': root}
    if not root.is_dir():
        raise UserError(f'{root}: no such folder or JSON; {EXPECTED}')
    found = sorted([*root.glob('[!.]*.json'), *root.glob('annotations/[!.]*.json')])  # macOS adds files ._NAME
    splits = [{SPLITS[word] for word in re.split('[^a-z]+', path.stem.lower()) if word in SPLITS} for path in found]
    if len(found) == 1 and not splits[0]:
        return {'': found[0]}
    pairs = sorted((split, path) for path, words in zip(found, splits, strict=True) for split in words)
    files = dict(pairs)
    if not found or sorted(files.values()) != found:
        raise UserError(f'{root} holds {", ".join(path.name for path in found) or "no JSON"}: {EXPECTED}')
    return files


class _Finder:
    """Finds an image by its `file_name`: below the folder or its images/, as a path from here, or by its last parts."""

    def __init__(self, folder: Path):
        self.folder = folder

    @cached_property
    def _by_name(self) -> dict[str, list[str]]:
        found = defaultdict(list)
        for folder, _, names in os.walk(os.path.abspath(self.folder)):
            for name in names:
                found[name].append(os.path.join(folder, name))
        return found

    def __call__(self, name: str) -> str | None:
        name = name.replace('\\', '/')
        for folder in (self.folder, self.folder / 'images', ''):
            path = os.path.abspath(os.path.join(folder, name))
            if os.path.isfile(path):
                return path
        below = [path for path in self._by_name[os.path.basename(name)] if Path(path).as_posix().endswith(f'/{name}')]
        return below[0] if len(below) == 1 else None


def read(path: Path, find_image: _Finder, joints: str = 'freihand', handedness: str = 'right') -> list[Hand]:
    """The hands in one JSON, in its order.

    Raises:
      UserError: see `load`.
    """
    images, names, labels, seen = {}, {}, [], set()
    for kind, entry in stream.entries(path):
        if kind not in ('images', 'annotations', 'categories'):
            continue
        if not isinstance(entry, dict) or not isinstance(entry.get('id'), int | str):
            raise UserError(f'{path}: found an entry of {kind} without an id; expected objects, each with its id')
        if kind == 'categories':
            given = entry.get('keypoints')
            names[entry['id']] = list(map(str, given)) if isinstance(given, list) else None
        elif kind == 'images':
            if entry['id'] in images:
                raise UserError(f'{path}: image {entry["id"]}: its id is there twice; give each image its own')
            images[entry['id']] = entry.get('file_name'), entry.get('width'), entry.get('height')
        else:
            if entry['id'] in seen:
                raise error(path, entry['id'], 'its id is there twice; give each annotation its own')
            seen.add(entry['id'])
            labels += _labels(path, entry, handedness)
    if not labels:
        raise UserError(f'{path}: labels no hand; expected annotations with 21 keypoints')
    labels.reverse()  # and each is dropped once its hand is made: both together would take twice the memory
    return [_hand(path, labels.pop(), images, names, find_image, joints) for _ in range(len(labels))]


class _Label(NamedTuple):
    """What an annotation holds of one hand."""

    annotation: int | str
    image: Any  # id
    category: Any  # id
    points: np.ndarray  # (21, 3), in the JSON's order
    box: np.ndarray
    handedness: str
    suffix: str  # of the name


def _is_labelled(keypoints: Any) -> bool:
    """Whether they are there, and not all zeros; what is no list is an error, found later."""
    return any(keypoints) if isinstance(keypoints, list) else keypoints is not None


def _labels(path: Path, entry: dict, handedness: str) -> Iterator[_Label]:
    """The hands of one annotation; of COCO-WholeBody's two those that are valid and not all zeros."""
    attributes = entry['attributes'] if isinstance(entry.get('attributes'), dict) else {}
    given = [fields.get(name) for fields in (entry, attributes) for name in ('handedness', 'hand_type')]
    hands = [('', entry.get('keypoints'), entry.get('bbox'), next(filter(None, given), handedness))]
    if {'lefthand_kpts', 'righthand_kpts'} & entry.keys():
        valid = [
            h for h in HANDEDNESS if entry.get(f'{h}hand_valid', True) and _is_labelled(entry.get(f'{h}hand_kpts'))
        ]
        hands = [(f' {h}', entry[f'{h}hand_kpts'], entry.get(f'{h}hand_box'), h) for h in valid]
    ids = [x if isinstance(x, int | str) else f'{x}' for x in map(entry.get, ('id', 'image_id', 'category_id'))]
    for suffix, keypoints, box, handedness in hands:
        try:
            points = _checked_points(keypoints)
            box = _checked_box(box, points)
            if str(handedness).lower() not in HANDEDNESS:
                raise ValueError(f'its handedness is {handedness!r}; expected right or left')
        except ValueError as e:
            raise error(path, entry['id'], f'{e}') from e
        yield _Label(*ids, points, box, handedness.lower(), suffix)


def _checked_points(keypoints: Any) -> np.ndarray:
    points = _numbers(keypoints, 'keypoints')
    if points.size != 3 * NUM_KEYPOINTS:
        raise ValueError(f'it has {points.size / 3:g} keypoints of (x, y, v); expected {NUM_KEYPOINTS}')
    with np.errstate(over='ignore'):
        points = points.reshape(-1, 3).astype(np.float32)
    if not np.isfinite(points).all():
        bad = int((~np.isfinite(points)).any(1).argmax())
        raise ValueError(f'its keypoint {bad} is {points[bad].tolist()}; expected finite numbers')
    if not np.isin(points[:, 2], (0, 1, 2)).all():
        raise ValueError(f'its v are {np.unique(points[:, 2]).tolist()}; expected 0 (no label), 1 (occluded) or 2')
    if not points[:, 2].any():
        raise ValueError(f'none of its {NUM_KEYPOINTS} keypoints is labelled (v = 0); label some or delete it')
    labelled = points[points[:, 2] > 0, :2]
    if len(labelled) > 1 and np.ptp(labelled, axis=0).max() < 1:
        raise ValueError('its keypoints are less than a pixel apart; expected pixels of the photo')
    return points


def _checked_box(box: Any, points: np.ndarray) -> np.ndarray:
    """x0, y0, x1, y1 of COCO's x, y, width, height, or around the labelled keypoints where one is missing."""
    if box is None:
        labelled = points[points[:, 2] > 0, :2].astype(np.float64)
        low, high = labelled.min(0), labelled.max(0)
        box = [*low, *(high - low)]
    box = _numbers(box, 'bbox')
    if box.shape != (4,) or not (np.abs(box) < 1e9).all() or not (box[2:] > 0).all():
        raise ValueError(f'its bbox {box.tolist()} has no area, or no end; expected x, y, width, height')
    return np.concatenate([box[:2], box[:2] + box[2:]])


def _numbers(values: Any, name: str) -> np.ndarray:
    try:
        values = [] if values is None else values
        if np.array(values).dtype.kind in 'bU':
            raise TypeError('text, or true and false')
        return np.array(values, np.float64)
    except (TypeError, ValueError, OverflowError) as e:
        raise ValueError(f'its {name} are not all numbers; expected a list of them') from e


def _hand(path: Path, label: _Label, images: dict, names: dict, find_image: _Finder, joints: str) -> Hand:
    if label.image not in images:
        what = f'it is of image {label.image!r}, which images does not list; list it or delete the annotation'
        raise error(path, label.annotation, what)
    name, *size = images[label.image]
    image = find_image(str(name))
    if image is None:
        what = f'its image {name} was found nowhere below {find_image.folder}, or more than once; put it there'
        raise error(path, label.annotation, what)
    try:
        points = label.points[_order(names.get(label.category), joints)]
    except ValueError as e:
        raise error(path, label.annotation, f'{e}') from e
    full_name = f'{name} {label.annotation}{label.suffix}'
    size = tuple(size) if all(size) else None
    return Hand(path, label.annotation, image, size, points, label.box, label.handedness, full_name)


def _order(names: list[str] | None, joints: str) -> list[int]:
    """Where each of hand.JOINTS lies among the keypoints of a category with these names."""
    known = sorted(names or ()) == sorted(JOINTS)
    named = list(map(names.index, JOINTS)) if known else []
    if joints == 'names' and not known:
        raise ValueError(f"its category's keypoints are {names}; config.data.joints='names' expects {JOINTS}")
    order = named if joints == 'names' else list(ORDERS[joints])
    if known and order != named:
        raise ValueError(f"its category has another order than config.data.joints={joints!r}; set it to 'names'")
    return order


def _check_apart(hands: dict[str, list[Hand]]) -> None:
    """Raises UserError if two splits share an image."""
    first = {}
    for hand in itertools.chain.from_iterable(hands.values()):
        source = first.setdefault(hand.image, hand.source)
        if source != hand.source:
            what = f'its image {hand.image} is in {source.name}, too; keep it in one split'
            raise error(hand.source, hand.annotation, what)


def error(path: Path, annotation: Any, what: str) -> UserError:
    return UserError(f'{path}: annotation {annotation}: {what}')
