"""Metrics of predicted keypoints: pure functions of distances (n, 21), a mask (n, 21) and box sides (n,).

Every metric is over the keypoints of the mask only, and its name says in which frame its numbers are:

    error_pct         mean over an image's keypoints, then over images; % of the image size (the tutorial's error)
    epe_px128 / 224   end-point error, mean over all keypoints, in pixels of a 128 or 224 wide image
    pck@0.05_image    % of keypoints closer than 0.05 of the image size
    pck@0.2_box       % of keypoints closer than 0.2 of the longer side of the hand's true box
    auc_0_30px224     area under the PCK curve from 0 to 30 px of 224, in [0, 1]; exact, not sampled

`pck_curve` is the PCK at each of CURVE_PX224. A metric of no keypoints at all is NaN.
"""

import numpy as np
from jaxtyping import Bool, Float

from hpe_jax import hand
from hpe_jax.geometry import AnyArray

CURVE_PX224 = np.linspace(0, 30, 61, dtype=np.float32)
NAMES = ('error_pct', 'epe_px128', 'epe_px224', 'pck@0.05_image', 'pck@0.2_box', 'auc_0_30px224')


def distances(predicted: Float[AnyArray, '*n 21 2'], true: Float[AnyArray, '*n 21 2']) -> Float[AnyArray, '*n 21']:
    """Euclidean, in the unit of the keypoints: image sizes, for normalised ones."""
    return ((predicted - true) ** 2).sum(-1) ** 0.5


def compute(distance: Float[np.ndarray, 'n 21'], mask: Bool[np.ndarray, 'n 21'], box: Float[np.ndarray, ' n']) -> dict:
    """All metrics by their public names.

    Args:
      distance: of `distances`, in image sizes; anything where the mask is false.
      mask: the keypoints to score.
      box: longer side of each hand's true box, in image sizes.

    Returns:
      floats, `per_joint` (name -> joint -> float) and `pck_curve` (list).
    """
    distance = np.where(mask, np.asarray(distance, np.float64), 0)
    px224 = 224 * distance
    per_joint = {
        'epe_px128': 128 * distance,
        'epe_px224': px224,
        'pck@0.05_image': 100 * (distance < 0.05),
        'pck@0.2_box': 100 * (distance < 0.2 * box[:, None]),
        'auc_0_30px224': np.maximum(0, 1 - px224 / 30),
    }
    with np.errstate(invalid='ignore', divide='ignore'):
        of_image = distance.sum(1) / mask.sum(1)
        joint = {name: (values * mask).sum(0) / mask.sum(0) for name, values in per_joint.items()}
        total = {name: float((values * mask).sum() / mask.sum()) for name, values in per_joint.items()}
        curve = [100 * float(((px224 < x) & mask).sum() / mask.sum()) for x in CURVE_PX224]
        scored = mask.any(1)
        error = float(np.sum(of_image[scored]) / scored.sum())
    return {
        'error_pct': 100 * error,
        **total,
        'per_joint': {name: dict(zip(hand.JOINTS, values.tolist(), strict=True)) for name, values in joint.items()},
        'pck_curve': curve,
    }
