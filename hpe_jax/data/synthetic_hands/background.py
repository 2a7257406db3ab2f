"""What lies behind the hand: a backdrop of noise, and in front of it flat shapes as a collage, out of focus or not.

The groups of shapes answer what fooled earlier networks: dead leaves, long straight bars and posts, rows of like
things, finger-like and skin-coloured things, and people.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from hpe_jax.data.synthetic_hands import bodies, collage, texture
from hpe_jax.data.synthetic_hands.collage import Shapes
from hpe_jax.data.synthetic_hands.texture import between, log_between, named_uniforms

LIKELIHOOD = {'wall': 3, 'green_screen': 3, 'litter': 3, 'collage': 4, 'indoors': 7, 'foliage': 3, 'clouds': 1}
KINDS = tuple(LIKELIHOOD)
PLAIN = ('wall', 'green_screen', 'clouds')


def random_background(
    key: Key[Array, ''], size: int, kinds: tuple[str, ...] = KINDS, people: float = 0.0
) -> Float[Array, 'size size 3']:
    """Linear RGB, about [0, 1], of a random image without a hand.

    people: fraction of images with a face, or a bare arm, leg or foot, about the middle.
    """
    keys = jax.random.split(key, 6)
    weights = np.array([LIKELIHOOD[kind] * (kind in kinds) for kind in KINDS], np.float32)
    drawn = jax.random.choice(keys[0], len(KINDS), p=weights / weights.sum())
    kind = {name: drawn == number for number, name in enumerate(KINDS)}
    image = _backdrop(keys[1], size, kind)
    shapes = [_field(keys[2], kind)]
    if set(kinds) - set(PLAIN):
        shapes += [group(key, kind) for key, group in zip(jax.random.split(keys[5], len(GROUPS)), GROUPS, strict=True)]
    if people:
        shapes += bodies.random_body(jax.random.fold_in(key, 0), people)
    image = collage.draw(keys[3], image, jax.tree.map(lambda *parts: jnp.concatenate(parts), *shapes))
    u = named_uniforms(keys[4], 'sharp blur')
    sharp = u.sharp < jnp.where(kind['wall'] | kind['green_screen'], 0.7, 0.45)
    return texture.gaussian_blur(image, jnp.where(sharp, 0.6, log_between(u.blur, 0.7, 6)) * size / 224)


def _backdrop(key, size, kind):
    """Two colours mixed by a gradient and noise: a wall, a screen with uneven light, leaves against the sky, clouds."""
    keys = jax.random.split(key, 4)
    u = named_uniforms(keys[0], 'chroma sky slope heading corner grain depth_of_folds folded')
    deviates = jax.random.normal(keys[1], (3, 3))
    busy = kind['foliage'] | kind['clouds']
    colours = texture.palette(keys[2], 2, u.chroma * jnp.where(busy, 0.4, 0.2), jnp.where(busy, 0.8, 0.3))
    green = jnp.array([0.08, 0.3, 0.05]) * jnp.exp(0.25 * deviates[:2])
    colours = jnp.where(kind['green_screen'], green, colours)
    leaves = jnp.array([0.10, 0.13, 0.05]) * jnp.exp(0.5 * deviates[0, 0] + 0.25 * deviates[1])
    sky = between(u.sky, 0.4, 0.9) + 0.05 * deviates[2]
    colours = jnp.where(kind['foliage'], jnp.stack([leaves, sky]), colours)

    slope = jnp.where(kind['foliage'], between(u.slope, 0, 0.5), 0.7 + 0.7 * u.slope)
    noise = texture.octave_noise(keys[3], size, 3, slope)
    heading = 2 * jnp.pi * u.heading
    ramp = jnp.linspace(-1.5, 1.5, size)
    gradient = jnp.sin(heading) * ramp[:, None] + jnp.cos(heading) * ramp
    # Low gain gives uneven light, high gain two colours with a border: ragged, or straight as in a room's corner.
    corner = ~busy & (u.corner < 0.3)
    gain = jnp.where(busy, 4.0, jnp.where(corner, 70.0, 0.6))
    mix = jax.nn.sigmoid(gain * (jnp.where(corner, 0.002, 1.0) * noise[0] + gradient))
    grain = u.grain * jnp.where(busy, 0.5, 0.2)
    folds = 0.5 * u.depth_of_folds * (kind['green_screen'] & (u.folded < 0.6))
    shade = jnp.exp(grain * noise[1] - folds * jnp.exp(-3 * jnp.abs(noise[2])))[..., None]
    return (colours[0] + (colours[1] - colours[0]) * mix[..., None]) * shade


def _field(key, kind, count=192):
    """Dead leaves: shapes of all sizes by a power law, as much area in small ones as in large; boards indoors."""
    keys = jax.random.split(key, 3)
    u = named_uniforms(keys[0], 'size aspect angle upright x y nearness pattern', (count,))
    every = named_uniforms(keys[1], 'amount chroma contrast roundness tilt')
    amount = every.amount
    indoors, litter = kind['indoors'], kind['litter']
    low = jnp.where(litter, 0.035, jnp.where(indoors, 0.06, 0.05))
    high = jnp.where(litter, 0.1, 0.6)
    long = low / jnp.sqrt(1 - u.size * (1 - (low / high) ** 2))
    short = long * log_between(u.aspect, 0.3, 1)
    share = jnp.where(litter, 1.0, jnp.where(indoors, 0.3 * amount, kind['collage'] * between(amount, 0.15, 1)))
    shown = jnp.arange(count) < share * count
    square = 0.15 * (every.tilt - 0.5) + jnp.floor(4 * u.angle) * jnp.pi / 2
    angle = jnp.where(u.upright < jnp.where(indoors, 0.9, 0.3), square, 2 * jnp.pi * u.angle)
    brown = jnp.array([1.25, 0.95, 0.7]) ** (litter & (amount < 0.6))
    chroma, contrast = every.chroma * jnp.where(indoors, 0.3, 0.5), between(every.contrast, 0.3, 0.8)
    colour = texture.palette(keys[2], count, chroma, contrast) * brown
    return Shapes(
        centre=between(jnp.stack([u.x, u.y], -1), -0.1, 1.1),
        half=jnp.stack([long, short], -1) * shown[:, None],
        angle=angle,
        roundness=jnp.where(indoors, 0.05, 1.3 * u.nearness ** between(every.roundness, 0.3, 3)),
        colour=colour,
        pattern=0.7 * u.pattern**2,
        slope=jnp.stack([u.angle, u.upright], -1) - 0.5,
        bulge=1.0 * (u.pattern < 0.15),
        layer=u.nearness,
    )


def _bars(key, kind, count=12, pieces=6):
    """Long straight things, often of grey metal: posts, shelf edges, frames, cables.

    Each is a chain of short pieces, because the z-buffer's work goes with the bounding boxes of what it draws.
    """
    keys = jax.random.split(key, 3)
    u = named_uniforms(keys[0], 'brightness upright angle length width metal x y slope', (count,))
    every = named_uniforms(keys[1], 'shown amount tilt')
    plain = kind['wall'] | kind['green_screen']
    shown = every.shown < jnp.where(kind['indoors'], 0.75, jnp.where(plain, 0.25, 0.4))
    shown = jnp.arange(count) < shown * every.amount * count
    metal = log_between(u.brightness, 0.06, 0.7)[:, None] * jnp.array([0.97, 1, 1.03])
    square = 0.2 * (every.tilt - 0.5) + jnp.floor(2 * u.angle) * jnp.pi / 2
    angle = jnp.where(u.upright < 0.6, square, jnp.pi * u.angle)
    long = between(u.length, 0.4, 1.3)
    along = jnp.stack([jnp.cos(angle), jnp.sin(angle)], -1) * long[:, None]
    place = (2 * np.arange(pieces) + 1 - pieces)[:, None, None] / pieces
    half = jnp.stack([1.01 * long / pieces, log_between(u.width, 0.004, 0.06)], -1) * shown[:, None]
    bars = Shapes(
        centre=between(jnp.stack([u.x, u.y], -1), -0.1, 1.1),
        half=half,
        angle=angle,
        roundness=jnp.full(count, 0.01),
        colour=jnp.where(u.metal[:, None] < 0.6, metal, texture.palette(keys[2], count, 0.3, 0.6)),
        pattern=0.5 * u.metal**3,
        slope=(u.slope[:, None] - 0.5) * jnp.array([0.0, 1.0]),
        bulge=1.0 * (u.brightness < 0.7),
        layer=2 * u.upright,
    )
    chain = jax.tree.map(lambda x: jnp.concatenate([x] * pieces), bars)
    return chain._replace(centre=chain.centre + (place * along).reshape(-1, 2))


def _row(key, kind, count=16):
    """The same thing again and again in a line: books, bottles, keys, railings, windows."""
    keys = jax.random.split(key, 2)
    u = named_uniforms(keys[0], 'shown length aspect angle direction pitch x y roundness chroma pattern bulge')
    shown = u.shown < jnp.where(kind['wall'] | kind['green_screen'], 0.1, 0.35)
    long = log_between(u.length, 0.02, 0.2)
    short = long * log_between(u.aspect, 0.15, 1)
    side_by_side = u.direction < 0.7
    angle, direction = jnp.pi * u.angle, jnp.pi * jnp.where(side_by_side, u.angle + 0.5, u.direction)
    pitch = (short + 0.5 * (long - short) * ~side_by_side) * between(u.pitch, 1.6, 3.5)
    steps = (jnp.arange(count) - count / 2)[:, None] * pitch
    first = jnp.stack([u.x, u.y])
    return Shapes(
        centre=first + steps * jnp.stack([jnp.cos(direction), jnp.sin(direction)]),
        half=jnp.tile(jnp.stack([long, short]) * shown, (count, 1)),
        angle=jnp.full(count, angle),
        roundness=jnp.full(count, u.roundness**2),
        colour=texture.palette(keys[1], count, 0.4 * u.chroma, 0.4 * u.chroma),
        pattern=jnp.full(count, 0.5 * u.pattern),
        slope=jnp.tile(jnp.stack([u.angle, u.direction]) - 0.5, (count, 1)),
        bulge=jnp.full(count, u.bulge),
        layer=jnp.full(count, 2 * u.pattern),
    )


def _fingers(key, kind, count=6):
    """A fan of skin-coloured sausages."""
    keys = jax.random.split(key, 2)
    u = jax.random.uniform(keys[0], (8 + count,))
    (shown, heading, spread, length, width, *middle, nearness), lengths = u[:8], u[8:]
    shown = shown < jnp.where(kind['wall'] | kind['green_screen'], 0.05, 0.25)
    place = jnp.arange(count) - (count - 1) / 2
    heading = 2 * jnp.pi * heading
    angle = heading + 0.3 * spread * place
    long = between(length, 0.06, 0.2) * between(lengths, 0.75, 1.1)
    short = jnp.full(count, long[0] * between(width, 0.12, 0.3))
    ahead = jnp.stack([jnp.cos(angle), jnp.sin(angle)], -1)
    aside = jnp.stack([-jnp.sin(heading), jnp.cos(heading)])
    return Shapes(
        centre=jnp.stack(middle) + ahead * long[:, None] + aside * (place * 1.8 * short)[:, None],
        half=jnp.stack([long, short], -1) * shown,
        angle=angle,
        roundness=jnp.full(count, 0.5),
        colour=jnp.tile(texture.skin_like(keys[1], 1), (count, 1)),
        pattern=jnp.full(count, 0.1),
        slope=jnp.zeros((count, 2)),
        bulge=jnp.ones(count),
        layer=jnp.full(count, 2 * nearness),
    )


def _person(key, kind):
    """Face, hair, neck, arms and torso, large and roughly drawn, from near to far."""
    keys = jax.random.split(key, 4)
    u = named_uniforms(keys[0], 'shown size hair bare_arms x y nearness slope')
    swing = jax.random.normal(keys[1], (6,))
    shown = u.shown < jnp.where(kind['green_screen'] | kind['litter'], 0.08, 0.3)
    scale = between(u.size, 0.15, 0.5) * shown
    skin = texture.skin_like(keys[2], 1)
    cloth = texture.palette(keys[3], 1, 0.4, 0.5)
    hair = jnp.array([[0.05, 0.035, 0.025]]) * log_between(u.hair, 0.3, 6)
    sleeve = jnp.where(u.bare_arms < 0.5, skin, cloth)
    centre = jnp.array([[0, 0], [0, -0.1], [0, 0.55], [-0.85, 1.6], [0.85, 1.6], [0, 1.75]])
    half = jnp.array([[0.34, 0.46], [0.46, 0.55], [0.16, 0.3], [0.17, 0.8], [0.17, 0.8], [0.75, 1.0]])
    return Shapes(
        centre=between(jnp.stack([u.x, u.y]), -0.1, 1.1) + scale * centre,
        half=scale * half,
        angle=swing * jnp.array([0.15, 0.15, 0.1, 0.4, 0.4, 0.05]),
        roundness=jnp.array([0.9, 1, 0.6, 0.6, 0.6, 0.5]),
        colour=jnp.concatenate([skin, hair, 0.8 * skin, sleeve, sleeve, cloth]),
        pattern=jnp.array([0.1, 0.3, 0.1, 0.2, 0.2, 0.5]),
        slope=jnp.tile(jnp.stack([u.nearness, u.slope]) - 0.5, (6, 1)),
        bulge=jnp.full(6, 0.5),
        layer=2 * u.nearness + 0.01 * jnp.arange(6, 0, -1),
    )


GROUPS = (_bars, _row, _fingers, _person)
