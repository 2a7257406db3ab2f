"""Skin tones and the paint of a hand: reflectance and gloss of every vertex.

Tones are drawn evenly over the individual typology angle, ITA = atan((L* - 50) / b*) (Chardon et al. 1991), whose six
classes run from above 55 degrees (very light) to below -30 (dark), so no kind of skin is rare. Local change is change
of pigment: in optical density, melanin and haemoglobin each act along a fixed direction of RGB (Tsumura et al. 2003).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from hpe_jax.data.synthetic_hands import mesh
from hpe_jax.data.synthetic_hands.texture import Scalar, between, named_uniforms

ITA_RANGE = (-60.0, 65.0)  # degrees
MELANIN = np.array([0.41, 0.36, 0.84], np.float32)  # optical density in linear R, G, B; after Tsumura et al. 2003
HAEMOGLOBIN = np.array([0.30, 0.68, 0.67], np.float32)


def tone(ita: Scalar, redness: Scalar, chroma: Scalar) -> Float[Array, '3']:
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


def waves(points: Float[np.ndarray, 'v 3'], scale: float, count: int, seed: int) -> Float[np.ndarray, 'v n']:
    """Fixed smooth noises over points in space, plane waves of about `scale` metres; mixed at random by `mixed`."""
    rng = np.random.default_rng(seed)
    phase = points @ rng.normal(scale=4 / scale, size=(3, count)) + rng.uniform(0, 2 * np.pi, count)
    return np.sin(phase).astype(np.float32) * np.float32(np.sqrt(2))


def mixed(deviates: Float[Array, ' n'], noises: Float[np.ndarray, 'v n']) -> Float[Array, ' v']:
    """A random smooth noise of unit variance from normal deviates."""
    return noises @ deviates / np.sqrt(len(deviates))


class Marks(NamedTuple):
    """What tells the palm from the back, 0 to 1 on every vertex."""

    lines: Float[np.ndarray, ' v']  # of the palm and the wrist
    knuckles: Float[np.ndarray, ' v']  # folded skin over the joints, on the back
    tendons: Float[np.ndarray, ' v']  # from the wrist to the knuckles, on the back


# In the palm's plane of the mean hand at rest, metres: distal, proximal and thenar crease, and the wrist's two folds.
PALM_LINES = (
    ((-0.052, 0.055), (-0.030, 0.060), (-0.010, 0.068), (0.008, 0.080)),
    ((0.030, 0.062), (0.010, 0.055), (-0.012, 0.045), (-0.038, 0.033)),
    ((0.030, 0.062), (0.012, 0.048), (0.004, 0.028), (0.006, 0.006)),
    ((-0.028, -0.004), (0.025, -0.004)),
    ((-0.026, -0.010), (0.023, -0.010)),
)
KNUCKLES = {2: 9, 3: 8, 5: 11, 6: 9, 7: 6, 9: 11, 10: 9, 11: 6, 13: 11, 14: 9, 15: 6, 17: 10, 18: 8, 19: 5}  # joint: mm


def marks(rest: Float[np.ndarray, 'v 3'], joints: Float[np.ndarray, 'j 3'], palm: Float[np.ndarray, ' v']) -> Marks:
    """The marks of the mean hand.

    Args:
      rest, joints: metres.
      palm: 1 on the palmar side, 0 on the back.
    """

    def along(line, width):
        pairs = zip(line[:-1], line[1:], strict=True)
        return np.exp(-0.5 * (np.min([_to_segment(rest[:, :2], *pair) for pair in pairs], 0) / width) ** 2)

    # The palm proper: the fingers' bases rise above it and have creases of their own.
    flat = palm * np.clip((0.095 - rest[:, 1]) / 0.01, 0, 1)
    lines = flat * np.max([along(line, 0.0017) for line in PALM_LINES], 0)
    near = [np.exp(-((np.linalg.norm(rest - joints[j], axis=-1) / (0.0013 * mm)) ** 4)) for j, mm in KNUCKLES.items()]
    tendons = np.max([along(((0.3 * joints[j, 0], 0.01), tuple(joints[j, :2])), 0.003) for j in (5, 9, 13, 17)], 0)
    tendons = tendons * np.clip((joints[9, 1] - rest[:, 1]) / 0.01, 0, 1)
    back = 1 - palm
    return Marks(*(np.float32(mark) for mark in (lines, back * np.max(near, 0), back * tendons)))


def _to_segment(points, start, end) -> np.ndarray:
    """Distance of 2-D points to a segment."""
    start, end = np.asarray(start), np.asarray(end)
    along = np.clip((points - start) @ (end - start) / ((end - start) ** 2).sum(), 0, 1)
    return np.linalg.norm(points - start - along[:, None] * (end - start), axis=-1)


class Noises(NamedTuple):
    """Fixed noises over the vertices, see `waves`."""

    broad: Float[np.ndarray, 'v n']
    fine: Float[np.ndarray, 'v n']
    grain: Float[np.ndarray, 'v m']


def relief(key: Key[Array, ''], noises: Noises) -> Float[Array, ' v']:
    """How far the skin of a random person lies outside the mesh, metres: plump or thin, with bulges and wrinkles.

    Without it a network takes the shading of one smooth mesh for what all hands look like.
    """
    k_size, k_bulges, k_wrinkles = jax.random.split(key, 3)
    plump, bulge, wrinkle = jax.random.uniform(k_size, (3,))
    bulges = mixed(jax.random.normal(k_bulges, noises.fine.shape[1:]), noises.fine)
    wrinkles = mixed(jax.random.normal(k_wrinkles, noises.grain.shape[1:]), noises.grain)
    return between(plump, -0.0008, 0.0016) + 0.0008 * bulge * bulges + 0.0003 * wrinkle * wrinkles


def spots(
    key: Key[Array, ''], palm: Float[Array, ' v'], noises: Noises
) -> tuple[Float[Array, ' v'], Float[Array, ' v']]:
    """Blood and melanin of blotches and of lines that run anywhere, as strong on the back as in the palm.

    A network that knows dark lines from palms alone takes a blotched back for a palm, and a smooth palm for a back.
    """
    k_strength, k_blotches, k_lines = jax.random.split(key, 3)
    strength = jax.random.uniform(k_strength, (2, 2)) ** 2
    blotches = mixed(jax.random.normal(k_blotches, noises.grain.shape[1:]), noises.grain)
    lines = jnp.exp(-((mixed(jax.random.normal(k_lines, noises.grain.shape[1:]), noises.grain) / 0.12) ** 2))
    blotched, lined = (back + (front - back) * palm for back, front in strength)
    return 0.35 * blotched * blotches, 0.5 * lined * lines


def paint(
    key: Key[Array, ''], hand: mesh.HandMesh, noises: Noises, marks: Marks
) -> tuple[Float[Array, 'v 3'], Float[Array, ' v']]:
    """Reflectance (linear RGB) and gloss (0 dull, 1 wet) of each vertex of a random person's hand."""
    k_uniform, k_normal, k_person, k_spots = jax.random.split(key, 4)
    u = named_uniforms(
        k_uniform,
        'ita blotched red_tips red_creases red_lines red_knuckles freckled dark_creases dark_lines dark_knuckles '
        'pale_tendons varnished varnish_red varnish_green varnish_blue pale_nails sweat nail_gloss',
    )
    deviates = jax.random.normal(k_normal, (4, noises.broad.shape[1]))
    redness, chroma, palm_redness, palm_ita = jax.random.normal(k_person, (4,))
    ita = between(u.ita, *ITA_RANGE)
    back = tone(ita, redness, 1.5 * chroma)
    # The palm has little melanin whatever the person: dark skin's palm is far lighter than its back.
    palm = tone(jnp.maximum(ita, 0.5 * ita + 5) + 6 * palm_ita, redness + 2 + 2 * palm_redness, chroma)
    palm_side = hand.palm * jnp.clip(1 - hand.arm / 0.02, 0, 1)  # the forearm's underside is no palm
    skin = back + (palm - back) * palm_side[:, None]

    blood, melanin = spots(k_spots, hand.palm, noises)
    blood += 0.12 * u.blotched * mixed(deviates[0], noises.fine)
    blood += 0.35 * u.red_tips * hand.tip + 0.3 * u.red_creases * hand.crease * (1 - hand.palm)
    blood += 0.5 * u.red_lines * marks.lines + 0.45 * u.red_knuckles * marks.knuckles
    melanin += 0.08 * u.freckled * (mixed(deviates[1], noises.broad) + mixed(deviates[2], noises.fine))
    melanin += 0.9 * u.dark_creases * hand.crease  # folds are darker on both sides
    melanin += 0.8 * u.dark_lines * marks.lines + 0.3 * u.dark_knuckles * marks.knuckles
    melanin -= 0.15 * u.pale_tendons * marks.tendons
    skin = skin * jnp.exp(-melanin[:, None] * MELANIN - blood[:, None] * HAEMOGLOBIN)

    varnish = jnp.exp(between(jnp.stack([u.varnish_red, u.varnish_green, u.varnish_blue]), -3.5, -0.2))
    natural = skin * (1 + u.pale_nails * jnp.array([0.15, 0.2, 0.25])) + 0.05 * u.pale_nails
    nail = jnp.where(u.varnished < 0.1, varnish, natural)
    skin = skin + (nail - skin) * hand.nail[:, None]

    sweat = u.sweat**2 * jnp.clip(0.6 + 0.25 * mixed(deviates[3], noises.fine), 0, 1)
    return skin, jnp.maximum(sweat, hand.nail * between(u.nail_gloss, 0.3, 1))
