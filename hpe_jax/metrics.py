"""Metrics of predicted keypoints: pure functions of distances (n, 21), a mask (n, 21) and box sides (n,).

Every metric is over the keypoints of the mask only, and its name states in which frame its numbers are:

    error_pct         mean over an image's keypoints, then over images; % of the image size (the tutorial's error)
    epe_px128 / 224   end-point error, mean over all keypoints, in pixels of a 128 or 224 wide image
    pck@0.05_image    % of keypoints closer than 0.05 of the image size
    pck@0.2_box       % of keypoints closer than 0.2 of the longer side of the hand's true box
    nme_box           mean distance over the longer side of the hand's true box, over all keypoints
    auc_0_30px224     area under the PCK curve from 0 to 30 px of 224, in [0, 1]; exact, not sampled

    epe_px_original   end-point error in pixels of the original photo; only where the crops' sides are given

`pck_curve` is the PCK at each of CURVE_PX224. A metric of no keypoints at all is NaN. A hand with a
single keypoint, whose box has no extent, is left out of the metrics of boxes.

mmpose's names mean, in these: its EPE is epe_px_original; its NME with the box as norm is nme_box; its PCK@0.2 is the
mean over joints of per_joint['pck@0.2_box'], and its AUC the mean over 20 thresholds t = 0, 1.5, ..., 28.5 of the mean
over joints of the fraction closer than t pixels of the original: the same as ours but for weights (joints of few labels
weigh as much as others) and for the sampled curve (about 0.025 below the exact area). Its box is the annotation's.
"""

import numpy as np
from jaxtyping import Bool, Float

from hpe_jax import hand
from hpe_jax.geometry import AnyArray

CURVE_PX224 = np.linspace(0, 30, 61, dtype=np.float32)
NAMES = ('error_pct', 'epe_px128', 'epe_px224', 'pck@0.05_image', 'pck@0.2_box', 'nme_box', 'auc_0_30px224')


def distances(predicted: Float[AnyArray, '*n 21 2'], true: Float[AnyArray, '*n 21 2']) -> Float[AnyArray, '*n 21']:
    """Euclidean, in the unit of the keypoints: image sizes, for normalised ones."""
    return ((predicted - true) ** 2).sum(-1) ** 0.5


def compute(
    distance: Float[np.ndarray, 'n 21'],
    mask: Bool[np.ndarray, 'n 21'],
    box: Float[np.ndarray, ' n'],
    side: Float[np.ndarray, ' n'] | None = None,
) -> dict:
    """All metrics by their public names.

    Args:
      distance: of `distances`, in image sizes; anything where the mask is false.
      mask: the keypoints to score.
      box: longer side of each hand's true box, in image sizes.
      side: of each image in pixels of the photo that it was cropped from.

    Returns:
      floats, `per_joint` (name -> joint -> float) and `pck_curve` (list).
    """
    distance = np.where(mask, np.asarray(distance, np.float64), 0)
    px224, boxed = 224 * distance, mask & (box > 0)[:, None]
    of_box = distance / np.where(box > 0, box, 1)[:, None]
    per_joint = {
        'epe_px128': (128 * distance, mask),
        'epe_px224': (px224, mask),
        'pck@0.05_image': (100 * (distance < 0.05), mask),
        'pck@0.2_box': (100 * (of_box < 0.2), boxed),
        'nme_box': (of_box, boxed),
        'auc_0_30px224': (np.maximum(0, 1 - px224 / 30), mask),
    }
    if side is not None:
        per_joint['epe_px_original'] = distance * side[:, None], mask
    with np.errstate(invalid='ignore', divide='ignore'):
        of_image = distance.sum(1) / mask.sum(1)
        joint = {name: (values * of).sum(0) / of.sum(0) for name, (values, of) in per_joint.items()}
        total = {name: float((values * of).sum() / of.sum()) for name, (values, of) in per_joint.items()}
        curve = [100 * float(((px224 < x) & mask).sum() / mask.sum()) for x in CURVE_PX224]
        scored = mask.any(1)
        error = float(np.sum(of_image[scored]) / scored.sum())
    return {
        'error_pct': 100 * error,
        **total,
        'per_joint': {name: dict(zip(hand.JOINTS, values.tolist(), strict=True)) for name, values in joint.items()},
        'pck_curve': curve,
    }
