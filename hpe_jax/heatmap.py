"""Keypoints to heatmaps (encode, ONE hand) and back (decode, ONE map); vmap at the edge.

Both directions share a codec, which says where on the normalised axis pixel j of n lies:

    'subpixel'   (j + 0.5) / n   its centre, as geometry.py has it: a round trip loses nothing
    'reference'  j / n           the published PyTorch implementation, which also truncates a keypoint to a whole
                                 pixel before it draws the Gaussian: half a pixel is lost on the way
"""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from hpe_jax.geometry import AnyArray, pixel_centres

CODECS = ('subpixel', 'reference')


def encode(
    keypoints: Float[Any, '*n k 2'],
    visible: Bool[Any, '*n k'],
    size: tuple[int, int],
    sigma: float,
    codec: str = 'subpixel',
    xp=jnp,
) -> Float[Any, '*n h w k']:
    """One Gaussian per keypoint, its peak scaled to 1; the map of a keypoint that is not visible is all zero.

    Args:
      keypoints: (x, y), normalised.
      visible: which keypoints to draw.
      size: (height, width) of the maps, pixels.
      sigma: the Gaussian's standard deviation, pixels of the map.
      codec: one of CODECS.
      xp: the NumPy to compute with: jax.numpy on the device; numpy or tf.experimental.numpy on the host.
    """
    profile = {'subpixel': _profile, 'reference': _reference_profile}[codec]
    height, width = size
    keypoints = xp.where(visible[..., None], keypoints, xp.zeros_like(keypoints))  # NaN times 0 would be NaN
    gx = profile(xp, keypoints[..., 0], width, sigma)
    gy = profile(xp, keypoints[..., 1], height, sigma)
    gy = xp.where(visible[..., None, :], gy, xp.zeros_like(gy))
    return gy[..., :, None, :] * gx[..., None, :, :]


def _profile(xp, position, n: int, sigma: float):
    """(*, k) positions -> (*, n, k): a Gaussian along one axis, 1 at the position. x times y makes the 2-D Gaussian."""
    distance = (_column(xp, pixel_centres(n), position) - position[..., None, :]) * (n / sigma)
    return xp.exp(-0.5 * distance**2)


def _column(xp, values: np.ndarray, like):
    """(n,) values as (1, ..., n, 1), to meet `like`'s (*, 1, k)."""
    return xp.asarray(values.reshape((1,) * (len(like.shape) - 1) + (-1, 1)))


def _reference_profile(xp, position, n: int, sigma: float):
    """What cv2.GaussianBlur makes of a single 1 at pixel int(position * n), divided by its maximum.

    OpenCV reflects at the border (without repeating the edge pixel), so that near an edge the Gaussian meets its own
    mirror image. A position in (-1, 0) pixels truncates to pixel 0, as Python's int() does.
    """
    pixel = xp.sign(position) * xp.floor(xp.abs(position) * n)
    pixel = pixel[..., None, :]
    row = _column(xp, np.arange(n, dtype=np.float32), position)

    def gauss(centre):
        return xp.exp(-0.5 * ((row - centre) / sigma) ** 2)

    here = gauss(pixel)
    none = xp.zeros_like(here)
    profile = (
        here + xp.where(pixel > 0, gauss(-pixel), none) + xp.where(pixel < n - 1, gauss(2 * (n - 1) - pixel), none)
    )
    return profile / xp.amax(profile, -2, keepdims=True)


def grid(size: tuple[int, int], codec: str) -> Float[np.ndarray, 'h w 2']:
    """The normalised (x, y) that each pixel of a map stands for."""
    ys, xs = (pixel_centres(n) if codec == 'subpixel' else np.arange(n, dtype=np.float32) / n for n in size)
    return np.stack(np.meshgrid(xs, ys), -1)


