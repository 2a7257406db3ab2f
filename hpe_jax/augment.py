"""Augmentation of ONE photo and its keypoints, inside jit; vmap at the edge (preprocess.augment).

The fields of `config.augment`. Each photo draws its own numbers, uniformly unless said; 0 is off:

    mirror      probability of a mirror image, which makes a LEFT hand of a right one
    rotation    largest angle either way about the photo's middle, degrees; 180 is any angle
    scale       largest relative change of size: by 1 / (1 + scale) to 1 + scale, log-uniform
    shift       largest shift either way, along x and along y, as a part of the photo's size
    away        probability that any place of the photo becomes the middle, enlarged by up to AWAY_SCALE
    cover       probability that one rectangle shows one colour, or another part of the photo
    brightness  largest change of the factor on the grey levels
    contrast    largest change of the factor on their distance from the photo's mean luma
    gamma       largest relative change of their exponent: to 1 / (1 + gamma) to 1 + gamma, log-uniform
    hue         largest change of the hue either way, in circles; 0.5 is any hue
    tint        largest change of the factor on each channel
    saturation  largest change of the factor on the distance from grey
    grey        probability of a grey photo
    sharpen     largest amount of an unsharp mask, of a standard deviation of 1 to SHARPEN_SIGMA pixels, log-uniform
    blur        largest standard deviation of a Gaussian, pixels
    noise       largest standard deviation of Gaussian noise, where 1 is white; for each pixel and channel
    borders     probability that the content ends inside the frame, on one to four sides
    fill        what lies where the photo was moved away and in the borders; one of FILLS
    erasing     probability that one rectangle is replaced by random pixels

They apply in this order, which is life's: the hand moves, then light, lens and sensor, the crop, and what lies upon it.
Brightness, contrast and hue are those of torchvision's ColorJitter; erasing is that of Zhong et al., "Random erasing
data augmentation", 2020.

Rotation, scale and shift are one resample, by the one matrix that also moves the keypoints. A keypoint that leaves the
frame or lies in a border becomes invisible, and none becomes visible again: what lay outside was never in the photo. A
keypoint in an erased rectangle stays visible: it is hidden, but its place is known.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key, Shaped, UInt8
from ml_collections import ConfigDict

from hpe_jax import geometry
from hpe_jax.geometry import AnyArray, Scalar

# What each number may be.
RANGES = {
    'mirror': (0, 1),
    'rotation': (0, 180),
    'scale': (0, 1),
    'shift': (0, 1),
    'brightness': (0, 1),
    'contrast': (0, 1),
    'hue': (0, 0.5),
    'tint': (0, 1),
    'saturation': (0, 1),
    'grey': (0, 1),
    'blur': (0, 10),
    'noise': (0, 1),
    'borders': (0, 1),
    'erasing': (0, 1),
    'cover': (0, 1),
    'away': (0, 1),
    'gamma': (0, 4),
    'sharpen': (0, 10),
}
FILLS = ('black', 'replicate', 'reflect', 'random')  # nearest pixel; mirror image; any of the three, per photo
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601
SHARPEN_SIGMA = 8.0  # pixels
AWAY_SCALE = 2.5  # how much a place that `away` chooses is enlarged, at most
BORDER = 0.25  # the widest border, as a part of the photo's size
ERASED_AREA, ERASED_ASPECT = (0.02, 1 / 3), (0.3, 1 / 0.3)  # torchvision's; the area as a part of the photo's

Image = Float[AnyArray, 'h w 3']  # grey levels, 0 to 255
Keypoints = Float[AnyArray, 'k 2']  # (x, y), normalised
Visible = Bool[AnyArray, 'k']
Numbers = Float[AnyArray, '10']  # uniform in [0, 1), independent: as many as the neediest field takes
Box = Int[AnyArray, '4']  # left, top, right, bottom; whole pixels, the last two outside


def is_on(config: ConfigDict) -> bool:
    """Whether `augment_example` changes anything."""
    return any(config[name] for name in RANGES)


def augment_example(
    image: UInt8[AnyArray, 'h w 3'],
    keypoints: Keypoints,
    visible: Visible,
    key: Key[Array, ''],
    config: ConfigDict,
    margin: int = 0,
) -> tuple[UInt8[Array, 'i j 3'], Keypoints, Visible]:
    """One photo and its labels, augmented as described above.

    A field at 0 costs nothing. The random numbers of a field do not depend on the other fields.

    margin: pixels of the image that lie around the photo on each side, and may be moved into it.
    """
    key, noise, pixels = jax.random.split(key, 3)
    numbers = dict(zip((*RANGES, 'fill'), jax.random.uniform(key, (len(RANGES) + 1, 10)), strict=True))
    height, width = (n - 2 * margin for n in image.shape[:2])
    size = height, width
    fill = numbers['fill'][0]
    replicate = fill < 0.4 if config.fill == 'random' else config.fill == 'replicate'
    reflect = fill > 0.8 if config.fill == 'random' else config.fill == 'reflect'
    if config.mirror:
        flip = numbers['mirror'][0] < config.mirror
        image = jnp.where(flip, image[:, ::-1], image)
        keypoints = jnp.where(flip, jnp.stack([1 - keypoints[:, 0], keypoints[:, 1]], -1), keypoints)
    if config.rotation or config.scale or config.shift or config.cover or config.away:
        matrix = draw_affine(numbers, size, config)
        box, plain, aside = draw_cover(numbers['cover'], size, config.cover)
        hidden = in_box(size, box)[..., None]
        keypoints = geometry.transform(keypoints * np.float32(size[::-1])[None], matrix) / np.float32(size[::-1])[None]
        source = geometry.sources(matrix, size) + jnp.where(hidden, aside, 0)
        image = geometry.sample(image, source + margin, replicate, reflect)
        image = jnp.where(hidden & plain, 255 * numbers['cover'][7:10], image)
    else:
        image = image[margin : margin + height, margin : margin + width]
    image = photometric(jnp.float32(image), numbers, noise, config)
    if config.borders:
        content = draw_content(numbers['borders'], size, config.borders)
        image, visible = border(image, content, replicate), visible & in_content(keypoints, content, size)
    if config.erasing:
        image = erase(image, draw_erased(numbers['erasing'], size, config.erasing), pixels)
    return jnp.round(image).astype(jnp.uint8), keypoints, visible & geometry.inside_frame(keypoints)


def photometric(image: Image, numbers: dict, key: Key[Array, ''], config: ConfigDict) -> Image:
    """The changes by light, lens and sensor."""

    def either_way(name: str) -> Array:
        return config[name] * (2 * numbers[name][0] - 1)

    if config.brightness:
        image = brighten(image, 1 + either_way('brightness'))
    if config.contrast:
        image = stretch_contrast(image, 1 + either_way('contrast'))
    if config.gamma:
        image = 255 * (image / 255) ** (1 + config.gamma) ** (2 * numbers['gamma'][0] - 1)
    if config.hue:
        image = shift_hue(image, either_way('hue'))
    if config.tint:
        image = jnp.clip(image * (1 + config.tint * (2 * numbers['tint'][:3] - 1))[None, None], 0, 255)
    if config.saturation or config.grey:
        factor = 1 + either_way('saturation')
        image = saturate(image, jnp.where(numbers['grey'][0] < config.grey, 0, factor))
    if config.sharpen:
        amount, sigma = config.sharpen * numbers['sharpen'][0], SHARPEN_SIGMA ** numbers['sharpen'][1]
        image = sharpen(image, amount, sigma)
    if config.blur:
        image = blur(image, config.blur * numbers['blur'][0])
    if config.noise:
        image = add_noise(image, 255 * config.noise * numbers['noise'][0], key)
    return image


def brighten(image: Image, factor: Scalar) -> Image:
    return jnp.clip(factor * image, 0, 255)


def stretch_contrast(image: Image, factor: Scalar) -> Image:
    """factor * image + (1 - factor) * its mean luma."""
    mean = sum(weight * image[..., channel].mean() for channel, weight in enumerate(LUMA))
    return jnp.clip(mean + factor * (image - mean), 0, 255)


def shift_hue(image: Image, circles: Scalar) -> Image:
    """The hue of HSV advanced by a number of circles (red, green, blue, red), saturation and value kept; greys stay."""
    value = image.max(-1)
    chroma = value - image.min(-1)
    red, green, blue = image[..., 0], image[..., 1], image[..., 2]
    sixths = jnp.where(
        value == red, green - blue, jnp.where(value == green, blue - red + 2 * chroma, red - green + 4 * chroma)
    ) / jnp.where(chroma > 0, chroma, 1)
    channels = []
    for offset in (5, 3, 1):
        place = offset + sixths + 6 * circles
        place = place - 6 * jnp.floor(place / 6)
        channels.append(value - chroma * jnp.clip(jnp.minimum(place, 4 - place), 0, 1))
    return jnp.stack(channels, -1)


def saturate(image: Image, factor: Scalar) -> Image:
    """factor * image + (1 - factor) * the luma of each pixel; 0 is grey."""
    luma = sum(weight * image[..., channel] for channel, weight in enumerate(LUMA))[..., None]
    return jnp.clip(luma + factor * (image - luma), 0, 255)


def sharpen(image: Image, amount: Scalar, sigma: Scalar) -> Image:
    """An unsharp mask: `amount` times what a Gaussian of `sigma` pixels takes away is added."""
    return jnp.clip(image + amount * (image - blur(image, sigma)), 0, 255)


def blur(image: Image, sigma: Scalar) -> Image:
    """Gaussian of `sigma` pixels; beyond its edges the photo goes on as its mirror image, so that its mean stays."""
    rows, columns = (_mirrored_gaussian(n, sigma) for n in image.shape[:2])
    return jnp.einsum('ij,jkc,lk->ilc', rows, image, columns, precision='highest')


def _mirrored_gaussian(n: int, sigma: Scalar) -> Float[Array, '{n} {n}']:
    """What each of n pixels in a row takes from each: from itself, and from its mirror images beyond the two ends."""
    target, source = np.mgrid[:n, :n].astype(np.float32)
    images = np.stack([source, -1 - source, 2 * n - 1 - source])
    weights = jnp.exp(-0.5 * ((target[None] - images) / jnp.maximum(sigma, 0.01)) ** 2).sum(0)
    return weights / weights.sum(1, keepdims=True)


def add_noise(image: Image, std: Scalar, key: Key[Array, '']) -> Image:
    """Bell-shaped noise: the sum of the four bytes of a hash of each number's place.

    jax.random.normal took a CPU longer than all the rest of the augmentation. Hash: Wellons, "lowbias32", 2018.
    """
    x = jax.lax.iota(jnp.uint32, image.size) * jnp.uint32(0x9E3779B9) + jax.random.bits(key)
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        x = (x ^ (x >> shift)) * jnp.uint32(factor)
    x = x ^ (x >> 16)
    total = sum((x >> shift & 255).astype(jnp.float32) for shift in (0, 8, 16, 24))
    bell = (total - 4 * 127.5) / math.sqrt(4 * (256**2 - 1) / 12)
    return jnp.clip(image + std * bell.reshape(image.shape), 0, 255)


def draw_affine(numbers: dict, size: tuple[int, int], config: ConfigDict) -> Float[Array, '2 3']:
    """A rotation and scaling about the photo's middle, or about any place of it, much enlarged, and a shift; in pixels
    of a photo of (height, width)."""
    rotation, scale, shift = (2 * numbers[name][:2] - 1 for name in ('rotation', 'scale', 'shift'))
    extent = jnp.asarray(size[::-1], jnp.float32)
    target = (0.5 + config.shift * shift) * extent
    middle, factor = extent / 2, (1 + config.scale) ** scale[0]
    if config.away:
        is_away, places = numbers['away'][0] < config.away, numbers['away'][1:4]
        middle = jnp.where(is_away, (0.05 + 0.9 * places[:2]) * extent, middle)
        factor = factor * jnp.where(is_away, AWAY_SCALE ** places[2], 1)
    return geometry.similarity(middle, target, factor, config.rotation * rotation[0])


def draw_content(numbers: Numbers, size: tuple[int, int], probability: float) -> Box:
    """Where the content lies in a frame of (height, width): all of it, or with borders of up to BORDER.

    One side has a border for certain, then, and each other one in half of the cases.
    """
    cut = (jnp.arange(4) == jnp.floor(4 * numbers[1])) | (numbers[2:6] < 0.5)
    extent = jnp.asarray(2 * size[::-1])
    width = jnp.ceil((1 - numbers[6:]) * BORDER * extent).astype(int)
    width = jnp.where(cut & (numbers[0] < probability), width, 0)
    return jnp.concatenate([width[:2], (extent - width)[2:]])


def border(image: Image, content: Box, replicate: bool | Bool[Array, '']) -> Image:
    """What lies outside the content replaced: by the content's nearest pixel, or by black."""
    rows, columns = (jnp.arange(n) for n in image.shape[:2])
    nearest = jnp.clip(rows, content[1], content[3] - 1)[:, None], jnp.clip(columns, content[0], content[2] - 1)[None]
    return jnp.where(in_box(image.shape[:2], content)[..., None] | replicate, image[nearest], 0)


