"""The Python API: a model once, then pictures in and hands out, NumPy on both sides.

    from hpe_jax import HandPoseEstimator
    estimator = HandPoseEstimator()                    # the model that is shipped; load('runs/unet') takes another
    hand = estimator('photo.jpg')                      # or an array, (H, W, 3) uint8 RGB, any size
    hand.keypoints, hand.scores                        # (21, 2) pixels of that picture, (21,) in [0, 1]
    hand.handedness, hand.presence                     # 'right' or 'left', probability that there is one
    hands = estimator.detect([image], max_hands=2)[0]  # those that are there

The network sees a square crop with one hand in its middle. The first crop is around a given box; or the picture is
searched, in one batch of windows of several sizes, and cropped around what is in the best of them. Each refinement
crops again around the hand that was found, as tightly as the photos that the network was trained on, and is kept where
its peaks are higher. A left hand is mirrored on the way in and back on the way out. If the network was trained on hands
of any orientation, each crop is seen in several orientations and what most answers agree on is taken, except where a
hand is followed through a video. A network with a head for handedness decides itself which hand it sees, and one with
a head for presence whether there is a hand at all.
"""

import functools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from absl import logging
from flax import nnx
from jaxtyping import Float, Shaped, UInt8

from hpe_jax import geometry, trained_model
from hpe_jax.errors import UserError
from hpe_jax.inference.images import Given, picture

HANDS = ('right', 'left', 'auto')
ROTATIONS = 1, 4, 8, 12  # nme of renders .078, .069, .068, .067: experiments/README.md
# Part of the crop that a hand's box takes, for runs whose checkpoint does not record it (of older commits, the
# published weights): the median over FreiHAND's evaluation photos as those weights see them; 0.38 in its labels.
RELATIVE_HAND_SIZE = 0.375
SMALLEST_SIDE = 8.0  # pixels of the picture: a hand that fell together to a point is still cropped around
LARGEST = 4  # side of a crop, in the picture's longer side
WINDOWS = 1.0, 0.62, 0.38, 0.24  # sides of the windows that are searched, as parts of the picture's longer side
SPACING = 0.4  # of neighbouring windows, as a part of their side, at most
# Reached by 99.2 % of the hands and 0.3 % of the crops without one of unseen renders: experiments/records/hands.json.
MIN_PRESENCE = 0.8
MIN_SCORE = 0.5  # mean height of the peaks, of networks without a head for presence
SURE = 0.97  # presence in the whole picture as one crop, which need not be searched then
DOUBT = 0.2  # of its side, at which a hand that is followed becomes one of the other
CANDIDATES = 6  # windows in which hands are looked for
BATCH = 32  # crops that the network sees at once

Box = Sequence | Shaped[np.ndarray, '4']


class HandPose(NamedTuple):
    """One hand in one picture."""

    keypoints: Float[np.ndarray, '21 2']  # (x, y), pixels of the picture, in the order of hand.JOINTS
    scores: Float[np.ndarray, '21']  # height of each keypoint's peak, in [0, 1]
    handedness: str  # 'right' or 'left'
    presence: float | None = None  # probability that there is a hand; None of a network without that head

    @property
    def score(self) -> float:
        """How sure it is that this is a hand: `presence`, or the mean of the keypoints' scores."""
        return float(self.scores.mean()) if self.presence is None else self.presence

    @property
    def box(self) -> Float[np.ndarray, '4']:
        """x0, y0, x1, y1: tightly around the keypoints, but for those whose score is below half the median."""
        sure = self.keypoints[self.scores >= np.median(self.scores) / 2]
        return np.concatenate([sure.min(0), sure.max(0)])

    def scaled(self, factor: float | int) -> 'HandPose':
        """The same in a picture of another size."""
        return self._replace(keypoints=self.keypoints * factor)


