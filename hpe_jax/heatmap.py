"""Keypoints to heatmaps (encode, ONE hand) and back (decode, ONE map); vmap at the edge.

Both directions share a codec, which defines where on the normalised axis pixel j of n lies:

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
ACTIVATIONS = ('sigmoid', 'softmax')


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


def activate(logits: Float[Array, 'b h w k'], activation: str, sigma: float) -> Float[Array, 'b h w k']:
    """A network's logits to maps in [0, 1].

    Args:
      activation: 'sigmoid', of each pixel alone; or 'softmax' over the pixels of a map, scaled so that the ideal one, a
        Gaussian, has the peak 1.
      sigma: that Gaussian's standard deviation, pixels of the map.
    """
    if activation == 'sigmoid':
        return jax.nn.sigmoid(logits)
    masses = jnp.exp(logits - logits.max((1, 2), keepdims=True))
    return jnp.minimum(2 * math.pi * sigma**2 * masses / masses.sum((1, 2), keepdims=True), 1)


def normalised(place: Float[AnyArray, '2'], size: tuple[int, int], codec: str) -> Float[Array, '2']:
    """(x, y) in pixels from the first pixel of a map of `size` (height, width), as the codec has it."""
    return (place + (0.5 if codec == 'subpixel' else 0)) / jnp.float32(size[::-1])


def centre_of_mass(
    weights: Float[Array, 'h w'], x: Float[AnyArray, ' w'], y: Float[AnyArray, ' h']
) -> Float[Array, '2']:
    """Mean (x, y) under non-negative weights; (0, 0) where all of them are zero.

    Summed along one axis and then along the other: what runs an export may add numbers one by one, and 16,384 of them
    so would cost thousandths of a pixel.
    """
    columns, rows = weights.sum(0), weights.sum(1)
    total = columns.sum()
    return jnp.stack([(columns * x).sum(), (rows * y).sum()]) / jnp.where(total > 0, total, 1)


def _middle(size: tuple[int, int]) -> Float[np.ndarray, '2']:
    """(x, y) of a map's middle, in pixels from its first one."""
    return np.float32([(n - 1) / 2 for n in size[::-1]])


def argmax(heatmap: Float[Array, 'h w'], codec: str = 'subpixel', gather: bool = True) -> Float[Array, '2']:
    """The highest pixel, the first one of equals. `gather`: see `_take`."""
    row, column = _peak(heatmap, gather)
    return normalised(jnp.float32(jnp.stack([column, row])), heatmap.shape, codec)


def _peak(heatmap: Float[Array, 'h w'], gather: bool) -> tuple[Int[Array, ''], Int[Array, '']]:
    """Row and column of the highest pixel, the first one of equals; one argmax over all takes XLA nine times as long
    on a CPU."""
    row = _first_highest(heatmap.max(1))
    return row, _first_highest(_take(heatmap, row, gather))


def _first_highest(values: Float[Array, ' n']) -> Int[Array, '']:
    """As argmax, which not every converter knows."""
    last = values.shape[0] - 1
    return jnp.where(values == values.max(), np.arange(last + 1), last).min()


def _take(array: Float[Array, 'h w'], rows: Int[Array, '*n'], gather: bool) -> Float[Array, '*n w']:
    """array[rows]; without `gather` as a matrix product: slower, and for converters that cannot look up."""
    if gather:
        return array[rows]
    return jnp.matmul(jax.nn.one_hot(rows, array.shape[0]), array, precision='highest')


def mean(heatmap: Float[Array, 'h w'], codec: str = 'subpixel') -> Float[Array, '2']:
    """The reference's decoder: centre of mass over all pixels. Any background pulls it to the image's centre."""
    (height, width), middle = heatmap.shape, _middle(heatmap.shape)
    x, y = np.arange(width) - middle[0], np.arange(height) - middle[1]
    return normalised(middle + centre_of_mass(heatmap, np.float32(x), np.float32(y)), heatmap.shape, codec)


def window(
    heatmap: Float[Array, 'h w'], codec: str = 'subpixel', radius: float = 9.0, gather: bool = True
) -> Float[Array, '2']:
    """Centre of mass of the pixels within `radius` (pixels of the map; 3 sigma) of the peak.

    A disc around a whole pixel cuts the blob unevenly and so pulls towards that pixel by about a tenth of a pixel;
    a second disc around the first one's answer leaves a hundredth. Only the pixels that the two discs can reach are
    looked at: on a CPU that is most of the decoder's time. `gather`: see `_take`.
    """
    reach = 2 * math.ceil(radius)
    peak = _peak(heatmap, gather)
    rows, columns = (
        jnp.clip(p - reach, 0, max(0, n - 2 * reach - 1)) + np.arange(min(n, 2 * reach + 1))
        for p, n in zip(peak, heatmap.shape, strict=True)
    )
    near = _take(_take(heatmap, rows, gather).T, columns, gather).T
    y, x = jnp.float32(rows - peak[0]), jnp.float32(columns - peak[1])
    centre = jnp.zeros(2)
    for _ in range(2):
        disc = ((x - centre[0]) ** 2)[None, :] + ((y - centre[1]) ** 2)[:, None] <= radius**2
        centre = centre_of_mass(jnp.where(disc, near, 0), x, y)
    centre += jnp.float32(jnp.stack(peak[::-1]))
    return normalised(jnp.where(near.max() > 0, centre, _middle(heatmap.shape)), heatmap.shape, codec)


def softargmax(heatmap: Float[Array, 'h w'], codec: str = 'subpixel', temperature: float = 0.05) -> Float[Array, '2']:
    """Centre of mass of softmax(heatmap / temperature).

    Luvizon, Tabia, Picard, "Human pose regression by combining indirect part detection and contextual information",
    2019. An ideal peak of height 1 and width sigma becomes a blob of width about sigma * sqrt(temperature).
    """
    return mean(jnp.exp((heatmap - heatmap.max()) / temperature), codec)


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
