"""A page to try a model on this machine: drop a photo, or use the webcam, and see the skeleton.

    python -m hpe_jax.demo --workdir=runs/unet    # then open the address that it prints; Ctrl-C ends it

GET /          the page, demo.html, which loads nothing from anywhere else
GET /model     what the page must know: the facts of hand.py, and the run's name, epoch, decoders and min_score
POST /predict  a picture file's bytes -> the hand in it; `Demo.predict` has the query and the answer

Nothing is stored, not even between two requests: a page that follows a hand through a video sends the last one back.
Errors are {"error": one sentence}, with status 400 for what was sent, 413 if it is too large, 408 if it stands still,
403 for foreign pages, 503 while too many wait or where a picture takes too long.
"""

import asyncio
import errno
import functools
import ipaddress
import json
import re
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
from absl import app, flags, logging
from aiohttp import web

from hpe_jax import geometry, hand, runtime
from hpe_jax.errors import UserError
from hpe_jax.inference import images
from hpe_jax.inference.estimator import HANDS, HandPose, HandPoseEstimator, apart, is_same
from hpe_jax.inference.tracking import SEARCH_EVERY
from hpe_jax.trained_model import SHIPPED

PAGE = Path(__file__).with_suffix('.html')
HEADERS = {
    # The browser itself sees to it that the page asks nobody but this server, and that no other page frames it.
    'Content-Security-Policy': "default-src 'none'; connect-src 'self'; img-src data:; script-src 'unsafe-inline'; "
    "style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    'Cache-Control': 'no-store',
    'X-Content-Type-Options': 'nosniff',
    'Referrer-Policy': 'no-referrer',
    'Cross-Origin-Opener-Policy': 'same-origin',
    'Cross-Origin-Embedder-Policy': 'require-corp',
    'Cross-Origin-Resource-Policy': 'same-origin',
}
# Of aiohttp: bodies are not unpacked; what is sent after an answer is read for a second, then the connection is closed;
# a request ends when its client hangs up.
HANDLER = {'auto_decompress': False, 'lingering_time': 1.0, 'handler_cancellation': True}
HOST = re.compile(r'(\[[0-9A-Fa-f:.]+\]|[0-9A-Za-z.-]+)(:[0-9]{1,5})?')  # of a Host header
MAX_BYTES = 50_000_000
MAX_WAITING = 32  # requests for a prediction at a time, uploads included
IDLE = 10.0  # seconds that an upload may stand still
LONGEST = 60.0  # seconds that a request may take, from its first byte on
MAX_HANDS = 2
WARM_UP = (480, 640), (480, 480)  # of a webcam, and square: between them they compile all that most photos need


