"""Frames a second of the demo in a headless Chromium whose webcam shows one photo, without a box.

    python -m experiments.benchmark_demo PHOTO [--seconds=20] [--output=experiments/records/demo.json]

The webcam is Chromium's fake device, which plays the photo as a video of 640x480. Needs chromium, playwright, and a
checkout, whose tests/chromium.py it uses.
"""

import argparse
import asyncio
import json
import re
import statistics
import tempfile
from pathlib import Path

from aiohttp.test_utils import TestServer
from PIL import Image, ImageOps

from hpe_jax import HandPoseEstimator, demo, files, logbook, runtime
from hpe_jax.inference.images import read
from tests import chromium

SIZE = 480, 640  # height, width


def write_webcam(photo: str, path: Path) -> None:
    """The photo, padded to SIZE, as the one frame of a Motion JPEG, which Chromium repeats."""
    image = Image.fromarray(read(photo))
    ImageOps.pad(image, SIZE[::-1]).save(path, 'JPEG', quality=95)


async def measure(photo: str, seconds: float) -> dict:
    """What the page shows of each of some seconds."""
    with tempfile.TemporaryDirectory() as folder:
        webcam = Path(folder) / 'webcam.mjpeg'
        write_webcam(photo, webcam)
        options = '--use-fake-device-for-media-stream', '--use-fake-ui-for-media-stream'
        options += (f'--use-file-for-fake-video-capture={webcam}',)
        server = TestServer(demo.make_app(demo.Demo(HandPoseEstimator())))
        async with server, chromium.tab(Path(folder) / 'profile', *options) as tab:
            await tab.page.goto(str(server.make_url('/')))
            await tab.wait("$('status').textContent === 'Ready.'")
            await tab.run("$('webcam').click()")
            await asyncio.sleep(3)
            frames, shown = [], []
            for _ in range(round(2 * seconds)):
                await asyncio.sleep(0.5)
                details = await tab.run("$('details').textContent")
                shown.append(await tab.run("$('status').textContent"))
                frames += map(float, re.findall(r'([\d.]+) frames a second', details))
    found = [text for text in shown if 'hand' in text.lower() and 'no hand' not in text.lower()]
    return {
        'frames_a_second': statistics.median(frames) if frames else 0.0,
        'hand_shown': len(found) / len(shown),
        'shown': max(set(shown), key=shown.count),
    }


def main() -> None:
    parser = argparse.ArgumentParser('python -m experiments.benchmark_demo', description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument('photo')
    parser.add_argument('--seconds', type=float, default=20)
    parser.add_argument('--output', default='', metavar='FILE')
    options = parser.parse_args()
    runtime.keep_freed()
    runtime.keep_compiled(runtime.COMPILED)
    result = {'photo': Path(options.photo).name, **asyncio.run(measure(options.photo, options.seconds))}
    result |= logbook.environment()
    print(json.dumps(result, indent=2))
    if options.output:
        files.write_json(options.output, result)


if __name__ == '__main__':
    main()
