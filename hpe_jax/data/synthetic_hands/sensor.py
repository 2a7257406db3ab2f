"""The camera behind the lens: from linear light to the eight bits of a file."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key, UInt8

from hpe_jax.data.synthetic_hands import texture
from hpe_jax.data.synthetic_hands.texture import between, log_between, named_uniforms

SHAKES = 8  # places along the path of a shaken camera


def develop(key: Key[Array, ''], light: Float[Array, 'size size 3'], noise: bool) -> Float[Array, 'size size 3']:
    """Lens and sensor: blur, vignette, exposure, white balance, noise, colour matrix and tone curve; out in [0, 1].

    Args:
      noise: false leaves a clean, sharp image with exposure and tone only.
    """
    keys = jax.random.split(key, 5)
    u, deviates = named_uniforms(keys[0], 'blurred blur vignette'), jax.random.normal(keys[1], (4,))
    size = len(light)
    ramp = jnp.linspace(-1, 1, size) ** 2
    radius = ramp[:, None] + ramp
    # Exposed for the middle's brightness, as a camera does, and sometimes badly.
    middle = jnp.exp(-3 * radius)
    level = jnp.exp((jnp.log(light.mean(-1) + 0.02) * middle).sum() / middle.sum())
    light = light * 0.22 / level * jnp.exp(0.35 * deviates[0] + 0.06 * deviates[1:])
    if noise:
        light = _shake(keys[2], light, size / 224)
        sigma = jnp.where(u.blurred < 0.25, between(u.blur, 0.6, 1.8), 0.35)
        light = texture.gaussian_blur(light, sigma * size / 224)
        light = light * (1 - 0.25 * u.vignette * radius)[..., None]
        light = light + _noise(keys[3], light)
    return _tone(keys[4], light)


def _shake(key, light, scale):
    """Mean over a straight path of the camera: motion blur, in a third of the images."""
    u = named_uniforms(key, 'length shaken angle')
    length = -3 * scale * jnp.log1p(-u.length) * (u.shaken < 0.33)
    angle = 2 * jnp.pi * u.angle
    path = jnp.linspace(-0.5, 0.5, SHAKES)[:, None] * jnp.stack([jnp.sin(angle), jnp.cos(angle)]) * length
    margin = max(1, round(5 * scale))
    steps = jnp.clip(jnp.round(path).astype(jnp.int32), -margin, margin) + margin
    padded = jnp.pad(light, ((margin, margin), (margin, margin), (0, 0)), mode='edge')
    moved = [jax.lax.dynamic_slice(padded, (*step, 0), light.shape) for step in steps]
    return sum(moved) / SHAKES


def _noise(key, light):
    """Shot noise grows with the root of the light, read noise does not; blue is the worst channel."""
    keys = jax.random.split(key)
    u = named_uniforms(keys[0], 'strength read')
    strength = log_between(u.strength, 0.003, 0.05) * jnp.array([1.2, 0.9, 1.5])
    # The sum of a word's four bytes is bell-shaped, and four times cheaper than a normal deviate.
    words = jax.random.bits(keys[1], light.shape)
    total = sum((words >> shift & 255).astype(jnp.float32) for shift in (0, 8, 16, 24))
    bell = (total - 510) / 147.8
    return bell * strength * jnp.sqrt(jnp.clip(light, 0, 1) + (0.3 * u.read) ** 2)


def _tone(key, light):
    """Colour matrix with rows that keep grey, saturation, and a film-like curve about sRGB's gamma."""
    keys = jax.random.split(key)
    u = named_uniforms(keys[0], 'saturation gamma shoulder contrast')
    mix = 0.04 * jax.random.normal(keys[1], (3, 3))
    saturation = between(u.saturation, 0.7, 1.2)
    matrix = saturation * jnp.eye(3) + (1 - saturation) * jnp.array([0.3, 0.59, 0.11])
    light = jnp.clip(light @ (matrix + mix - mix.mean(1, keepdims=True)).T, 1e-5, None)
    value = light ** (1 / between(u.gamma, 2.0, 2.4))
    # Highlights roll off above the shoulder instead of clipping at once.
    shoulder = between(u.shoulder, 0.7, 0.95)
    value = jnp.where(value < shoulder, value, 1 - (1 - shoulder) * jnp.exp((shoulder - value) / (1 - shoulder)))
    return value + between(u.contrast, 0.0, 1.0) * (value**2 * (3 - 2 * value) - value)


def borders(
    key: Key[Array, ''], image: Float[Array, 'size size 3'], keep: Float[Array, 'k 2'], likely: float
) -> tuple[Float[Array, 'size size 3'], Bool[Array, 'size size']]:
    """Crops whose content ends inside the frame: black, or the last row and column again and again.

    Args:
      keep: normalised (x, y) of points that must stay in the content.
      likely: probability that an image has any border.

    Returns:
      the image, and where content of its own remains.
    """
    size = len(image)
    u = jax.random.uniform(key, (12,))
    (has_border, tilted, tilt, repeated), sides, widths = u[jnp.array([0, 9, 10, 11])], u[1:5], u[5:9]
    inside = jnp.clip(keep, 0.02, 0.98)
    # Left, top, right, bottom: the room between the frame and the nearest point that must stay.
    room = jnp.concatenate([inside.min(0), 1 - inside.max(0)]) - 0.02
    some = has_border < likely
    width = some * (sides < 0.6) * jnp.clip(0.28 * widths**2, 0, 0.9 * jnp.maximum(room, 0))
    at = (jnp.arange(size) + 0.5) / size
    tilt = some * (tilted < 0.8) * between(tilt, -0.06, 0.06)
    x, y = at + tilt * (at[:, None] - 0.5), at[:, None] - tilt * (at - 0.5)
    # A tilted frame swings about its middle: what must stay is left in by taking the swing off the width.
    width = jnp.maximum(width - jnp.abs(tilt) / 2, 0) * (width > 0)
    content = (x >= width[0]) & (y >= width[1]) & (x <= 1 - width[2]) & (y <= 1 - width[3])
    repeat = repeated < 0.15
    columns = jnp.clip(jnp.arange(size), jnp.floor(width[0] * size), jnp.ceil((1 - width[2]) * size) - 1)
    rows = jnp.clip(jnp.arange(size), jnp.floor(width[1] * size), jnp.ceil((1 - width[3]) * size) - 1)
    repeated = image[rows.astype(jnp.int32)][:, columns.astype(jnp.int32)]
    return jnp.where(repeat, repeated, image * content[..., None]), content | repeat


def to_bytes(image: Float[Array, '*n']) -> UInt8[Array, '*n']:
    """[0, 1] to whole grey levels."""
    return jnp.round(jnp.clip(image, 0, 1) * 255).astype(jnp.uint8)
