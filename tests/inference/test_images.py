"""Every kind of file comes in as upright RGB; what is no picture is told in one sentence."""

import collections
import io
import warnings
import zlib

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
        (np.full((4, 4), 7.0), 'up to 7 leave their range in doubt; scale them to one of 0 to 1, 0 to 255'),
        (np.full((4, 4), 256.0), 'leave their range in doubt'),
        (np.full((4, 4), 500, np.uint16), 'scale them to one of 0 to 255, 0 to 4095, 0 to 65535'),
        (np.full((4, 4), 9000, np.uint16), 'leave their range in doubt'),
        (np.full((4, 4), np.nan), 'must be finite and at least 0'),
        (np.full((4, 4), -0.1), 'must be finite and at least 0'),
        (np.zeros((65500, 3, 3), np.uint8), 'a picture of 3 x 65500 pixels is over 200 times as long as wide; crop it'),
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


def tiff(values: np.ndarray) -> bytes:
    return saved(Image.fromarray(values), 'TIFF')


@pytest.mark.parametrize('top', [1.0, 255.0, 255, 4095, 65535])
def test_ranges_that_the_type_leaves_open_are_taken_by_the_largest_value_and_stated(top):
    grey = PICTURE[..., 0] / PICTURE[..., 0].max()
    levels = np.float32(grey * top) if isinstance(top, float) else np.uint16(np.round(grey * top))
    expected = np.repeat(np.round(grey * 255)[..., None], 3, 2)
    for given in (tiff(levels), levels):
        found = images.picture(given)
        np.testing.assert_allclose(found.image, expected, atol=1)
        own = given is levels and top in (1, 65535)
        assert found.note == ('' if own else f'grey levels taken as 0 to {top:g}') and found.size == (48, 32)


@pytest.mark.parametrize(
    'levels',
    [np.full((8, 8), np.nan, np.float32), np.full((8, 8), -1.0, np.float32), np.full((8, 8), 7.0, np.float32)]
    + [np.full((8, 8), 500, np.uint16), np.full((8, 8), 9000, np.uint16), np.full((8, 8), 70_000, np.int32)],
)
def test_ranges_in_doubt_are_refused(levels):
    with pytest.raises(UserError, match=r'a\.tif: (its grey levels must be finite|grey levels up to .* in doubt)'):
        images.read(tiff(levels), 'a.tif')


def test_formats_whose_type_settles_the_range_keep_it():
    dark = np.full((8, 8), 500, np.uint16)
    found = images.picture(saved(Image.fromarray(dark), 'PNG'))
    assert found.note == '' and (found.image == 2).all()


def test_white_is_zero_in_sixteen_bits():
    data = saved(Image.fromarray(np.uint16(PICTURE[..., 0]) * 257), 'TIFF', tiffinfo={262: 0})
    np.testing.assert_array_equal(images.read(data)[..., 0], 255 - PICTURE[..., 0])


def test_only_listed_raster_formats_are_opened(monkeypatch):
    from PIL import EpsImagePlugin

    monkeypatch.setattr(EpsImagePlugin, 'Ghostscript', lambda *_: pytest.fail('Ghostscript was started'))
    eps = b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n'
    for data in (eps, saved(Image.fromarray(PICTURE), 'PCX'), saved(Image.fromarray(PICTURE), 'ICO')):
        with pytest.raises(images.NoPicture, match='a.png: no picture that can be read'):
            images.read(data, 'a.png')
    assert {'.jpg', '.jfif', '.jpe', '.mpo', '.tga', '.heic', '.webp'} < images.suffixes()
    assert not {'.eps', '.ps', '.pdf', '.wmf', '.mpg', '.txt'} & images.suffixes()


def header(width: int, height: int) -> bytes:
    """A JPEG that claims to be so large."""
    data = bytearray(saved(Image.fromarray(PICTURE), 'JPEG'))
    at = data.index(b'\xff\xc0') + 5
    data[at : at + 4] = height.to_bytes(2, 'big') + width.to_bytes(2, 'big')
    return bytes(data)


