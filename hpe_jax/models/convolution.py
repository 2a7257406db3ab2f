"""Convolutions, and what makes them quick on a CPU.

XLA computes the gradient of a convolution's weights as a convolution whose window is a whole photo. That suits
accelerators; on a CPU it took 60 % of a training step. Here it is a matrix product over strips that fit the cache.

jaxlib for x86 also contains oneDNN, whose convolutions are up to ten times as quick as XLA's own. XLA's runtime
reaches them by a custom call that nobody documents: `onednn_works` tries it in a separate process before it is used.
"""

import contextlib
import functools
import json
import math
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from hpe_jax import files, runtime
from hpe_jax.errors import UserError

STRIP = 1 << 20  # bytes; about a core's level-2 cache
LAYOUT = ('NHWC', 'HWIO', 'NHWC')
ONEDNN_JAXLIBS = (0, 10), (0, 12)  # first and last version that the custom call was tried with

Image = Float[Array, 'b h w c']


def _xla(x: Image, kernel: Float[Array, 'k k c o'], stride: int, pad: tuple[int, int]) -> Float[Array, 'b i j o']:
    return lax.conv_general_dilated(x, kernel, (stride, stride), (pad, pad), dimension_numbers=LAYOUT)


def _xla_product(a: Float[Array, 'n p'], b: Float[Array, 'n q']) -> Float[Array, 'p q']:
    return jnp.einsum('np,nq->pq', a, b, preferred_element_type=jnp.float32)


