"""Videos by PyAV (FFmpeg's libraries in a wheel): upright RGB frames in, H.264 out.

    with video.reading('clip.mov') as clip, video.writing('out.mp4', clip.fps, clip.width, clip.height) as write:
        for index, time, image in clip.frames:
            write(image, time)

Both hold their files open, and a thread that decodes, only inside the with block, however it is left.
"""

import contextlib
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from hpe_jax import files
from hpe_jax.errors import UserError
from hpe_jax.inference import images

SUFFIXES = (
    *('.mp4', '.m4v', '.mov', '.avi', '.mkv', '.webm', '.mpg', '.mpeg', '.ts', '.mts', '.m2ts'),
    *('.wmv', '.flv', '.ogv', '.3gp', '.3g2'),
)
# FFmpeg's names of the files that are opened: no lists of other files, of which a stranger's could name any.
CONTAINERS = (
    *('mov', 'mp4', 'm4a', '3gp', '3g2', 'mj2', 'avi', 'matroska', 'webm', 'mpeg', 'mpegts', 'mpegvideo', 'asf', 'flv'),
    *('ogg', 'mxf', 'nut', 'ivf', 'dv', 'rm', 'h264', 'hevc', 'mjpeg', 'm4v', 'yuv4mpegpipe', 'swf', 'wtv'),
)
# Encoder: its options. The first that PyAV has; its wheels have both. 'veryfast' takes less than half the time of the
# default preset (164 against 68 frames of 640 x 480 a second on 2 cores), at the same size and the same error.
ENCODERS = {'libx264': {'preset': 'veryfast'}, 'mpeg4': {}}
AHEAD = 4  # frames that are decoded before they are asked for
FPS = 30.0  # of files that do not state it, or that state 1000: the ticks of their clock
TICKS = 60_000  # of the written clock, a second: exact for all usual rates, and few enough for mpeg4


class Frame(NamedTuple):
    """One frame as players show it."""

    index: int  # counted from 0
    time: float  # seconds since the first frame; steps differ where the rate varies
    image: UInt8[np.ndarray, 'h w 3']  # RGB


class Video(NamedTuple):
    """A video that is open."""

    fps: float  # mean frames a second
    width: int  # of every frame, as it is shown
    height: int
    num_frames: int | None  # as the file states it, or about, by its length; None: the file states neither
    frames: Iterator[Frame]  # once through


@contextlib.contextmanager
def reading(path: str | Path) -> Iterator[Video]:
    """Opens a video. Its frames are upright by the file's display matrix (phones), their pixels square.

    Frames that the decoder could repair come as it repaired them.

    Raises:
      UserError: PyAV is missing; it is no video; or, by `frames`, it breaks, or ends before its time, after those that
        were yielded.
    """
    av = _pyav()
    container = _opened(av, path)
    with container:
        stream = container.streams.best('video')
        if stream is None or stream.codec_context is None:
            raise UserError(f'{path}: there is no video in it that can be read')
        rates = [float(rate) for rate in (stream.average_rate, stream.guessed_rate) if rate]
        fps = next((rate for rate in rates if 0 < rate < 1000), FPS)
        frames = _decoded(av, path, container, stream, fps)
        first = next(frames)
        height, width = first.image.shape[:2]
        num_frames = stream.frames or round((container.duration or 0) / av.time_base * fps) or None
        with ThreadPoolExecutor(1) as thread:
            yield Video(fps, width, height, num_frames, _ahead(thread, chain([first], frames)))


def is_video(path: str | Path) -> bool:
    """Whether a file of any name is a video that can be read."""
    try:
        av = _pyav()
        with _opened(av, path) as container:
            return container.streams.best('video') is not None
    except UserError:
        return False


def _opened(av, path: str | Path):
    """PyAV's container."""
    options = {'format_whitelist': ','.join(CONTAINERS), 'protocol_whitelist': 'file'}
    try:  # without "file:" a colon names a protocol
        return av.open(f'file:{path}', metadata_errors='ignore', options=options)
    except (av.InvalidDataError, av.ArgumentError) as e:
        raise UserError(f'{path}: no video that can be read, or a recording that was cut off') from e
    except av.FFmpegError as e:
        raise UserError(f'{path}: cannot be read: {e.strerror}') from e


@contextlib.contextmanager
def animation(path: str | Path) -> Iterator[Video]:
    """Opens an animated picture (GIF, WebP, PNG, AVIF) as `reading` does a video; `fps` is that of its first frame.

    Raises:
      UserError: it cannot be read; or, by `frames`, it breaks after the frames that were yielded.
    """
    with images.opened(path) as image:
        frames = images.frames(image)
        index, picture, seconds = first = next(frames)
        height, width = picture.image.shape[:2]
        yield Video(1 / seconds, width, height, len(images.pages(image)), _timed(path, chain([first], frames)))


def _timed(path, frames: Iterator) -> Iterator[Frame]:
    index, time = 0, 0.0
    try:
        for index, picture, seconds in frames:
            yield Frame(index, time, picture.image)
            time += seconds
    except Exception as e:  # as images.opened
        raise UserError(f'{path}: cannot be read after frame {index}: {e or type(e).__name__}') from e