class Demo:
    """One run, asked for one picture at a time.

    estimator: its run, decoder, hand, refine and min_score hold where a request gives nothing else, and its rotations
      for all but the frames of a video: the next one of a webcam is soon there.
    """

    def __init__(self, estimator: HandPoseEstimator):
        self.run, self.decoder, self.hand = estimator.run, estimator.decoder, estimator.hand
        self.refine, self.min_score, self.rotations = estimator.refine, estimator.min_score, estimator.rotations
        self.worker = ThreadPoolExecutor(1)  # the event loop stays free, and JAX gets one picture after the other
        self.estimator = functools.cache(self._estimator)
        self._frames = 0

    def _estimator(self, decoder: str, rotations: int) -> HandPoseEstimator:
        """Made, and compiled, once a decoder and number of rotations."""
        return HandPoseEstimator(self.run, decoder, refine=self.refine, min_score=self.min_score, rotations=rotations)

    def warm_up(self) -> None:
        """Compiles all that a photo and a frame may need, the search for a hand included, so that the first one is as
        fast."""
        for rotations in {1, self.rotations}:
            estimator = self.estimator(self.decoder, rotations)
            estimator.min_score = np.inf
            for shape in WARM_UP:
                found = estimator(np.zeros(shape, np.uint8))
                for number in (2, 4) if rotations == 1 else ():  # crops at a time; 1 and 8 are those of the search
                    estimator.follow(np.zeros(shape, np.uint8), [found] * number)
            estimator.min_score = self.min_score

    def model(self) -> dict:
        """What the page must know."""
        return {
            'run': self.run.workdir.resolve().name,
            'epoch': self.run.epoch,
            'decoders': sorted(self.run.config.eval.decoders),
            'decoder': self.decoder,
            'hands': HANDS,
            'hand': self.hand,
            'min_score': self.min_score,
            'max_bytes': MAX_BYTES,
            'joints': hand.JOINTS,
            'parents': hand.PARENTS,
            'fingers': hand.FINGERS,
            'colours': hand.COLOURS,
        }

    def predict(self, data: bytes, query: Mapping[str, str]) -> dict:
        """The hand in a picture.

        Args:
          data: the file.
          query: `hand` and `decoder`, for this picture; `name`, of the file, for errors; `box`, x0,y0,x1,y1 in pixels
            around the hand; `frame`, whatever its value, for a frame of a video; or `last`, the answer to the frame
            before as JSON: its hands are followed, or searched for where they are lost.

        Returns:
          keypoints [[x, y] * 21] in pixels of the upright picture, their scores, box [x0, y0, x1, y1], handedness,
          score, presence, width, height; `others`, further hands with the same of them; `followed`, whether `last` led
          there; `decoder`; `ms`, what the model took; `note`, what the file left open, and how it was taken, or ''.

        Raises:
          UserError: it is no picture, or something of the query is unknown or malformed.
        """
        side, decoder = query.get('hand') or self.hand, query.get('decoder') or self.decoder
        if side not in HANDS:
            raise UserError(f'hand {side!r}: unknown; choose from {", ".join(HANDS)}')
        rotations = 1 if {'frame', 'last'} & query.keys() else self.rotations
        estimator = self.estimator(self.run.known_decoder(decoder), rotations)
        estimator.hand = side  # of nobody else: the worker is one
        image, note = first_picture(data, query.get('name') or 'the file')
        width, height = image.size
        last, box = parse_hands(query['last']) if 'last' in query else [], None
        if 'box' in query:
            box = geometry.checked_box(query['box'].split(',')).clip(0, [width, height, width, height])
        start = time.perf_counter()
        last = [pose for pose in last if side in ('auto', pose.handedness) and is_near(pose, image.size)]
        hands = [pose for pose in estimator.follow(image, last) if pose.score >= self.min_score] if last else []
        hands, followed = apart(hands), bool(hands)
        self._frames += 1
        searched = 'presence' in estimator.heads and box is None
        if searched and (not hands or (len(hands) < MAX_HANDS and self._frames % SEARCH_EVERY == 0)):
            hands += [
                pose for pose in estimator.detect([image], MAX_HANDS)[0] if not any(is_same(pose, x) for x in hands)
            ]
        found, *others = hands[:MAX_HANDS] or [estimator(image, box)]
        return {
            **to_json(found),
            'others': [to_json(pose) for pose in others],
            'width': width,
            'height': height,
            'followed': followed,
            'decoder': decoder,
            'note': note,
            'ms': round(1000 * (time.perf_counter() - start), 1),
        }


def first_picture(data: bytes, name: str) -> tuple[images.Picture, str]:
    """A file's picture, of several the first, and a note on that choice.

    Raises:
      UserError: as images.picture.
    """
    try:
        found = images.picture(data, name)
        return found, found.note
    except images.Several as e:
        return images.picture(data, name, first_frame=True), f'the first of {e.num_images} images'


def to_json(hand: HandPose) -> dict:
    """A hand as JSON."""
    return {
        'keypoints': hand.keypoints.tolist(),
        'scores': hand.scores.tolist(),
        'box': hand.box.tolist(),
        'handedness': hand.handedness,
        'score': hand.score,
        'presence': hand.presence,
    }


