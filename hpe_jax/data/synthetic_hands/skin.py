"""Skin tones and the paint of a hand: reflectance and gloss of every vertex.

Tones are drawn evenly over the individual typology angle, ITA = atan((L* - 50) / b*) (Chardon et al. 1991), whose six
classes run from above 55 degrees (very light) to below -30 (dark), so no kind of skin is rare. Local change is change of
pigment: in optical density, melanin and haemoglobin each act along a fixed direction of RGB (Tsumura et al. 2003).
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

ITA_RANGE = (-60.0, 65.0)  # degrees
MELANIN = jnp.array([0.41, 0.36, 0.84])  # optical density in linear R, G, B; after Tsumura et al. 2003
HAEMOGLOBIN = jnp.array([0.30, 0.68, 0.67])


def tone(ita: Float[Array, ''], redness: Float[Array, ''], chroma: Float[Array, '']) -> Float[Array, '3']:
    """Linear RGB reflectance of skin of one ITA (degrees).

    b* peaks at intermediate tones and falls towards both ends, a* varies less: the arcs that surveys of human skin find
    (Xiao et al. 2017: means of L* 38 to 65, a* 9 to 13, b* 11 to 19 over four groups). `redness` and `chroma` are
    a person's deviations from the mean in a* and b*.
    """
    b = 11 + 8 * jnp.exp(-(((ita - 15) / 38) ** 2)) + chroma
    a = 9.5 + 2.5 * jnp.exp(-(((ita - 5) / 45) ** 2)) + redness
    # The tangent would leave the range of real skin at both ends; L* of real skin is about 25 to 75.
    lightness = jnp.clip(50 + b * jnp.tan(jnp.deg2rad(jnp.clip(ita, -68, 66))), 24, 76)
    return lab_to_linear(jnp.stack([lightness, a, b]))


def lab_to_linear(lab: Float[Array, '3']) -> Float[Array, '3']:
    """CIE L*a*b* (D65) to linear sRGB, in closed form."""
    fy = (lab[0] + 16) / 116
    f = jnp.stack([fy + lab[1] / 500, fy, fy - lab[2] / 200])
    xyz = jnp.array([0.9505, 1.0, 1.089]) * jnp.where(f > 6 / 29, f**3, 3 * (6 / 29) ** 2 * (f - 4 / 29))
    to_rgb = jnp.array([[3.2406, -1.5372, -0.4986], [-0.9689, 1.8758, 0.0415], [0.0557, -0.2040, 1.0570]])
    return jnp.clip(to_rgb @ xyz, 0.01, 1)


def waves(key: Key[Array, ''], points: Float[Array, 'v 3'], count: int, scale: float) -> Float[Array, ' v']:
    """Smooth noise of unit variance over points in space: a few random plane waves; `scale` metres is a wavelength."""
    keys = jax.random.split(key)
    frequency = jax.random.normal(keys[0], (count, 3)) * (4 / scale)
    phase = jax.random.uniform(keys[1], (count,), maxval=2 * jnp.pi)
    return jnp.sin(points @ frequency.T + phase).sum(-1) * jnp.sqrt(2 / count)


def paint(key: Key[Array, ''], mesh) -> tuple[Float[Array, 'v 3'], Float[Array, ' v']]:
    """Reflectance (linear RGB) and gloss (0 dull, 1 wet) of each vertex of a random person's hand."""
    keys = jax.random.split(key, 16)
    ita = jax.random.uniform(keys[0], minval=ITA_RANGE[0], maxval=ITA_RANGE[1])
    redness, chroma = 1.5 * jax.random.normal(keys[1], (2,))
    back = tone(ita, redness, chroma)
    # The palm has little melanin whatever the person: dark skin's palm is far lighter than its back.
    palm = tone(jnp.maximum(ita, 0.45 * ita + 12), redness + 2, chroma)
    palm_side = mesh.palm * (mesh.arm < 0.02)  # but the forearm's underside is not a palm
    skin = back + (palm - back) * palm_side[:, None]

    rest = mesh.rest
    blotches = waves(keys[2], rest, 6, 0.06) + waves(keys[3], rest, 8, 0.02)
    blood = 0.10 * waves(keys[4], rest, 8, 0.03) * jax.random.uniform(keys[5])
    flush = jax.random.uniform(keys[6], (3,)) * jnp.array([0.35, 0.25, 0.3])
    blood += flush[0] * mesh.tip + flush[1] * mesh.crease * (1 - mesh.palm) + flush[2] * 0.5 * mesh.palm * mesh.tip
    melanin = 0.06 * blotches * jax.random.uniform(keys[7])
    melanin += mesh.crease * jax.random.uniform(keys[8], minval=0.1, maxval=0.5)  # folds are darker on both sides
    skin = skin * jnp.exp(-melanin[:, None] * MELANIN - blood[:, None] * HAEMOGLOBIN)

    polish = jax.random.bernoulli(keys[9], 0.1)
    varnish = jnp.exp(jax.random.uniform(keys[10], (3,), minval=-3.5, maxval=-0.2))
    natural = skin * jnp.array([1.12, 1.15, 1.18]) + 0.03
    nail = jnp.where(polish, varnish, natural)
    skin = skin + (nail - skin) * mesh.nail[:, None]

    sweat = jax.random.uniform(keys[11]) ** 2
    gloss = sweat * jnp.clip(0.6 + 0.25 * waves(keys[12], rest, 8, 0.02), 0, 1)
    gloss = jnp.maximum(gloss, mesh.nail * jax.random.uniform(keys[13], minval=0.3, maxval=1))
    return skin, gloss
