import itertools

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image

from hpe_jax import hand, metrics, visualize

RECORD = {'train_loss': 0.5, 'validation_loss': 0.6, 'validation_error_pct': 7.0, 'learning_rate': 0.1}


def test_a_bone_is_drawn_in_its_fingers_colour_where_it_lies():
    image = np.zeros((40, 80, 3), np.uint8)
    keypoints = np.full((21, 2), [5.0, 35.0])
    keypoints[[5, 6]] = [[20.0, 10.0], [60.0, 10.0]]
    visible = np.isin(np.arange(21), [5, 6])
    figure = Figure(figsize=(8, 4))
    axes = figure.add_axes((0, 0, 1, 1))
    visualize.show(axes, image)
    visualize.draw_hand(axes, keypoints, visible, linewidth=4)
    drawn = visualize.as_image(figure) / 255
    scale = drawn.shape[1] / 80
    np.testing.assert_allclose(drawn[round(10 * scale), round(40 * scale)], to_rgb(hand.COLOURS['index']), atol=0.03)
    assert not drawn[round(30 * scale), round(40 * scale)].any()  # off the bone
    assert not drawn[round(35 * scale), round(5 * scale)].any()  # invisible keypoints


@pytest.mark.slow
def test_pictures_of_every_kind_are_written_whole(tmp_path):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (5, 32, 32, 3), np.uint8)
    keypoints = rng.random((5, 21, 2))
    figures = {
        'skeletons': visualize.skeletons(images, keypoints, keypoints + 0.01, np.ones((5, 21), bool)),
        'sheet': visualize.sheet(images[None], keypoints[None], np.ones((1, 5, 21), bool)),
        'heatmaps': visualize.heatmaps(images[0], rng.random((32, 32, 21))),
        'curves': visualize.curves([RECORD | {'epoch': epoch} for epoch in (1, 2, 3)]),
        'unvalidated': visualize.curves([RECORD | {'epoch': 1, 'validation_loss': None, 'validation_error_pct': None}]),
        'lines': visualize.lines({'a': ([0.0, 1.0], [0.2, 0.9])}, 'x', 'y', diagonal=True),
        'bars': visualize.bars({'a': {'wrist': 1.0, 'tip': 2.0}, 'b': {'tip': 3.0}}, 'error'),
        'steps': visualize.steps({'a': [1.0, 3.0, 2.0]}, [0.0, 1.0, 2.0, 3.0], 'error', 'count'),
        'pck': visualize.pck({'window': np.linspace(0, 100, len(metrics.CURVE_PX224)).tolist()}),
    }
    for name, figure in figures.items():
        visualize.save(figure, tmp_path / f'{name}.png')
        assert np.asarray(Image.open(tmp_path / f'{name}.png')).std() > 5
    assert len(list(tmp_path.iterdir())) == len(figures)


def test_compared_runs_share_a_colour_by_name_and_show_their_spread():
    histories = {'iou': [{'loss': [3.0, 2.0]}, {'loss': [4.0, None]}], 'mse': [{'loss': [5.0]}]}
    runs = {name: [{k: one['loss'] for k in 'abc'} for one in many] for name, many in histories.items()}
    lines = visualize.compared_histories(runs).axes[0].lines
    assert [line.get_color() for line in lines] == ['C0', 'C0', 'C1']
    assert np.isnan(lines[1].get_ydata()[1]) and lines[0].get_ydata().tolist() == [3, 2]

    low, high = ([value] * len(metrics.CURVE_PX224) for value in (10.0, 30.0))
    axes = visualize.compared_pck({'iou': [low, high]}).axes[0]
    assert set(axes.lines[0].get_ydata()) == {20}
    assert axes.collections[0].get_datalim(axes.transData).intervaly.tolist() == [10, 30]

    axes = visualize.compared_bars({'iou': [4.0, 8.0], 'mse': [5.0]}, 'error').axes[0]
    assert [patch.get_width() for patch in axes.patches] == [6, 5]
    whisker = axes.collections[0].get_segments()[0][:, 0]
    np.testing.assert_allclose(whisker, [6 - 8**0.5, 6 + 8**0.5])


def test_a_predicted_skeletons_title_tells_its_error():
    keypoints = np.full((1, 21, 2), 0.5)
    image = np.zeros((1, 32, 32, 3), np.uint8)
    for visible, title in (True, 'predicted, 5.0 %'), (False, 'predicted: no keypoint in the frame'):
        figure = visualize.skeletons(image, keypoints, keypoints + [0.03, 0.04], np.full((1, 21), visible))
        assert [axes.get_title() for axes in figure.axes[:2]] == ['true', title]


def test_bars_of_one_row_lie_together_and_the_first_row_is_on_top():
    axes = visualize.bars({'a': {'wrist': 1.0, 'tip': 2.0}, 'b': {'tip': 3.0}}, 'error').axes[0]
    a, b = axes.containers
    assert [bar.get_width() for bar in (*a, *b)] == [1, 2, 3]
    assert a[1].get_y() + a[1].get_height() == pytest.approx(b[0].get_y())
    assert [label.get_text() for label in axes.get_yticklabels()] == ['wrist', 'tip']
    assert axes.yaxis_inverted()