def centre_of_mass(weights: Float[Array, 'h w'], positions: Float[AnyArray, 'h w 2']) -> Float[Array, '2']:
    """Mean position under non-negative weights; the middle of the map where all of them are zero."""
    total = weights.sum()
    weights = jnp.where(total > 0, weights / jnp.where(total > 0, total, 1), 1 / weights.size)
    return jnp.stack([(weights * positions[..., 0]).sum(), (weights * positions[..., 1]).sum()])


def argmax(heatmap: Float[Array, 'h w'], codec: str = 'subpixel') -> Float[Array, '2']:
    """The highest pixel, the first one of equals."""
    return jnp.asarray(grid(heatmap.shape, codec))[_peak(heatmap)]


def _peak(heatmap: Float[Array, 'h w']) -> tuple[Int[Array, ''], Int[Array, '']]:
    """Row and column of the highest pixel, the first one of equals; one argmax over all takes XLA nine times as long
    on a CPU."""
    row = heatmap.max(1).argmax()
    return row, heatmap[row].argmax()


def mean(heatmap: Float[Array, 'h w'], codec: str = 'subpixel') -> Float[Array, '2']:
    """The reference's decoder: centre of mass over all pixels. Any background pulls it to the image's centre."""
    return centre_of_mass(heatmap, grid(heatmap.shape, codec))


def window(heatmap: Float[Array, 'h w'], codec: str = 'subpixel', radius: float = 9.0) -> Float[Array, '2']:
    """Centre of mass of the pixels within `radius` (pixels of the map; 3 sigma) of the peak.

    A disc around a whole pixel cuts the blob unevenly and so pulls towards that pixel by about a tenth of a pixel;
    a second disc around the first one's answer leaves a hundredth. Only the pixels that the two discs can reach are
    looked at: on a CPU that is most of the decoder's time.
    """
    reach = 2 * math.ceil(radius)
    peak = _peak(heatmap)
    rows, columns = (
        jnp.clip(p - reach, 0, max(0, n - 2 * reach - 1)) + np.arange(min(n, 2 * reach + 1))
        for p, n in zip(peak, heatmap.shape, strict=True)
    )
    near = heatmap[rows[:, None], columns[None, :]]
    positions = jnp.stack(jnp.meshgrid(columns, rows), -1).astype(jnp.float32)
    centre = jnp.stack(peak[::-1]).astype(jnp.float32)
    for _ in range(2):
        disc = ((positions - centre[None, None]) ** 2).sum(-1) <= radius**2
        centre = centre_of_mass(jnp.where(disc, near, 0), positions)
    first, size = grid(heatmap.shape, codec)[0, 0], np.float32(heatmap.shape[::-1])
    return jnp.where(near.max() > 0, first + centre / size, mean(jnp.zeros_like(heatmap), codec))


def softargmax(heatmap: Float[Array, 'h w'], codec: str = 'subpixel', temperature: float = 0.05) -> Float[Array, '2']:
    """Centre of mass of softmax(heatmap / temperature).

    Luvizon, Tabia, Picard, "Human pose regression by combining indirect part detection and contextual information",
    2019. An ideal peak of height 1 and width sigma becomes a blob of width about sigma * sqrt(temperature).
    """
    weights = jax.nn.softmax(heatmap.ravel() / temperature).reshape(heatmap.shape)
    return centre_of_mass(weights, grid(heatmap.shape, codec))


DECODERS = {'argmax': argmax, 'mean': mean, 'window': window, 'softargmax': softargmax}


def decode(
    heatmaps: Float[Array, 'h w k'], decoder: str = 'window', codec: str = 'subpixel', **options
) -> Float[Array, 'k 2']:
    """The keypoints of one hand, (x, y) normalised.

    Args:
      heatmaps: non-negative, one map per keypoint.
      decoder: a key of DECODERS.
      codec: one of CODECS, the one that the heatmaps were trained with.
      **options: the decoder's own (`radius` of window, `temperature` of softargmax).
    """
    return jax.vmap(partial(DECODERS[decoder], codec=codec, **options), in_axes=-1)(heatmaps)
