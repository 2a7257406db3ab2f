"""Hands through the frames of a video: the last frame's keypoints give the crops; tracks are smoothed on request."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from hpe_jax.inference.estimator import SMALLEST_SIDE, Box, HandPose, HandPoseEstimator, apart, is_same

SEARCH_EVERY = 10  # frames, for further hands while some are followed


class OneEuro:
    """The 1 € filter of keypoints: low-pass, the more so the slower they move.

    Casiez, Roussel, Vogel, "1 € Filter: A Simple Speed-based Low-pass Filter for Noisy Input in Interactive Systems",
    CHI 2012, algorithm 1, with the steps of real clocks. A keypoint's speed is the length of its velocity, in hands a
    second, so that neither the picture's resolution nor its axes matter.

    The defaults are a choice between jitter and lag. At 30 frames a second and noise of 2.1 % of the hand's size they
    leave 1.2 % of a hand at rest, 2.1 % of one that swings by half its size once in two seconds (1.6 hands a second at
    most), and 2.9 % of one that swings by its whole size every second (6.3); beta 1 would leave 0.8, 4.8 and 9.2.
    """

    def __init__(self, min_cutoff: float = 1.0, beta: float = 8.0, d_cutoff: float = 3.0):
        """
        Args:
          min_cutoff: Hz, of a keypoint that rests. Lower: less jitter.
          beta: Hz more for each hand a second. Higher: less lag.
          d_cutoff: Hz, of the low-pass that the velocity goes through first.
        """
        self.min_cutoff, self.beta, self.d_cutoff = min_cutoff, beta, d_cutoff
        self._last = None  # time, keypoints and velocities, both filtered

    def __call__(self, keypoints: Float[np.ndarray, '21 2'], time: float, side: float) -> Float[np.ndarray, '21 2']:
        """
        Args:
          keypoints: (x, y), pixels.
          time: seconds. Where it does not pass, the answer stays.
          side: of the hand, pixels.
        """
        if self._last is None:
            self._last = time, keypoints, np.zeros_like(keypoints)
            return keypoints
        then, smooth, velocity = self._last
        step = time - then
        if step > 0:
            velocity = velocity + smoothing_factor(step, self.d_cutoff) * ((keypoints - smooth) / step - velocity)
            speed = np.linalg.norm(velocity, axis=-1, keepdims=True) / side
            smooth = smooth + smoothing_factor(step, self.min_cutoff + self.beta * speed) * (keypoints - smooth)
            self._last = time, smooth, velocity
        return smooth


def smoothing_factor(step, cutoff):
    """Weight of the new value in a first-order low-pass filter. step: seconds; cutoff: Hz."""
    return 1 / (1 + 1 / (2 * np.pi * cutoff * step))


class Tracked(NamedTuple):
    hand: HandPose  # smoothed if the tracker smooths
    found: bool  # its score reaches the estimator's min_score; if not, hand is the best guess


class Tracker:
    """One hand in the frames of one video, which come in order.

    The crop of a frame is around the keypoints of the last one, unsmoothed. A hand whose score falls below the
    estimator's min_score is lost; it is searched for at once, in the same frame and all that follow. With hand='auto'
    each search decides between right and left again. min_score=0 never loses it.
    """

    def __init__(self, estimator: HandPoseEstimator, smooth: bool = False):
        """
        Args:
          smooth: put a OneEuro on the keypoints. It starts again when the hand was lost or its handedness changed.
        """
        self.estimator, self.smooth = estimator, smooth
        self._last = self._filter = None

    def __call__(self, image: np.ndarray, time: float, box: Box | None = None) -> Tracked:
        """The hand in the next frame.

        Args:
          image: as HandPoseEstimator takes it.
          time: seconds, for the filter.
          box: x0, y0, x1, y1 in pixels, to look there and not around the last keypoints.

        Raises:
          UserError: it is not a picture, or not a box.
        """
        last, hand = self._last, None
        if last and box is None:
            hand = self.estimator.follow(image, last)
            if hand.score < self.estimator.min_score:
                last = hand = None
        if hand is None:
            hand = self.estimator(image, box)
        found = hand.score >= self.estimator.min_score
        if not (last and last.handedness == hand.handedness):
            self._filter = OneEuro()
        self._last = hand if found else None
        if found and self.smooth:
            side = max(*(hand.box[2:] - hand.box[:2]), SMALLEST_SIDE)
            hand = hand._replace(keypoints=self._filter(hand.keypoints, time, side))
        return Tracked(hand, found)


class HandsTracker:
    """Up to `max_hands` hands in the frames of one video, found and followed; for networks with a head for presence.

    All hands of the last frame are followed in one pass. One whose score falls below the estimator's min_score, or
    that lies on a surer one, is lost. While there are none each frame is searched; while there are fewer than
    max_hands, every tenth.
    """

    def __init__(self, estimator: HandPoseEstimator, max_hands: int = 2, smooth: bool = False):
        """
        Args:
          smooth: put a OneEuro on the keypoints of each hand.
        """
        self.estimator, self.max_hands, self.smooth = estimator, max_hands, smooth
        self._hands, self._filters, self._since = [], [], 0

    def __call__(self, image: np.ndarray, time: float) -> list[HandPose]:
        """The hands in the next frame, those that were there before first.

        Args:
          image: as HandPoseEstimator takes it.
          time: seconds, for the filters.

        Raises:
          UserError: it is no picture.
        """
        before = self._hands
        hands = self.estimator.follow(image, before) if before else []
        kept = apart([hand for hand in hands if hand.score >= self.estimator.min_score])
        tracks = [
            (hand, filter_) for hand, filter_ in zip(hands, self._filters, strict=True) if any(hand is k for k in kept)
        ]
        self._since += 1
        if not tracks or (len(tracks) < self.max_hands and self._since >= SEARCH_EVERY):
            self._since = 0
            new = self.estimator.detect([image], self.max_hands)[0]
            tracks += [(hand, OneEuro()) for hand in new if not any(is_same(hand, other) for other, _ in tracks)]
        tracks = tracks[: self.max_hands]
        self._hands, self._filters = [hand for hand, _ in tracks], [filter_ for _, filter_ in tracks]
        if not self.smooth:
            return self._hands
        sides = [max(*(hand.box[2:] - hand.box[:2]), SMALLEST_SIDE) for hand, _ in tracks]
        return [
            hand._replace(keypoints=smoothed(hand.keypoints, time, side))
            for (hand, smoothed), side in zip(tracks, sides, strict=True)
        ]
