"""The demo's page in a headless Chromium, as a user meets it: photo, webcam, pointing, saving, errors."""

import asyncio
import json
from colorsys import rgb_to_hsv
from contextlib import asynccontextmanager
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
from aiohttp.test_utils import TestServer
from PIL import Image

from hpe_jax import HandPoseEstimator, demo, geometry, hand, trained_model
from hpe_jax.inference import images
from tests import chromium, drawn_hands

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not chromium.PROGRAM, reason=f'needs one of {", ".join(chromium.PROGRAMS)}'),
]

SIZE = np.array([260, 340])
# An open hand: of the network that has learnt nothing, all fingers would lie upon each other.
HAND = geometry.project(drawn_hands.sample_hand(np.random.default_rng(7)), drawn_hands.CAMERA) * 1.4 + [-10, 40]
BONES = {
    finger: np.concatenate([np.linspace(HAND[hand.PARENTS[k]], HAND[k], 40) for k in joints])
    for finger, joints in hand.FINGERS.items()
}
SCORES = np.linspace(0.5, 0.9, 21)
ANSWER = {'keypoints': HAND.tolist(), 'scores': SCORES.tolist(), 'box': [*HAND.min(0), *HAND.max(0)], 'score': 0.7}

WORDS = "$('status').textContent"
DETAILS = "$('details').textContent"


@pytest.fixture(scope='module')
def run(tiny_run):
    return trained_model.load(tiny_run)


@pytest.fixture
def photo(tmp_path):
    """A grey photo, taken with the camera upright: what has a hue on the canvas is the skeleton."""
    exif = Image.Exif()
    exif[0x112] = 6
    grey = np.random.default_rng(5).integers(60, 200, (8, 12), np.uint8)
    Image.fromarray(grey).resize(SIZE[::-1]).save(tmp_path / 'turned.jpg', quality=95, exif=exif)
    return tmp_path / 'turned.jpg'


def made(run, answer: dict, **options) -> demo.Demo:
    """A demo whose answers have these entries."""
    served = demo.Demo(HandPoseEstimator(run, refine=0, **options))
    predict = served.predict
    served.predict = lambda data, query: predict(data, query) | answer
    return served


@asynccontextmanager
async def opened(served, folder, *options):
    """The server, and a browser that shows its page, asks nobody else, and complains of nothing."""
    async with TestServer(demo.make_app(served)) as server, chromium.tab(folder / 'profile', *options) as tab:
        address = str(server.make_url('/'))
        await tab.open(address)
        await tab.wait(f"{WORDS} === 'Ready.'")
        yield server, tab
        assert all(request.startswith(address) for request in tab.requests)


async def choose(tab, path, condition=f"{WORDS} === 'Right hand'") -> None:
    await tab.choose_file('#file', path)
    await tab.wait(condition)


async def colours_at(tab, points: np.ndarray) -> np.ndarray:
    """(n, 3) in [0, 1]: what the canvas shows at pixels of the picture."""
    script = """points => {
      const context = canvas.getContext('2d'), scale = canvas.width / shown.picture.width
      return points.map(([x, y]) => [...context.getImageData(x * scale, y * scale, 1, 1).data])
    }"""
    return np.array(await tab.run(f'({script})({json.dumps(points.tolist())})'))[:, :3] / 255


def apart(points: np.ndarray, others: np.ndarray, pixels: float) -> np.ndarray:
    """Those of the points that are so far from all others."""
    return points[np.linalg.norm(points[:, None] - others, axis=-1).min(1) > pixels]