class HandPoseEstimator:
    """A trained model that takes pictures of any size; `load` makes it of a run directory."""

    def __init__(
        self,
        run: trained_model.TrainedModel | None = None,
        decoder: str = '',
        hand: str = 'auto',
        refine: int = 1,
        min_score: float | None = None,
        rotations: int | None = None,
    ):
        """
        Args:
          run: of trained_model.load; None: the shipped model.
          decoder: one of the run's config.eval.decoders; '' is its default.
          hand: 'right' or 'left'; 'auto': the one that the network predicts, or without that head, the one of both
            with the higher score.
          refine: how often to crop again around what was found; the answer with the higher peaks is kept. 0: the first
            crop's answer, whatever it is.
          min_score: a hand with a lower score is lost, or was none. Of networks with a head for presence it is a
            probability, MIN_PRESENCE by default; of others it depends on the network, MIN_SCORE by default.
          rotations: how many turned copies of each crop are looked at, one of ROTATIONS; 8 are eight times the
            arithmetic. None: 8 for networks that were trained on any orientation (config.augment), else 1.

        Raises:
          UserError: one of them is unknown or impossible.
        """
        if hand not in HANDS:
            raise UserError(f'hand={hand!r}: unknown; choose from {", ".join(HANDS)}')
        if refine < 0:
            raise UserError(f'refine={refine}: must be at least 0')
        if rotations not in (None, *ROTATIONS):
            raise UserError(f'rotations={rotations}: unknown; choose from {", ".join(map(str, ROTATIONS))}')
        self.run = run = trained_model.load() if run is None else run
        self.decoder, self.hand = run.known_decoder(decoder), hand
        self.refine = refine
        self.relative_hand_size = run.meta.get('relative_hand_size') or RELATIVE_HAND_SIZE
        self.heads = trained_model.heads(run.config)
        usual = MIN_PRESENCE if 'presence' in self.heads else MIN_SCORE
        self.min_score = usual if min_score is None else min_score
        any_orientation = run.config.augment.rotation == 180 or run.config.augment.quarter_turns
        self.rotations = rotations or (8 if any_orientation else 1)

    @classmethod
    def load(cls, workdir: str | Path = trained_model.SHIPPED, **options) -> 'HandPoseEstimator':
        """From the best checkpoint of a run directory; options as the class has them.

        Raises:
          UserError: as trained_model.load, or an option is unknown or impossible.
        """
        return cls(trained_model.load(workdir), **options)

    def __call__(self, image: Given, box: Box | None = None) -> HandPose:
        """The hand in one picture.

        Args:
          image: a path, a file's bytes, a Pillow image; or an array, (H, W, 3) RGB; or grey, (H, W) or (H, W, 1); or
            with alpha, (H, W, 2) or (H, W, 4). uint8, uint16, or floats in [0, 1] or [0, 255], as images.as_rgb.
          box: x0, y0, x1, y1 in pixels, around the hand as tightly as HandPose.box; None: anywhere.

        Raises:
          UserError: it is not a picture, or not a box.
        """
        return self.predict([image], [box])[0]

    def predict(self, images: Sequence[Given], boxes: Sequence[Box | None] | None = None) -> list[HandPose]:
        """The hand in each of several pictures of any sizes, in one batch; as __call__ otherwise."""
        images, scales = _pictures(images)
        boxes = [None] * len(images) if boxes is None else boxes
        boxes = [b if b is None else geometry.checked_box(b) / scale for b, scale in zip(boxes, scales, strict=True)]
        if not images:
            return []
        found = self._of_sides(lambda left: self._find(images, boxes, left))
        best = [max(hands, key=lambda hand: hand.score) for hands in zip(*found, strict=True)]
        return [hand.scaled(scale) for hand, scale in zip(best, scales, strict=True)]

    def detect(self, images: Sequence[Given], max_hands: int = 2) -> list[list[HandPose]]:
        """The hands that reach min_score in each of several pictures, the surest first.

        Raises:
          UserError: one is no picture.
        """
        images, scales = _pictures(images)
        found = self._of_sides(lambda left: [self._search(image, left) for image in images])
        answers = []
        for *hands, scale in zip(*found, scales, strict=True):
            sure = [hand for hand in sum(hands, []) if hand.score >= self.min_score]
            answers.append([hand.scaled(scale) for hand in apart(sure)[:max_hands]])
        return answers

    def follow(self, image: Given, last: HandPose | Sequence[HandPose]) -> HandPose | list[HandPose]:
        """The hand, or hands, in the next frame of a video: one pass, of a crop around where each was.

        Raises:
          UserError: it is no picture.
        """
        (image,), (scale,) = _pictures([image])
        hands = [hand.scaled(1 / scale) for hand in ([last] if isinstance(last, HandPose) else last)]
        images = [image] * len(hands)
        left = [hand.handedness == 'left' for hand in hands]
        squares = self._around(hands, images)
        found = [hand.scaled(scale) for hand in self._pose(images, squares, left, self._infer_once, DOUBT)]
        return found[0] if isinstance(last, HandPose) else found

    def _of_sides(self, find) -> list:
        """What `find` answers for left hands or right ones, or for both where only their scores can decide.

        find: of whether to take all hands for left ones.
        """
        undecided = self.hand == 'auto' and 'handedness' not in self.heads
        return [find(left) for left in ((False, True) if undecided else (self.hand == 'left',))]

    def _find(self, images: list, boxes: Sequence, left: bool) -> list[HandPose]:
        squares = [
            square_around(np.array([0, 0, *image.shape[1::-1]]), 1.0, image)
            if box is None
            else square_around(box, self.relative_hand_size, image)
            for image, box in zip(images, boxes, strict=True)
        ]
        hands = self._refined(images, squares, [left] * len(images))
        needed = SURE if self.min_score and 'presence' in self.heads else self.min_score
        for i, box in enumerate(boxes):
            if self.refine and box is None and hands[i].score < needed:
                hands[i] = max([hands[i], *self._search(images[i], left)], key=lambda hand: hand.score)
        return hands

    def _refined(self, images: list, squares: list, left: list[bool], refine: int | None = None) -> list[HandPose]:
        """The hands in these crops, cropped again around them, `refine` times, where that gives higher peaks."""
        hands = self._pose(images, squares, left, self._infer)
        for _ in range(self.refine if refine is None else refine):
            left = [hand.handedness == 'left' for hand in hands]
            again = self._pose(images, self._around(hands, images), left, self._infer)
            hands = [max(pair, key=lambda hand: hand.scores.mean()) for pair in zip(hands, again, strict=True)]
        return hands

    def _around(self, hands: Sequence[HandPose], images: Sequence[np.ndarray]) -> list[np.ndarray]:
        return [
            square_around(hand.box, self.relative_hand_size, image) for hand, image in zip(hands, images, strict=True)
        ]

    def _search(self, image: UInt8[np.ndarray, 'h w 3'], left: bool) -> list[HandPose]:
        """The hands in the best windows all over a picture, the surest first, each once."""
        name = 'presence' if 'presence' in self.heads else 'scores'
        # The peaks of a network that was never asked for presence are high in small windows of anything.
        fractions = WINDOWS if name == 'presence' else WINDOWS[1:3]
        crops, squares = windows(image, self.run.config.data.image_size, fractions)
        crops = crops[:, :, ::-1] if left else crops
        sure = self._run(self._glance, crops)[name].reshape(len(crops), -1).mean(1)
        best = distinct(squares, sure)[:CANDIDATES]
        images = [image] * len(best)
        hands = apart(self._pose(images, [squares[i] for i in best], [left] * len(best), self._infer_once))
        images, sides = [image] * len(hands), [hand.handedness == 'left' for hand in hands]
        return apart(self._refined(images, self._around(hands, images), sides, max(1, self.refine) - 1))

    def _pose(
        self, images: list, squares: list, left: list[bool], infer: Callable, needed: float = 0.5
    ) -> list[HandPose]:
        """The hands in these crops, as those of the given sides; or of the other ones where the network is to decide
        and takes the given ones for less probable than needed."""
        hands, agrees = self._forward(images, squares, left, infer)
        wrong = np.flatnonzero(agrees < needed) if self.hand == 'auto' and agrees is not None else []
        if len(wrong):
            given = ([x[i] for i in wrong] for x in (images, squares))
            again, _ = self._forward(*given, [not left[i] for i in wrong], infer)
            for i, hand in zip(wrong, again, strict=True):
                hands[i] = hand
        return hands

    def _forward(
        self, images: list, squares: list, left: list[bool], infer: Callable
    ) -> tuple[list[HandPose], Float[np.ndarray, ' n'] | None]:
        """The network's answer on these crops, of left hands mirrored; and how probable the sides are to it, if it has
        that head."""
        size = self.run.config.data.image_size
        with ThreadPoolExecutor() as pool:
            crops = np.array(list(pool.map(lambda image, square: geometry.crop(image, square, size), images, squares)))
        mirror = np.array(left)
        crops[mirror] = crops[mirror, :, ::-1]
        answer = self._run(infer, crops)
        keypoints = answer['keypoints']
        keypoints[mirror, :, 0] = 1 - keypoints[mirror, :, 0]
        corners = np.array(squares, np.float64)[:, None]
        keypoints = corners[..., :2] + keypoints * (corners[..., 2:] - corners[..., :2])
        presence = answer['presence'].tolist() if 'presence' in answer else [None] * len(crops)
        sides = [HANDS[is_left] for is_left in left]
        hands = [HandPose(*fields) for fields in zip(keypoints, answer['scores'], sides, presence, strict=True)]
        return hands, answer.get('handedness')

    def _run(self, infer, crops: UInt8[np.ndarray, 'n s s 3']) -> dict[str, np.ndarray]:
        """Batches are padded to a power of two, BATCH at most: few sizes are compiled."""
        answers = []
        for start in range(0, len(crops), BATCH):
            batch = crops[start : start + BATCH]
            padding = (1 << (len(batch) - 1).bit_length()) - len(batch)
            answer = infer(self._state, np.pad(batch, [(0, padding)] + [(0, 0)] * 3))
            answers.append({name: np.array(array)[: len(batch)] for name, array in answer.items()})
        return {name: np.concatenate([answer[name] for answer in answers]) for name in answers[0]}

    @cached_property
    def _state(self) -> nnx.State:
        return nnx.state(self.run.inference_model)

    @cached_property
    def _infer_once(self) -> Callable:
        run = self.run
        return jax.jit(trained_model.make_infer(run.config, run.inference_model, self.decoder))

    @property
    def _infer(self) -> Callable:
        return self._infer_once if self.rotations == 1 else self._infer_turned(self.rotations)

    @cached_property
    def _infer_turned(self) -> Callable:
        return functools.cache(lambda n: jax.jit(trained_model.over_rotations(self._infer_once, n)))

    @cached_property
    def _glance(self):
        """What a search needs of each window, so that XLA leaves out the rest."""
        name = 'presence' if 'presence' in self.heads else 'scores'
        return jax.jit(lambda state, images: {name: self._infer_once(state, images)[name]})


