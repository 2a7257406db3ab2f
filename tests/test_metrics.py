import jax.numpy as jnp
import numpy as np
import pytest

from hpe_jax import geometry, hand, metrics


def hand_with_errors(errors):
    """True and predicted keypoints (normalised) whose distances are `errors`; the true box is .5 wide, .2 high."""
    true = np.zeros((21, 2), np.float32)
    true[:, 0] = np.linspace(0.1, 0.6, 21)
    true[:, 1] = np.linspace(0.3, 0.5, 21)
    direction = np.float32([0.6, -0.8])
    return jnp.asarray(true + np.float32(errors)[:, None] * direction), jnp.asarray(true)


def score(*hands, side=None):
    predicted, true, mask = (np.stack([np.asarray(hand[i]) for hand in hands]) for i in range(3))
    return metrics.compute(metrics.distances(predicted, true), mask, geometry.box_side(true, mask), side)


def test_by_hand():
    errors = np.zeros(21)
    errors[:4] = [0.04, 0.06, 0.09, 0.15]  # the last one is within 0.2 of the image, but not of the box
    visible = np.ones(21, bool)
    result = score((*hand_with_errors(errors), visible))
    mean = 0.34 / 21
    assert result['error_pct'] == pytest.approx(100 * mean, rel=1e-4)
    assert result['epe_px128'] == pytest.approx(128 * mean, rel=1e-4)
    assert result['epe_px224'] == pytest.approx(224 * mean, rel=1e-4)
    assert result['pck@0.05_image'] == pytest.approx(100 * 18 / 21)
    assert result['pck@0.2_box'] == pytest.approx(100 * 20 / 21)  # 0.2 * .5 = .1
    assert result['nme_box'] == pytest.approx(mean / 0.5, rel=1e-4)
    # Areas under each keypoint's step: 1 - e * 224 / 30, and none for .15 (33.6 px).
    area = 17 + sum(1 - e * 224 / 30 for e in (0.04, 0.06, 0.09))
    assert result['auc_0_30px224'] == pytest.approx(area / 21, rel=1e-4)
    assert result['per_joint']['epe_px128']['thumb_ip'] == pytest.approx(128 * 0.15, rel=1e-4)
    assert result['per_joint']['pck@0.2_box'] == {name: 0.0 if name == 'thumb_ip' else 100.0 for name in hand.JOINTS}


def test_error_pct_averages_over_images_and_epe_over_keypoints():
    few = np.zeros(21, bool)
    few[:1] = True
    every = np.ones(21, bool)
    result = score((*hand_with_errors(np.full(21, 0.1)), few), (*hand_with_errors(np.zeros(21)), every))
    assert result['error_pct'] == pytest.approx(5, rel=1e-4)
    assert result['epe_px128'] == pytest.approx(128 * 0.1 / 22, rel=1e-4)


def test_invisible_keypoints_count_nowhere_even_at_infinity():
    predicted, true = hand_with_errors(np.full(21, 0.01))
    visible = np.arange(21) != 5
    spoiled = true.at[5].set(jnp.array([jnp.inf, -jnp.inf]))
    clean = score((predicted, true, visible))
    assert score((predicted, spoiled, visible))['error_pct'] == pytest.approx(clean['error_pct'])
    assert np.isnan(clean['per_joint']['epe_px128']['index_mcp'])


def test_a_hand_without_visible_keypoints_changes_nothing():
    one = (*hand_with_errors(np.full(21, 0.03)), np.ones(21, bool))
    none = (*hand_with_errors(np.full(21, 0.9)), np.zeros(21, bool))
    both, alone = score(one, none), score(one)
    assert all(both[name] == pytest.approx(alone[name], rel=1e-6) for name in metrics.NAMES)
    assert np.isnan(score(none)['error_pct'])


def test_the_order_of_the_hands_does_not_matter():
    rng = np.random.default_rng(0)
    hands = [(*hand_with_errors(rng.uniform(0, 0.2, 21)), rng.random(21) < 0.8) for _ in range(6)]
    assert score(*hands)['epe_px224'] == pytest.approx(score(*hands[::-1])['epe_px224'])


def test_auc_is_the_area_under_the_pck_curve():
    rng = np.random.default_rng(1)
    result = score((*hand_with_errors(rng.uniform(0, 0.16, 21)), np.ones(21, bool)))
    area = np.trapezoid(np.array(result['pck_curve']) / 100, metrics.CURVE_PX224) / 30
    assert result['auc_0_30px224'] == pytest.approx(area, abs=0.01)
    assert (np.diff(result['pck_curve']) >= 0).all()


def test_a_hand_of_one_keypoint_has_no_box_and_counts_in_no_metric_of_boxes():
    one = (*hand_with_errors(np.full(21, 0.03)), np.arange(21) == 4)
    every = (*hand_with_errors(np.full(21, 0.05)), np.ones(21, bool))
    result = score(one, every)
    assert result['nme_box'] == pytest.approx(0.1, rel=1e-4) and result['pck@0.2_box'] == 100
    assert result['epe_px128'] == pytest.approx(128 * (0.03 + 21 * 0.05) / 22, rel=1e-4)
    assert np.isnan(score(one)['nme_box']) and score(one)['epe_px128'] > 0


def mmpose(predicted, true, mask, box):
    """Its PCK@0.2, AUC (20 thresholds up to 30 px), EPE and NME, of keypoints in pixels of the original photos."""
    distance = np.linalg.norm(predicted - true, axis=-1)

    def pck(values, threshold):  # mean over the joints that are labelled anywhere
        return np.mean([(v[m] < threshold).mean() for v, m in zip(values.T, mask.T, strict=True) if m.any()])

    auc = np.mean([pck(distance, 30 * i / 20) for i in range(20)])
    return pck(distance / box[:, None], 0.2), auc, distance[mask].mean(), (distance / box[:, None])[mask].mean()


def test_mmposes_metrics_and_what_they_are_in_ours():
    rng = np.random.default_rng(3)
    size = np.array([150.0, 400.0, 224.0, 90.0])  # sides of the crops, pixels of the originals
    true = rng.uniform(0.2, 0.8, (4, 21, 2))
    predicted = true + rng.normal(0, 0.04, true.shape)
    mask = rng.random((4, 21)) < 0.7
    mask[:, 3] = False
    box = geometry.box_side(true, mask)
    ours = metrics.compute(metrics.distances(predicted, true), mask, box, size)
    pck, auc, epe, nme = mmpose(predicted * size[:, None, None], true * size[:, None, None], mask, box * size)
    assert ours['epe_px_original'] == pytest.approx(epe) and ours['nme_box'] == pytest.approx(nme)
    assert np.nanmean(list(ours['per_joint']['pck@0.2_box'].values())) == pytest.approx(100 * pck)
    # Of photos of 224 pixels, all labelled, its AUC is ours sampled at every third point of the curve.
    every = np.ones_like(mask)
    box = geometry.box_side(true, every)
    ours = metrics.compute(metrics.distances(predicted, true), every, box)
    _, auc, epe, _ = mmpose(224 * predicted, 224 * true, every, 224 * box)
    assert np.mean(ours['pck_curve'][:60:3]) == pytest.approx(100 * auc) and ours['epe_px224'] == pytest.approx(epe)
    assert 0 < ours['auc_0_30px224'] - auc < 0.05
