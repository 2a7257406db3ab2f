"""The hands model: ships the best checkpoint of a run, and scores it on renders and on real photos.

    python -m experiments.hands ship runs/hands        writes hpe_jax/weights/hands, without the state of the optimiser
    python -m experiments.hands crops [RUN] [--output=FILE.json]   how much of a crop the hand's box should take
    python -m experiments.hands grow OUT --blocks=1,3,2   a deeper network with the same answers, for config.init_from
    python -m experiments.hands score [RUN] [--real=FOLDER] [--published=RUN] [--others=FOLDER] [--output=FILE.json]
        [--sheet=FILE.jpg]

FOLDER holds `annotations.json`: a list of {file, keypoints, handedness, labels}, keypoints in pixels of the photo.
Errors are distances over the longer side of the hand's true box (nme). Without a box a photo is searched, and a hand
counts as found where its mean error is below 0.2. `--published` is scored on the same crops. The sheet shows skeletons
only, true ones beside predicted ones, from the best photo to the worst: photos of research sets may not be shown. The
images in the folder of `--others` show no hand (faces, for example): the fraction in which one is found.
"""

import argparse
import dataclasses
import json
import os
import shutil
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import logging
from flax import nnx

from hpe_jax import checkpoint, configuration, files, geometry, logbook, models, runtime, trained_model, visualize
from hpe_jax.data import prepared, resident
from hpe_jax.data.synthetic_hands import generate
from hpe_jax.errors import UserError
from hpe_jax.inference.estimator import HandPoseEstimator
from hpe_jax.inference.images import read as read_image
from hpe_jax.trained_model import SHIPPED

LOOKS = ('refine 0', 0, 1), ('refine 1', 1, 1), ('refine 1, 8 rotations', 1, 8)  # name, refine, rotations
DATA_DIR = 'runs/tensorflow_datasets'
RENDERS = 'synthetic_hands/presence_40000_128px'
BODIES = 'synthetic_hands/bodies_12000_128px'  # whose test split is scored for presence alone
CROP = 0.53  # of a crop that the hand's box takes, for all models alike
SIZES = 0.4, 0.47, 0.53, 0.6, 0.65, 0.7, 0.8  # the same, that score_crops compares


def ship(workdir: str | Path, target: str | Path = SHIPPED, relative_hand_size: float | None = None) -> Path:
    """Copies the best checkpoint, without the optimiser's state, and the config; the model card stays.

    What holds on the machine of the training alone is put back: the copy computes in float32, and its config.init_from
    is '', since that run is not shipped. Ship only what all of its ancestors' licences allow.

    relative_hand_size: the part of a crop that a hand's box is to take; by default that of the training images.
    """
    run = trained_model.load(workdir)
    if relative_hand_size:
        run.meta['relative_hand_size'] = relative_hand_size
    shutil.rmtree(Path(target) / 'checkpoints', ignore_errors=True)
    usual = {'model.conv': 'auto', 'precision': 'float32', 'data.data_dir': DATA_DIR, 'init_from': ''}
    run.config.update_from_flattened_dict(usual)
    return write(run, run.model, target)


def score_crops(run: trained_model.TrainedModel, number: int = 480) -> dict[str, dict]:
    """By the part of the crop that the hand's box takes: errors, and handedness, on `number` renders of 224 pixels.

    Training sees hands of all sizes; the larger one is in its crop, the more of its detail is left.
    """
    render = generate.renderer('full', seed=1 << 19)
    drawn = [render(np.arange(start, start + generate.CHUNK)) for start in range(0, number, generate.CHUNK)]
    images, true = (np.concatenate([np.asarray(getattr(s, name)) for s in drawn]) for name in ('image', 'uv'))
    boxes, found = [[*uv.min(0), *uv.max(0)] for uv in true], {}
    for size in SIZES:
        estimator = HandPoseEstimator(run)
        estimator.relative_hand_size = size
        hands = estimator.predict(list(images), boxes)
        right = float(np.mean([hand.handedness == 'right' for hand in hands]))
        found[f'{size}'] = summary(errors(np.stack([hand.keypoints for hand in hands]), true)) | {
            'handedness_right': right
        }
    return found


def write(run: trained_model.TrainedModel, model: nnx.Module, target: str | Path) -> Path:
    """A run directory with the model as its only checkpoint, without a state of the optimiser."""
    configuration.save(run.config, target)
    meta = dict(run.meta) | {'config_sha256': configuration.digest(run.config)}
    optimizer = nnx.Optimizer(model, optax.sgd(0), wrt=nnx.Param)
    checkpoint.Checkpoints(target).save(run.epoch, model, optimizer, meta, 0.0)
    return Path(target)


