"""The numbers of this package: where the errors of predicted keypoints lie. NumPy alone, nothing drawn.

Errors are distances, normalised like the keypoints; `_pct` is % of the image size. A photo's error is the mean over its
keypoints in the frame. Groups without members are left out.
"""

import numpy as np
from jaxtyping import Bool, Float

from hpe_jax import geometry, hand, metrics

SIZE_EDGES = np.arange(0, 1.01, 0.1)  # longer side of the hand's box, in image sizes
PEAK_EDGES = np.linspace(0, 1, 11)
ERROR_EDGES = np.append(np.arange(0, 0.21, 0.01), np.inf)
CLOSE = 0.05  # a keypoint within this distance is right: PCK@0.05
FLESH = 0.010  # metres, radius of the flesh around a bone


def scores(true: Float[np.ndarray, 'n 21 2'], predicted: Float[np.ndarray, 'n 21 2'], visible: np.ndarray) -> dict:
    """All of metrics.py for one way of decoding."""
    return metrics.compute(metrics.distances(predicted, true), visible, geometry.box_side(true, visible))


def group(error: Float[np.ndarray, ' m'], peak: Float[np.ndarray, ' m'] | None = None) -> dict:
    """Count, mean and median error and PCK@0.05 of some keypoints or photos, and their mean peak height."""
    values = {
        'count': len(error),
        'error_pct': 100 * float(error.mean()) if len(error) else float('nan'),
        'median_error_pct': 100 * float(np.median(error)) if len(error) else float('nan'),
        'within_5_pct': 100 * float((error < CLOSE).mean()) if len(error) else float('nan'),
    }
    return values | ({} if peak is None else {'peak': float(peak.mean()) if len(peak) else float('nan')})


def binned(values: Float[np.ndarray, ' m'], edges: np.ndarray, error: Float[np.ndarray, ' m'], peak=None) -> list[dict]:
    """`group` of each half-open interval between two edges; the last one includes its upper edge."""
    place = np.clip(np.searchsorted(edges, values, 'right') - 1, 0, len(edges) - 2)
    return [
        {'from': float(edges[i]), 'to': float(edges[i + 1])}
        | group(error[place == i], None if peak is None else peak[place == i])
        for i in range(len(edges) - 1)
        if (place == i).any()
    ]


def photo_errors(error: Float[np.ndarray, 'n 21'], visible: Bool[np.ndarray, 'n 21']) -> Float[np.ndarray, ' n']:
    """The mean over each photo's keypoints in the frame; NaN where none is."""
    with np.errstate(invalid='ignore'):
        return np.where(visible, error, 0).sum(1) / visible.sum(1)


def per_finger(error: Float[np.ndarray, 'n 21'], visible: Bool[np.ndarray, 'n 21']) -> dict[str, dict]:
    """`group` of the wrist, of each finger, and of each of its joints from the palm outwards."""
    parts = {'wrist': (0,), **hand.FINGERS}
    return {name: group(error[:, joints][visible[:, joints]]) for name, joints in parts.items()}


def self_occluded(xyz: Float[np.ndarray, 'n 21 3'] | None) -> Bool[np.ndarray, 'n 21'] | None:
    """Keypoints that lie behind another bone of the same hand, seen from the camera, by their labels in 3-D.

    A bone that does not end at the keypoint hides it if it comes within FLESH of the line of sight, at least twice
    FLESH before the keypoint. What other things hide, labels do not show. Measured once, by no kept command, on 480
    synthetic hands (preset 'full'): it agrees with the renderer's own `occluded` for 87 % of the keypoints; of those
    that it calls hidden 90 % are, and it finds 71 % of what is hidden, by things or by the hand.

    Args:
      xyz: metres, camera frame.

    Returns:
      None if the labels have no depth: no xyz, or each hand flat, facing the camera.
    """
    if xyz is None or not len(xyz) or np.ptp(xyz[..., 2], axis=1).max() < 1e-3:
        return None
    t = np.linspace(0, 1, 17)[:, None]
    hidden = np.zeros(xyz.shape[:2], bool)
    for k in range(hand.NUM_KEYPOINTS):
        distance = np.linalg.norm(xyz[:, k], axis=-1)[:, None]
        sight = (xyz[:, k] / distance)[:, None]
        for end in range(1, hand.NUM_KEYPOINTS):
            start = hand.PARENTS[end]
            if k in (start, end):
                continue
            points = xyz[:, start, None] * (1 - t) + xyz[:, end, None] * t  # (n, 17, 3) along the bone
            along = (points * sight).sum(-1)
            aside = np.linalg.norm(points - along[..., None] * sight, axis=-1)
            hidden[:, k] |= ((aside < FLESH) & (along < distance - 2 * FLESH)).any(1)
    return hidden