@pytest.mark.parametrize(
    ('width', 'height', 'message'),
    [
        (65000, 65000, 'a.jpg: a picture of 65000 x 65000 pixels is over the limit of 250 million; shrink it'),
        (65500, 3, 'a.jpg: a picture of 65500 x 3 pixels is over 200 times as long as wide; crop it'),
    ],
)
def test_one_limit_of_our_own(width, height, message):
    with pytest.raises(UserError, match=message):
        images.read(header(width, height), 'a.jpg')
    images.check_size(16320, 12240)  # which phones take


def test_large_jpegs_are_read_reduced(monkeypatch):
    monkeypatch.setattr(images, 'REDUCED', 1000)
    exif = Image.Exif()
    exif[0x0112] = 6
    found = images.picture(saved(Image.fromarray(PICTURE[:, :31]), 'JPEG', exif=exif, quality=95))
    assert (found.scale, found.size, found.image.shape) == (1, (32, 31), (31, 32, 3))
    data = saved(Image.fromarray(PICTURE[:, :43]), 'JPEG', exif=exif, quality=95)
    assert images.read(data).shape == (43, 32, 3)
    found = images.picture(data)
    assert (found.scale, found.size, found.image.shape) == (2, (32, 43), (22, 16, 3))
    upright = np.rot90(PICTURE[:, :42], -1)[::2, ::2].astype(int)
    assert np.abs(found.image[:21] - upright).mean() < 8
    assert images.picture(saved(Image.fromarray(PICTURE), 'PNG')).scale == 1


FRAMES = [Image.fromarray(np.roll(PICTURE, 7 * i, 1)) for i in range(3)]
SEVERAL = {'save_all': True, 'append_images': FRAMES[1:]}


@pytest.mark.parametrize(
    ('kind', 'options', 'animated'),
    [
        ('GIF', {'duration': 70}, True),
        ('WEBP', {'duration': 70, 'lossless': True}, True),
        ('PNG', {'duration': 70}, True),
        ('TIFF', {}, False),
        ('MPO', {'quality': 95}, False),
    ],
)
def test_files_of_several_images(kind, options, animated):
    data = saved(FRAMES[0], kind, **SEVERAL, **options)
    with pytest.raises(images.Several, match='a: holds 3 images but one is wanted; ') as raised:
        images.read(data, 'a')
    assert raised.value.animated == animated
    first = images.read(data, first_frame=True)
    with images.opened(data) as opened:
        indices, found, seconds = zip(*images.frames(opened), strict=True)
    np.testing.assert_array_equal(first, found[0].image)
    assert indices == (0, 1, 2) and (not animated or seconds == (0.07,) * 3)
    for frame, one in zip(FRAMES, found, strict=True):
        assert np.abs(one.image.astype(int) - np.asarray(frame)).mean() < 12


def test_thumbnails_gain_maps_masks_and_default_images_are_no_pictures():
    small = FRAMES[0].resize((24, 16))
    stereo = saved(FRAMES[0], 'MPO', save_all=True, append_images=[FRAMES[1], small, FRAMES[0].convert('L')])
    with images.opened(stereo) as opened:
        assert images.pages(opened) == [0, 1]
        assert [one.size for _, one, _ in images.frames(opened)] == [(48, 32)] * 2
    second = stereo.index(b'\xff\xd8\xff', 9)
    xmp = b'<x hdrgm:Version="1.0"/>'
    gain = stereo[: second + 2] + b'\xff\xe1' + (len(xmp) + 2).to_bytes(2, 'big') + xmp + stereo[second + 2 :]
    for only_one in (gain, stereo[:second]):
        assert images.read(only_one).shape == (32, 48, 3)
    default = saved(FRAMES[0], 'PNG', default_image=True, duration=70, **SEVERAL)
    with images.opened(default) as opened:
        assert images.pages(opened) == [1, 2]
    with io.BytesIO() as stream:
        for i, kind in enumerate((0, 1, 4)):
            FRAMES[i].save(stream, 'TIFF', tiffinfo={254: kind}, **({'append': True} if i else {}))
        assert images.read(stream.getvalue()).shape == (32, 48, 3)