def test_a_photo_gets_its_skeleton_in_the_fingers_colours(run, photo, tmp_path):
    async def scenario():
        async with opened(made(run, ANSWER), tmp_path) as (_, tab):
            await choose(tab, photo)
            assert await tab.run('canvas.width / canvas.height') == pytest.approx(260 / 340, abs=1e-3)
            for finger, bones in BONES.items():
                others = np.concatenate([HAND, *(BONES[other] for other in BONES if other != finger)])
                points = apart(bones, others, 7)
                hue = rgb_to_hsv(*bytes.fromhex(hand.COLOURS[finger][1:]))[0]
                seen = [rgb_to_hsv(*colour) for colour in await colours_at(tab, points)]
                assert len(seen) > 20 and all(saturation > 0.2 for _, saturation, _ in seen)
                assert all(abs((other - hue + 0.5) % 1 - 0.5) < 0.03 for other, _, _ in seen)
            grid = np.stack(np.meshgrid(np.arange(5, 260, 10), np.arange(5, 340, 10)), -1).reshape(-1, 2)
            empty = await colours_at(tab, apart(grid, np.concatenate([*BONES.values()]), 7))
            assert len(empty) > 400 and np.ptp(empty, axis=-1).max() == 0
            assert tab.complaints == []

    asyncio.run(scenario())


def test_joints_are_named_and_what_is_shown_is_saved(run, photo, tmp_path):
    async def scenario():
        async with opened(made(run, ANSWER), tmp_path) as (_, tab):
            await choose(tab, photo)
            for k in 0, 8, 20:
                await tab.run("mark(-1), $('marker').firstChild.textContent = ''")
                x, y = await tab.run(f"""(() => {{
                  const box = canvas.getBoundingClientRect(), scale = box.width / {SIZE[0]}
                  return [box.x + {HAND[k][0]} * scale + 3, box.y + {HAND[k][1]} * scale]
                }})()""")
                await tab.send('Input.dispatchMouseEvent', type='mouseMoved', x=x, y=y)
                said = await tab.wait("$('marker').firstChild.textContent")
                assert said == f'{hand.JOINTS[k].replace("_", " ")} {SCORES[k]:.2f}'
                ring = await tab.run(
                    "(box => [box.x + box.width / 2, box.y + box.height / 2])($('marker').getBoundingClientRect())"
                )
                np.testing.assert_allclose(ring, [x - 3, y], atol=1)
            await tab.send('Browser.setDownloadBehavior', behavior='allow', downloadPath=str(tmp_path))
            await tab.run("$('savePicture').click()")
            await tab.run("$('saveJson').click()")
            for name in 'turned_hand.png', 'turned_hand.json':
                async with asyncio.timeout(chromium.SECONDS):
                    while not (tmp_path / name).exists():
                        await asyncio.sleep(0.02)
            assert images.read(tmp_path / 'turned_hand.png').shape == (1024, 783, 3)
            saved = json.loads((tmp_path / 'turned_hand.json').read_text())
            assert saved['keypoints'] == ANSWER['keypoints'] and saved['joints'] == list(hand.JOINTS)
            assert (saved['file'], saved['model']) == ('turned.jpg', f'{run.workdir.name}, epoch 3')
            assert (saved['width'], saved['height'], saved['decoder']) == (260, 340, 'window')
            assert tab.complaints == []

    asyncio.run(scenario())


def test_a_photo_is_dropped_and_a_box_dragged_around_the_hand(run, photo, tmp_path):
    async def scenario():
        async with opened(made(run, ANSWER), tmp_path) as (_, tab):
            data = {'items': [], 'files': [str(photo)], 'dragOperationsMask': 1}
            for kind in 'dragEnter', 'dragOver', 'drop':
                await tab.send('Input.dispatchDragEvent', type=kind, x=300, y=300, data=data)
            await tab.wait(f"{WORDS} === 'Right hand'")
            box = await tab.run('(box => [box.x, box.y, box.width / 260])(canvas.getBoundingClientRect())')
            for kind, (x, y) in ('mousePressed', (200, 90)), ('mouseMoved', (40, 300)), ('mouseReleased', (50, 310)):
                options = {'x': box[0] + x * box[2], 'y': box[1] + y * box[2], 'button': 'left', 'clickCount': 1}
                await tab.send('Input.dispatchMouseEvent', type=kind, **options)
            await tab.wait(f"shown.box && {WORDS} === 'Right hand'")
            asked = parse_qs(urlsplit(tab.requests[-1]).query)['box'][0].split(',')
            np.testing.assert_allclose(np.float64(asked), [50, 90, 200, 310], atol=1.5)
            assert tab.complaints == []

    asyncio.run(scenario())


