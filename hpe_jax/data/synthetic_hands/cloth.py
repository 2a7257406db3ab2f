"""What covers arm and things: sleeves, bands and the two-coloured patterns of all materials."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from hpe_jax.data.synthetic_hands import skin, texture

SKIN, SLEEVE, BAND, FIRST_THING = 0, 1, 2, 3
NEVER = 9.0  # metres from the wrist: farther than any arm reaches
PATTERNS = 8


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
    keys = jax.random.split(key, 6)
    covered = jax.random.bernoulli(keys[0], sleeve)
    # Half the sleeves reach the wrist, as most do.
    cuff = jnp.where(jax.random.bernoulli(keys[1]), 0.03, 0.16) * jax.random.uniform(keys[2], minval=0.5, maxval=1.3)
    start = jax.random.uniform(keys[3], minval=0.012, maxval=0.05)
    worn = jax.random.bernoulli(keys[4], band)
    extent = jnp.stack([start, start + jax.random.uniform(keys[5], minval=0.004, maxval=0.022)])
    thickness = jax.random.uniform(keys[5], minval=0.003, maxval=0.009)
    return Garment(jnp.where(covered, cuff, NEVER), jnp.where(worn, extent, NEVER), thickness)


def cover(
    key: Key[Array, ''],
    points: Float[Array, 'v 3'],
    normals: Float[Array, 'v 3'],
    arm: Float[Array, ' v'],
    rest: Float[Array, 'v 3'],
    garment: Garment,
) -> Float[Array, 'v 3']:
    """Moves the covered skin outwards by the cloth, its folds and its fall, or by the band."""
    keys = jax.random.split(key, 3)
    past = arm - garment.cuff
    folds = skin.waves(keys[0], rest, 6, 0.05) + 0.5 * skin.waves(keys[1], rest, 8, 0.02)
    loose = jax.random.uniform(keys[2], maxval=0.08)  # a sleeve widens towards the elbow
    lift = jnp.clip(garment.thickness * (1 + 0.35 * folds) + loose * jnp.clip(past, 0, 0.15), 0.001, None)
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
    """Skin's own mottling first; then cloth and things, plain or patterned, some skin-coloured or metal."""
    keys = jax.random.split(key, 9)
    count = FIRST_THING + things
    chroma = jax.random.uniform(keys[0], minval=0.05, maxval=0.6)
    first = texture.palette(keys[1], count, chroma, jnp.array(0.7))
    bluish = jnp.array([0.6, 0.8, 1.3]) * jnp.exp(jax.random.uniform(keys[2], minval=-3.5, maxval=-0.8))
    dull = jax.random.bernoulli(keys[3], 0.5)  # half of the sleeves are white, grey, black or denim
    grey = jnp.exp(jax.random.uniform(keys[4], (3,), minval=-3.5, maxval=-0.2)).at[1:].get().mean()
    first = first.at[SLEEVE].set(jnp.where(dull, jnp.where(grey > 0.25, bluish, grey), first[SLEEVE]))
    first = first.at[FIRST_THING:].set(
        jnp.where(
            jax.random.bernoulli(keys[5], 0.15, (things, 1)),
            texture.skin_like(keys[5], things),
            first[FIRST_THING:],
        )
    )
    spread = jax.random.uniform(keys[6], (count, 1), maxval=1.2) ** 2
    second = jnp.clip(first * jnp.exp(spread * jax.random.normal(keys[7], (count, 3))), 0.005, 0.95)
    zoom = jnp.exp(jax.random.uniform(keys[8], (count, 2), minval=jnp.log(6.0), maxval=jnp.log(40.0)))

    mottle = jax.random.uniform(keys[2], minval=0.05, maxval=0.25)
    pigment = mottle * (0.6 * skin.MELANIN + 0.4 * skin.HAEMOGLOBIN)
    first, second = first.at[SKIN].set(jnp.exp(pigment)), second.at[SKIN].set(jnp.exp(-pigment))
    tiles = texture.random_tiles(keys[0], count)
    grain = texture.octave_noise(keys[1], texture.TILE, 1, 0.25, finest=1)[..., 0]
    tiles = tiles.at[SKIN].set(jax.nn.sigmoid(1.5 * grain))
    return Materials(first, second, zoom.at[SKIN].set(14.0), tiles)