def calibration(error: Float[np.ndarray, ' m'], peak: Float[np.ndarray, ' m']) -> dict:
    """Peak height as the probability that a keypoint is within 5 % of the image size.

    Returns:
      `bins` over the peak; `ece`, the expected calibration error: mean of |share that is within - mean peak| over the
      bins, by their counts; `rank_correlation` (Spearman) of peak and error.
    """
    bins = binned(peak, PEAK_EDGES, error, peak)
    gaps = [b['count'] * abs(b['within_5_pct'] / 100 - b['peak']) for b in bins]
    ranks = [np.argsort(np.argsort(x)) for x in (peak, error)]
    varied = len(error) > 1
    return {
        'bins': bins,
        'ece': sum(gaps) / len(error) if len(error) else float('nan'),
        'rank_correlation': float(np.corrcoef(*ranks)[0, 1]) if varied else float('nan'),
    }


def breakdown(
    true: Float[np.ndarray, 'n 21 2'],
    predicted: Float[np.ndarray, 'n 21 2'],
    visible: Bool[np.ndarray, 'n 21'],
    peaks: Float[np.ndarray, 'n 21'],
    xyz: Float[np.ndarray, 'n 21 3'] | None,
    names: np.ndarray,
    occluded: Bool[np.ndarray, 'n 21'] | None = None,
    labelled: Bool[np.ndarray, 'n 21'] | None = None,
) -> dict:
    """Everything that this package reports of one run by its own decoder, ready for JSON.

    Where the dataset has no `occluded`, `self_occluded` is what the hand itself hides.
    """
    error = np.linalg.norm(predicted - true, axis=-1)
    outside = ~visible if labelled is None else ~visible & labelled
    photo_error = photo_errors(error, visible)
    seen = visible.any(1)
    size = np.where(seen, geometry.box_side(true, visible), np.nan)
    hidden, by = (self_occluded(xyz), 'by the hand itself') if occluded is None else (occluded, 'by anything')
    occlusion = None
    if hidden is not None:
        kinds = {f'hidden {by}': hidden & visible, f'not hidden {by}': ~hidden & visible}
        occlusion = {kind: group(error[which], peaks[which]) for kind, which in kinds.items()}
    in_frame = visible.sum(1)
    photos_by = {
        'all 21': in_frame == 21,
        '16 to 20': (in_frame > 15) & (in_frame < 21),
        '1 to 15': seen & (in_frame < 16),
    }
    return {
        'per_finger': per_finger(error, visible),
        'hand_size': binned(size[seen], SIZE_EDGES, photo_error[seen]),
        'occlusion': occlusion,
        'visibility': {
            'keypoints': {
                'in the frame': group(error[visible], peaks[visible]),
                'outside, counted nowhere else': group(error[outside], peaks[outside]),
            },
            'photos by keypoints in the frame': {
                name: group(photo_error[which]) for name, which in photos_by.items() if which.any()
            },
        },
        'histogram': {
            'edges_pct': [100 * float(edge) if np.isfinite(edge) else None for edge in ERROR_EDGES],
            'keypoints': np.histogram(error[visible], ERROR_EDGES)[0].tolist(),
            'photo_error_percentiles_pct': {
                f'p{p}': 100 * float(np.percentile(photo_error[seen], p)) if seen.any() else float('nan')
                for p in (5, 25, 50, 75, 90, 95)
            },
        },
        'calibration': calibration(error[visible], peaks[visible]),
        'photos': [
            {
                'name': str(names[i]),
                'error_pct': 100 * float(photo_error[i]),
                'peak': float(peaks[i].mean()),
                'hand_size_pct': 100 * float(size[i]),
                'in_frame': int(in_frame[i]),
                'hidden': None if hidden is None else int(hidden[i].sum()),
            }
            for i in range(len(names))
        ],
    }
