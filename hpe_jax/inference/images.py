"""Pictures of any kind as upright RGB: files by Pillow, arrays as they come."""

import io
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

from hpe_jax.errors import UserError

SUFFIXES = ('.jpg', '.jpeg', '.png', '.webp', '.bmp', '.gif', '.tif', '.tiff', '.ppm', '.pgm', '.jp2', '.avif')


def read(source: str | Path | bytes, name: str = '') -> UInt8[np.ndarray, 'h w 3']:
    """A photo as its viewers show it: upright by its EXIF orientation, transparency over white.

    Args:
      source: a path, or the file's bytes.
      name: what the error calls it; '' is the path.

    Raises:
      UserError: it cannot be read, or it is no whole picture that Pillow knows.
    """
    name = name or str(source)
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
            upright = ImageOps.exif_transpose(image)
            if upright.mode.startswith('I'):  # 16 bits of grey, some of them in 32
                return as_rgb(np.asarray(upright).clip(0, 65535).astype(np.uint16))
            if upright.has_transparency_data:
                return as_rgb(np.asarray(upright.convert('RGBA')))
            return np.asarray(upright.convert('RGB'))
    except UnidentifiedImageError as e:
        raise UserError(f'{name}: no picture that can be read') from e
    except Exception as e:  # Pillow's decoders raise anything from OSError to RuntimeError
        raise UserError(f'{name}: cannot be read: {getattr(e, "strerror", None) or e or type(e).__name__}') from e


def as_rgb(image: np.ndarray) -> UInt8[np.ndarray, 'h w 3']:
    """A picture as an array: (H, W), or (H, W, C) with C 1 grey, 2 grey and alpha, 3 RGB, 4 RGB and alpha.

    uint8, uint16, or floats in [0, 1]. What is transparent becomes white.

    Raises:
      UserError: it is something else.
    """
    image = np.asarray(image)
    known = image.dtype in (np.uint8, np.uint16) or np.issubdtype(image.dtype, np.floating)
    if image.ndim not in (2, 3) or not known or (image.ndim == 3 and image.shape[2] not in (1, 2, 3, 4)):
        raise UserError(
            f'a picture must be (height, width, 1 to 4) of uint8, uint16 or floats, not {image.dtype} {image.shape}'
        )
    if not image.size:
        raise UserError(f'a picture of {image.shape[1]} x {image.shape[0]} pixels shows nothing')
    if image.dtype == np.uint16:
        image = np.uint8(np.round(image / np.float32(257)))
    elif image.dtype != np.uint8:
        if not (np.isfinite(image).all() and image.min() >= 0 and image.max() <= 1):
            raise UserError('a picture of floats must lie in [0, 1]')
        image = np.uint8(np.round(image * 255))
    image = image.reshape(*image.shape[:2], -1)
    if image.shape[2] in (2, 4):
        alpha = np.float32(image[..., -1:]) / 255
        image = np.uint8(np.round(alpha * image[..., :-1] + (1 - alpha) * 255))
    return image if image.shape[2] == 3 else np.repeat(image, 3, 2)