def grow(workdir: str | Path, target: str | Path, blocks: Sequence[int]) -> Path:
    """Writes a run directory with the best checkpoint of a HandNet, made deeper: more residual blocks at some levels.

    The new ones change nothing before they are trained: the scale of their last norm is 0, as Goyal et al.,
    "Accurate, large minibatch SGD", 2017, initialise all.

    Raises:
      UserError: `blocks` does not fit the network's levels, or one would have fewer than before.
    """
    run = trained_model.load(workdir)
    run.config.model.blocks = tuple(blocks)
    configuration.check(run.config)
    model, before = models.make(run.config), checkpoint.leaves(run.model)
    state = nnx.state(model)
    after = {'.'.join(map(str, path)): variable for path, variable in nnx.to_flat_state(state)}
    if missing := before.keys() - after.keys():
        raise UserError(f'blocks {tuple(blocks)}: too few, since {workdir} has {min(missing)}; give more at that level')
    for name, variable in after.items():
        if name in before:
            variable.set_value(before[name])
        elif name.endswith('.norm.scale') and '.block.' not in name:
            variable.set_value(jnp.zeros_like(variable.get_value()))
    nnx.update(model, state)
    return write(run, model, target)


def errors(predicted: np.ndarray, true: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
    """(n, 21) distances over the longer side of the true box; NaN where a keypoint does not count."""
    side = (true.max(-2) - true.min(-2)).max(-1)
    distance = np.linalg.norm(predicted - true, axis=-1) / side[..., None]
    return distance if mask is None else np.where(mask, distance, np.nan)


def summary(distance: np.ndarray) -> dict[str, float]:
    values = distance[np.isfinite(distance)]
    figures = {'nme_box': values.mean(), 'median': np.median(values)}
    figures |= {f'pck@{bound}_box': (values < bound).mean() for bound in (0.1, 0.2)}
    return {'hands': len(distance)} | {name: round(float(value), 4) for name, value in figures.items()}


def score_renders(run: trained_model.TrainedModel, rotations: int = 1, split: str = 'test') -> dict:
    """Keypoints of centred right hands, and both heads on the split as it is and mirrored; of config.data.dataset."""
    builder = prepared.open_dataset(run.config.data)
    photos = resident.load(builder, {split: split}, run.config.data.image_size)[split]
    infer = trained_model.make_infer(run.config, run.model, run.config.eval.decoder)
    infer = jax.jit(infer if rotations == 1 else trained_model.over_rotations(infer, rotations))
    state, parts = nnx.state(run.model), defaultdict(list)
    for start in range(0, len(photos) - 63, 64):
        batch = np.asarray(photos.photos[start : start + 64])
        for kind, images in (('', batch), ('mirrored_', batch[:, :, ::-1])):
            for name, value in infer(state, images).items():
                parts[kind + name].append(np.asarray(value))
    answer = {name: np.concatenate(values) for name, values in parts.items()}
    keypoints = photos.keypoints[: len(answer['keypoints'])]
    there, absent = map(np.asarray, jax.vmap(geometry.is_centred)(keypoints))
    mask = photos.visible[: len(keypoints)] & there[:, None]
    result = {'split': split, **summary(errors(answer['keypoints'], keypoints, mask)[there])}
    if 'presence' in answer:
        presence = np.concatenate([answer[kind + 'presence'] for kind in ('', 'mirrored_')])
        predicted = presence > 0.5
        truth, clear = np.tile(there, 2), np.tile(there | absent, 2)
        result['presence_right'] = float((predicted == truth)[clear].mean())
        result['presence_right_of_hands'] = float(predicted[truth].mean())
        result['presence_right_of_others'] = float((~predicted)[clear & ~truth].mean())
        result['presence_by_min_score'] = {
            threshold: [
                float((presence[truth] >= threshold).mean()),
                float((presence[clear & ~truth] < threshold).mean()),
            ]
            for threshold in (0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99)
        }
    if 'handedness' in answer:
        right = answer['handedness'][there] > 0.5, answer['mirrored_handedness'][there] < 0.5
        result['handedness_right'] = float(np.mean(right))
    return result


def draw_sheet(
    predicted: np.ndarray, true: np.ndarray, error: np.ndarray, path: str | Path, num_hands: int = 24
) -> None:
    """The skeletons of hands at even steps from the smallest to the largest error, in the crops of the true boxes."""
    which = np.argsort(error)[np.linspace(0, len(error) - 1, num_hands).astype(int)]
    low, high = true[which].min(1, keepdims=True), true[which].max(1, keepdims=True)
    side = (high - low).max(-1, keepdims=True) / CROP
    in_crop = [(points[which] - (low + high) / 2) / side + 0.5 for points in (true, predicted)]
    blank = np.full((num_hands, 128, 128, 3), 40, np.uint8)
    visualize.save(visualize.skeletons(blank, *in_crop, np.ones((num_hands, 21), bool)), path)


def looks(estimator: HandPoseEstimator) -> list[tuple[str, int, int]]:
    """Those of LOOKS that suit the network; the estimator's own number of rotations comes last."""
    return [look for look in LOOKS if look[-1] <= estimator.rotations]


@dataclasses.dataclass(frozen=True)
class Photos:
    """Labelled photos of one hand each, n of them."""

    images: list[np.ndarray]  # (H, W, 3) uint8
    keypoints: np.ndarray  # (n, 21, 2) pixels
    side: np.ndarray  # (n,) 'left', 'right' or ''
    groups: dict[str, np.ndarray]  # of GROUPS: (n,) whether it is one of them

    @classmethod
    def read(cls, folder: str | Path) -> 'Photos':
        """Those of `annotations.json`, see above.

        Raises:
          UserError: it, or a photo, cannot be read.
        """
        path = Path(folder) / 'annotations.json'
        try:
            annotations = json.loads(path.read_text())
        except (OSError, ValueError) as e:
            raise UserError(f'{path} cannot be read ({e}); expected the labels of the photos in that folder') from e
        pseudo = np.array([annotation['labels'] == 'pseudo' for annotation in annotations])
        return cls(
            [read_image(os.path.join(folder, annotation['file'])) for annotation in annotations],
            np.array([annotation['keypoints'] for annotation in annotations], float)[..., :2],
            np.array([annotation['handedness'] or '' for annotation in annotations]),
            {'freihand_like': pseudo, 'other_sets': ~pseudo},
        )

    @property
    def boxes(self) -> list[list[float]]:
        return [[*points.min(0), *points.max(0)] for points in self.keypoints]

    def predict(self, estimator: HandPoseEstimator, crop: float = CROP) -> np.ndarray:
        """(n, 21, 2) keypoints on crops of which the true box takes so much, left hands mirrored."""
        estimator.relative_hand_size = crop
        found = np.zeros_like(self.keypoints)
        for side in ('right', 'left'):
            estimator.hand = side
            which = np.flatnonzero((self.side == 'left') == (side == 'left'))
            hands = estimator.predict([self.images[i] for i in which], [self.boxes[i] for i in which])
            for i, hand in zip(which, hands, strict=True):
                found[i] = hand.keypoints
        return found

    def scores(self, predicted: np.ndarray) -> dict[str, dict]:
        """{group: summary of its errors}."""
        distance = errors(predicted, self.keypoints)
        return {group: summary(distance[members]) for group, members in self.groups.items()}


def score_photos(estimators: dict[str, HandPoseEstimator], photos: Photos, sheet: str = '') -> dict:
    """Each model on the crops of the true boxes, left hands mirrored; and the first one as its users have it: on its
    own crops, and without boxes. Handedness is scored on mirrored photos, too, since most show right hands."""
    result, true = {}, photos.keypoints
    first = next(iter(estimators.values()))
    own = first.relative_hand_size
    for name, estimator in estimators.items():
        for look, refine, rotations in looks(estimator):
            estimator.refine, estimator.rotations = refine, rotations
            result[f'{name}, {look}'] = photos.scores(photos.predict(estimator))
    found = photos.predict(first, own)
    result[f'hands, own crops, {looks(first)[-1][0]}'] = photos.scores(found)
    if sheet:
        draw_sheet(found, true, errors(found, true).mean(1), sheet)
    first.hand = 'auto'
    for look, refine, rotations in looks(first):
        first.refine, first.rotations = refine, rotations
        if 'handedness' in first.heads and any(photos.side):
            result[f'handedness_right, {look}'] = score_handedness(first, photos)
        first.detect(photos.images[:2])  # compiles
        began = time.perf_counter()
        hands = [first.detect([image])[0] for image in photos.images]
        seconds = (time.perf_counter() - began) / len(hands)
        best = np.array(
            [
                min((errors(h.keypoints, t).mean() for h in found), default=9.0)
                for found, t in zip(hands, true, strict=True)
            ]
        )
        result[f'search, {look}'] = {'ms_a_photo': round(1000 * seconds, 1)} | {
            group: round(float((best[members] < 0.2).mean()), 4) for group, members in photos.groups.items()
        }
    return result


def score_others(estimator: HandPoseEstimator, folder: str | Path) -> dict:
    """The fraction of the images of a folder, none of which shows a hand, in which one is found.

    Raises:
      UserError: the folder holds no files, or one that cannot be read.
    """
    paths = sorted(path for path in Path(folder).glob('[!.]*') if path.is_file())
    if not paths:
        raise UserError(f'--others={folder}: it holds no files; expected a folder of images without a hand')
    found = [bool(hands) for hands in estimator.detect([read_image(path) for path in paths])]
    return {'images': len(found), 'with_a_hand_found': round(float(np.mean(found)), 4)}


def score_handedness(estimator: HandPoseEstimator, photos: Photos) -> float:
    """The share of right answers in the true boxes of photos whose hand's side is known, and of their mirror images."""
    known = [(*one, side) for *one, side in zip(photos.images, photos.boxes, photos.side, strict=True) if side]
    images, boxes, sides = (list(column) for column in zip(*known, strict=True))
    answers = [hand.handedness for hand in estimator.predict(images, boxes)]
    widths = [image.shape[1] for image in images]
    boxes = [[width - x1, y0, width - x0, y1] for width, (x0, y0, x1, y1) in zip(widths, boxes, strict=True)]
    mirrored = [hand.handedness for hand in estimator.predict([image[:, ::-1] for image in images], boxes)]
    right = np.array([answers, mirrored]) == np.array([sides, sides])
    return float(np.mean(right ^ [[False], [True]]))


GROUPS = {'freihand_like': 'FreiHAND-like photos', 'other_sets': 'photos of four other sets'}
NAMES = ('nme_box', 'median', 'pck@0.1_box', 'pck@0.2_box')


def table(result: dict) -> str:
    """The scores of a record in Markdown."""
    rows = {key.replace('renders', 'synthetic test hands'): result[key] for key in result if key.startswith('renders')}
    for group, images in GROUPS.items():
        for model, scores in result['photos'].items():
            if isinstance(scores, dict) and not model.startswith('search'):
                rows[f'{images}: {model}'] = scores[group]
    lines = ['| | nme | median | PCK@0.1 | PCK@0.2 |', '| --- | ---: | ---: | ---: | ---: |']
    lines += [f'| {name} | {" | ".join(f"{scores[key]:.3f}" for key in NAMES)} |' for name, scores in rows.items()]
    return '\n'.join(lines)


def whole_numbers(text: str) -> tuple[int, ...]:
    """'1,3,2' as (1, 3, 2)."""
    return tuple(map(int, text.split(',')))


def main() -> None:
    parser = argparse.ArgumentParser('python -m experiments.hands', description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument('action', choices=('ship', 'grow', 'crops', 'score'))
    parser.add_argument('run', nargs='?', default=str(SHIPPED), help='a run directory; default: the shipped model')
    parser.add_argument(
        '--blocks', type=whole_numbers, default=(1, 3, 2), help='residual blocks at each level of a grown network'
    )
    parser.add_argument(
        '--relative_hand_size', type=float, help="ship: the part of a crop that a hand's box is to take"
    )
    parser.add_argument('--real', default='', metavar='FOLDER')
    parser.add_argument('--published', default='', metavar='RUN')
    parser.add_argument('--others', default='', metavar='FOLDER')
    parser.add_argument('--dataset', default=RENDERS, help='whose test split is scored')
    parser.add_argument('--data_dir', default=DATA_DIR)
    parser.add_argument('--output', default='', metavar='FILE')
    parser.add_argument('--sheet', default='', metavar='FILE')
    options = parser.parse_args()
    runtime.keep_freed()
    runtime.keep_compiled(runtime.COMPILED)
    if options.action == 'grow':
        print(grow(SHIPPED, options.run, options.blocks))
        return
    if options.action == 'ship':
        print(ship(options.run, relative_hand_size=options.relative_hand_size))
        return
    overrides = {'data.data_dir': options.data_dir, 'data.dataset': options.dataset, 'precision': 'float32'}
    run = trained_model.load(options.run, overrides)
    if options.action == 'crops':
        result = {'run': run.workdir.resolve().name, 'crops': score_crops(run)} | logbook.environment()
        print(json.dumps(result, indent=2))
        if options.output:
            files.write_json(options.output, result)
        return
    result, estimators = {'run': run.workdir.resolve().name, 'epoch': run.epoch}, {'hands': HandPoseEstimator(run)}
    if options.others:
        result['others'] = score_others(estimators['hands'], options.others)
    result['renders'] = score_renders(run)
    if (rotations := estimators['hands'].rotations) > 1:
        result[f'renders, {rotations} rotations'] = score_renders(run, rotations)
    if 'presence' in estimators['hands'].heads:
        bodies = score_renders(trained_model.load(options.run, overrides | {'data.dataset': BODIES}), rotations)
        result['bodies'] = {name: value for name, value in bodies.items() if name.startswith('presence')}
    if options.real:
        if options.published:
            estimators['published'] = HandPoseEstimator.load(options.published)
        result['photos'] = score_photos(estimators, Photos.read(options.real), options.sheet)
    result |= logbook.environment()
    print(json.dumps(result, indent=2))
    if options.real:
        print(table(result))
    if options.output:
        files.write_json(options.output, result)


if __name__ == '__main__':
    logging.set_verbosity(logging.FATAL)
    try:
        main()
    except UserError as e:
        sys.exit(f'error: {e}')
