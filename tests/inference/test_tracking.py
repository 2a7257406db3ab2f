"""One euro filter by hand-worked numbers; a tracker's looks, losses and searches."""

import numpy as np
import pytest

from hpe_jax import HandPose, HandPoseEstimator
from hpe_jax.inference.estimator import SMALLEST_SIDE
from hpe_jax.inference.tracking import HandsTracker, OneEuro, Tracker
from tests.inference.test_estimator import canvas

POINTS = np.random.default_rng(0).random((21, 2)) * 100


def test_a_hand_at_rest_stays_exactly():
    smooth = OneEuro()
    for i in range(5):
        np.testing.assert_array_equal(smooth(POINTS, i / 30, 100.0), POINTS)


def test_a_step_by_hand():
    """The paper's algorithm 1, worked for one coordinate: 0, then 10, 10 at 0.1 s steps; a hand of 50 pixels."""
    smooth = OneEuro(min_cutoff=1.0, beta=2.0, d_cutoff=3.0)
    zero, ten = np.zeros((21, 2)), np.tile([10.0, 0.0], (21, 1))
    assert (smooth(zero, 0.0, 50.0) == 0).all()

    def alpha(cutoff):
        tau = 1 / (2 * np.pi * cutoff)
        return 1 / (1 + tau / 0.1)

    x = velocity = 0.0
    for i in (1, 2, 3):
        velocity += alpha(3.0) * ((10 - x) / 0.1 - velocity)
        x += alpha(1.0 + 2.0 * abs(velocity) / 50) * (10 - x)
        np.testing.assert_allclose(smooth(ten, i / 10, 50.0), np.tile([x, 0.0], (21, 1)), rtol=1e-9, atol=1e-12)


def test_neither_resolution_nor_axes_matter():
    rng = np.random.default_rng(1)
    path = [POINTS + rng.normal(0, 3, (21, 2)) + [4 * i, i] for i in range(20)]
    times = np.cumsum(rng.uniform(0.01, 0.1, 20)).tolist()
    plain, large, swapped = OneEuro(), OneEuro(), OneEuro()
    for points, time in zip(path, times, strict=True):
        expected = plain(points, time, 100.0)
        np.testing.assert_allclose(large(3 * points, time, 300.0), 3 * expected, rtol=1e-9)
        np.testing.assert_allclose(swapped(points[:, ::-1], time, 100.0), expected[:, ::-1], rtol=1e-9)


def test_a_steady_motion_lags_by_less_than_what_beta_allows():
    """A first-order low-pass lags by 1 / (2 pi cutoff) seconds, so this one by less than 1 / (2 pi beta) hands."""
    smooth = OneEuro()
    for speed in (1, 3, 10):  # hands a second
        for i in range(60):
            points = POINTS + [100 * speed * i / 30, 0]
            lag = (points - smooth(points, 10.0 * speed + i / 30, 100.0))[:, 0]
        assert (lag > 0).all() and (lag < 100 / (2 * np.pi * smooth.beta)).all()


def test_time_that_does_not_pass_changes_nothing():
    smooth = OneEuro()
    smooth(POINTS, 0.0, 100.0)
    first = smooth(POINTS + 5, 0.1, 100.0)
    for time in (0.1, 0.05):
        np.testing.assert_array_equal(smooth(POINTS - 50, time, 100.0), first)


def test_less_jitter_at_rest_and_little_lag_in_motion():
    """The numbers of the docstring: root mean square distance from the truth, % of the hand."""
    rng, times = np.random.default_rng(0), np.arange(300) / 30
    noise = rng.normal(0, 1.5, (300, 21, 2))
    left = []
    for swing, rate in ((0, 0.0), (50, 0.5), (100, 1.0)):
        true = POINTS + np.stack([swing * np.sin(2 * np.pi * rate * times), 0 * times], -1)[:, None]
        smooth = OneEuro()
        found = np.array([smooth(*one, 100.0) for one in zip(true + noise, times.tolist(), strict=True)])
        left.append(np.sqrt((((found - true)[30:]) ** 2).sum(-1).mean()))
    np.testing.assert_allclose(left, [1.2, 2.1, 2.9], atol=0.15)


