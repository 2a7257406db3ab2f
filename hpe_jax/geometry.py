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

An affine map is a (2, 3) matrix, in pixels from those of one picture to those of another of any size: [x', y'] =
matrix @ [x, y, 1]. `transform` moves points by it and `warp` a picture, so that both stay together.

The functions take NumPy and JAX arrays alike, and answer in kind; `warp` is JAX's, `crop` NumPy's.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Shaped, UInt8

from hpe_jax.errors import UserError

AnyArray = np.ndarray | jax.Array
MAX_TAPS = 32  # rows, times two, that an antialiased row is made of
Scalar = int | float | Float[AnyArray, '']


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


def is_centred(keypoints: Float[AnyArray, '21 2']) -> tuple[Bool[AnyArray, ''], Bool[AnyArray, '']]:
    """Whether a hand's box (normalised keypoints) lies in the middle of the frame and fills a fair part of it; and
    whether it is far from that. Neither holds for a hand in between."""
    low, high = keypoints.min(0), keypoints.max(0)
    offset, side = ((((low + high) / 2 - 0.5) ** 2).sum()) ** 0.5, (high - low).max()
    return (offset < 0.22) & (side > 0.22) & (side < 0.95), (offset > 0.4) | (side < 0.17) | (side > 1.15)


def checked_box(box: Sequence | Shaped[np.ndarray, '4']) -> Float[np.ndarray, '4']:
    """The box, x0, y0, x1, y1, as an array.

    Raises:
      UserError: it is not a box: four numbers x0 < x1, y0 < y1.
    """
    try:
        array = np.asarray(box, np.float64)
    except (TypeError, ValueError, OverflowError):
        array = np.zeros(0)
    if array.shape != (4,) or not np.isfinite(array).all() or not (array[2:] > array[:2]).all():
        raise UserError(f'box {str(box)[:99]}: must be four numbers x0, y0, x1, y1 with x0 < x1 and y0 < y1')
    return array


def similarity(
    source: Float[AnyArray, '2'], target: Float[AnyArray, '2'], scale: Scalar, degrees: Scalar
) -> Float[AnyArray, '2 3']:
    """The affine map that moves the point `source` to `target`, scaling and turning counter-clockwise about it.

    A crop of side s about a point, made n pixels wide: similarity(point, [n / 2, n / 2], n / s, 0).
    """
    xp = source.__array_namespace__()
    angle = xp.deg2rad(xp.asarray(degrees, dtype=source.dtype))
    cos, sin = scale * xp.cos(angle), scale * xp.sin(angle)
    x, y = source[0], source[1]  # y points down, hence the signs
    rows = [cos, sin, target[0] - cos * x - sin * y], [-sin, cos, target[1] + sin * x - cos * y]
    return xp.stack([xp.stack(row) for row in rows])


def inverse(matrix: Float[AnyArray, '2 3']) -> Float[AnyArray, '2 3']:
    """The affine map back."""
    xp = matrix.__array_namespace__()
    (a, b, x), (c, d, y) = matrix
    rows = [d, -b, b * y - d * x], [-c, a, c * x - a * y]
    return xp.stack([xp.stack(row) for row in rows]) / (a * d - b * c)


def transform(points: Float[AnyArray, '*n 2'], matrix: Float[AnyArray, '2 3']) -> Float[AnyArray, '*n 2']:
    """Points, (x, y) in pixels, moved by an affine map. No matmul: accelerators round its factors to a few bits."""
    xp = matrix.__array_namespace__()
    x, y = points[..., 0], points[..., 1]
    return xp.stack([row[0] * x + row[1] * y + row[2] for row in matrix], -1)


def rot90(points: Float[AnyArray, '*n 2'], k: int) -> Float[AnyArray, '*n 2']:
    """Normalised points of a square image after np.rot90(image, k): counter-clockwise by k right angles."""
    x, y = points[..., 0], points[..., 1]
    xp = np if isinstance(points, np.ndarray) else jnp
    return xp.stack([(x, y), (y, 1 - x), (1 - x, 1 - y), (1 - y, x)][k % 4], -1)


def warp(
    image: Shaped[AnyArray, 'h w c'],
    matrix: Float[AnyArray, '2 3'],
    size: tuple[int, int],
    replicate: bool | Bool[Array, ''] = False,
    reflect: bool | Bool[Array, ''] = False,
) -> Float[Array, '{size[0]} {size[1]} c']:
    """One picture moved by an affine map, bilinear: what lay at p lies at transform(p, matrix).

    Good for scales near 1 and above; one far below aliases, since no more than four pixels are looked at.

    Args:
      size: (height, width) of the result, pixels.
      replicate: outside the picture lies its nearest pixel; otherwise black, which its outermost pixels fade into.
      reflect: outside lies its mirror image; whatever `replicate` is.
    """
    return sample(image, sources(matrix, size), replicate, reflect)


def sources(matrix: Float[AnyArray, '2 3'], size: tuple[int, int]) -> Float[Array, '{size[0]} {size[1]} 2']:
    """Where each pixel's centre of a picture of `size` (height, width) lay before the affine map, (x, y) in pixels."""
    x, y = jnp.arange(size[1]) + 0.5, jnp.arange(size[0]) + 0.5
    return transform(jnp.stack(jnp.meshgrid(x, y), -1), inverse(jnp.asarray(matrix)))


