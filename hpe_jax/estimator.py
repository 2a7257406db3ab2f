"""The Python door: a run directory once, then pictures in and hands out, NumPy on both sides.

    from hpe_jax import HandPoseEstimator
    estimator = HandPoseEstimator.load('runs/unet')
    hand = estimator(image)          # (H, W, 3) uint8 RGB, any size
    hand.keypoints, hand.scores      # (21, 2) pixels of that picture, (21,) in [0, 1]

The network sees a square crop with one hand in its middle. The first crop is around a given box, or it is the whole
picture, centred and padded with black. Each refinement crops again around the hand that was found, as tightly as the
photos that the network was trained on. Where that finds no hand, windows of the picture are searched for one. A left
hand is mirrored on the way in and back on the way out.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from flax import nnx
from jaxtyping import Float, Shaped

from hpe_jax import evaluate, geometry, pictures
from hpe_jax.errors import UserError

HANDS = ('right', 'left', 'auto')
# Part of the crop that a hand's box takes, for runs that do not tell (checkpoints of older commits, the published
# weights): the median over FreiHAND's evaluation photos as the published weights see them; 0.38 in its labels.
HAND_SIDE = 0.375
SMALLEST_SIDE = 8.0  # pixels of the picture: a hand that fell together to a point is still cropped around
LARGEST = 4  # side of a crop, in the picture's longer side
WINDOWS = 0.6, 0.36  # sides of the windows that are searched, as parts of the picture's longer side
STEP = 2.0**-14  # pixels: keypoints are whole multiples of it, so that mirroring them there and back is exact
CANDIDATES = 3  # windows that are looked into more closely

Box = Sequence | Shaped[np.ndarray, '4']


class HandPose(NamedTuple):
    """One hand in one picture."""

    keypoints: Float[np.ndarray, '21 2']  # (x, y), pixels of the picture, in the order of hand.JOINTS
    scores: Float[np.ndarray, '21']  # height of each keypoint's peak, in [0, 1]
    handedness: str  # 'right' or 'left'

    @property
    def score(self) -> float:
        """Mean of the keypoints' scores."""
        return float(self.scores.mean())

    @property
    def box(self) -> Float[np.ndarray, '4']:
        """x0, y0, x1, y1: tightly around the keypoints, but for those whose score is below half the median."""
        sure = self.keypoints[self.scores >= np.median(self.scores) / 2]
        return np.concatenate([sure.min(0), sure.max(0)])