def _decoded(av, path: str | Path, container, stream, fps: float) -> Iterator[Frame]:
    """All frames, at least one, or UserError."""
    stream.thread_type = 'AUTO'
    index, start = -1, 0.0
    try:
        for index, frame in enumerate(container.decode(stream)):
            if index == 0:
                start = frame.time or 0.0
                # All frames get the first one's size: there are streams that change it on their way.
                size = {'width': round(frame.width * (stream.sample_aspect_ratio or 1)), 'height': frame.height}
            time = index / fps if frame.time is None else frame.time - start
            matrix = frame.side_data.get('DISPLAYMATRIX')
            end = time + float((frame.duration or 0) * (frame.time_base or 0) or 1 / fps)
            image = frame.to_ndarray(format='rgb24', **size)
            yield Frame(index, time, image if matrix is None else _upright(image, bytes(matrix)))
    except av.FFmpegError as e:
        where = f' after frame {index}' if index >= 0 else ''
        raise UserError(f'{path}: cannot be read{where}: {e.strerror}') from e
    if index < 0:
        raise UserError(f'{path}: a video without frames')
    _check_whole(av, path, container, stream, fps, index + 1, end)


def _check_whole(av, path: str | Path, container, stream, fps: float, num_frames: int, end: float) -> None:
    """
    Raises:
      UserError: the frames that came are fewer than the container promises, and end sooner, by over 3 frames and 2 %.
    """
    if container.format.name == 'mpegts' and all(container.size % packet for packet in (188, 192, 204)):
        raise UserError(f'{path}: cut off in a packet after {num_frames} frames; copy it again, or use what came')
    own = float(stream.duration * stream.time_base) if stream.duration else 0.0
    with contextlib.suppress(ValueError):
        tag = stream.metadata.get('DURATION', '').split(':')  # Matroska: hours:minutes:seconds
        own = own or sum(float(part) * 60**power for power, part in enumerate(reversed(tag)))
    if not own and len(container.streams) > 1:  # the sound may be longer
        return
    length = min((x for x in (own, (container.duration or 0) / av.time_base) if x), default=0.0)
    promised = stream.frames or round(length * fps)
    if end < 0.98 * length - 3 / fps and num_frames < 0.98 * promised - 3:
        raise UserError(f'{path}: cut off: {num_frames} frames came of the {promised} that it promises; copy it again')


def _upright(image: UInt8[np.ndarray, 'h w 3'], matrix: bytes) -> UInt8[np.ndarray, 'h2 w2 3']:
    """Turns and mirrors by the display matrix: nine int32, of which the first four (a, b; u; c, d) bring (x, y) to
    (a x + c y, b x + d y) (ISO/IEC 14496-12, 6.2.2). Quarter turns; others become the nearest."""
    a, b, _, c, d = np.frombuffer(matrix, np.int32)[:5].tolist()
    if abs(b) > abs(a):
        image, a, d = image.transpose(1, 0, 2), c, b
    return np.ascontiguousarray(image[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1])


def _ahead(thread: ThreadPoolExecutor, frames: Iterator[Frame]) -> Iterator[Frame]:
    """The same frames, which the thread makes before they are asked for."""
    ready = deque(thread.submit(next, frames, None) for _ in range(AHEAD))
    while (frame := ready.popleft().result()) is not None:
        ready.append(thread.submit(next, frames, None))
        yield frame


@contextlib.contextmanager
def writing(
    path: str | Path, fps: float, width: int, height: int
) -> Iterator[Callable[[UInt8[np.ndarray, 'h w 3'], float | None], None]]:
    """Opens a new .mp4 (H.264, yuv420p) and yields `write(image, time=None)`; the file appears when the block succeeds.

    yuv420p has even sizes only: the last column or row of an odd one is repeated, so that nothing is cut off or moved.

    Args:
      path: its folder is made.
      fps: frames a second.
      width, height: of all images.
      `write`'s image: (height, width, 3) uint8 RGB.
      `write`'s time: seconds, later than the last one's; None: 1 / fps after it.

    Raises:
      UserError: PyAV is missing, or the file cannot be written.
    """
    av = _pyav()
    tick = -round(TICKS / fps)

    def write(image: UInt8[np.ndarray, 'h w 3'], time: float | None = None) -> None:
        nonlocal tick
        if image.shape != (height, width, 3):
            raise ValueError(f'a frame of {image.shape} in a video of {(height, width, 3)}')
        tick = max(tick + 1, round(TICKS * time)) if time is not None else tick + round(TICKS / fps)
        padded = np.pad(image, ((0, height % 2), (0, width % 2), (0, 0)), 'edge')
        frame = av.VideoFrame.from_ndarray(padded, format='rgb24')
        frame.pts, frame.time_base = tick, Fraction(1, TICKS)
        container.mux(stream.encode(frame))

    with files.replacing(path) as temporary:
        try:
            with av.open(f'file:{temporary}', 'w', format='mp4') as container:
                encoder = next(name for name in ENCODERS if name in av.codecs_available)
                stream = container.add_stream(encoder, Fraction(fps).limit_denominator(1001), ENCODERS[encoder])
                stream.width, stream.height, stream.pix_fmt = width + width % 2, height + height % 2, 'yuv420p'
                stream.codec_context.time_base = Fraction(1, TICKS)
                stream.codec_context.colorspace = 5  # BT.601, as RGB is converted; untold, players guess by the size
                container.start_encoding()  # an unwritable file is reported now, not after the first frame's work
                yield write
                container.mux(stream.encode())
        except av.FFmpegError as e:
            raise UserError(f'cannot write {path}: {e.strerror}') from e


def _pyav():
    try:
        import av
    except ImportError as e:
        raise UserError('videos need PyAV: pip install av') from e
    return av
