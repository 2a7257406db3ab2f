"""3x3 convolutions, and a weight gradient for CPUs.

XLA computes the gradient of a convolution's weights as a convolution whose window is a whole photo. That suits
accelerators; on a CPU it took 60 % of a training step. Here it is a matrix product over strips that fit the cache.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

STRIP = 1 << 20  # bytes; about a core's level-2 cache


@jax.custom_vjp
def conv3x3(x: Float[Array, 'b h w c'], kernel: Float[Array, '3 3 c o']) -> Float[Array, 'b h w o']:
    """XLA's convolution, padded with zeros to the same size, with `weight_gradient` as its gradient."""
    return lax.conv_general_dilated(x, kernel, (1, 1), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC'))


def _forward(x, kernel):
    return conv3x3(x, kernel), (x, kernel)


def _backward(kept, dy):
    x, kernel = kept
    return conv3x3(dy, kernel[::-1, ::-1].swapaxes(2, 3)), weight_gradient(x, dy)


conv3x3.defvjp(_forward, _backward)


def weight_gradient(x: Float[Array, 'b h w c'], dy: Float[Array, 'b h w o']) -> Float[Array, '3 3 c o']:
    """dk[i, j] = sum over photos and pixels of x[h + i - 1, w + j - 1]^T dy[h, w], with zeros outside of x.

    Both factors are shifted, x by columns and dy by rows, so that one product of (3 c, pixels) with (pixels, 3 o) holds
    all nine: im2col with a third of its copies. A column of zeros after each row makes every shift a slice of the
    flattened pixels.
    """
    (b, h, w, c), o = x.shape, dy.shape[-1]
    row, pixels = w + 1, h * (w + 1)
    photos = max(n for n in range(1, b + 1) if b % n == 0 and (n == 1 or n * pixels * c * x.dtype.itemsize <= STRIP))
    strips = [a.reshape(b // photos, photos, h, w, -1) for a in (x, dy)]

    def add_strip(i, total):
        xs, dys = (jnp.pad(a[i], ((0, 0), (0, 0), (0, 1), (0, 0))).reshape(photos, pixels, -1) for a in strips)
        xs, dys = jnp.pad(xs, ((0, 0), (1, 1), (0, 0))), jnp.pad(dys, ((0, 0), (row, row), (0, 0)))
        columns = jnp.concatenate([xs[:, j : j + pixels] for j in (0, 1, 2)], -1)
        rows = jnp.concatenate([dys[:, i * row : i * row + pixels] for i in (2, 1, 0)], -1)
        return total + jnp.einsum('bpo,bpc->oc', rows, columns, preferred_element_type=jnp.float32)

    total = lax.fori_loop(0, b // photos, add_strip, jnp.zeros((3 * o, 3 * c)))
    return total.reshape(3, o, 3, c).transpose(0, 2, 3, 1).astype(x.dtype)


def im2col_grad(x: Float[Array, 'b h w c'], kernel: Float[Array, '3 3 c o'], *_, **__) -> Float[Array, 'b h w o']:
    """`conv3x3` in the place of lax.conv_general_dilated, whose other arguments it has fixed."""
    return conv3x3(x, kernel)


CONVS: dict[str, Callable] = {'xla': lax.conv_general_dilated, 'im2col_grad': im2col_grad}


def choose(name: str) -> str:
    """A key of CONVS: the given one, or for 'auto' 'im2col_grad' on a single CPU and 'xla' elsewhere."""
    if name == 'auto':
        return 'im2col_grad' if jax.default_backend() == 'cpu' and jax.device_count() == 1 else 'xla'
    return name
