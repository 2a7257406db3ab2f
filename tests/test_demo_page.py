"""The demo's page in a headless Chromium, as a user meets it: photo, pointing, saving, webcam, errors."""

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
    pytest.mark.skipif(bool(chromium.MISSING), reason=chromium.MISSING),
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
async def opened(served, tab):
    """The server, and its page in the tab, which asks nobody else."""
    tab.requests.clear()
    async with TestServer(demo.make_app(served)) as server:
        address = str(server.make_url('/'))
        await tab.page.goto(address)
        await tab.wait(f"{WORDS} === 'Ready.'")
        yield server
        assert all(request.startswith((address, 'blob:')) for request in tab.requests)


async def choose(tab, path, condition=f"{WORDS} === 'Right hand'") -> None:
    await tab.page.set_input_files('#file', path)
    await tab.wait(condition)


async def colours_at(tab, points: np.ndarray) -> np.ndarray:
    """(n, 3) in [0, 1]: what the canvas shows at pixels of the picture."""
    script = """points => {
      const context = canvas.getContext('2d'), scale = canvas.width / shown.picture.width
      return points.map(([x, y]) => [...context.getImageData(x * scale, y * scale, 1, 1).data])
    }"""
    return np.array(await tab.page.evaluate(script, points.tolist()))[:, :3] / 255


def apart(points: np.ndarray, others: np.ndarray, pixels: float) -> np.ndarray:
    """Those of the points that are so far from all others."""
    return points[np.linalg.norm(points[:, None] - others, axis=-1).min(1) > pixels]


def test_a_photo(run, photo, tmp_path):
    async def scenario():
        async with chromium.tab(tmp_path / 'browser') as tab, opened(made(run, ANSWER), tab):
            await choose(tab, photo)
            await its_skeleton_has_the_fingers_colours(tab)
            await its_joints_are_named(tab)
            await what_is_shown_is_saved(tab, run, tmp_path)
            await tab.page.reload()
            await tab.wait(f"{WORDS} === 'Ready.'")
            await it_is_dropped(tab, photo)
            await a_box_is_dragged_around_the_hand(tab)
            await one_that_the_browser_does_not_turn_is_answered_as_it_is_shown(tab, tmp_path)
            assert tab.complaints == []

    asyncio.run(scenario())


async def its_skeleton_has_the_fingers_colours(tab):
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


async def its_joints_are_named(tab):
    for k in 0, 8, 20:
        await tab.run("mark(-1), $('marker').firstChild.textContent = ''")
        left, top, scale = await tab.run(
            f'(box => [box.x, box.y, box.width / {SIZE[0]}])(canvas.getBoundingClientRect())'
        )
        x, y = left + HAND[k][0] * scale + 3, top + HAND[k][1] * scale
        await tab.page.mouse.move(x, y)
        said = await tab.wait("$('marker').firstChild.textContent")
        assert said == f'{hand.JOINTS[k].replace("_", " ")} {SCORES[k]:.2f}'
        ring = await tab.run(
            "(box => [box.x + box.width / 2, box.y + box.height / 2])($('marker').getBoundingClientRect())"
        )
        np.testing.assert_allclose(ring, [x - 3, y], atol=1)


async def what_is_shown_is_saved(tab, run, folder):
    for button, name in ('savePicture', 'turned_hand.png'), ('saveJson', 'turned_hand.json'):
        async with tab.page.expect_download() as download:
            await tab.run(f"$('{button}').click()")
        assert (await download.value).suggested_filename == name
        await (await download.value).save_as(folder / name)
    assert images.read(folder / 'turned_hand.png').shape == (1024, 783, 3)
    saved = json.loads((folder / 'turned_hand.json').read_text())
    assert saved['keypoints'] == ANSWER['keypoints'] and saved['joints'] == list(hand.JOINTS)
    assert (saved['file'], saved['model']) == ('turned.jpg', f'{run.workdir.name}, epoch 3')
    assert (saved['width'], saved['height'], saved['decoder']) == (260, 340, 'window')


async def it_is_dropped(tab, photo):
    protocol = await tab.page.context.new_cdp_session(tab.page)
    data = {'items': [], 'files': [str(photo)], 'dragOperationsMask': 1}
    for kind in 'dragEnter', 'dragOver', 'drop':
        await protocol.send('Input.dispatchDragEvent', {'type': kind, 'x': 300, 'y': 300, 'data': data})
    await tab.wait(f"{WORDS} === 'Right hand'")


async def a_box_is_dragged_around_the_hand(tab):
    left, top, scale = await tab.run('(box => [box.x, box.y, box.width / 260])(canvas.getBoundingClientRect())')
    mouse = tab.page.mouse
    await mouse.move(left + 200 * scale, top + 90 * scale)
    await mouse.down()
    await mouse.move(left + 40 * scale, top + 300 * scale)
    await mouse.move(left + 50 * scale, top + 310 * scale)
    await mouse.up()
    await tab.wait(f"shown.box && {WORDS} === 'Right hand'")
    asked = parse_qs(urlsplit(tab.requests[-1]).query)['box'][0].split(',')
    np.testing.assert_allclose(np.float64(asked), [50, 90, 200, 310], atol=1.5)


async def one_that_the_browser_does_not_turn_is_answered_as_it_is_shown(tab, folder):
    exif = Image.Exif()
    exif[0x112] = 6
    Image.new('RGB', (60, 40), 'red').save(folder / 'turned.webp', exif=exif)
    await choose(tab, folder / 'turned.webp', "shown?.hand && shown.name === 'turned.webp'")
    assert await tab.run('[shown.hand.width, shown.hand.height]') == await tab.run(
        '[shown.picture.width, shown.picture.height]'
    )


def test_webcam_and_troubles(run, photo, tmp_path):
    async def scenario():
        options = '--use-fake-device-for-media-stream', '--use-fake-ui-for-media-stream'
        async with chromium.tab(tmp_path / 'browser', *options) as tab:
            async with opened(made(run, {}), tab):
                await the_webcam_is_followed_in_a_mirror(tab)
                assert tab.complaints == []
            async with opened(made(run, {}, min_score=1.0), tab) as server:
                await each_trouble_is_said_in_a_sentence(tab, photo, tmp_path)
                port = server.port
                await server.close()
                await tab.run("model.max_bytes = 1e9, $('decoder').onchange()")
                await tab.wait(f"{WORDS} === GONE && $('status').className === 'bad'")
                async with TestServer(demo.make_app(made(run, ANSWER)), port=port):
                    await tab.wait(f"{WORDS} === 'Right hand'")

    asyncio.run(scenario())


async def the_webcam_is_followed_in_a_mirror(tab):
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


async def each_trouble_is_said_in_a_sentence(tab, photo, folder):
    (folder / 'words.jpg').write_text('no picture')
    Image.new('L', (60, 40)).save(folder / 'scan.tif')
    await choose(tab, photo, f"{WORDS} === 'No hand found: drag a box around it'")
    assert 'of 1 needed' in await tab.run(DETAILS)
    before = await colours_at(tab, np.concatenate([*BONES.values()]))
    assert np.ptp(before, axis=-1).max() == 0
    await choose(tab, folder / 'words.jpg', f"{WORDS} === 'words.jpg: no picture that can be read'")
    await choose(tab, folder / 'scan.tif', f"{WORDS} === 'scan.tif: this browser cannot show such a picture'")
    await tab.run('model.max_bytes = 1e3')
    await choose(tab, photo, f"{WORDS} === 'turned.jpg is too large: 0.001 MB at most'")
