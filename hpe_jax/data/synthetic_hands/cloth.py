"""What covers arm and things: sleeves, bands and the two-coloured patterns of all materials."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from hpe_jax.data.synthetic_hands import skin, texture
from hpe_jax.data.synthetic_hands.texture import between, log_between, named_uniforms

SKIN, SLEEVE, BAND, FIRST_THING = 0, 1, 2, 3
NEVER = 9.0  # metres from the wrist: farther than any arm reaches


class Garment(NamedTuple):
    """Where the arm is covered, in metres from the wrist towards the elbow."""

    cuff: Float[Array, '']  # the sleeve's end; NEVER without one
    band: Float[Array, '2']  # first and last place of a watch strap or bracelet; NEVER without one
    thickness: Float[Array, '']  # of the sleeve, metres


class Materials(NamedTuple):
    """Two colours and how a tile mixes them: skin, sleeve, band, then the things."""

    first: Float[Array, 'm 3']  # factors of the reflectance
    second: Float[Array, 'm 3']
    zoom: Float[Array, 'm 2']  # tiles a metre
    tiles: Float[Array, 'm h w']


def random_garment(key: Key[Array, ''], sleeve: float = 0.55, band: float = 0.2) -> Garment:
    """A bare arm, one with a sleeve that ends somewhere on the forearm, one with a watch: or both."""
    u = named_uniforms(key, 'sleeved reaches_wrist cuff banded start width thickness')
    # Half the sleeves reach the wrist, as most do.
    cuff = jnp.where(u.reaches_wrist < 0.5, 0.03, 0.16) * between(u.cuff, 0.5, 1.3)
    start = between(u.start, 0.012, 0.05)
    extent = jnp.stack([start, start + between(u.width, 0.004, 0.022)])
    return Garment(
        cuff=jnp.where(u.sleeved < sleeve, cuff, NEVER),
        band=jnp.where(u.banded < band, extent, NEVER),
        thickness=between(u.thickness, 0.003, 0.009),
    )


def cover(
    key: Key[Array, ''],
    points: Float[Array, 'v 3'],
    normals: Float[Array, 'v 3'],
    arm: Float[Array, ' v'],
    noises: Float[np.ndarray, 'v n'],
    garment: Garment,
) -> Float[Array, 'v 3']:
    """Moves the covered skin outwards by the cloth, its folds and its fall, or by the band."""
    keys = jax.random.split(key)
    past = arm - garment.cuff
    folds = skin.mixed(jax.random.normal(keys[0], (noises.shape[1],)), noises)
    loose = 0.08 * jax.random.uniform(keys[1])  # a sleeve widens towards the elbow
    lift = jnp.clip(garment.thickness * (1 + 0.5 * folds) + loose * jnp.clip(past, 0, 0.15), 0.001, None)
    lift = lift * jnp.clip(past / 0.004 + 1, 0, 1)
    around = jnp.minimum(arm - garment.band[0], garment.band[1] - arm)
    lift = jnp.maximum(lift, 0.002 * jnp.clip(around / 0.002 + 1, 0, 1))
    return points + normals * lift[:, None]


def material_at(arm: Float[Array, '*n'], thing: Int[Array, '*n'], garment: Garment) -> Int[Array, '*n']:
    """Which material a point shows, from its place along the arm and the number of its thing (0 is the hand)."""
    banded = (arm > garment.band[0]) & (arm < garment.band[1])
    limb = jnp.where(arm > garment.cuff, SLEEVE, jnp.where(banded, BAND, SKIN))
    return jnp.where(thing > 0, FIRST_THING + thing - 1, limb)


def random_materials(key: Key[Array, ''], things: int) -> Materials:
    """Skin's own mottling first; then cloth and things, plain or patterned, some skin-coloured."""
    keys = jax.random.split(key, 6)
    count = FIRST_THING + things
    u = named_uniforms(keys[0], 'chroma grey blue plain_sleeve mottled')
    each = named_uniforms(keys[1], 'skin_coloured spread zoom_across zoom_along spare', (count, 1))
    first = texture.palette(keys[2], count, between(u.chroma, 0.05, 0.5), 0.7)
    first = jnp.where(
        (each.skin_coloured < 0.15) & (jnp.arange(count) >= FIRST_THING)[:, None], 0.5 * first + 0.1, first
    )
    # Half of the sleeves are white, grey, black or blue.
    plain = log_between(u.grey, 0.03, 0.8) * jnp.where(u.blue < 0.5, 1.0, jnp.array([0.5, 0.75, 1.2]))
    first = first.at[SLEEVE].set(jnp.where(u.plain_sleeve < 0.5, plain, first[SLEEVE]))
    spread = 1.2 * each.spread**2
    second = jnp.clip(first * jnp.exp(spread * jax.random.normal(keys[3], (count, 3))), 0.005, 0.95)
    zoom = log_between(jnp.concatenate([each.zoom_across, each.zoom_along], -1), 6, 40)

    pigment = between(u.mottled, 0.03, 0.12) * (0.6 * skin.MELANIN + 0.4 * skin.HAEMOGLOBIN)
    tiles = texture.random_tiles(keys[4], count)
    grain = texture.octave_noise(keys[5], texture.TILE, 1, 0.4, finest=1)[0]
    return Materials(
        first=first.at[SKIN].set(jnp.exp(pigment)),
        second=second.at[SKIN].set(jnp.exp(-pigment)),
        zoom=zoom.at[SKIN].set(12.0),
        tiles=tiles.at[SKIN].set(jax.nn.sigmoid(1.5 * grain)),
    )