def sample(
    image: Shaped[AnyArray, 'h w c'],
    source: Float[Array, 'i j 2'],
    replicate: bool | Bool[Array, ''] = False,
    reflect: bool | Bool[Array, ''] = False,
) -> Float[Array, 'i j c']:
    """The picture at places (x, y) in pixels, bilinear; outside as `warp` has it."""
    height, width, channels = image.shape
    extent = jnp.array([width, height], source.dtype)[None, None]
    if reflect is not False:
        source = jnp.where(reflect, extent - jnp.abs(extent - source % (2 * extent)), source)
    left, right, x_weight, x_inside = _neighbours(source[..., 0], width)
    above, below, y_weight, y_inside = _neighbours(source[..., 1], height)
    inside = jnp.where(replicate | reflect, 1, x_inside * y_inside)
    look_up = _look_up(jnp.asarray(image).reshape(-1, channels))
    corners = [look_up(row * width + column) for row in (above, below) for column in (left, right)]
    moved = []
    for upper_left, upper_right, lower_left, lower_right in zip(*corners, strict=True):
        upper = (1 - x_weight) * upper_left + x_weight * upper_right
        lower = (1 - x_weight) * lower_left + x_weight * lower_right
        moved.append(((1 - y_weight) * upper + y_weight * lower) * inside)
    return jnp.stack(moved, -1)


def _look_up(pixels: Shaped[Array, 'n c']) -> Callable:
    """The function of places that gives each channel's values there. Three bytes are looked up as one word."""
    channels = range(pixels.shape[1])
    if pixels.dtype != jnp.uint8 or len(channels) > 4:
        return lambda at: [pixels[:, c].at[at].get(mode='promise_in_bounds') for c in channels]
    words = sum(pixels[:, c].astype(jnp.uint32) << 8 * c for c in channels)

    def look_up(at):
        found = words.at[at].get(mode='promise_in_bounds')
        return [(found >> 8 * c & 255).astype(jnp.float32) for c in channels]

    return look_up


def _neighbours(position: Float[Array, 'h w'], n: int) -> tuple:
    """Along an axis of n pixels: the pixels on both sides of a position, the second one's weight, and how much of the
    interpolation's triangle lies on pixels at all."""
    inside = jnp.clip(jnp.minimum(position, n - position) + 0.5, 0, 1)
    index = jnp.clip(position - 0.5, 0, n - 1)
    low = jnp.floor(index).astype(int)
    return low, jnp.minimum(low + 1, n - 1), index - low, inside


def crop(
    image: UInt8[np.ndarray, 'h w 3'], box: Sequence | Shaped[np.ndarray, '4'], size: int
) -> UInt8[np.ndarray, '{size} {size} 3']:
    """The part of a picture inside a box (x0, y0, x1, y1, pixels), resized; black outside the picture.

    Antialiased bilinear, at any scale. The box of a whole picture gives tf.image.resize's grey levels, so that a photo
    is the same in training, evaluation and prediction; PIL's own differ where it rounds the weights to 8 bits. Of a box
    that is shrunk by 2 * MAX_TAPS or more, only every n-th row and column is looked at: work follows the result's size.
    """
    x0, y0, x1, y1 = map(float, box)
    columns, x0, x1 = _looked_at(image.shape[1], x0, x1, size)
    rows, y0, y1 = _looked_at(image.shape[0], y0, y1, size)
    image = image[rows, columns]
    if not image.size:
        return np.zeros((size, size, 3), np.uint8)
    resized = resize_rows(image, size, y0, y1)
    return np.uint8(np.round(resize_rows(resized.swapaxes(0, 1), size, x0, x1).swapaxes(0, 1)))


def _looked_at(length: int, start: float, end: float, size: int) -> tuple[slice, float, float]:
    """Which of an axis' pixels a crop from start to end looks at, and where start and end lie among them."""
    first, last = max(0, math.floor(start)), min(length, math.ceil(end))
    step = max(1, int(min((end - start) / size, last - first) // MAX_TAPS))
    return slice(first + step // 2, max(first, last), step), (start - first) / step, (end - first) / step


def resize_rows(
    image: Shaped[np.ndarray, 'h w c'], height: int, start: float = 0.0, end: float | None = None
) -> Float[np.ndarray, '{height} w c']:
    """Antialiased bilinear resize along the first axis of what lies from start to end, 0 where that is no picture.

    In float32 and in TensorFlow's order of operations.
    """
    one, half = np.float32(1), np.float32(0.5)
    end = float(len(image)) if end is None else end
    scale = np.float32(1 / (np.float32(height) / np.float32(end - start)))
    reach = max(scale, one)
    centres = (np.arange(height, dtype=np.float32) + half) * scale + np.float32(start)
    edges = math.floor(start), math.ceil(end) - 1
    first = np.ceil(centres - reach - half).astype(int).clip(*edges)
    last = np.floor(centres + reach - half).astype(int).clip(*edges)
    rows = first[:, None] + np.arange((last - first).max() + 1)
    weights = np.maximum(0, one - np.abs((rows.astype(np.float32) + half - centres[:, None]) * (one / reach)))
    weights = np.where(rows <= last[:, None], weights, np.float32(0)).T
    weights = weights * (one / sum(weights))
    rows, nearest = rows.T, rows.T.clip(0, len(image) - 1)
    weights = np.where(rows == nearest, weights, np.float32(0))
    resized = np.zeros((height, *image.shape[1:]), np.float32)
    for weight, row in zip(weights, nearest, strict=True):
        if (used := np.flatnonzero(weight)).size:
            some = slice(used[0], used[-1] + 1)
            resized[some] += weight[some, None, None] * image[row[some]]
    return resized
