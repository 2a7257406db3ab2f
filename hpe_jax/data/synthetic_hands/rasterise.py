"""A z-buffer for triangle meshes with static shapes: jit, vmap and lax.map go through it.

Each triangle's bounding box is cut into blocks of BLOCK x BLOCK pixels, and the blocks of all triangles form one queue
that is worked off in chunks. So the cost follows the pixels that are touched, whatever the triangles' sizes, and
nothing overflows. Depth and triangle number share one uint32, most significant bits first, hence a single scatter-min
finds the nearest triangle of every pixel:

    31             n  n-1           0        n = bits of the largest triangle number
    [ quantised depth | triangle id ]

Depth is quantised in 1/z, which perspective keeps linear in the image: 17 to 18 bits over the scene's own range, so
about 10 micrometres for a hand and its forearm.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt32

from hpe_jax.geometry import AnyArray

BLOCK = 4
CHUNK = 4096  # blocks that one step of the loop works off: 65,536 pixels
EMPTY = jnp.uint32(0xFFFFFFFF)

# A pixel whose centre lies on the edge of two triangles belongs to at least one of them despite rounding.
EDGE_SLACK = 1e-5


class ZBuffer(NamedTuple):
    """Packed words, and what the quantised depth in them means: 1 / depth = nearest - step * quantised."""

    words: UInt32[Array, 'h w']
    nearest: Float[Array, '']
    step: Float[Array, '']


def id_bits(num_faces: int) -> int:
    """Bits that hold every triangle number; at least 9, as float32 counts depths exactly in no more than 24 bits."""
    return max(9, num_faces.bit_length())


def deepest(num_faces: int) -> int:
    """The largest quantised depth: one less than what EMPTY would mean."""
    return 2 ** (32 - id_bits(num_faces)) - 2


def rasterise(
    xy: Float[AnyArray, 'v 2'], inv_z: Float[AnyArray, ' v'], faces: Int[AnyArray, 'f 3'], height: int, width: int
) -> ZBuffer:
    """Nearest front-facing triangle at every pixel centre.

    Args:
      xy: vertices in the image, pixels.
      inv_z: 1 / depth, larger is nearer; any value that is linear in the image will do. A triangle with a vertex
        at inv_z <= 0 (behind the camera) is left out.
      faces: vertex numbers; counter-clockwise as seen in the image (x right, y down) is the front.

    Returns:
      Depth and triangle packed into one word per pixel; see `face_at` and `inv_z_at`.
    """
    drawn, area, first, blocks = _boxes(xy, inv_z, faces, height, width)
    w = inv_z[faces]
    nearest = jnp.where(drawn, w.max(-1), -jnp.inf).max()
    farthest = jnp.where(drawn, w.min(-1), jnp.inf).min()
    step = jnp.maximum(nearest - farthest, 1e-9) / deepest(len(faces))
    counts = jnp.where(drawn, blocks[:, 0] * blocks[:, 1], 0)
    table = _setup(xy[faces], (nearest - w) / step, jnp.where(drawn, area, 1), first)
    boxes = jnp.concatenate([first, blocks[:, :1], counts[:, None]], -1)
    words = one_queue(partial(_fill, height=height, width=width))(table, boxes)
    return ZBuffer(words, nearest, step)


def one_queue(function: Callable) -> Callable:
    """Makes of a function of a batch one of a single example, which under vmap calls that function once for them all.

    A loop for each example would have all wait for the slowest one.
    """

    @jax.custom_batching.custom_vmap
    def single(*arguments):
        return jax.tree.map(lambda x: x[0], function(*jax.tree.map(lambda x: x[None], arguments)))

    @single.def_vmap
    def batch(batch_size, is_batched, *arguments):
        def repeated(x, already):
            return x if already else jnp.broadcast_to(x, (batch_size, *x.shape))

        results = function(*jax.tree.map(repeated, arguments, tuple(is_batched)))
        return results, jax.tree.map(lambda _: True, results)

    return single


def _fill(
    tables: Float[Array, 'b f 9'], boxes: Int[Array, 'b f 4'], height: int, width: int
) -> UInt32[Array, 'b {height} {width}']:
    """The words of a batch of z-buffers.

    Args:
      tables: see `_setup`; the depth is quantised.
      boxes: each triangle's first column and row, and its number of blocks across and in all.
    """
    batch_size, num_faces = tables.shape[:2]
    shift, chunk = id_bits(num_faces), CHUNK * batch_size
    top, face = (x.reshape(-1) for x in jnp.indices((batch_size, num_faces)))  # of the image in the column of all
    top *= height
    table, (first_column, first_row, blocks_across, counts) = tables.reshape(-1, 9), boxes.reshape(-1, 4).T
    ends = jnp.cumsum(counts)
    places = jnp.stack([first_column, top + first_row, blocks_across, ends - counts, top + height, face], -1)
    # One more row stands for "no triangle", right of the image.
    table, places = jnp.pad(table, ((0, 1), (0, 0))), jnp.pad(places, ((0, 1), (0, 0)), constant_values=width)
    inside_block = jnp.arange(BLOCK * BLOCK)

    def work_off(step, buffer):
        item = step * chunk + jnp.arange(chunk)
        triangle = first_after(ends, step * chunk, chunk)  # that of the last row when the queue is done
        rows, (first_column, first_row, blocks_across, start, bottom, face) = table[triangle], places[triangle].T
        down, across = jnp.divmod(item - start, blocks_across)
        # Without the barrier, XLA on CPU computes all this again for each of a block's pixels.
        rows, down, across = jax.lax.optimization_barrier((rows, down, across))
        x = (across * BLOCK)[:, None] + inside_block % BLOCK  # relative to the box's first pixel: small, hence exact
        y = (down * BLOCK)[:, None] + inside_block // BLOCK
        b0, b1, depth = (rows[:, k, None] * x + rows[:, k + 1, None] * y + rows[:, k + 2, None] for k in (0, 3, 6))
        column, row = first_column[:, None] + x, first_row[:, None] + y
        inside = (column < width) & (row < bottom[:, None])
        covered = (jnp.minimum(jnp.minimum(b0, b1), 1 - b0 - b1) >= -EDGE_SLACK) & inside
        word = (jnp.clip(depth, 0, deepest(num_faces)).astype(jnp.uint32) << shift) | face.astype(jnp.uint32)[:, None]
        where = jnp.where(covered, row * width + column, batch_size * height * width)
        return buffer.at[where].min(word, mode='drop')

    num_steps = (ends[-1] + chunk - 1) // chunk
    buffer = jax.lax.fori_loop(0, num_steps, work_off, jnp.full(batch_size * height * width, EMPTY))
    return buffer.reshape(batch_size, height, width)


def first_after(ends: Int[Array, ' n'], start: Int[Array, ''], length: int) -> Int[Array, ' items']:
    """For each of the items from `start` on, the first of n runs that ends after it; n if there is none.

    As jnp.searchsorted(ends, start + jnp.arange(length), side='right'), by one scatter instead of log2 n gathers.
    """
    ended = jnp.zeros(length, jnp.int32).at[jnp.maximum(ends - start, 0)].add(1, mode='drop')
    return jnp.cumsum(ended)


def _boxes(xy, inv_z, faces, height, width):
    """Which triangles may touch a pixel centre, their doubled area (< 0), first (column, row), blocks (across, down)"""
    p0, p1, p2 = (xy[faces[:, k]] for k in range(3))
    (ax, ay), (bx, by) = (p1 - p0).T, (p2 - p0).T
    area = ax * by - ay * bx
    low = jnp.minimum(jnp.minimum(p0, p1), p2)
    high = jnp.maximum(jnp.maximum(p0, p1), p2)
    limit = jnp.array([width, height])
    first = jnp.ceil(jnp.clip(low - 0.5, 0, limit)).astype(jnp.int32)
    last = jnp.floor(jnp.clip(high - 0.5, -1, limit - 1)).astype(jnp.int32)
    blocks = jnp.maximum(last - first + BLOCK, 0) // BLOCK
    return (area < 0) & (inv_z[faces].min(-1) > 0) & blocks.all(-1), area, first, blocks


def _setup(corners, depth, area, first):
    """(d/dx, d/dy, value at the box's first pixel) of two barycentric coordinates and of the depth: (f, 9)."""
    p0, p1, p2 = jnp.moveaxis(corners, 1, 0)
    (ax, ay), (bx, by), (dx, dy) = (p1 - p0).T, (p2 - p0).T, (first + 0.5 - p0).T
    b1 = jnp.stack([by, -bx, by * dx - bx * dy], -1) / area[:, None]
    b2 = jnp.stack([-ay, ax, ax * dy - ay * dx], -1) / area[:, None]
    slopes = depth[:, 1:] - depth[:, :1]
    plane = slopes[:, :1] * b1 + slopes[:, 1:] * b2 + depth[:, :1] * jnp.array([0, 0, 1])
    return jnp.concatenate([b1, b2, plane], -1)


def face_at(buffer: ZBuffer, num_faces: int) -> Int[Array, 'h w']:
    """Triangle number of each pixel, -1 where one is missing."""
    face = (buffer.words & jnp.uint32(2 ** id_bits(num_faces) - 1)).astype(jnp.int32)
    return jnp.where(buffer.words == EMPTY, -1, face)


def inv_z_at(buffer: ZBuffer, num_faces: int) -> Float[Array, 'h w']:
    """1 / depth of each pixel, -inf where there is nothing."""
    quantised = (buffer.words >> id_bits(num_faces)).astype(jnp.float32)
    return jnp.where(buffer.words == EMPTY, -jnp.inf, buffer.nearest - buffer.step * quantised)


def barycentric(xy: Float[Array, 'n 3 2'], inv_z: Float[Array, 'n 3'], at: Float[Array, 'n 2']) -> Float[Array, 'n 3']:
    """Perspective-correct barycentric coordinates of image points, each in a triangle with those corners."""
    p0, p1, p2 = jnp.moveaxis(xy, 1, 0)
    (ax, ay), (bx, by), (dx, dy) = (p1 - p0).T, (p2 - p0).T, (at - p0).T
    area = ax * by - ay * bx
    area = jnp.where(area == 0, 1, area)
    b1, b2 = (dx * by - dy * bx) / area, (ax * dy - ay * dx) / area
    in_image = jnp.stack([1 - b1 - b2, b1, b2], -1) * inv_z
    return in_image / in_image.sum(-1, keepdims=True)