def parse_hands(text: str) -> list[HandPose]:
    """The hands of an answer of Demo.predict, as JSON.

    Raises:
      UserError: it is not one.
    """
    try:
        answer = json.loads(text)
        return [_parse_hand(pose) for pose in (answer, *answer.get('others', ())[: MAX_HANDS - 1])]
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
        raise UserError('last: must be the JSON of an answer, with keypoints, scores and handedness') from None


def _parse_hand(answer: dict) -> HandPose:
    """Raises ValueError or its like where it is not one."""
    keypoints, scores = (np.array(answer[name], np.float64) for name in ('keypoints', 'scores'))
    whole = keypoints.shape == (21, 2) and scores.shape == (21,) and answer['handedness'] in HANDS[:2]
    if not (whole and np.isfinite(keypoints).all() and (scores >= 0).all() and (scores <= 1).all()):
        raise ValueError
    return HandPose(keypoints, scores, answer['handedness'])


def is_near(last: HandPose, size: tuple[int, int]) -> bool:
    """Whether a hand can be followed into a picture: one far larger, or far outside, was not seen in it."""
    return bool(np.abs(last.keypoints).max() <= 2 * max(size))


def is_own(host: str, served: str) -> bool:
    """Whether a Host header names this server as its own page does: by an address, or by the name it was given.

    Another site can have its own name lead to this machine (DNS rebinding), and would then read the answers.
    """
    if not (match := HOST.fullmatch(host)):
        return False
    name = match[1].strip('[]').lower()
    with suppress(ValueError):
        return name in ('localhost', served.lower()) or bool(ipaddress.ip_address(name))
    return False


def is_own_page(request: web.Request, served: str) -> bool:
    """Whether a request comes from the server's own page, or from nobody's, by the headers that browsers send."""
    hosts, origin = request.headers.getall('Host', []), request.headers.get('Origin')
    return (
        len(hosts) == 1
        and is_own(hosts[0], served)
        and origin in (None, f'{request.scheme}://{hosts[0]}')
        and request.headers.get('Sec-Fetch-Site', 'none') in ('none', 'same-origin')
    )


async def uploaded(request: web.Request) -> bytes:
    """The request's body.

    Raises:
      web.HTTPRequestEntityTooLarge, web.HTTPRequestTimeout: it is too large, or stands still.
      UserError: it is compressed or broken.
    """
    if request.headers.get('Content-Encoding', 'identity') != 'identity':
        raise UserError('the upload is compressed: send the file as it is')
    data = bytearray()
    while True:
        try:
            async with asyncio.timeout(IDLE):
                part = await request.content.readany()
        except TimeoutError:
            raise web.HTTPRequestTimeout from None
        except Exception as e:
            raise UserError('the upload is broken: send the file again') from e
        data += part
        if len(data) > MAX_BYTES:
            raise web.HTTPRequestEntityTooLarge(MAX_BYTES, len(data))
        if not part:
            return bytes(data)


def make_app(demo: Demo, host: str = '127.0.0.1') -> web.Application:
    """The server. `host`: as it is bound to; a name that pages may call it by."""

    waiting = 0

    @web.middleware
    async def guarded(request: web.Request, handler: Callable) -> web.StreamResponse:
        """Turns foreign pages away, and reports what went wrong in one sentence."""
        response = await answered(request, handler)
        response.headers.update(HEADERS)
        return response

    async def answered(request: web.Request, handler: Callable) -> web.StreamResponse:
        if not is_own_page(request, host):
            return error(403, 'this server answers its own page only: open it by the address that it printed')
        try:
            async with asyncio.timeout(LONGEST):
                return await handler(request)
        except UserError as e:
            return error(400, str(e))
        except TimeoutError:
            return error(503, f'the answer took more than {LONGEST:.0f} seconds: try again, or send a smaller picture')
        except web.HTTPRequestTimeout:
            return error(408, f'the upload stood still for {IDLE:.0f} seconds: send it again')
        except web.HTTPRequestEntityTooLarge:
            return error(413, f'the file is too large: {MAX_BYTES // 10**6} MB at most')
        except web.HTTPException as e:
            return error(e.status, f'{request.method} {request.path}: {e.reason}')
        except Exception as e:
            return error(500, f'the picture could not be predicted: {type(e).__name__} {str(e).partition(chr(10))[0]}')

    async def page(request: web.Request) -> web.FileResponse:
        return web.FileResponse(PAGE)

    async def model(request: web.Request) -> web.Response:
        return web.json_response(demo.model())

    async def predict(request: web.Request) -> web.Response:
        nonlocal waiting
        if waiting >= MAX_WAITING:
            return error(503, f'{MAX_WAITING} pictures are waiting already: try again in a moment')
        waiting += 1
        try:
            data = await uploaded(request)

            def work() -> dict:
                if request.transport is None:  # the client has hung up meanwhile
                    raise ConnectionResetError
                return demo.predict(data, request.query)

            return web.json_response(await asyncio.get_running_loop().run_in_executor(demo.worker, work))
        finally:
            waiting -= 1

    application = web.Application(middlewares=[guarded], handler_args=HANDLER)
    application.add_routes([web.get('/', page), web.get('/model', model), web.post('/predict', predict)])
    return application


