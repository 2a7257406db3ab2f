"""What a command is given to look at: photos, folders, globs and videos, and boxes in them."""

import glob
import itertools
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from hpe_jax import geometry
from hpe_jax.errors import UserError
from hpe_jax.inference import images, outputs, video


def collect(inputs: Sequence[str], output: str | Path) -> list[str]:
    """The files that the inputs name, each once, in the inputs' order; a folder's in alphabetical order.

    What lies in the output folder is no input.

    Raises:
      UserError: an input does not exist, or no picture is among them.
    """
    found, output = {}, Path(output).resolve()
    for name in inputs:
        path = Path(name)
        if path.is_dir():
            below = (p for p in sorted(path.rglob('*')) if p.is_file() and not p.name.startswith('.'))
            named = [p for p in below if p.suffix.lower() in images.SUFFIXES + video.SUFFIXES]
        elif path.exists():
            named = [path]
        else:
            named = [Path(match) for match in sorted(glob.glob(name, recursive=True)) if Path(match).is_file()]
            if not named:
                raise UserError(f'--input {name}: no such file or folder')
        found |= {p.resolve(): str(p) for p in named if output not in p.resolve().parents and p.resolve() not in found}
    if not found:
        raise UserError(f'--input {" ".join(inputs)}: there is no photo or video in it')
    return list(found.values())


def is_video(file: str) -> bool:
    return Path(file).suffix.lower() in video.SUFFIXES


class Boxes:
    """The boxes of --boxes, by a file's path as it was given there, or else by its name."""

    def __init__(self, path: str, inputs: Sequence[str]):
        given = outputs.read_boxes(path) if path else {}
        for frames in given.values():
            for box in itertools.chain.from_iterable(frames.values()):
                geometry.checked_box(box)
        names = {Path(file).name: frames for file, frames in given.items()}
        self._of = {file: given.get(file) or names.get(Path(file).name) or {} for file in inputs}
        if path and not any(self._of.values()):
            raise UserError(f'--boxes={path}: none of its files is an input')

    def __call__(self, file: str, frame: int | None = None) -> list:
        """Those of a picture; [None] where none is given. Boxes of a video without a frame are its first frame's."""
        frames = self._of[file]
        return frames.get(frame) or (frame == 0 and frames.get(None)) or [None]


def ahead(pool: ThreadPoolExecutor, function: Callable, items: Sequence, number: int) -> Iterator[tuple[str, Future]]:
    """(item, function(item) to come) in the items' order, so many of them begun before they are asked for."""
    waiting = deque()
    for item in items:
        waiting.append((item, pool.submit(function, item)))
        if len(waiting) > number:
            yield waiting.popleft()
    yield from waiting
