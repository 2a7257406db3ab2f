"""Pictures of any kind as upright RGB: files by Pillow, arrays as they come."""

import contextlib
import functools
import io
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Shaped, UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

from hpe_jax.errors import UserError

# Raster formats, by Pillow's names; JPEG's reader opens MPO. No others are tried: EPS would start Ghostscript.
FORMATS = 'JPEG', 'PNG', 'WEBP', 'GIF', 'BMP', 'TIFF', 'PPM', 'JPEG2000', 'AVIF', 'QOI', 'TGA'
ANIMATIONS = 'GIF', 'WEBP', 'PNG', 'AVIF'  # several images of one of these are a film; of another, pictures
HEIF = '.heic', '.heif', '.hif'  # what pillow-heif opens
HEIF_BRANDS = b'heic', b'heix', b'heim', b'heis', b'hevc', b'hevx'  # in the first bytes of such a file
MAX_PIXELS = 250_000_000  # of a file: phones have 200 million
MAX_IMAGES = 100_000  # in a file
MAX_ASPECT = 200  # the longer side over the shorter one
REDUCED = 64_000_000  # pixels, above which a JPEG is read at half its width and height
GREY_LEVELS = {255: (0, 255), 4095: (1024, 4095), 65535: (16384, 65535)}  # range: maxima that leave no doubt of it

Image.MAX_IMAGE_PIXELS = None  # MAX_PIXELS is checked in its place, before any pixel is read


class Picture(NamedTuple):
    """A picture as its viewers show it."""

    image: UInt8[np.ndarray, 'h w 3']  # RGB
    scale: int = 1  # pixels of the file along one of the array: above 1 where a large JPEG was read reduced
    size: tuple[int, int] = (0, 0)  # (width, height), pixels of the file
    note: str = ''  # what its file leaves open, and how it was taken


class Several(UserError):
    """A file of several images, where one is wanted. `animated`: a film; otherwise pictures."""

    def __init__(self, name: str, num_images: int, animated: bool):
        super().__init__(
            f'{name}: holds {num_images} images but one is wanted; read(file, first_frame=True) of '
            'hpe_jax.inference.images takes the first, hpe_jax.predict takes all'
        )
        self.num_images, self.animated = num_images, animated


class NoPicture(UserError):
    """A file that is of no known format."""


Given = Picture | str | Path | bytes | Image.Image | np.ndarray  # whatever a picture can be given as


def suffixes() -> set[str]:
    """Those of all files that can be read, in lower case; HEIF's in any case."""
    return _raster_suffixes() | set(HEIF)


@functools.cache
def _raster_suffixes() -> set[str]:
    return {suffix for suffix, form in Image.registered_extensions().items() if form in (*FORMATS, 'MPO')}


def read(source: str | Path | bytes, name: str = '', first_frame: bool = False) -> UInt8[np.ndarray, 'h w 3']:
    """The `picture`'s array, in the file's own pixels."""
    return picture(source, name, first_frame, reduce=False).image


def picture(source: Given, name: str = '', first_frame: bool = False, reduce: bool = True) -> Picture:
    """A picture as its viewers show it: upright by its EXIF orientation, transparency over white.

    Args:
      source: a path, a file's bytes, a Pillow image, or an array as `as_rgb` takes it.
      name: what the error calls it; '' is the path.
      first_frame: of a file of several images take the first.
      reduce: read a JPEG of over REDUCED pixels at half its width and height.

    Raises:
      NoPicture: it is of no known format.
      Several: it holds several images.
      UserError: it cannot be read, is too large or too long, or the range of its grey levels is in doubt.
    """
    if isinstance(source, Picture):
        return source
    if isinstance(source, Image.Image):
        return _converted(source)
    if not isinstance(source, str | Path | bytes):
        image, note = _as_rgb(np.asarray(source))
        return Picture(image, 1, image.shape[1::-1], note)
    with opened(source, name) as image:
        if not first_frame and len(pages(image)) > 1:
            raise Several(name or str(source)[:200], len(pages(image)), image.format in ANIMATIONS)
        return _converted(_page(image, 0), reduce)


