"""THE coordinate convention, and what follows from it.

Image coordinates are continuous and in the order (x, y). Pixel (column j, row i) covers the square
[j, j+1) x [i, i+1), so its centre is (j + 0.5, i + 0.5), and an image of width W spans [0, W]:

    x:  0     1     2     3          W = 3 pixels
        +-----+-----+-----+
        |  .  |  .  |  .  |          centres at 0.5, 1.5, 2.5
        +-----+-----+-----+

Normalised = pixels / size, so the frame is [0, 1] x [0, 1] at every resolution and a resize leaves normalised
keypoints alone. No half pixel appears outside this file and heatmap.py. FreiHAND's `uv = K·xyz / z` (principal point
112.0 in a 224-pixel photo) speaks this convention. Images are NHWC.

The functions take NumPy and JAX arrays alike, and answer in kind.
"""

from typing import Any

import jax
import numpy as np
from jaxtyping import Bool, Float

AnyArray = np.ndarray | jax.Array


def project(xyz: Float[AnyArray, '*n 21 3'], K: Float[AnyArray, '*n 3 3']) -> Float[AnyArray, '*n 21 2']:
    """Pinhole projection, `uv = (K·xyz) / z`.

    Args:
      xyz: points in the camera's frame, metres; z > 0 lies in front of the camera.
      K: intrinsic matrix, pixels.

    Returns:
      (x, y) in image pixels.
    """
    uvw = xyz @ K.swapaxes(-1, -2)
    return uvw[..., :2] / uvw[..., 2:]


def inside_frame(keypoints: Float[AnyArray, '*n 2']) -> Bool[AnyArray, '*n']:
    """True where a normalised (x, y) lies in the picture, [0, 1) x [0, 1)."""
    return ((keypoints >= 0) & (keypoints < 1)).all(-1)


def pixel_centres(n: int) -> Float[np.ndarray, ' n']:
    """Normalised coordinates of the centres of n pixels in a row: (j + 0.5) / n."""
    return (np.arange(n, dtype=np.float32) + np.float32(0.5)) / np.float32(n)


def box_side(keypoints: Float[AnyArray, '*n 21 2'], visible: Bool[AnyArray, '*n 21']) -> Float[Any, '*n']:
    """Longer side of the tight box around the visible keypoints, in the keypoints' own unit; -inf if none is."""
    xp = keypoints.__array_namespace__()
    seen = visible[..., None]
    high = xp.where(seen, keypoints, -xp.inf).max(-2)
    low = xp.where(seen, keypoints, xp.inf).min(-2)
    return (high - low).max(-1)