def _onednn(x: Image, kernel: Float[Array, 'k k c o'], stride: int, pad: tuple[int, int]) -> Float[Array, 'b i j o']:
    images = {'data': {'batch_dim': '0', 'feature_dim': '3', 'spatial_dims': ['1', '2']}}
    filters = {'input_feature_dim': '2', 'output_feature_dim': '3', 'spatial_dims': ['0', '1']}
    window = {'pad_left': pad[0], 'pad_right': pad[1], 'strides': stride, 'window_dilations': 1}
    config = {
        'dims': '4',
        'input': images,
        'kernel': {'filter': filters},
        'output': images,
        'window': {name: [str(value)] * 2 for name, value in window.items()},
        'feature_groups': '1',
    }
    height, width = ((n + sum(pad) - kernel.shape[0]) // stride + 1 for n in x.shape[1:3])
    shape = (x.shape[0], height, width, kernel.shape[3])
    return _custom_call('convolution', {'onednn_conv_config': config}, shape, x.dtype)(x, kernel)


def _onednn_product(a: Float[Array, 'n p'], b: Float[Array, 'n q']) -> Float[Array, 'p q']:
    config = {'onednn_matmul_config': {'transpose_a': True, 'transpose_b': False}}
    return _custom_call('matmul', config, (a.shape[1], b.shape[1]), a.dtype)(a, b)


def _custom_call(name: str, config: dict, shape: tuple[int, ...], dtype: DTypeLike) -> Callable:
    """A malformed config kills the process: oneDNN is built without exceptions."""
    out = jax.ShapeDtypeStruct(shape, dtype)
    return jax.ffi.ffi_call(
        f'__onednn${name}', out, custom_call_api_version=2, legacy_backend_config=json.dumps(config)
    )


def _rounded(function: Callable) -> Callable:
    """The same of factors that are rounded to bfloat16; the sums stay float32 until they are rounded, too."""

    def call(a, b, *rest):
        return function(a.astype(jnp.bfloat16), b.astype(jnp.bfloat16), *rest).astype(a.dtype)

    return call


# What computes the convolution and the product of its weights' gradient. 'onednn_bfloat16' is for processors with
# avx512_bf16, which it takes two thirds of the time of 'onednn'.
KINDS = {
    'im2col_grad': (_xla, _xla_product),
    'onednn': (_onednn, _onednn_product),
    'onednn_bfloat16': (_rounded(_onednn), _rounded(_onednn_product)),
}


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def conv(x: Image, kernel: Float[Array, 'k k c o'], stride: int, kind: str) -> Float[Array, 'b i j o']:
    """A convolution padded with (k - 1) // 2 zeros on each side, k odd; `kind`: a key of KINDS."""
    return KINDS[kind][0](x, kernel, stride, _same(kernel))


def _same(kernel) -> tuple[int, int]:
    return (kernel.shape[0] // 2,) * 2


def _forward(x, kernel, stride, kind):
    return conv(x, kernel, stride, kind), (x, kernel)


def _backward(stride, kind, kept, dy):
    x, kernel = kept
    convolve, product = KINDS[kind]
    if stride == 1:
        dx = convolve(dy, kernel[::-1, ::-1].swapaxes(2, 3), 1, _same(kernel))
    elif stride == 2 and kernel.shape[0] == 3 and not any(n % 2 for n in x.shape[1:3]):
        dx = _input_gradient_of_stride_2(dy, kernel, convolve)
    else:
        (dx,) = jax.vjp(lambda x: _xla(x, kernel, stride, _same(kernel)), x)[1](dy)
    return dx, weight_gradient(x, dy, kernel.shape[0], stride, product)


conv.defvjp(_forward, _backward)


def _input_gradient_of_stride_2(
    dy: Float[Array, 'b h w o'], kernel: Float[Array, '3 3 c o'], convolve: Callable
) -> Float[Array, 'b i j c']:
    """One 2x2 convolution gives the pixels of even and odd rows and columns as four times the channels.

    Along an axis an even pixel is under the kernel's middle once, an odd one under its last and then its first place.
    """
    (b, h, w, _), (c, o) = dy.shape, kernel.shape[2:]
    of_place = np.array([[1, 3], [2, 0]])  # [parity, place of dy]; 3: no place
    padded = jnp.pad(kernel, ((0, 1), (0, 1), (0, 0), (0, 0)))
    phases = padded[of_place[:, :, None, None], of_place[None, None]]  # parity, place, parity, place, c, o
    phases = phases.transpose(1, 3, 5, 0, 2, 4).reshape(2, 2, o, 4 * c)
    dx = convolve(dy, phases, 1, (0, 1)).reshape(b, h, w, 2, 2, c)
    return dx.transpose(0, 1, 3, 2, 4, 5).reshape(b, 2 * h, 2 * w, c)


def weight_gradient(
    x: Image, dy: Float[Array, 'b i j o'], size: int = 3, stride: int = 1, product: Callable = _xla_product
) -> Float[Array, '{size} {size} c o']:
    """dk[i, j] = sum over photos and pixels of x[stride * h + i - pad, stride * w + j - pad]^T dy[h, w], zeros outside.

    product: (n, p), (n, q) -> (p, q), the sum over n.
    """
    if size == 3 and stride == 1:
        return _weight_gradient_3x3(x, dy, product)
    pad, (_, height, width, o) = size // 2, dy.shape
    padded = jnp.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    rows, columns = (slice(0, (n - 1) * stride + 1, stride) for n in (height, width))
    places = [padded[:, i:, j:][:, rows, columns] for i in range(size) for j in range(size)]
    patches = jnp.concatenate(places, -1).reshape(-1, size**2 * x.shape[-1])
    return product(patches, dy.reshape(-1, o)).reshape(size, size, -1, o).astype(x.dtype)


def _weight_gradient_3x3(x, dy, product):
    """Both factors are shifted, x by columns and dy by rows, so that one product of (3 c, pixels) with (pixels, 3 o)
    holds all nine: im2col with a third of its copies. A column of zeros after each row makes every shift a slice of the
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
        return total + product(rows.reshape(photos * pixels, -1), columns.reshape(photos * pixels, -1))

    total = lax.fori_loop(0, b // photos, add_strip, jnp.zeros((3 * o, 3 * c)))
    return total.reshape(3, o, 3, c).transpose(0, 2, 3, 1).astype(x.dtype)


def _in_its_place(kind: str) -> Callable:
    """`conv` in the place of lax.conv_general_dilated, of whose other arguments it has its own values."""
    return lambda x, kernel, strides=(1, 1), *_, **__: conv(x, kernel, strides[0], kind)


CONVS: dict[str, Callable] = {'xla': lax.conv_general_dilated} | {kind: _in_its_place(kind) for kind in KINDS}


def choose(name: str) -> str:
    """A key of CONVS: the given one, or for 'auto' the quickest on a single CPU and 'xla' elsewhere."""
    if name == 'auto' and (jax.default_backend() != 'cpu' or jax.device_count() > 1):
        name = 'xla'
    elif name == 'auto':
        name = 'onednn' if onednn_works() else 'im2col_grad'
    if name.startswith('onednn'):
        keep_no_programs()
    return name


def keep_no_programs() -> None:
    """From now on nothing is written to the compilation cache, which is still read.

    A jaxlib that writes a program with oneDNN's call fails: 0.10 with an exception, 0.12 by a crash of the process.
    """
    jax.config.update('jax_persistent_cache_min_compile_time_secs', math.inf)


@functools.cache
def onednn_works() -> bool:
    """Whether this jaxlib's oneDNN answers as XLA does, on a tiny convolution.

    Tried once in a separate process, which a jaxlib that knows the call no more may kill; the answer is kept by
    jaxlib's version beside the compiled programs.
    """
    version = jax.lib.__version__
    first, last = ONEDNN_JAXLIBS
    if not (sys.platform == 'linux' and platform.machine() == 'x86_64'):
        return False
    if not first <= tuple(map(int, version.split('.')[:2])) <= last:
        return False
    kept = Path(os.environ.get('JAX_COMPILATION_CACHE_DIR') or runtime.COMPILED).expanduser() / f'onednn-{version}.json'
    try:
        return json.loads(kept.read_text())['works'] is True
    except (OSError, ValueError, KeyError, TypeError):
        pass
    try:
        child = subprocess.run([sys.executable, '-c', TRIAL], capture_output=True, timeout=120)
    except (OSError, subprocess.TimeoutExpired):
        return False
    works = child.returncode == 0 and child.stdout.strip() == b'works'
    with contextlib.suppress(UserError):
        files.write_json(kept, {'works': works})
    return works


TRIAL = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
import jax
jax.config.update('jax_platforms', 'cpu')
import jax.numpy as jnp
from hpe_jax.models import convolution
convolution.keep_no_programs()
x, kernel = jnp.arange(2 * 6 * 6 * 2.0).reshape(2, 6, 6, 2) % 5, jnp.arange(3 * 3 * 2 * 4.0).reshape(3, 3, 2, 4) % 7
for stride in (1, 2):
    value, pull = jax.vjp(lambda x, k: convolution.conv(x, k, stride, 'onednn'), x, kernel)
    wanted, wanted_pull = jax.vjp(lambda x, k: convolution._xla(x, k, stride, (1, 1)), x, kernel)
    for a, b in zip((value, *pull(value)), (wanted, *wanted_pull(wanted)), strict=True):
        assert jnp.allclose(a, b, rtol=1e-5)
print('works')
"""
