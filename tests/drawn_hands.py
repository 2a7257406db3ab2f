"""Drawn hands in FreiHAND's own folder layout, for tests that need many of them at once.

Coloured capsules over a noisy background, posed in 3-D: rendered hands take seconds to compile, these 20 ms each.
"""

import json
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from hpe_jax import files, geometry, hand

SIZE = 224
CAMERA = np.array([[480.0, 0, 112], [0, 480, 112], [0, 0, 1]])
# Where each finger starts, (angle from the middle finger in degrees, distance from the wrist in metres), and the
# lengths of its three bones in metres: roughly an adult's.
FINGERS = {
    'thumb': (50, 0.035, (0.045, 0.035, 0.028)),
    'index': (14, 0.092, (0.042, 0.025, 0.022)),
    'middle': (0, 0.090, (0.046, 0.029, 0.023)),
    'ring': (-13, 0.084, (0.042, 0.028, 0.023)),
    'little': (-27, 0.078, (0.033, 0.020, 0.020)),
}


def sample_hand(rng: np.random.Generator) -> np.ndarray:
    """(21, 3) metres in the camera's frame: fingers curled at random, the hand turned at random."""
    joints = [np.zeros(3)]
    for finger, (angle, distance, bones) in FINGERS.items():
        turn = np.deg2rad(angle + rng.normal(0, 4))
        along = np.array([np.sin(turn), -np.cos(turn), 0])
        point, bend = distance * along, 0.0
        joints.append(point)
        for bone in bones:
            bend += rng.uniform(0, 0.35 if finger == 'thumb' else 0.8)
            point = point + bone * (np.cos(bend) * along + np.sin(bend) * np.array([0, 0, -1]))
            joints.append(point)
    roll, tilt = rng.uniform(-np.pi, np.pi), rng.normal(0, 0.35)
    z = np.array([[np.cos(roll), -np.sin(roll), 0], [np.sin(roll), np.cos(roll), 0], [0, 0, 1]])
    x = np.array([[1, 0, 0], [0, np.cos(tilt), -np.sin(tilt)], [0, np.sin(tilt), np.cos(tilt)]])
    points = np.array(joints) @ (z @ x).T
    centre = (points.max(0) + points.min(0)) / 2
    return points - centre + np.array([*rng.normal(0, 0.008, 2), rng.uniform(0.62, 0.85)])


def draw(rng: np.random.Generator, xyz: np.ndarray) -> Image.Image:
    """The picture of one hand, far bones first."""
    uv = geometry.project(xyz[None], CAMERA[None])[0]
    image = Image.fromarray(rng.integers(0, 256, (9, 9, 3), np.uint8)).resize((SIZE, SIZE), Image.BICUBIC)
    pen = ImageDraw.Draw(image)
    skin = np.array([1.0, rng.uniform(0.6, 0.8), rng.uniform(0.4, 0.65)]) * rng.uniform(90, 250)
    palm = [tuple(uv[j]) for j in (0, 1, 5, 9, 13, 17)]
    pen.polygon(palm, fill=tuple(np.uint8(skin * 0.9)))
    for k in sorted(range(1, hand.NUM_KEYPOINTS), key=lambda k: -xyz[k, 2]):
        start, end = uv[hand.PARENTS[k]], uv[k]
        width = 0.016 * CAMERA[0, 0] / xyz[k, 2] * (1.3 if hand.PARENTS[k] == 0 else 1)
        shade = tuple(np.uint8(np.clip(skin * (0.8 + 3 * (xyz[:, 2].mean() - xyz[k, 2]) + 0.03 * (k % 4)), 0, 255)))
        pen.line([tuple(start), tuple(end)], fill=shade, width=round(width))
        pen.ellipse([*(end - width / 2), *(end + width / 2)], fill=shade)
    noise = rng.normal(0, 6, (SIZE, SIZE, 3))
    image = np.asarray(image.filter(ImageFilter.GaussianBlur(0.7))) + noise
    return Image.fromarray(np.uint8(np.clip(image, 0, 255)))


def write(folder: str | Path, number: int, versions: int = 1, seed: int = 0) -> Path:
    """Writes `number` hands, each before `versions` different backgrounds (1 or 4); a pure function of the seed.

    The labels come last, so that an interrupted folder is seen to be partial. Returns the folder.
    """
    folder = Path(folder)
    (folder / 'training/rgb').mkdir(parents=True, exist_ok=True)
    hands = [sample_hand(np.random.default_rng((seed, i))) for i in range(number)]
    for file in range(number * versions):
        picture = draw(np.random.default_rng((seed, file, 1)), hands[file % number])
        with files.replacing(folder / f'training/rgb/{file:08d}.jpg') as temporary:
            picture.save(temporary, quality=90)
    files.write_text(folder / 'training_K.json', json.dumps([CAMERA.tolist()] * number))
    files.write_text(folder / 'training_xyz.json', json.dumps([xyz.tolist() for xyz in hands]))
    return folder