def test_heatmaps_in_finger_colours_over_the_dark_photo():
    image, maps = np.full((4, 4, 3), 100, np.uint8), np.zeros((4, 4, 21), np.float32)
    maps[1, 2, 6], maps[3, 0, 0] = 1, 0.5
    drawn = visualize.in_colours(image, maps)
    np.testing.assert_allclose(drawn[1, 2] / 255, to_rgb(hand.COLOURS['index']), atol=0.01)
    assert (drawn[3, 0] == 145).all() and (drawn[0, 0] == 35).all()


def test_a_photo_compared_shows_four_pictures():
    image, keypoints = np.full((16, 16, 3), 200, np.uint8), np.full((21, 2), 0.5)
    maps = np.zeros((16, 16, 21), np.float32)
    figure = visualize.compared(image, keypoints, keypoints, np.ones(21, bool), maps, maps + 1)
    drawn = visualize.as_image(figure)
    height, width = drawn.shape[:2]
    assert len(figure.axes) == 4
    assert (drawn[height // 8, width // 8] == 200).all() and (drawn[height // 8, -width // 8] == 200).all()
    assert drawn[-height // 8, width // 8].max() == 70 and drawn[-height // 8, -width // 8].max() > 200


def spread_hand(size: float, corner: tuple[float, float] = (0.0, 0.0)) -> np.ndarray:
    """Fingers side by side, straight up from the wrist at the bottom."""
    keypoints = np.array([[0.5, 0.95]] + [[x, y] for x in (0.1, 0.3, 0.5, 0.7, 0.9) for y in (0.7, 0.5, 0.3, 0.1)])
    return keypoints * size + corner


@pytest.mark.parametrize('size', [100, 700, 1600])
def test_an_overlay_has_every_bone_in_its_fingers_colour(size):
    keypoints = spread_hand(size, (20, 10))
    image = np.full((size + 60, size + 90, 3), 90, np.uint8)
    drawn = visualize.overlay(image, keypoints[None], [1.0])
    assert drawn.shape == image.shape and (image == 90).all()
    for finger, joints in hand.FINGERS.items():
        colour = 255 * np.array(to_rgb(hand.COLOURS[finger]))
        for a, b in itertools.pairwise(joints):
            x, y = ((keypoints[a] + keypoints[b]) / 2).astype(int)
            assert np.abs(drawn[y, x] - colour).max() < 40
        x, y = keypoints[joints[-1]].astype(int)
        assert drawn[y, x].min() > 200  # a white joint
    assert (drawn[:, : 20 + size // 20] == 90).all() and (drawn[-20:] == 90).all()


def test_a_faint_hand_is_between_the_picture_and_the_drawn_one():
    image, keypoints = np.full((120, 120, 3), 100, np.uint8), spread_hand(100)[None]
    plain, faint, drawn = (visualize.overlay(image, keypoints, [x]).astype(float) for x in (0.0, 0.3, 1.0))
    np.testing.assert_array_equal(plain, image)
    np.testing.assert_allclose(faint, image + 0.3 * (drawn - image), atol=2)


@pytest.mark.parametrize('corner', [(-70, -40), (100, 60), (400, 400), (-400, 0)])
def test_a_hand_that_leaves_the_picture_is_cut_off(corner):
    image = np.full((150, 150, 3), 60, np.uint8)
    large = np.full((1150, 1150, 3), 60, np.uint8)
    cut = visualize.overlay(image, spread_hand(100, corner)[None], [1.0]).astype(int)
    whole = visualize.overlay(large, spread_hand(100, np.add(corner, 500))[None], [1.0])[500:650, 500:650]
    assert np.abs(cut - whole).max() <= 40 and np.abs(cut - whole).mean() < 0.2


def test_several_hands_and_none():
    image = np.zeros((100, 200, 3), np.uint8)
    two = visualize.overlay(image, np.stack([spread_hand(90), spread_hand(90, (100, 0))]), [1.0, 1.0])
    assert np.abs(two[:, :100].astype(int) - two[:, 100:]).mean() < 1 < two[:, :100].mean()
    np.testing.assert_array_equal(visualize.overlay(image, np.zeros((0, 21, 2)), []), image)


def test_left_hands_are_mirrored_back():
    rng = np.random.default_rng(0)
    images, maps = rng.integers(0, 256, (2, 8, 8, 3), np.uint8), rng.random((2, 4, 4, 21), np.float32)
    points = rng.random((2, 21, 2), np.float32)
    given = images.copy(), maps.copy(), points.copy()
    visualize.mirror_back(np.array([False, True]), (images, maps), (points,))
    for old, new in zip(given, (images, maps, points), strict=True):
        np.testing.assert_array_equal(new[0], old[0])
    for old, new in zip(given[:2], (images, maps), strict=True):
        np.testing.assert_array_equal(new[1], old[1][:, ::-1])
    np.testing.assert_allclose(points[1], [1, 0] + given[2][1] * [-1, 1], rtol=1e-6)
