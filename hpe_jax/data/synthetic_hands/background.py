"""What lies behind the hand: a backdrop of noise, and in front of it flat shapes as a collage, out of focus or not.

All shapes of a picture are star-shaped polygons with superelliptic outlines (so one parameter turns an ellipse into a
rectangle) that the hand's own z-buffer draws in one pass. The groups answer what fooled earlier networks: dead leaves,
long straight bars and posts, rows of like things, finger-like and skin-coloured things, and people.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from hpe_jax.data.synthetic_hands import rasterise, texture

KINDS = ('wall', 'green_screen', 'litter', 'collage', 'indoors', 'foliage', 'clouds')
LIKELIHOOD = {'wall': 3, 'green_screen': 3, 'litter': 3, 'collage': 4, 'indoors': 6, 'foliage': 3, 'clouds': 2}

CORNERS = 24  # of a polygon
FIELD, BARS, ROW, FINGERS, PERSON = 160, 14, 16, 6, 6  # polygons in each group
TILES = 8


def random_background(key: Key[Array, ''], size: int, kinds: tuple[str, ...] = KINDS) -> Float[Array, 'size size 3']:
    """Linear RGB, about [0, 1], of a random picture without a hand."""
    keys = jax.random.split(key, 8)
    weights = jnp.array([LIKELIHOOD[kind] * (kind in kinds) for kind in KINDS], float)
    kind = jax.random.choice(keys[0], len(KINDS), p=weights / weights.sum())
    is_kind = {name: kind == number for number, name in enumerate(KINDS)}
    plain = is_kind['wall'] | is_kind['green_screen'] | is_kind['clouds']

    picture = _backdrop(keys[1], size, is_kind)
    shapes = _shapes(keys[2], is_kind, cluttered=len(set(kinds) - {'wall', 'green_screen', 'clouds'}) > 0)
    picture = _draw(keys[3], picture, shapes)
    sharp = jax.random.bernoulli(keys[4], jnp.where(plain, 0.7, 0.45))
    sigma = jnp.where(sharp, 0.5, jnp.exp(jax.random.uniform(keys[5], minval=-0.3, maxval=1.8))) * size / 224
    return texture.gaussian_blur(picture, sigma)


def _backdrop(key, size, is_kind):
    """Two colours mixed by a gradient and noise: a wall, a screen with uneven light, leaves against the sky, clouds."""
    keys = jax.random.split(key, 10)
    busy = is_kind['foliage'] | is_kind['clouds']
    chroma = jax.random.uniform(keys[0], minval=0.02, maxval=jnp.where(busy, 0.5, 0.25))
    colours = texture.palette(keys[1], 2, chroma, jnp.where(busy, 0.8, 0.25))
    green = jnp.array([0.08, 0.3, 0.05]) * jnp.exp(0.25 * jax.random.normal(keys[2], (2, 3)))
    colours = jnp.where(is_kind['green_screen'], green, colours)
    sky = jax.random.uniform(keys[3], (3,), minval=0.5, maxval=0.9)
    colours = colours.at[1].set(jnp.where(is_kind['foliage'], sky, colours[1]))

    slope = jnp.where(is_kind['foliage'], 0.35, jax.random.uniform(keys[4], minval=0.7, maxval=1.4))
    noise = texture.octave_noise(keys[5], size, 3, slope)
    direction = jax.random.normal(keys[6], (2,))
    ramp = jnp.linspace(-1, 1, size)
    gradient = direction[0] * ramp[:, None] + direction[1] * ramp
    gain = jnp.where(busy, 4.0, 0.6)
    mix = jax.nn.sigmoid(gain * (noise[..., 0] + gradient))[..., None]
    grain = jax.random.uniform(keys[7], minval=0.0, maxval=jnp.where(busy, 0.5, 0.2))
    folds = 0.3 * jax.random.uniform(keys[8]) * (is_kind['green_screen'] & jax.random.bernoulli(keys[9]))
    shade = grain * noise[..., 1] - folds * jnp.exp(-3 * jnp.abs(noise[..., 2]))
    return (colours[0] * (1 - mix) + colours[1] * mix) * jnp.exp(shade)[..., None]


def _group(key, count, half_low, half_high, aspect, axis_aligned):
    """Polygons scattered at random: centre, half sides (shares of the frame), angle."""
    keys = jax.random.split(key, 6)
    centre = jax.random.uniform(keys[0], (count, 2), minval=-0.1, maxval=1.1)
    # A power law of sizes, as in dead leaves: as much area in small things as in large ones.
    u = jax.random.uniform(keys[1], (count,))
    half = half_low / jnp.sqrt(1 - u * (1 - (half_low / half_high) ** 2))
    ratio = jnp.exp(jax.random.uniform(keys[2], (count,), minval=jnp.log(aspect), maxval=0))
    angle = jax.random.uniform(keys[3], (count,), maxval=2 * jnp.pi)
    aligned = jax.random.bernoulli(keys[4], axis_aligned, (count,))
    tilt = 0.1 * jax.random.normal(keys[5]) + jnp.round(angle * 2 / jnp.pi) * jnp.pi / 2
    return jnp.concatenate(
        [centre, half[:, None], (half * ratio)[:, None], jnp.where(aligned, tilt, angle)[:, None]], -1
    )


def _shapes(key, is_kind, cluttered):
    """Geometry (n, 5): centre, half sides, angle; roundness (n,); colour (n, 3); all of one picture."""
    keys = jax.random.split(key, 16)
    indoors, litter, collage = is_kind['indoors'], is_kind['litter'], is_kind['collage']
    low, high = jnp.where(litter, 0.012, jnp.where(indoors, 0.05, 0.02)), jnp.where(litter, 0.05, 0.5)
    field = _group(keys[0], FIELD, low, high, jnp.where(indoors, 0.3, 0.5), jnp.where(indoors, 0.9, 0.2))
    wanted = jax.random.uniform(keys[1]) * jnp.where(indoors, 0.25, 1.0) * (indoors | litter | collage)
    wanted = jnp.where(litter, 1, wanted)
    field = field.at[:, 2:4].multiply((jnp.arange(FIELD) < wanted * FIELD)[:, None])
    chroma = jax.random.uniform(keys[2], minval=0.05, maxval=jnp.where(indoors, 0.3, 0.6))
    colour = texture.palette(keys[3], FIELD, chroma, jax.random.uniform(keys[4], minval=0.3, maxval=0.8))
    roundness = jnp.where(indoors, 0.15, jax.random.uniform(keys[5], (FIELD,), minval=0.1, maxval=1.3))
    if not cluttered:
        return field, roundness, colour
    groups = [(field, roundness, colour)]
    for make, k in ((_bars, 6), (_row, 7), (_fingers, 8), (_person, 9)):
        groups.append(make(keys[k], is_kind))
    return tuple(jnp.concatenate(parts) for parts in zip(*groups, strict=True))


def _bars(key, is_kind):
    """Long straight things, often grey metal: posts, shelf edges, frames, cables."""
    keys = jax.random.split(key, 8)
    likely = jnp.where(is_kind['indoors'], 0.7, jnp.where(is_kind['wall'] | is_kind['green_screen'], 0.25, 0.4))
    number = jax.random.bernoulli(keys[0], likely) * jax.random.randint(keys[1], (), 1, BARS + 1)
    bars = _group(keys[2], BARS, 0.5, 1.2, 0.99, 0.6)
    width = jnp.exp(jax.random.uniform(keys[3], (BARS,), minval=jnp.log(0.004), maxval=jnp.log(0.06)))
    bars = bars.at[:, 3].set(width).at[:, 2:4].multiply((jnp.arange(BARS) < number)[:, None])
    metal = jnp.exp(jax.random.uniform(keys[4], (BARS, 1), minval=-2.5, maxval=-0.3)) * jnp.array([0.97, 1, 1.03])
    colour = texture.palette(keys[5], BARS, jnp.array(0.3), jnp.array(0.6))
    colour = jnp.where(jax.random.bernoulli(keys[6], 0.6), metal, colour)
    return bars, jnp.full(BARS, 0.02), colour


def _row(key, is_kind):
    """The same thing again and again in a line: books, bottles, keys, railings, windows."""
    keys = jax.random.split(key, 8)
    shown = jax.random.bernoulli(keys[0], jnp.where(is_kind['wall'] | is_kind['green_screen'], 0.1, 0.35))
    first = _group(keys[1], 1, 0.02, 0.15, 0.2, 0.7)[0]
    angle = jax.random.uniform(keys[2], maxval=2 * jnp.pi)
    pitch = first[2] * jax.random.uniform(keys[3], minval=0.6, maxval=2.5)
    steps = jnp.arange(ROW) - ROW / 2
    row = jnp.tile(first, (ROW, 1)).at[:, 0].add(jnp.cos(angle) * steps * pitch)
    row = row.at[:, 1].add(jnp.sin(angle) * steps * pitch).at[:, 2:4].multiply(shown)
    varied = jax.random.uniform(keys[4])
    colour = texture.palette(keys[5], ROW, 0.5 * varied, 0.5 * varied)
    return row, jnp.full(ROW, jax.random.uniform(keys[6], maxval=1)), colour


def _fingers(key, is_kind):
    """A fan of skin-coloured sausages."""
    keys = jax.random.split(key, 8)
    shown = jax.random.bernoulli(keys[0], jnp.where(is_kind['wall'] | is_kind['green_screen'], 0.05, 0.25))
    root = jax.random.uniform(keys[1], (2,))
    heading = jax.random.uniform(keys[2], maxval=2 * jnp.pi)
    spread = jax.random.uniform(keys[3], minval=0, maxval=0.3)
    angle = heading + spread * (jnp.arange(FINGERS) - FINGERS / 2)
    length = jax.random.uniform(keys[4], minval=0.06, maxval=0.2) * jnp.exp(
        0.15 * jax.random.normal(keys[5], (FINGERS,))
    )
    thick = jnp.full(FINGERS, length[0] * jax.random.uniform(keys[6], minval=0.12, maxval=0.3))
    side = (jnp.arange(FINGERS) - FINGERS / 2) * thick * 1.8
    ahead = jnp.stack([jnp.cos(angle), jnp.sin(angle)], -1)
    aside = jnp.array([-jnp.sin(heading), jnp.cos(heading)])
    centre = root + ahead * length[:, None] + aside * side[:, None]
    fan = jnp.concatenate([centre, (shown * length)[:, None], (shown * thick)[:, None], angle[:, None]], -1)
    return fan, jnp.full(FINGERS, 0.5), jnp.tile(texture.skin_like(keys[7], 1), (FINGERS, 1))


def _person(key, is_kind):
    """Torso, neck, hair, face and two arms, large and roughly drawn; later ones lie behind."""
    keys = jax.random.split(key, 8)
    shown = jax.random.bernoulli(keys[0], jnp.where(is_kind['green_screen'] | is_kind['litter'], 0.1, 0.3))
    scale = jax.random.uniform(keys[1], minval=0.15, maxval=0.5)
    head = jax.random.uniform(keys[2], (2,), minval=-0.1, maxval=1.1)
    skin, cloth, hair = (
        texture.skin_like(keys[3], 1),
        texture.palette(keys[4], 1, 0.4, 0.5),
        0.02 + 0.05 * skin_mix(keys[5]),
    )
    x = jnp.array([0, 0, 0, 0, -0.9, 0.9])
    y = jnp.array([0, -0.1, 0.55, 1.75, 1.6, 1.6])
    half = jnp.array([[0.36, 0.47], [0.47, 0.55], [0.16, 0.3], [0.75, 1.0], [0.17, 0.8], [0.17, 0.8]])
    swing = 0.5 * jax.random.normal(keys[6], (6,)) * jnp.array([0.3, 0.3, 0.3, 0.1, 1, 1])
    centre = head + scale * jnp.stack([x, y], -1)
    person = jnp.concatenate([centre, shown * scale * half, swing[:, None]], -1)
    bare = jax.random.bernoulli(keys[7])
    colour = jnp.concatenate([skin, hair, 0.8 * skin, cloth, *[jnp.where(bare, skin, cloth)] * 2])
    return person, jnp.array([0.9, 1, 0.6, 0.5, 0.6, 0.6]), colour


def skin_mix(key):
    return jax.random.uniform(key, (1, 3)) * jnp.array([1.0, 0.7, 0.4])


def _draw(key, backdrop, shapes):
    """Draws the polygons over the backdrop, each with a pattern, a slope of light, and some rounded like a post."""
    keys = jax.random.split(key, 10)
    geometry, roundness, colour = shapes
    n, size = len(geometry), len(backdrop)
    centre, half, angle = geometry[:, :2], geometry[:, 2:4], geometry[:, 4]
    turn = jnp.stack([jnp.cos(angle), jnp.sin(angle)], -1)

    # Corners in pairs at +-1/2 step from the diagonals keep a rectangle's corner sharp.
    phi = (jnp.arange(CORNERS) + 0.5) * (2 * jnp.pi / CORNERS)
    unit = jnp.stack([jnp.cos(phi), jnp.sin(phi)], -1)
    outline = jnp.sign(unit) * jnp.abs(unit) ** roundness[:, None, None] * half[:, None]
    x = outline[..., 0] * turn[:, :1] - outline[..., 1] * turn[:, 1:]
    y = outline[..., 0] * turn[:, 1:] + outline[..., 1] * turn[:, :1]
    corners = jnp.concatenate([centre[:, None], centre[:, None] + jnp.stack([x, y], -1)], 1) * size
    fan = jnp.stack([jnp.zeros(CORNERS, int), (jnp.arange(CORNERS) + 1) % CORNERS + 1, jnp.arange(CORNERS) + 1], -1)
    faces = (fan + jnp.arange(n)[:, None, None] * (CORNERS + 1)).reshape(-1, 3)
    nearness = jnp.repeat(0.1 + _layers(keys[0], n), CORNERS + 1)
    buffer = rasterise.rasterise(corners.reshape(-1, 2), nearness, faces, size, size)
    face = rasterise.face_at(buffer, len(faces))

    second = colour * jnp.exp(jax.random.normal(keys[1], (n, 3)) * jax.random.uniform(keys[2], (n, 1), maxval=0.6))
    slope = jax.random.uniform(keys[3], (n, 2), minval=-0.5, maxval=0.5)
    rounded = jax.random.bernoulli(keys[4], 0.4, (n, 1)) * jnp.array([0.0, 1.0])  # across the short side
    zoom = jnp.exp(jax.random.uniform(keys[5], (n, 1), minval=-1, maxval=1.5))
    table = jnp.concatenate([centre, turn, 1 / jnp.maximum(half, 1e-6), half * zoom * 4, slope, rounded], -1)
    tiles = texture.random_tiles(keys[6], TILES)

    shape = jnp.maximum(face, 0) // CORNERS
    row = table[shape]
    grid = (jnp.arange(size) + 0.5) / size
    dx, dy = grid - row[..., 0], grid[:, None] - row[..., 1]
    cos, sin = row[..., 2], row[..., 3]
    local = jnp.stack([dx * cos + dy * sin, dy * cos - dx * sin], -1) * row[..., 4:6]
    mix = texture.lookup(tiles, shape % TILES, local * row[..., 6:8])[..., None]
    light = jnp.exp((local * row[..., 8:10] - 1.5 * row[..., 10:12] * local**2).sum(-1, keepdims=True))
    painted = (colour[shape] * mix + second[shape] * (1 - mix)) * light
    return jnp.where((face >= 0)[..., None], painted, backdrop)


def _layers(key, n):
    """Order of drawing in [0, 2]: groups lie before or behind each other, a person's parts in their own order."""
    order = jax.random.uniform(key, (n,))
    if n == FIELD:
        return order
    starts = FIELD + jnp.cumsum(jnp.array([0, BARS, ROW, FINGERS]))
    group = jnp.searchsorted(starts, jnp.arange(n), side='right')
    base = jax.random.uniform(jax.random.fold_in(key, 1), (5,))[group]
    return base + jnp.where(group == 4, (n - jnp.arange(n)) / PERSON * 0.01, order)