def error(status: int, sentence: str) -> web.Response:
    """The answer to a request that fails; where its body may not have been read, the last one on its connection."""
    response = web.json_response({'error': sentence}, status=status)
    if status not in (400, 404, 405):
        response.force_close()
    return response


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens there.

    Raises:
      UserError: it cannot.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family)
    except OSError as e:
        free = '; --port=0 takes a free one' if e.errno == errno.EADDRINUSE else ''
        raise UserError(f'cannot listen at --host={host} --port={port}: {e.strerror.partition(" (")[0]}{free}') from e


def address(host: str, port: int) -> str:
    """Where a browser on this machine finds what listens at an IP address."""
    host = 'localhost' if ipaddress.ip_address(host).is_unspecified else host
    return f'http://{f"[{host}]" if ":" in host else host}:{port}'


def define_flags() -> tuple[flags.FlagHolder, ...]:
    workdir = flags.DEFINE_string('workdir', str(SHIPPED), 'The run directory; default: the shipped model.')
    host = flags.DEFINE_string(
        'host', '127.0.0.1', 'Where to listen: 127.0.0.1 is seen by this machine only, 0.0.0.0 by all that reach it.'
    )
    port = flags.DEFINE_integer('port', 8000, '0: a free one.', lower_bound=0, upper_bound=65535)
    side = flags.DEFINE_enum('hand', 'auto', HANDS, 'Which hand to look for, until the page chooses another.')
    decoder = flags.DEFINE_string('decoder', '', "One of the run's config.eval.decoders; default: its own.")
    refine = flags.DEFINE_integer('refine', 1, 'How often to crop again around what was found.', lower_bound=0)
    compiled = flags.DEFINE_string(
        'compilation_cache',
        runtime.COMPILED,
        'Where compiled programs are kept, so that the next start need not compile them; empty: nowhere.',
    )
    return workdir, host, port, side, decoder, refine, compiled


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise UserError(f'unexpected argument: {argv[1]}')
    workdir, host, port, side, decoder, refine, compiled = (flag.value for flag in FLAGS)
    with listen(host, port) as listening:
        runtime.keep_freed()
        runtime.keep_compiled(compiled)
        estimator = HandPoseEstimator.load(workdir, decoder=decoder, hand=side, refine=refine)
        print(f'{workdir}, epoch {estimator.run.epoch}: getting ready', flush=True)
        demo = Demo(estimator)
        demo.warm_up()
        print(f'Open {address(*listening.getsockname()[:2])} in a browser on this machine. Ctrl-C ends it.', flush=True)
        web.run_app(make_app(demo, host), sock=listening, print=None, access_log=None, shutdown_timeout=1)


if __name__ == '__main__':
    logging.set_verbosity(logging.FATAL)  # orbax logs the tracebacks of what is said in one sentence below
    FLAGS = define_flags()
    try:
        app.run(main)
    except UserError as e:
        sys.exit(f'error: {e}')
    except KeyboardInterrupt:
        sys.exit(130)
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C, while JAX ends
