"""The camera behind the lens: from linear light to the eight bits of a file."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key, UInt8

from hpe_jax.data.synthetic_hands import texture

SHAKES = 8  # places along the path of a shaken camera


def develop(key: Key[Array, ''], light: Float[Array, 'size size 3'], noise: bool) -> Float[Array, 'size size 3']:
    """Lens and sensor: blur, vignette, exposure, white balance, noise, colour matrix and tone curve; out in [0, 1].

    Args:
      noise: false leaves a clean, sharp picture with exposure and tone only.
    """
    keys = jax.random.split(key, 10)
    size = len(light)
    # Exposed for the picture's own brightness, as a camera does, and sometimes badly.
    level = jnp.exp(jnp.log(light.mean(-1) + 0.02).mean())
    gain = 0.22 / level * jnp.exp(0.35 * jax.random.normal(keys[0]))
    white = jnp.exp(0.12 * jax.random.normal(keys[1], (3,)))
    light = light * gain * white
    if noise:
        scale = size / 224
        light = _shake(keys[2], light, scale)
        soft = jax.random.bernoulli(keys[3], 0.25)
        sigma = scale * jnp.where(soft, jax.random.uniform(keys[4], minval=0.6, maxval=1.8), 0.35)
        light = texture.gaussian_blur(light, sigma)
        ramp = jnp.linspace(-1, 1, size) ** 2
        light = light * (1 - jax.random.uniform(keys[5], maxval=0.25) * (ramp[:, None] + ramp))[..., None]
        light = light + _noise(keys[6], light)
    return _tone(keys[7], light)


def _shake(key, light, scale):
    """Mean over a straight path of the camera: motion blur, in a third of the pictures."""
    keys = jax.random.split(key, 3)
    length = jax.random.bernoulli(keys[0], 0.33) * jax.random.exponential(keys[1]) * 3 * scale
    angle = jax.random.uniform(keys[2], maxval=2 * jnp.pi)
    path = jnp.linspace(-0.5, 0.5, SHAKES)[:, None] * jnp.stack([jnp.sin(angle), jnp.cos(angle)]) * length
    margin = max(1, round(5 * scale))
    steps = jnp.clip(jnp.round(path).astype(jnp.int32), -margin, margin) + margin
    padded = jnp.pad(light, ((margin, margin), (margin, margin), (0, 0)), mode='edge')
    moved = [jax.lax.dynamic_slice(padded, (*step, 0), light.shape) for step in steps]
    return sum(moved) / SHAKES


def _noise(key, light):
    """Shot noise grows with the root of the light, read noise does not; blue is the worst channel."""
    keys = jax.random.split(key, 3)
    strength = jnp.exp(jax.random.uniform(keys[0], minval=jnp.log(0.003), maxval=jnp.log(0.05)))
    channel = jnp.array([1.2, 0.9, 1.5])
    # The sum of a word's four bytes is bell-shaped, and four times cheaper than a normal deviate.
    words = jax.random.bits(keys[1], light.shape)
    total = sum((words >> shift & 255).astype(jnp.float32) for shift in (0, 8, 16, 24))
    bell = (total - 510) / 147.8
    read = jax.random.uniform(keys[2], maxval=0.3)
    return bell * strength * channel * jnp.sqrt(jnp.clip(light, 0, 1) + read**2)


def _tone(key, light):
    """Colour matrix with rows that keep grey, saturation, and a film-like curve about sRGB's gamma."""
    keys = jax.random.split(key, 4)
    mix = 0.04 * jax.random.normal(keys[0], (3, 3))
    saturation = jax.random.uniform(keys[1], minval=0.6, maxval=1.15)
    matrix = saturation * jnp.eye(3) + (1 - saturation) * jnp.array([0.3, 0.59, 0.11])
    matrix = matrix + mix - mix.mean(1, keepdims=True)
    light = jnp.clip(light @ matrix.T, 1e-5, None)
    gamma = 1 / jax.random.uniform(keys[2], minval=1.9, maxval=2.5)
    shoulder = jax.random.uniform(keys[3], minval=0.7, maxval=0.95)
    # Highlights roll off above the shoulder instead of clipping at once.
    value = light**gamma
    return jnp.where(value < shoulder, value, 1 - (1 - shoulder) * jnp.exp((shoulder - value) / (1 - shoulder)))


def borders(
    key: Key[Array, ''], picture: Float[Array, 'size size 3'], keep: Float[Array, 'k 2'], likely: float
) -> tuple[Float[Array, 'size size 3'], Bool[Array, 'size size']]:
    """Crops whose content ends inside the frame: black, or the last row and column again and again.

    Args:
      keep: normalised (x, y) of points that must stay in the content.
      likely: probability that a picture has any border.

    Returns:
      the picture, and where content of its own remains.
    """
    keys = jax.random.split(key, 6)
    size = len(picture)
    inside = jnp.clip(keep, 0.02, 0.98)
    # Left, top, right, bottom: the room between the frame and the nearest point that must stay.
    room = jnp.concatenate([inside.min(0), 1 - inside.max(0)]) - 0.02
    some = jax.random.bernoulli(keys[0], likely)
    width = jnp.minimum(room * 0.9, 0.28 * jax.random.uniform(keys[1], (4,)) ** 2)
    width = some * jax.random.bernoulli(keys[2], 0.6, (4,)) * jnp.maximum(width, 0)
    at = (jnp.arange(size) + 0.5) / size
    tilt = jax.random.uniform(keys[3], minval=-0.06, maxval=0.06) * jax.random.bernoulli(keys[4], 0.8) * some
    x, y = at + tilt * (at[:, None] - 0.5), at[:, None] - tilt * (at - 0.5)
    # A tilted frame swings about its middle: what must stay is left in by taking the swing off the width.
    width = jnp.maximum(width - jnp.abs(tilt) / 2, 0) * (width > 0)
    content = (x >= width[0]) & (y >= width[1]) & (x <= 1 - width[2]) & (y <= 1 - width[3])
    repeat = jax.random.bernoulli(keys[5], 0.15)
    columns = jnp.clip(jnp.arange(size), jnp.floor(width[0] * size), jnp.ceil((1 - width[2]) * size) - 1)
    rows = jnp.clip(jnp.arange(size), jnp.floor(width[1] * size), jnp.ceil((1 - width[3]) * size) - 1)
    repeated = picture[rows.astype(jnp.int32)][:, columns.astype(jnp.int32)]
    return jnp.where(repeat, repeated, picture * content[..., None]), content | repeat


def to_bytes(picture: Float[Array, '*n']) -> UInt8[Array, '*n']:
    """[0, 1] to whole grey levels."""
    return jnp.round(jnp.clip(picture, 0, 1) * 255).astype(jnp.uint8)
