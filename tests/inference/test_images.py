"""Every kind of file comes in as upright RGB; what is no picture is told in one sentence."""

import io

import numpy as np
import pytest
from PIL import Image

from hpe_jax.errors import UserError
from hpe_jax.inference import images

RNG = np.random.default_rng(0)
# Left to right darker to brighter, top to bottom redder: no turn of it is itself.
PICTURE = np.uint8(np.stack([*np.meshgrid(np.arange(48) * 4, np.arange(32) * 7), np.full((32, 48), 90)], -1))


def saved(image: Image.Image, kind: str, **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


@pytest.mark.parametrize('kind', ['PNG', 'BMP', 'TIFF'])
def test_lossless_files_come_back_as_they_are(tmp_path, kind):
    path = tmp_path / f'a.{kind.lower()}'
    path.write_bytes(saved(Image.fromarray(PICTURE), kind))
    np.testing.assert_array_equal(images.read(path), PICTURE)
    np.testing.assert_array_equal(images.read(path.read_bytes()), PICTURE)


@pytest.mark.parametrize(('kind', 'options'), [('JPEG', {'quality': 95}), ('WEBP', {'quality': 95})])
def test_lossy_files_come_back_nearly(kind, options):
    found = images.read(saved(Image.fromarray(PICTURE), kind, **options)).astype(int)
    assert np.abs(found - PICTURE).mean() < 3


# What a camera that was held so writes: the upright picture turned or mirrored, and the EXIF number that says how.
ORIENTATIONS = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, 1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a, -1),
}


@pytest.mark.parametrize('orientation', ORIENTATIONS)
def test_pictures_are_upright_by_their_exif_orientation(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(ORIENTATIONS[orientation](PICTURE)))
    np.testing.assert_array_equal(images.read(saved(stored, 'PNG', exif=exif)), PICTURE)


def test_grey_palette_and_cmyk_files():
    grey = PICTURE[..., 0]
    for image in (Image.fromarray(grey), Image.fromarray(grey).convert('P')):
        np.testing.assert_array_equal(images.read(saved(image, 'PNG')), np.repeat(grey[..., None], 3, 2))
    bits = images.read(saved(Image.fromarray(grey).convert('1', dither=Image.Dither.NONE), 'PNG'))
    np.testing.assert_array_equal(bits[..., 0], np.where(grey > 127, 255, 0))
    cmyk = images.read(saved(Image.fromarray(PICTURE).convert('CMYK'), 'TIFF'))
    np.testing.assert_array_equal(cmyk, PICTURE)


def test_sixteen_bits_become_eight():
    wide = np.uint16(PICTURE[..., 0]) * 257
    for kind in 'PNG', 'TIFF':
        np.testing.assert_array_equal(images.read(saved(Image.fromarray(wide), kind))[..., 1], PICTURE[..., 0])


@pytest.mark.parametrize('mode', ['RGBA', 'LA', 'P'])
def test_what_is_transparent_becomes_white(mode):
    image = Image.fromarray(PICTURE).convert('L' if mode == 'LA' else 'RGB').convert('RGBA')
    opaque = np.asarray(image.convert('RGB'))
    alpha = np.full((32, 48), 255, np.uint8)
    alpha[:, :20] = 0
    image.putalpha(Image.fromarray(alpha))
    if mode == 'P':
        image = image.quantize(128)
    found = images.read(saved(image.convert('LA') if mode == 'LA' else image, 'PNG'))
    assert (found[:, :20] == 255).all()
    assert np.abs(found[:, 20:].astype(int) - opaque[:, 20:]).mean() < (6 if mode == 'P' else 0.01)


def test_arrays_of_every_kind():
    grey = PICTURE[..., 0]
    expected = np.repeat(grey[..., None], 3, 2)
    for array in (grey, grey[..., None], np.uint16(grey) * 257, grey / 255, np.float32(grey) / 255, expected):
        np.testing.assert_array_equal(images.as_rgb(array), expected)
    half = np.full((32, 48, 1), 128, np.uint8)
    for colours in (expected, grey[..., None]):
        blended = images.as_rgb(np.concatenate([colours, half], -1))
        np.testing.assert_allclose(blended, expected * (128 / 255) + 127, atol=0.51)


@pytest.mark.parametrize(
    ('array', 'message'),
    [
        (np.zeros((4, 4), np.int64), r'not int64 \(4, 4\)'),
        (np.zeros((4, 4, 5), np.uint8), r'not uint8 \(4, 4, 5\)'),
        (np.zeros(4, np.uint8), r'not uint8 \(4,\)'),
        (np.zeros((0, 4, 3), np.uint8), 'a picture of 4 x 0 pixels shows nothing'),
        (np.full((4, 4), 7.0), r'floats must lie in \[0, 1\]'),
        (np.full((4, 4), np.nan), r'floats must lie in \[0, 1\]'),
    ],
)
def test_arrays_that_are_no_picture_are_told(array, message):
    with pytest.raises(UserError, match=message):
        images.as_rgb(array)


@pytest.mark.parametrize(
    'kind', ['text', 'empty', 'truncated jpeg', 'truncated png', 'header', 'folder', 'absent', 'avif']
)
def test_files_that_are_no_picture_are_told(tmp_path, kind):
    path = tmp_path / 'photo.jpg'
    noise = Image.fromarray(RNG.integers(0, 256, (64, 64, 3), np.uint8))
    if kind == 'folder':
        path.mkdir()
    elif kind != 'absent':
        whole = saved(noise, 'PNG' if kind == 'truncated png' else 'JPEG')
        broken = saved(noise, 'AVIF').replace(b'iloc', b'xxxx') if kind == 'avif' else b''  # a RuntimeError
        content = {'avif': broken, 'text': b'no picture', 'empty': b'', 'header': whole[:30]}
        path.write_bytes(content.get(kind, whole[: len(whole) // 2]))
    with pytest.raises(UserError, match=r'photo\.jpg: (no picture that can be read|cannot be read: .+)') as raised:
        images.read(path)
    assert '\n' not in str(raised.value) and str(raised.value).count(str(path)) == 1