def in_content(keypoints: Keypoints, content: Box, size: tuple[int, int]) -> Visible:
    """Which keypoints lie on the content of a frame of (height, width)."""
    points = keypoints * np.float32(size[::-1])[None]
    return ((points >= content[None, :2]) & (points < content[None, 2:])).all(-1)


def draw_erased(numbers: Numbers, size: tuple[int, int], probability: float) -> Box:
    """A rectangle in a frame of (height, width), empty if nothing is to be erased.

    Its aspect is log-uniform, as torchvision has it. Where it is longer than the frame it is cut, not drawn again.
    """
    (least, most), (low, high) = ERASED_AREA, np.log(ERASED_ASPECT)
    area = math.prod(size) * (least + (most - least) * numbers[1])
    aspect = jnp.exp(low + (high - low) * numbers[2])
    extent = jnp.asarray(size[::-1])
    sides = jnp.clip(jnp.round(jnp.sqrt(area * jnp.stack([aspect, 1 / aspect]))).astype(int), 1, extent)
    corner = jnp.floor(numbers[3:5] * (extent - sides + 1)).astype(int)
    return jnp.concatenate([corner, corner + jnp.where(numbers[0] < probability, sides, 0)])


def erase(image: Image, box: Box, key: Key[Array, '']) -> Image:
    """Random pixels in the box, uniform over all grey levels."""
    pixels = jax.random.bits(key, image.shape, jnp.uint8)
    return jnp.where(in_box(image.shape[:2], box)[..., None], jnp.float32(pixels), image)