class Fake(HandPoseEstimator):
    """An estimator that sees what it is told to, and notes what it was asked."""

    def __init__(self, scores: list[float], sides: str = ''):
        self.min_score = 0.5
        self.scores, self.asked, self.sides = list(scores), [], list(sides)

    def answer(self) -> HandPose:
        side = {'l': 'left', 'r': 'right', '': 'right'}[self.sides.pop(0) if self.sides else '']
        return HandPose(POINTS + len(self.asked), np.full(21, self.scores.pop(0), np.float32), side)

    def __call__(self, image, box=None):
        self.asked.append('search' if box is None else 'box')
        return self.answer()

    def follow(self, image, last):
        self.asked.append(f'follow {last.keypoints[0, 0] - POINTS[0, 0]:.0f}')
        return self.answer()


IMAGE = np.zeros((4, 4, 3), np.uint8)


def test_a_hand_is_followed_and_a_lost_one_searched_for_in_the_same_frame():
    fake = Fake([0.9, 0.8, 0.1, 0.7, 0.6, 0.2, 0.3, 0.4, 0.9])
    track = Tracker(fake)
    found = [track(IMAGE, i / 10).found for i in range(7)]
    assert fake.asked == [
        'search',
        'follow 1',
        'follow 2',
        'search',
        'follow 4',
        'follow 5',
        'search',
        'search',
        'search',
    ]
    assert found == [True, True, True, True, False, False, True]


def test_a_box_is_looked_into_and_then_followed():
    fake = Fake([0.9] * 4)
    track = Tracker(fake)
    for i, box in enumerate([[0, 0, 3, 3], None, [0, 0, 2, 2], None]):
        track(IMAGE, i / 10, box)
    assert fake.asked == ['box', 'follow 1', 'box', 'follow 3']


def test_the_filter_starts_anew_after_a_loss_and_on_the_other_hand():
    raw = Tracker(Fake([0.9, 0.9, 0.1, 0.9, 0.9, 0.9, 0.1, 0.9], 'rrrrrrrl'))
    smooth = Tracker(Fake([0.9, 0.9, 0.1, 0.9, 0.9, 0.9, 0.1, 0.9], 'rrrrrrrl'), smooth=True)
    moved = []
    for i in range(6):
        a, b = raw(IMAGE, i / 10).hand, smooth(IMAGE, i / 10).hand
        moved.append(np.abs(a.keypoints - b.keypoints).max() > 0.01)
        np.testing.assert_array_equal(a.scores, b.scores)
    assert moved == [False, True, False, True, True, False]
    assert raw.estimator.asked == smooth.estimator.asked  # the crops are by what was seen, not by what was smoothed


def test_in_given_boxes_the_other_hand_or_none_ends_the_filter():
    fakes = [Fake([0.9, 0.9, 0.9, 0.9, 0.1, 0.9, 0.9], 'rrlllll') for _ in range(2)]
    raw, smooth = Tracker(fakes[0]), Tracker(fakes[1], smooth=True)
    hands = [[track(IMAGE, i / 10, [0, 0, 3, 3]).hand.keypoints for i in range(7)] for track in (raw, smooth)]
    moved = [np.abs(a - b).max() > 0.01 for a, b in zip(*hands, strict=True)]
    assert moved == [False, True, False, True, False, False, True]  # what is not found is told as it was seen


def test_a_real_hand_is_followed_lost_and_found_again(fitted_run):
    estimator = HandPoseEstimator.load(fitted_run.workdir, min_score=0.5)
    empty = np.full((300, 300, 3), 128, np.uint8)
    track, followed, follow = Tracker(estimator), [], estimator.follow
    estimator.follow = lambda *given: followed.append(given) or follow(*given)
    offsets = [(10 + 4 * i, 30 + 2 * i) for i in range(5)] + [None] + [(60, 20), (62, 18)]
    for i, offset in enumerate(offsets):
        image = empty if offset is None else canvas(fitted_run.images[4], 300, 300, offset)
        hand, found = track(image, i / 30)
        assert found == (offset is not None)
        if found:
            assert np.linalg.norm(hand.keypoints - offset - fitted_run.keypoints[4], axis=-1).mean() < 6
    assert len(followed) == 6  # all but the first frame and the one after the loss