def test_pillows_own_images_are_converted_as_files_are():
    palette = Image.fromarray(PICTURE[..., 0]).convert('P')
    np.testing.assert_array_equal(images.picture(palette).image[..., 2], PICTURE[..., 0])


HEIC = b'\0\0\0\x1cftypheic\0\0\0\0mif1heic'


def test_a_reason_of_many_lines_is_cut_to_its_first(monkeypatch):
    monkeypatch.setattr(images, 'check_size', lambda *_: 1 / 0)
    with pytest.raises(UserError, match='a: cannot be read: division by zero'):
        images.read(saved(Image.fromarray(PICTURE), 'PNG'), 'a')

    def fail(*_):
        raise ValueError('one\ntwo')

    monkeypatch.setattr(images, 'check_size', fail)
    with pytest.raises(UserError, match='a: cannot be read: one$'):
        images.read(saved(Image.fromarray(PICTURE), 'PNG'), 'a')


def test_mutated_files_are_read_or_answered_in_one_sentence():
    """500 files with bytes changed, cut off or overwritten."""
    rng, whole = np.random.default_rng(1), []
    for kind in ('JPEG', 'PNG', 'WEBP', 'GIF', 'BMP', 'TIFF', 'PPM', 'JPEG2000', 'AVIF', 'TGA', 'QOI', 'MPO'):
        several = SEVERAL if kind in ('GIF', 'TIFF', 'MPO') else {}
        whole.append(saved(FRAMES[0], kind, **several))
    answers = collections.Counter()
    for i in range(500):
        data = bytearray(whole[i % len(whole)])
        for _ in range(rng.choice([1, 3, 10])):
            at = int(rng.integers(min(len(data), int(rng.choice([60, 400, len(data)])))))
            change = int(rng.integers(3))
            data[at : at + (4 if change else 1)] = b'\xff\xff\xff\x7f' if change else bytes([int(rng.integers(256))])
            data = data[: max(20, int(rng.integers(len(data))))] if change == 2 else data
        try:
            with warnings.catch_warnings(action='ignore'):  # Pillow's, of tags that are wrong
                assert images.read(bytes(data), 'a', first_frame=True).dtype == np.uint8
            answers['read'] += 1
        except UserError as e:
            assert '\n' not in str(e) and str(e).startswith('a: ')
            answers['answered'] += 1
    assert min(answers.values()) > 100


def test_heic_asks_for_its_package(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, 'pillow_heif', None)
    with pytest.raises(UserError, match='a.heic: a HEIC picture needs pillow-heif: pip install pillow-heif'):
        images.read(HEIC, 'a.heic')


def test_heic_is_read_where_its_package_is_installed():
    heif = pytest.importorskip('pillow_heif', reason='HEIC pictures need pillow-heif, which is optional')
    stream = io.BytesIO()
    heif.from_pillow(Image.fromarray(PICTURE)).save(stream, quality=95)
    assert np.abs(images.read(stream.getvalue()).astype(int) - PICTURE).mean() < 8
    with pytest.raises(UserError, match='a.heic: no picture that can be read'):
        images.read(HEIC, 'a.heic')


def test_a_header_that_promises_billions_of_frames_is_answered(tmp_path):
    stream = io.BytesIO()
    frames = [Image.new('RGB', (8, 8), (i, 0, 0)) for i in range(3)]
    frames[0].save(stream, 'PNG', save_all=True, append_images=frames[1:])
    content = bytearray(stream.getvalue())
    at = content.index(b'acTL')
    content[at + 4 : at + 8] = (2**31 - 1).to_bytes(4, 'big')
    content[at + 12 : at + 16] = zlib.crc32(content[at : at + 12]).to_bytes(4, 'big')
    with pytest.raises(UserError, match='a file of 2,147,483,647 images; at most 100,000 are read'):
        images.read(bytes(content))