class HandPoseEstimator:
    """A trained model that takes pictures of any size; `load` makes it."""

    def __init__(
        self, run: evaluate.Run, decoder: str = '', hand: str = 'right', refine: int = 1, min_score: float = 0.5
    ):
        """
        Args:
          run: of evaluate.load_run.
          decoder: one of the run's config.eval.decoders; '' is its default.
          hand: 'right' or 'left'; 'auto' tries both and keeps the one with the higher score.
          refine: how often to crop again around what was found. 0: the first crop's answer, whatever it is.
          min_score: a hand with a lower score is lost, and searched for unless its box was given; 0 never searches.
            Scores depend on the network: that of the quick start gives hands 0.6 to 0.9 and backgrounds up to 0.54.

        Raises:
          UserError: one of them is unknown or impossible.
        """
        if hand not in HANDS:
            raise UserError(f'hand={hand!r}: unknown; choose from {", ".join(HANDS)}')
        if refine < 0:
            raise UserError(f'refine={refine}: must be at least 0')
        self.run, self.decoder, self.hand = run, run.known_decoder(decoder), hand
        self.refine, self.min_score = refine, min_score
        self.hand_side = run.meta.get('hand_side') or HAND_SIDE

    @classmethod
    def load(cls, workdir: str | Path, **options) -> 'HandPoseEstimator':
        """From the best checkpoint of a run directory; options as the class has them.

        Raises:
          UserError: as evaluate.load_run, or an option is unknown or impossible.
        """
        return cls(evaluate.load_run(workdir), **options)

    def __call__(self, image: np.ndarray, box: Box | None = None) -> HandPose:
        """The hand in one picture.

        Args:
          image: (H, W, 3) RGB; or grey, (H, W) or (H, W, 1); or with alpha, (H, W, 2) or (H, W, 4). uint8, uint16, or
            floats in [0, 1].
          box: x0, y0, x1, y1 in pixels, around the hand as tightly as HandPose.box; None: anywhere.

        Raises:
          UserError: it is no picture, or the box is none.
        """
        return self.predict([image], [box])[0]

    def predict(self, images: Sequence[np.ndarray], boxes: Sequence[Box | None] | None = None) -> list[HandPose]:
        """The hands in several pictures of any sizes, in one batch; as __call__ otherwise."""
        images = [pictures.as_rgb(image) for image in images]
        boxes = [None] * len(images) if boxes is None else boxes
        boxes = [box if box is None else geometry.checked_box(box) for box in boxes]
        if not images:
            return []
        tried = [self._find(images, boxes, side, self.refine) for side in HANDS[:2] if self.hand in (side, 'auto')]
        return [max(hands, key=lambda one: one.score) for hands in zip(*tried, strict=True)]

    def follow(self, image: np.ndarray, last: HandPose) -> HandPose:
        """The hand in the next frame of a video: one look, at a crop around where it was.

        Raises:
          UserError: it is no picture.
        """
        return self._find([pictures.as_rgb(image)], [last.box], last.handedness, refine=0)[0]

    def _find(self, images: list, boxes: Sequence, side: str, refine: int) -> list[HandPose]:
        """Takes all hands for right, or all for left, ones."""
        if side == 'right':
            return self._find_right(images, boxes, refine)
        widths = [image.shape[1] for image in images]
        mirrors = [box if box is None else mirrored_box(box, width) for box, width in zip(boxes, widths, strict=True)]
        hands = self._find_right([image[:, ::-1] for image in images], mirrors, refine)
        return [mirrored(one, width) for one, width in zip(hands, widths, strict=True)]

    def _find_right(self, images: list, boxes: Sequence, refine: int) -> list[HandPose]:
        squares = [
            square_around(np.array([0, 0, *image.shape[1::-1]]), 1.0, image)
            if box is None
            else square_around(box, self.hand_side, image)
            for image, box in zip(images, boxes, strict=True)
        ]
        hands = self._refined(images, squares, refine)
        for i, box in enumerate(boxes):
            if refine and box is None and hands[i].score < self.min_score:
                hands[i] = max(hands[i], self._search(images[i]), key=lambda one: one.score)
        return hands

    def _refined(self, images: list, squares: list, refine: int) -> list[HandPose]:
        """The hands in these crops, cropped again around them so often."""
        hands = self._look(images, squares)
        for _ in range(refine):
            hands = self._look(images, self._around(hands, images))
        return hands

    def _around(self, hands: Sequence[HandPose], images: Sequence[np.ndarray]) -> list[np.ndarray]:
        return [square_around(one.box, self.hand_side, image) for one, image in zip(hands, images, strict=True)]

    def _search(self, image: np.ndarray) -> HandPose:
        """Looks into windows all over a picture, more closely into the best ones, and takes the highest score."""
        squares = windows(*image.shape[:2])
        seen = sorted(self._look([image] * len(squares), squares), key=lambda one: -one.score)[:CANDIDATES]
        images = [image] * len(seen)
        return max(self._refined(images, self._around(seen, images), self.refine - 1), key=lambda one: one.score)

    def _look(self, images: list, squares: list) -> list[HandPose]:
        """The network's answer on these crops. The batch is padded to a power of two: few sizes are compiled."""
        size, number = self.run.config.data.image_size, len(images)
        crops = np.zeros((1 << (number - 1).bit_length(), size, size, 3), np.uint8)
        with ThreadPoolExecutor() as pool:
            for i, crop in enumerate(pool.map(lambda *one: geometry.crop(*one, size), images, squares)):
                crops[i] = crop
        keypoints, scores = (np.asarray(array)[:number] for array in self._infer(self._state, crops))
        corners = np.array(squares, np.float64)[:, None]
        keypoints = corners[..., :2] + keypoints * (corners[..., 2:] - corners[..., :2])
        keypoints = np.round(keypoints / STEP) * STEP
        return [HandPose(*one, 'right') for one in zip(keypoints, scores, strict=True)]

    @cached_property
    def _state(self) -> nnx.State:
        return nnx.state(self.run.model)

    @cached_property
    def _infer(self):
        run = self.run
        return jax.jit(evaluate.make_infer(run.config, run.model, run.mean, run.std, self.decoder))


def square_around(box: Shaped[np.ndarray, '4'], part: float, image: np.ndarray) -> Float[np.ndarray, '4']:
    """The square about a box's middle, of which the box's longer side takes the given part.

    Its middle stays in the picture and its side below LARGEST pictures, wherever a network that knows nothing leads.
    """
    size = np.array(image.shape[1::-1])
    middle = ((box[:2] + box[2:]) / 2).clip(0, size)
    side = min(max(*(box[2:] - box[:2]), SMALLEST_SIDE) / part, LARGEST * size.max())
    return np.concatenate([middle - side / 2, middle + side / 2])


def mirrored_box(box: Shaped[np.ndarray, '4'], width: int) -> Shaped[np.ndarray, '4']:
    """Where the box lies in the mirrored picture."""
    return np.array([width - box[2], box[1], width - box[0], box[3]])


def mirrored(hand: HandPose, width: int) -> HandPose:
    """The hand in the mirrored picture, which is a hand of the other side."""
    keypoints = np.stack([width - hand.keypoints[:, 0], hand.keypoints[:, 1]], -1)
    return HandPose(keypoints, hand.scores, HANDS[1 - HANDS.index(hand.handedness)])


def windows(height: int, width: int) -> list[Float[np.ndarray, '4']]:
    """Squares of WINDOWS' sizes that overlap by half or more, their middles in the picture."""
    found, longer = [], max(height, width)
    for side in (part * longer for part in WINDOWS):
        xs, ys = (
            np.linspace(min(side, n) / 2, n - min(side, n) / 2, max(1, 1 + int(np.ceil(2 * (n - side) / side))))
            for n in (width, height)
        )
        found += [np.array([x - side / 2, y - side / 2, x + side / 2, y + side / 2]) for y in ys for x in xs]
    return found
