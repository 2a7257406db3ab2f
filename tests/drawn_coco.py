"""The drawn hands as COCO keypoint JSON, in the dialects of several tools."""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps

from hpe_jax import geometry, hand
from tests import drawn_hands

DIALECTS = ('plain', 'cvat', 'mmpose', 'wholebody', 'interhand')
SIZE = 320, 240  # of an image; of COCO-WholeBody's, with two hands, twice as wide


class Drawn(NamedTuple):
    image: Image.Image
    keypoints: np.ndarray  # (21, 2), pixels
    handedness: str


def draw(i: int, right: bool = False) -> Drawn:
    """Hand i somewhere in a grey picture; every third one is a left one, but for `right`."""
    rng = np.random.default_rng((7, i))
    xyz = drawn_hands.sample_hand(rng)
    corner = rng.integers(0, np.array(SIZE) - drawn_hands.SIZE + 1)
    image = Image.new('RGB', SIZE, 'grey')
    image.paste(drawn_hands.draw(rng, xyz), tuple(corner.tolist()))
    keypoints = geometry.project(xyz[None], drawn_hands.CAMERA[None])[0] + corner
    if right or i % 3:
        return Drawn(image, keypoints, 'right')
    return Drawn(ImageOps.mirror(image), [SIZE[0], 0] + keypoints * [-1, 1], 'left')


def box(keypoints: np.ndarray) -> list[float]:
    return [*keypoints.min(0).tolist(), *np.ptp(keypoints, axis=0).tolist()]


def points(keypoints: np.ndarray, v: int = 2) -> np.ndarray:
    return np.column_stack([keypoints, np.full(len(keypoints), v)])


def coco(images: list[dict], annotations: list[dict], joints: tuple = hand.JOINTS) -> dict:
    category = {'id': 1, 'name': 'hand', 'supercategory': 'person', 'keypoints': list(joints)}
    return {'images': images, 'annotations': annotations, 'categories': [category]}


def write(folder: Path, dialect: str = 'plain', number: int = 40) -> list[Drawn]:
    """Writes images and JSON as that tool does; returns the hands, in the order of the annotations."""
    hands = [draw(i, right=dialect in ('interhand', 'wholebody')) for i in range(number)]
    return {'cvat': _cvat, 'mmpose': _mmpose, 'wholebody': _wholebody}.get(dialect, _plain)(folder, hands, dialect)


def _save(path: Path, image: Image.Image) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


def _dump(path: Path, content: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def _plain(folder: Path, hands: list[Drawn], dialect: str) -> list[Drawn]:
    images, annotations = [], []
    joints = tuple(f'joint{k}' for k in range(21)) if dialect == 'interhand' else hand.JOINTS
    for i, one in enumerate(hands):
        _save(folder / f'{i}.png', one.image)
        images.append({'id': i, 'file_name': f'{i}.png', 'width': SIZE[0], 'height': SIZE[1]})
        theirs = np.empty((21, 2))
        theirs[list(hand.ORDERS['interhand' if dialect == 'interhand' else 'freihand'])] = one.keypoints
        annotation = {'id': i, 'image_id': i, 'category_id': 1, 'bbox': box(theirs)}
        annotations.append(annotation | {'keypoints': points(theirs).ravel().tolist(), 'handedness': one.handedness})
    _dump(folder / 'hands.json', coco(images, annotations, joints))
    return hands


def _cvat(folder: Path, hands: list[Drawn], _: str) -> list[Drawn]:
    images, annotations = [], []
    for i, one in enumerate(hands, 1):
        _save(folder / f'images/default/frame {i}.webp', one.image)
        size = {'width': SIZE[0], 'height': SIZE[1], 'license': 0, 'flickr_url': '', 'coco_url': '', 'date_captured': 0}
        images.append({'id': i, 'file_name': f'frame {i}.webp', **size})
        attributes = {'occluded': False, 'track_id': 0, 'keyframe': True, 'handedness': one.handedness.title()}
        annotation = {'id': i, 'image_id': i, 'category_id': 1, 'segmentation': [], 'area': 9.5, 'iscrowd': 0}
        annotation |= {'bbox': box(one.keypoints), 'keypoints': points(one.keypoints).ravel().tolist()}
        annotations.append(annotation | {'num_keypoints': 21, 'attributes': attributes})
    info = {'licenses': [{'name': '', 'id': 0, 'url': ''}], 'info': {'contributor': '', 'year': ''}}
    _dump(folder / 'annotations/person_keypoints_default.json', info | coco(images, annotations))
    return hands


def _mmpose(folder: Path, hands: list[Drawn], _: str) -> list[Drawn]:
    cuts = 0, len(hands) * 3 // 4, len(hands) * 7 // 8, len(hands)
    for split, start, end in zip(('train', 'val', 'test'), cuts[:-1], cuts[1:], strict=True):
        images, annotations = [], []
        for i in range(start, end):
            one, name = hands[i], f'color/{i:05d}.png'
            _save(folder / split / name, one.image)
            camera = {'cam_param': {'focal': [299.0, 299.0]}}
            images.append({'file_name': f'{split}/{name}', 'height': SIZE[1], 'width': SIZE[0], 'id': i} | camera)
            annotation = {'id': i, 'image_id': i, 'category_id': 1, 'iscrowd': 0, 'bbox': box(one.keypoints)}
            annotation |= {'keypoints': points(one.keypoints).tolist(), 'hand_type': one.handedness}
            annotations.append(annotation)
        joints = tuple(f'finger{k}' for k in range(21))
        head = {'info': {'description': 'RHD', 'year': '2021'}, 'licenses': ''}
        _dump(folder / f'annotations/rhd_{split}.json', head | coco(images, annotations, joints))
    return hands


def _wholebody(folder: Path, hands: list[Drawn], _: str) -> list[Drawn]:
    """Two hands a person, side by side; and a person without hands."""
    images, annotations, ordered = [], [], []
    for i in range(0, len(hands), 2):
        image = Image.new('RGB', (2 * SIZE[0], SIZE[1]))
        image.paste(hands[i].image, (0, 0))
        image.paste(ImageOps.mirror(hands[i + 1].image), (SIZE[0], 0))
        right, left = hands[i].keypoints, [2 * SIZE[0], 0] + hands[i + 1].keypoints * [-1, 1]
        _save(folder / f'val2017/{i:012d}.jpg', image)
        images.append({'id': i, 'file_name': f'{i:012d}.jpg', 'width': image.width, 'height': image.height})
        annotation = {'id': i, 'image_id': i, 'category_id': 1, 'keypoints': [1, 2, 2] * 17, 'bbox': [0, 0, 9, 9]}
        for handedness, keypoints in (('right', right), ('left', left)):
            ordered.append(Drawn(image, keypoints, handedness))
            annotation |= _wholebody_hand(handedness, points(keypoints).ravel().tolist(), True, box(keypoints))
        nobody = {'id': 1000 + i, 'image_id': i, 'category_id': 1, 'keypoints': [0] * 51}
        for handedness, valid in (('right', False), ('left', True)):
            nobody |= _wholebody_hand(handedness, [0.0] * 63, valid, [0.0] * 4)
        annotations += [annotation, nobody]
    _dump(folder / 'coco_wholebody_whole.json', coco(images, annotations, ('nose',)))
    return ordered


def _wholebody_hand(handedness: str, keypoints: list[float], valid: bool, box: list[float]) -> dict:
    return {f'{handedness}hand_{key}': x for key, x in (('kpts', keypoints), ('valid', valid), ('box', box))}
