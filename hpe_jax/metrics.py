"""Errors of predicted keypoints, as (sum, count) pairs: add them over batches, divide once.

Every metric counts visible keypoints only, and a metric's name says in which frame its numbers are:

    error_pct         mean over an image's keypoints, then over images; % of the image size (the tutorial's error)
    epe_px128 / 224   end-point error, mean over all keypoints, in pixels of a 128 or 224 wide image
    pck@0.05_image    % of keypoints closer than 0.05 of the image size
    pck@0.2_box       % of keypoints closer than 0.2 of the longer side of the hand's true box
    auc_0_30px224     area under the PCK curve from 0 to 30 px of 224, in [0, 1]; exact, not sampled

`pck_curve` is the PCK at each of CURVE_PX224. A metric of no keypoints at all is NaN.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from hpe_jax import geometry, hand

CURVE_PX224 = np.linspace(0, 30, 61, dtype=np.float32)

Sums = dict[str, tuple]


def count_hand(predicted: Float[Array, 'k 2'], true: Float[Array, 'k 2'], visible: Bool[Array, ' k']) -> Sums:
    """The metrics of ONE hand, as name -> (sum, count); vmap and add them for a batch.

    Args:
      predicted, true: (x, y), normalised.
      visible: the keypoints that count.

    Returns:
      `error` as two scalars; `epe`, `pck_image`, `pck_box`, `auc` as two (k,) arrays, one entry per joint;
      `pck_curve` as a (len(CURVE_PX224),) array of sums and a scalar count. Distances in image sizes.
    """
    count = visible.astype(jnp.float32)
    distance = jnp.where(visible, jnp.sqrt(((predicted - true) ** 2).sum(-1)), 0)
    box = geometry.box_side(true, visible)
    px224 = distance * 224
    per_joint = {
        'epe': distance,
        'pck_image': distance < 0.05,
        'pck_box': distance < 0.2 * box,
        'auc': jnp.maximum(0, 1 - px224 / 30),
    }
    curve = ((px224[:, None] < CURVE_PX224[None]) * count[:, None]).sum(0)
    return {
        'error': (distance.sum() / jnp.maximum(count.sum(), 1), (count.sum() > 0).astype(jnp.float32)),
        **{name: (value * count, count) for name, value in per_joint.items()},
        'pck_curve': (curve, count.sum()),
    }


def merge(a: Sums | None, b: Sums) -> Sums:
    """Adds two sets of sums, in float64 on the host; None is the empty set."""
    b = {name: tuple(np.asarray(x, np.float64) for x in pair) for name, pair in b.items()}
    return b if a is None else {name: tuple(x + y for x, y in zip(a[name], b[name], strict=True)) for name in b}


def compute(sums: Sums) -> dict:
    """The metrics by their public names: floats, `per_joint` (name -> joint -> float) and `pck_curve` (list)."""
    with np.errstate(invalid='ignore', divide='ignore'):
        total = {name: float(np.sum(s) / np.sum(n)) for name, (s, n) in sums.items() if name != 'pck_curve'}
        joint = {name: sums[name][0] / sums[name][1] for name in ('epe', 'pck_image', 'pck_box', 'auc')}
        curve = 100 * sums['pck_curve'][0] / sums['pck_curve'][1]
    return {
        'error_pct': 100 * total['error'],
        **_public(total),
        'per_joint': {
            name: dict(zip(hand.JOINTS, values.tolist(), strict=True)) for name, values in _public(joint).items()
        },
        'pck_curve': curve.tolist(),
    }


def _public(values: dict) -> dict:
    return {
        'epe_px128': 128 * values['epe'],
        'epe_px224': 224 * values['epe'],
        'pck@0.05_image': 100 * values['pck_image'],
        'pck@0.2_box': 100 * values['pck_box'],
        'auc_0_30px224': values['auc'],
    }