def _pictures(given: Sequence[Given]) -> tuple[list[UInt8[np.ndarray, 'h w 3']], list[int]]:
    """The pictures' arrays, and how many of their pixels one of the array's is."""
    pictures = [picture(image) for image in given]
    for opened in pictures:
        if opened.note:
            logging.log_first_n(logging.WARNING, 'A picture has its %s.', 1, opened.note)
    return [opened.image for opened in pictures], [opened.scale for opened in pictures]


def square_around(box: Shaped[np.ndarray, '4'], fraction: float, image: np.ndarray) -> Float[np.ndarray, '4']:
    """The square about a box's middle, of which the box's longer side takes the given fraction.

    Its middle stays in the picture and its side below LARGEST pictures, wherever a network that knows nothing leads.
    """
    size = np.array(image.shape[1::-1])
    middle = ((box[:2] + box[2:]) / 2).clip(0, size)
    side = min(max(*(box[2:] - box[:2]), SMALLEST_SIDE) / fraction, LARGEST * size.max())
    return np.concatenate([middle - side / 2, middle + side / 2])


def windows(
    image: UInt8[np.ndarray, 'h w 3'], size: int, fractions: Sequence[float] = WINDOWS
) -> tuple[UInt8[np.ndarray, 'n {size} {size} 3'], Float[np.ndarray, 'n 4']]:
    """Square windows all over a picture, resized, and where they lie in it; black outside it.

    The picture is resized once for each size, so that a window is a part of an array.

    Args:
      fractions: sides of the windows, as fractions of the picture's longer side.
    """
    height, width = image.shape[:2]
    longer, crops, squares = max(height, width), [], []
    for fraction in fractions:
        side = round(size / fraction)  # of the resized square that the picture lies in, in the middle
        pixel = longer / side
        corner = np.array([width - longer, height - longer]) / 2
        resized = geometry.crop(image, (*corner, *(corner + longer)), side)
        starts = [_starts(n / pixel, side, size) for n in (width, height)]
        for y in starts[1]:
            for x in starts[0]:
                crops.append(resized[y : y + size, x : x + size])
                low = corner + pixel * np.array([x, y])
                squares.append(np.concatenate([low, low + pixel * size]))
    return np.array(crops), np.array(squares)