@contextlib.contextmanager
def opened(source: str | Path | bytes, name: str = '') -> Iterator[Image.Image]:
    """Opens a file of one of FORMATS, or of HEIF where pillow-heif is installed. What fails in the block is UserError.

    Raises:
      NoPicture, UserError: as `picture`.
    """
    name = name or ('the picture' if isinstance(source, bytes) else str(source))
    try:
        with io.BytesIO(source) if isinstance(source, bytes) else open(source, 'rb') as stream:
            head = stream.read(40)
            stream.seek(0)
            heif = head[4:8] == b'ftyp' and any(brand in head[8:] for brand in HEIF_BRANDS)
            with Image.open(stream, formats=_heif() if heif else FORMATS) as image:
                check_size(*image.size)
                yield image
    except UnidentifiedImageError as e:
        raise NoPicture(f'{name}: no picture that can be read') from e
    except Several:
        raise
    except UserError as e:
        raise UserError(f'{name}: {e}') from e
    except Exception as e:  # Pillow's decoders raise anything from OSError to RuntimeError
        reason = str(getattr(e, 'strerror', None) or e).partition('\n')[0] or type(e).__name__
        raise UserError(f'{name}: cannot be read: {reason}') from e


def _heif() -> list[str]:
    try:
        import pillow_heif
    except ImportError as e:
        raise UserError('a HEIC picture needs pillow-heif: pip install pillow-heif') from e
    pillow_heif.register_heif_opener()
    return ['HEIF']


def check_size(width: int, height: int) -> None:
    """
    Raises:
      UserError: such a picture is too large, or too long for its width.
    """
    if not width or not height:
        raise UserError(f'a picture of {width} x {height} pixels shows nothing')
    if width * height > MAX_PIXELS:
        raise UserError(
            f'a picture of {width} x {height} pixels is over the limit of {MAX_PIXELS // 10**6} million; shrink it'
        )
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise UserError(f'a picture of {width} x {height} pixels is over {MAX_ASPECT} times as long as wide; crop it')


def pages(image: Image.Image) -> list[int]:
    """The images of an opened file that are pictures of their own: no thumbnails, masks, gain maps, or what an animated
    PNG shows where animations are unknown."""
    every = range(getattr(image, 'n_frames', 1))
    if len(every) > MAX_IMAGES:  # as its header has it
        raise UserError(f'a file of {len(every):,} images; at most {MAX_IMAGES:,} are read')
    if len(every) == 1:
        return [0]
    if image.format == 'PNG':
        return list(every[image.default_image :])
    if image.format == 'TIFF':  # NewSubfileType (TIFF 6.0): bit 0 a reduced version, bit 2 a mask
        return [i for i in every if not _page(image, i).tag_v2.get(254, 0) & 5] or [0]
    if image.format == 'MPO':
        image.fp.seek(0)
        content = image.fp.read()
        return [i for i in every if not i or _is_photo(image, content, i)]
    return list(every)


def _page(image: Image.Image, index: int) -> Image.Image:
    """An opened file with one of its images ahead."""
    if getattr(image, 'n_frames', 1) > 1:
        image.seek(index)
    return image


def _is_photo(image: Image.Image, content: bytes, index: int) -> bool:
    """Whether a later image of an MPO file is a photo as the first one is (CIPA DC-007, 5.2.3.3)."""
    kind = image.mpinfo[0xB002][index]['Attribute']['MPType']
    with Image.open(io.BytesIO(content), formats=['JPEG']) as other:
        try:
            other.seek(index)
        except (ValueError, SyntaxError, OSError):  # another program has cut it off
            return False
        is_gain_map = any(b'hdrgm:' in segment or b'hdrgainmap' in segment for _, segment in other.applist)
        return (other.size, other.mode) == (image.size, image.mode) and not is_gain_map and 'Thumbnail' not in kind


def frames(image: Image.Image) -> Iterator[tuple[int, Picture, float]]:
    """The index among `pages`, the picture, and how long it is shown, in seconds, of all images of an opened file."""
    for index, page in enumerate(pages(image)):
        frame = _page(image, page)
        yield index, _converted(frame), (frame.info.get('duration') or 100) / 1000  # Pillow knows it once it is decoded