def draw_cover(numbers: Numbers, size: tuple[int, int], probability: float) -> tuple[Box, Bool[Array, ''], Array]:
    """A rectangle of 8 to 35 % of a frame's sides that something hides, empty if nothing does; whether that is one
    colour; and how far from there the part of the photo lies that is seen instead, (x, y) in pixels."""
    extent = jnp.asarray(size[::-1])
    sides = jnp.round(extent * (0.08 + 0.27 * numbers[1:3])).astype(int)
    corner = jnp.floor(numbers[3:5] * (extent - sides + 1)).astype(int)
    box = jnp.concatenate([corner, corner + jnp.where(numbers[0] < probability, sides, 0)])
    return box, numbers[5] < 0.5, extent * (numbers[6:8] - 0.5)


def in_box(size: tuple[int, int], box: Box) -> Bool[Array, '{size[0]} {size[1]}']:
    rows, columns = (jnp.arange(n) for n in size)
    return ((rows >= box[1]) & (rows < box[3]))[:, None] & ((columns >= box[0]) & (columns < box[2]))[None]


def rot90(
    image: Shaped[AnyArray, 's s 3'], keypoints: Float[AnyArray, 'k 2'], k: Int[AnyArray, '']
) -> tuple[Shaped[AnyArray, 's s 3'], Float[AnyArray, 'k 2']]:
    """One square photo and its normalised keypoints, rotated counter-clockwise by `k` (0 to 3) right angles."""
    rotated = jnp.stack([geometry.rot90(keypoints, i) for i in range(4)])
    return jax.lax.switch(k, [partial(jnp.rot90, k=i) for i in range(4)], image), rotated[k]