def test_a_picture_that_the_browser_does_not_turn_is_answered_as_it_is_shown(run, tmp_path):
    exif = Image.Exif()
    exif[0x112] = 6
    Image.new('RGB', (60, 40), 'red').save(tmp_path / 'turned.webp', exif=exif)

    async def scenario():
        async with opened(made(run, {'score': 0.7}), tmp_path) as (_, tab):
            await choose(tab, tmp_path / 'turned.webp', f"{WORDS}.endsWith(' hand')")
            assert await tab.run('[shown.hand.width, shown.hand.height]') == await tab.run(
                '[shown.picture.width, shown.picture.height]'
            )

    asyncio.run(scenario())


def test_the_webcam_is_followed_in_a_mirror(run, tmp_path):
    async def scenario():
        options = '--use-fake-device-for-media-stream', '--use-fake-ui-for-media-stream'
        async with opened(made(run, {}), tmp_path, *options) as (_, tab):
            await tab.run("$('webcam').click()")
            await tab.wait('shown?.hand?.followed')
            assert 'frames a second, model' in await tab.run(DETAILS)
            await tab.run("tracks = stream.getTracks(), $('webcam').click()")
            assert await tab.run(f"tracks[0].readyState === 'ended' && {WORDS}") == 'The webcam is off.'
            asked = [address for address in tab.requests if '/predict' in address]
            assert len(asked) >= 2 and 'last=' not in asked[0] and 'last=' in asked[1]
            left, right = await tab.run('(([x]) => [x, canvas.clientWidth])(place(shown.hand.keypoints[8]))')
            x, width = await tab.run('[shown.hand.keypoints[8][0], shown.picture.width]')
            assert left == pytest.approx((1 - x / width) * right)
            difference = await tab.run("""(() => {
              const rows = () => canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data
              const mirror = rows(), {width} = canvas
              $('mirror').click()
              const plain = rows()
              let sum = 0, changed = 0
              for (let i = 0; i < plain.length; i += 4) {
                const x = i / 4 % width, j = i + 4 * (width - 1 - 2 * x)
                sum += Math.abs(plain[i] - mirror[j])
                changed += Math.abs(plain[i] - mirror[i])
              }
              return [sum / plain.length, changed / plain.length]
            })()""")
            assert difference[0] < 0.05 and difference[1] > 1
            assert tab.complaints == []

    asyncio.run(scenario())


def test_each_trouble_is_said_in_a_sentence(run, photo, tmp_path):
    (tmp_path / 'words.jpg').write_text('no picture')
    Image.new('L', (60, 40)).save(tmp_path / 'scan.tif')

    async def scenario():
        async with opened(made(run, {}, min_score=1.0), tmp_path) as (server, tab):
            await choose(tab, photo, f"{WORDS} === 'No hand found: drag a box around it'")
            assert 'of 1 needed' in await tab.run(DETAILS)
            before = await colours_at(tab, np.concatenate([*BONES.values()]))
            assert np.ptp(before, axis=-1).max() == 0
            await choose(tab, tmp_path / 'words.jpg', f"{WORDS} === 'words.jpg: no picture that can be read'")
            await choose(tab, tmp_path / 'scan.tif', f"{WORDS} === 'scan.tif: this browser cannot show such a picture'")
            await tab.run('model.max_bytes = 1e3')
            await choose(tab, photo, f"{WORDS} === 'turned.jpg is too large: 0.001 MB at most'")
            port = server.port
            await server.close()
            await tab.run("model.max_bytes = 1e9, $('decoder').onchange()")
            await tab.wait(f"{WORDS} === GONE && $('status').className === 'bad'")
            async with TestServer(demo.make_app(made(run, ANSWER)), port=port):
                await tab.wait(f"{WORDS} === 'Right hand'")

    asyncio.run(scenario())