def _converted(image: Image.Image, reduce: bool = True) -> Picture:
    size = image.size
    check_size(*size)
    if reduce and image.format in ('JPEG', 'MPO') and size[0] * size[1] > REDUCED:
        image.draft(None, (max(1, size[0] // 2), max(1, size[1] // 2)))
    scale = round(max(size) / max(image.size))
    form, tags = image.format, getattr(image, 'tag_v2', {})
    upright = ImageOps.exif_transpose(image)
    if scale == 1:
        size = upright.size
    elif (upright.width > upright.height) != (size[0] > size[1]):
        size = size[::-1]
    note = ''
    if upright.mode[0] in 'FI':
        levels = np.asarray(upright)
        if upright.mode[0] == 'I' and form not in ('TIFF', None):  # these formats scale to 16 bits
            array = np.uint8(np.round(levels.clip(0, 65535) / np.float32(257)))
        else:
            array, top = _levels(levels)
            note = f'grey levels taken as 0 to {top}'
        array = 255 - array if tags.get(262) == 0 else array  # TIFF's WhiteIsZero, which Pillow heeds in 8 bits only
        array = np.repeat(array[..., None], 3, 2)
    elif upright.has_transparency_data:
        array = _over_white(np.asarray(upright.convert('RGBA')))
    else:
        array = np.asarray(upright.convert('RGB'))
        # Of TIFF's colours of 16 bits Pillow keeps the upper byte.
        if form == 'TIFF' and max(tags.get(258, (8,))) == 16 and array.max() < 64:
            raise UserError('colours in the lowest quarter of 16 bits may be of 12 bits or dark; save it with 8 bits')
    return Picture(array, scale, size, note)


def as_rgb(image: np.ndarray) -> UInt8[np.ndarray, 'h w 3']:
    """A picture as an array: (H, W), or (H, W, C) with C 1 grey, 2 grey and alpha, 3 RGB, 4 RGB and alpha.

    uint8; floats in [0, 1] or [0, 255]; uint16 of 8, 12 or 16 bits: the range is taken by the largest value. What is
    transparent becomes white.

    Raises:
      UserError: it is something else, or its range is in doubt.
    """
    return _as_rgb(np.asarray(image))[0]


def _as_rgb(image: np.ndarray) -> tuple[UInt8[np.ndarray, 'h w 3'], str]:
    """The picture, and which range was taken where it is not its type's own."""
    known = image.dtype in (np.uint8, np.uint16) or np.issubdtype(image.dtype, np.floating)
    if image.ndim not in (2, 3) or not known or (image.ndim == 3 and image.shape[2] not in (1, 2, 3, 4)):
        raise UserError(
            f'a picture must be (height, width, 1 to 4) of uint8, uint16 or floats, not {image.dtype} {image.shape}'
        )
    check_size(image.shape[1], image.shape[0])
    note = ''
    if image.dtype != np.uint8:
        image, top = _levels(image)
        note = '' if top in (1, 65535) else f'grey levels taken as 0 to {top}'
    image = image.reshape(*image.shape[:2], -1)
    image = _over_white(image) if image.shape[2] in (2, 4) else image
    return image if image.shape[2] == 3 else np.repeat(image, 3, 2), note


def _levels(values: Shaped[np.ndarray, '...']) -> tuple[UInt8[np.ndarray, '...'], int]:
    """Grey levels of a range that their type leaves open, as 0 to 255, and the upper end of the one that was taken."""
    floats = np.issubdtype(values.dtype, np.floating)
    if not np.isfinite(values).all() or values.min() < 0:
        raise UserError('its grey levels must be finite and at least 0; some are not')
    ranges = {1: (0, 1), 255: (16, 255)} if floats else GREY_LEVELS
    largest = values.max()
    top = next((top for top, (low, high) in ranges.items() if low <= largest <= high), None)
    if top is None:
        known = ', '.join(f'0 to {top}' for top in ranges)
        raise UserError(f'grey levels up to {largest:g} leave their range in doubt; scale them to one of {known}')
    scaled = (values if floats else np.float32(values)) * np.float32(255 / top)
    return np.uint8(np.round(scaled)), top


def _over_white(image: UInt8[np.ndarray, 'h w c']) -> UInt8[np.ndarray, 'h w c2']:
    """Without its last channel, alpha."""
    rows = max(1, 2**22 // image.shape[1])  # at a time: floats take four times the memory
    blended = np.empty((*image.shape[:2], image.shape[2] - 1), np.uint8)
    for start in range(0, len(image), rows):
        part = image[start : start + rows]
        alpha = np.float32(part[..., -1:]) / 255
        blended[start : start + rows] = np.round(alpha * part[..., :-1] + (1 - alpha) * 255)
    return blended


def open_jpeg(source: str | Path | bytes) -> Image.Image:
    """A photo of a data set: a JPEG and nothing else. Its size is known, and its pixels are read on demand."""
    return Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=['JPEG'])
