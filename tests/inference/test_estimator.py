"""Keypoints come back in the pixels of the picture that was given, whatever its size."""

import subprocess
import sys

import numpy as np
import pytest

from hpe_jax import HandPose, HandPoseEstimator, geometry, trained_model
from hpe_jax.errors import UserError
from hpe_jax.inference import estimator


@pytest.fixture(scope='module')
def run(fitted_run):
    return trained_model.load(fitted_run.workdir)


def canvas(image: np.ndarray, height: int, width: int, offset: tuple[int, int] | None = None) -> np.ndarray:
    """The image on a grey canvas; in its middle, or with its corner at offset (x, y)."""
    x, y = offset or ((width - image.shape[1]) // 2, (height - image.shape[0]) // 2)
    picture = np.full((height, width, 3), 128, np.uint8)
    picture[y : y + image.shape[0], x : x + image.shape[1]] = image
    return picture


def errors(hands, keypoints, size=224) -> np.ndarray:
    """Mean distance of each hand, % of the training photo's size."""
    found = np.array([hand.keypoints for hand in hands])
    return 100 * np.linalg.norm(found - keypoints, axis=-1).mean(-1) / size


@pytest.fixture(scope='module')
def own_errors(run, fitted_run):
    """Of the training photos as they are."""
    return errors(HandPoseEstimator(run, refine=0).predict(fitted_run.images), fitted_run.keypoints)


def test_the_network_knows_its_hands(own_errors):
    assert own_errors.max() < 2.5


def test_the_whole_picture_is_what_evaluation_sees(run, fitted_run):
    keypoints, _, peaks = run.predict(fitted_run.images)
    for hand, normalised, peak in zip(
        HandPoseEstimator(run, refine=0).predict(fitted_run.images), keypoints, peaks, strict=True
    ):
        np.testing.assert_allclose(hand.keypoints, 224 * normalised, atol=1e-3)
        np.testing.assert_allclose(hand.scores, peak, atol=1e-5)
        assert hand.handedness == 'right'


@pytest.mark.parametrize('rotations', [4, 8])
def test_rotations_make_the_answer_independent_of_the_orientation(run, fitted_run, rotations):
    image = fitted_run.images[0]
    upright, rotated = HandPoseEstimator(run, refine=0, rotations=rotations).predict([image, np.rot90(image)])
    np.testing.assert_allclose(rotated.keypoints / 224, geometry.rot90(upright.keypoints / 224, 1), atol=1e-4)
    np.testing.assert_allclose(rotated.scores, upright.scores, atol=1e-4)
    # This network knows upright hands only, of which it is the surest; the scores are means over all copies.
    single = HandPoseEstimator(run, refine=0)
    assert single.rotations == 1
    alone = single(image)
    np.testing.assert_allclose(upright.keypoints, alone.keypoints, atol=1)
    assert alone.scores.mean() > upright.scores.mean() + 0.2
    followed = [one.follow(image, upright) for one in (single, HandPoseEstimator(run, rotations=rotations))]
    np.testing.assert_array_equal(*(hand.keypoints for hand in followed))


def test_a_refinement_is_kept_where_its_peaks_are_higher(run, fitted_run):
    pictures = [canvas(image, 260, 240) for image in fitted_run.images]
    scores = [
        np.array([hand.scores.mean() for hand in HandPoseEstimator(run, hand='right', refine=n).predict(pictures)])
        for n in range(3)
    ]
    assert (np.diff(scores, axis=0) >= 0).all() and 0 < (scores[1] > scores[0]).sum() < len(pictures)


@pytest.mark.parametrize(('height', 'width'), [(298, 224), (224, 270), (250, 250)])
def test_the_hand_is_followed_into_portrait_landscape_and_margins(run, fitted_run, own_errors, height, width):
    offset = (width - 224) // 2, (height - 224) // 2
    pictures = [canvas(image, height, width) for image in fitted_run.images]
    found = errors(HandPoseEstimator(run, hand='right').predict(pictures), fitted_run.keypoints + np.array(offset))
    assert np.median(found) < np.median(own_errors) + 0.3 and found.max() < 6


@pytest.mark.parametrize('size', [32, 6000])
def test_tiny_and_huge_pictures(run, fitted_run, own_errors, size):
    """The hand on a canvas of this height and 0.8 of it wide, with the same part of it as in training."""
    side = int(0.8 * size)
    grey = [geometry.crop(image, (0, 0, 224, 224), side) for image in fitted_run.images[:3]]
    pictures = [canvas(image, size, side) for image in grey]
    truth = fitted_run.keypoints[:3] * side / 224 + np.array([0, (size - side) // 2])
    found = errors(HandPoseEstimator(run).predict(pictures), truth, side)
    assert found.mean() < own_errors[:3].mean() + (1.0 if size == 32 else 0.3)


def test_a_box_finds_the_hand_anywhere(run, fitted_run, own_errors):
    offset = np.array([700, 90])
    pictures = [canvas(image, 500, 1200, tuple(offset)) for image in fitted_run.images]
    truth = fitted_run.keypoints + offset
    boxes = [[*hand.min(0), *hand.max(0)] for hand in truth]
    found = errors(HandPoseEstimator(run).predict(pictures, boxes), truth)
    assert found.mean() < own_errors.mean() + 0.3 and found.max() < 3


def test_the_crop_around_a_box_is_the_training_crop(run, fitted_run):
    """A box whose square is just where the photo lies gives the photo's own answer, moved."""
    found = HandPoseEstimator(run, refine=0)
    side = 224 * found.relative_hand_size
    box = [412 - side / 2, 212 - side / 2, 412 + side / 2, 212 + side / 2]
    for image in fitted_run.images[:3]:
        moved = found(canvas(image, 600, 800, (300, 100)), box)
        np.testing.assert_allclose(moved.keypoints - [300, 100], found(image).keypoints, atol=1e-3)


def test_a_small_hand_is_searched_for_unless_told_not_to(run, fitted_run):
    offset = np.array([20, 330])
    pictures = [canvas(image, 620, 700, tuple(offset)) for image in fitted_run.images]
    truth = fitted_run.keypoints + offset
    searched = errors(HandPoseEstimator(run, min_score=0.6).predict(pictures), truth)
    looked = errors(HandPoseEstimator(run, min_score=0.0).predict(pictures), truth)
    assert np.median(searched) < 3 and np.median(looked) > 20


def test_the_next_frame_needs_one_pass(run, fitted_run, own_errors):
    found, moved, looks = HandPoseEstimator(run), [], []
    look = found._forward
    for image in fitted_run.images:
        found._forward = look
        last = found(canvas(image, 300, 300, (30, 40)))
        found._forward = lambda *arguments: looks.append(arguments) or look(*arguments)
        moved.append(found.follow(canvas(image, 300, 300, (38, 33)), last))
    assert np.median(errors(moved, fitted_run.keypoints + np.array([38, 33]))) < np.median(own_errors) + 0.5
    assert len(looks) == len(moved)
    x0, y0, x1, y1 = last.box
    side = max(x1 - x0, y1 - y0) / found.relative_hand_size
    middle = np.array([x0 + x1, y0 + y1]) / 2
    np.testing.assert_allclose(looks[-1][1][0], [*(middle - side / 2), *(middle + side / 2)])


@pytest.mark.parametrize('refine', [0, 1])
def test_mirroring_picture_and_hand_mirrors_the_answer(run, fitted_run, refine):
    pictures = [canvas(image, 240, 301, (31, 9)) for image in fitted_run.images[:4]]
    boxes = [[60, 40, 200, 180], None, [100.5, 50.25, 190, 160], None]
    right = HandPoseEstimator(run, hand='right', refine=refine).predict(pictures, boxes)
    mirrors = [None if box is None else [301 - box[2], box[1], 301 - box[0], box[3]] for box in boxes]
    left = HandPoseEstimator(run, hand='left', refine=refine).predict([p[:, ::-1] for p in pictures], mirrors)
    for one, other in zip(right, left, strict=True):
        np.testing.assert_allclose(other.keypoints, one.keypoints * [-1, 1] + [301, 0], atol=0.05)
        np.testing.assert_allclose(other.scores, one.scores, atol=1e-3)
        assert (one.handedness, other.handedness) == ('right', 'left')


def test_auto_takes_the_hand_with_the_higher_score(run, fitted_run):
    auto = HandPoseEstimator(run, hand='auto')
    pictures = [image if i % 2 else image[:, ::-1] for i, image in enumerate(fitted_run.images)]
    hands = auto.predict(pictures)
    assert [hand.handedness for hand in hands] == ['left', 'right'] * 4
    for side in 'left', 'right':
        ones = HandPoseEstimator(run, hand=side).predict(pictures)
        assert all(hand.score >= one.score for hand, one in zip(hands, ones, strict=True))
    again = auto.predict([picture[:, ::-1] for picture in pictures])
    for hand, mirror in zip(hands, again, strict=True):
        np.testing.assert_allclose(mirror.keypoints, hand.keypoints * [-1, 1] + [224, 0], atol=0.05)


def test_a_batch_gives_what_single_pictures_give(run, fitted_run):
    found = HandPoseEstimator(run, hand='auto', min_score=0.6)
    pictures = [canvas(fitted_run.images[i], 224 + 60 * i, 500 - 50 * i) for i in range(5)]
    for one, picture in zip(found.predict(pictures), pictures, strict=True):
        alone = found(picture)
        np.testing.assert_allclose(one.keypoints, alone.keypoints, atol=0.01)
        np.testing.assert_allclose(one.scores, alone.scores, atol=1e-4)
        assert one.handedness == alone.handedness
    assert found.predict([]) == []


def test_the_box_leaves_out_what_is_unsure():
    keypoints = np.zeros((21, 2))
    keypoints[:20] += np.linspace(10, 30, 20)[:, None]
    keypoints[20] = 500
    scores = np.full(21, 0.6, np.float32)
    np.testing.assert_array_equal(HandPose(keypoints, scores, 'right').box, [10, 10, 500, 500])
    scores[20] = 0.2
    np.testing.assert_array_equal(HandPose(keypoints, scores, 'right').box, [10, 10, 30, 30])


def test_no_crop_leaves_the_picture_or_grows_without_end():
    image = np.zeros((60, 100, 3), np.uint8)
    far = estimator.square_around(np.array([-1e9, 2e9, -1e9 + 40, 2e9 + 10]), 0.5, image)
    np.testing.assert_array_equal(far, [-40, 20, 40, 100])
    large = estimator.square_around(np.array([-1e9, -1e9, 1e9, 1e9]), 0.5, image)
    np.testing.assert_array_equal(large, [-200, -200, 200, 200])


def test_windows_cover_every_picture():
    for height, width in (100, 100), (300, 90), (90, 300), (7, 5):
        crops, squares = estimator.windows(np.full((height, width, 3), 200, np.uint8), 32)
        assert len(crops) == len(squares) < 130 and crops.max() == 200
        longer = max(height, width)
        for part in estimator.WINDOWS:
            sized = squares[np.isclose(squares[:, 2] - squares[:, 0], part * longer, rtol=0.02)]
            xs, ys = (np.unique(sized[:, i].round(6)) for i in (0, 1))
            pixel = longer * part / 32
            for starts, n in ((xs, width), (ys, height)):
                assert starts[0] <= pixel and starts[-1] + part * longer >= n - 1.5 * pixel
                assert (np.diff(starts) <= estimator.SPACING * part * longer + 1.5 * pixel).all()


def test_a_window_is_the_crop_of_its_square():
    image = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)
    for crop, square in zip(*estimator.windows(image, 32), strict=True):
        inner = np.int32(geometry.crop(image, square, 32)[4:-4, 4:-4]), np.int32(crop[4:-4, 4:-4])
        assert np.abs(inner[0] - inner[1]).max() <= 1


def test_distinct_windows_and_hands():
    squares = np.array([[0, 0, 10, 10], [1, 0, 11, 10], [30, 0, 40, 10], [0, 0, 40, 40]], np.float64)
    assert estimator.distinct(squares, np.array([0.5, 0.9, 0.1, 0.2])) == [1, 3, 2]
    keypoints = np.random.default_rng(0).uniform(0, 50, (21, 2))
    one, near, far = (
        HandPose(keypoints + x, np.ones(21, np.float32), 'right', p) for x, p in ((0, 0.6), (9, 0.9), (99, 0.7))
    )
    assert estimator.apart([one, near, far]) == [near, far]


@pytest.mark.parametrize(
    'box', [[1, 2, 3], [5, 5, 5, 9], [9, 0, 3, 4], [0, 0, np.nan, 4], 'hand', ['a', 'b', 'c', 'd']]
)
def test_what_is_no_box_is_told(run, fitted_run, box):
    with pytest.raises(UserError, match='must be four numbers x0, y0, x1, y1'):
        HandPoseEstimator(run)(fitted_run.images[0], box)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'hand': 'both'}, "hand='both': unknown; choose from right, left, auto"),
        ({'refine': -1}, 'refine=-1: must be at least 0'),
        ({'rotations': 2}, 'rotations=2: unknown; choose from 1, 4, 8, 12'),
        ({'decoder': 'best'}, "decoder 'best': unknown to this run"),
    ],
)
def test_unknown_options_are_told(fitted_run, options, message):
    with pytest.raises(UserError, match=message):
        HandPoseEstimator.load(fitted_run.workdir, **options)


def test_the_margin_is_that_of_the_training_set(run, fitted_run):
    whole = [hand for hand in fitted_run.keypoints if (hand >= 0).all() and (hand < 224).all()]
    sides = [(hand.max(0) - hand.min(0)).max() / 224 for hand in whole]
    assert HandPoseEstimator(run).relative_hand_size == pytest.approx(np.median(sides), rel=1e-5)


def test_a_run_that_does_not_tell_has_freihands_margin(tiny_run):
    assert HandPoseEstimator.load(tiny_run).relative_hand_size == estimator.RELATIVE_HAND_SIZE


@pytest.mark.slow
def test_the_door_is_free_until_it_is_used():
    script = (
        'import sys, hpe_jax; assert "jax" not in sys.modules; hpe_jax.HandPoseEstimator; assert "jax" in sys.modules\n'
        'try: hpe_jax.Nobody\nexcept AttributeError as e: print(e)'
    )
    done = subprocess.run([sys.executable, '-c', script], capture_output=True, text=True, check=True)
    assert "has no attribute 'Nobody'" in done.stdout