@pytest.mark.parametrize('smooth', [False, True])
def test_min_score_0_never_loses(smooth):
    fake = Fake([0.0] * 4)
    fake.min_score = 0.0
    track = Tracker(fake, smooth)
    assert all(track(IMAGE, i / 10).found for i in range(4))
    assert [what.split()[0] for what in fake.asked] == ['search', 'follow', 'follow', 'follow']


def test_speed_is_measured_in_hands_of_the_found_size():
    track, smooth = Tracker(Fake([0.9] * 3), smooth=True), OneEuro()
    side = np.ptp(POINTS, axis=0).max()
    for i in range(3):
        expected = smooth(POINTS + i + 1, i / 10, side)
        np.testing.assert_allclose(track(IMAGE, i / 10).hand.keypoints, expected, rtol=1e-12)


def test_a_hand_that_fell_together_to_a_point_is_smoothed_like_a_small_one():
    class Point(Fake):
        def answer(self):
            return super().answer()._replace(keypoints=np.full((21, 2), float(len(self.asked))))

    track, smooth = Tracker(Point([0.9] * 3), smooth=True), OneEuro()
    for i in range(3):
        expected = smooth(np.full((21, 2), i + 1.0), i / 10, SMALLEST_SIDE)
        np.testing.assert_array_equal(track(IMAGE, i / 10).hand.keypoints, expected)


class Scene(HandPoseEstimator):
    """An estimator of pictures in which hands lie at places x (in the frame's number) with a presence."""

    def __init__(self, frames: list[dict[int, float]]):
        self.min_score, self.frames, self.asked = 0.5, frames, []

    def hands(self) -> list[HandPose]:
        scores, frame = np.ones(21, np.float32), self.frames[self.frame]
        return [HandPose(POINTS + [x, 0], scores, 'right', presence) for x, presence in frame.items()]

    def detect(self, images, max_hands=2):
        self.asked.append('search')
        return [[one for one in self.hands() if one.score >= self.min_score][:max_hands]]

    def follow(self, image, last):
        self.asked.append(f'follow {len(last)}')
        return [min(self.hands(), key=lambda one: abs(one.keypoints[0, 0] - before.keypoints[0, 0])) for before in last]


def tracked(frames: list[dict[int, float]], **options) -> tuple[list[list[int]], list[str]]:
    """Where the hands of each frame are, and what the estimator was asked."""
    scene, places = Scene(frames), []
    track = HandsTracker(scene, **options)
    for scene.frame in range(len(frames)):
        places.append([round(one.keypoints[0, 0] - POINTS[0, 0]) for one in track(IMAGE, scene.frame / 10)])
    return places, scene.asked


def test_two_hands_are_followed_in_one_pass_and_each_keeps_its_place():
    places, asked = tracked([{0: 0.9, 900: 0.8}, {905: 0.9, 3: 0.7}, {6: 0.9, 910: 0.2}, {9: 0.9, 915: 0.9}])
    assert places == [[0, 900], [3, 905], [6], [9]]  # a further hand is looked for every tenth frame
    assert asked == ['search', 'follow 2', 'follow 2', 'follow 1']


def test_every_tenth_frame_is_searched_for_a_further_hand_and_every_one_for_the_first():
    places, asked = tracked([{}] + [{0: 0.9}] + 11 * [{0: 0.9, 900: 0.9}])
    assert places[:2] == [[], [0]] and places[10] == [0] and places[11] == [0, 900]
    assert [i for i, what in enumerate(asked) if what == 'search'] == [0, 1, 12]
    assert tracked(13 * [{0: 0.9, 900: 0.9}], max_hands=1)[1] == ['search'] + 12 * ['follow 1']


def test_two_tracks_on_one_hand_become_one():
    places, _ = tracked([{0: 0.9, 900: 0.8}, {450: 0.9}])
    assert places[1] == [450]