def _starts(length: float, side: int, size: int) -> np.ndarray:
    """First pixels of windows that cover an axis of `length` pixels in the middle of `side` ones."""
    first, room = (side - length) / 2, max(0.0, length - size)
    num_windows = 1 + int(np.ceil(room / (SPACING * size)))
    low = first if length > size else (side - size) / 2
    return np.round(np.linspace(low, low + room, num_windows)).astype(int).clip(0, side - size)


def distinct(squares: Float[np.ndarray, 'n 4'], scores: Float[np.ndarray, ' n']) -> list[int]:
    """The squares by falling score, without those whose middle lies in the inner half of one before of similar size."""
    middles, sides = (squares[:, :2] + squares[:, 2:]) / 2, squares[:, 2] - squares[:, 0]
    kept = []
    for i in np.argsort(-scores, kind='stable'):
        near = np.abs(middles[kept] - middles[i]).max(-1, initial=0) < 0.25 * np.maximum(sides[kept], sides[i])
        similar = np.abs(np.log(sides[kept] / sides[i])) < np.log(1.7)
        if not (near & similar).any():
            kept.append(int(i))
    return kept


def apart(hands: Sequence[HandPose]) -> list[HandPose]:
    """The hands by falling score, each once: without those that lie on one before."""
    kept = []
    for hand in sorted(hands, key=lambda hand: -hand.score):
        if not any(is_same(hand, other) for other in kept):
            kept.append(hand)
    return kept


def is_same(a: HandPose, b: HandPose) -> bool:
    """Whether two answers are of one hand: their boxes' middles are closer than half the larger one's longer side."""
    sides = [max(*(hand.box[2:] - hand.box[:2]), SMALLEST_SIDE) for hand in (a, b)]
    middles = [(hand.box[:2] + hand.box[2:]) / 2 for hand in (a, b)]
    return bool(np.linalg.norm(middles[0] - middles[1]) < 0.5 * max(sides))
