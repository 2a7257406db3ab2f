"""What a command is given to look at: photos, folders, globs and videos, and boxes in them."""

import glob
import itertools
import math
import os
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from hpe_jax import geometry
from hpe_jax.errors import UserError
from hpe_jax.inference import images, outputs, video

OVERLAYS = 'overlays'  # folder of the output


def collect(inputs: Sequence[str], output: str | Path) -> tuple[list[str], list[str]]:
    """The files that the inputs name, each once, in the inputs' order, a folder's in alphabetical order; and those that
    are passed over in folders, since their suffixes are of no picture or video. Hidden files are in neither.

    What this command writes into the output folder is no input.

    Raises:
      UserError: an input does not exist, or no picture is among them.
    """
    suffixes, written = images.suffixes() | set(video.SUFFIXES), Path(output).resolve()
    found, passed = {}, []
    for name in inputs:
        path = Path(name)
        if path.is_dir():
            files = [p for p in sorted(path.rglob('*')) if not p.name.startswith('.') and p.is_file()]
            named = [p for p in files if p.suffix.lower() in suffixes]
            passed += [p for p in files if p.suffix.lower() not in suffixes]
        elif path.exists():
            named = [path]
        else:
            named = [Path(match) for match in sorted(glob.glob(name, recursive=True)) if Path(match).is_file()]
            if not named:
                raise UserError(f'--input {name}: no such file or folder')
        for p in named:
            real = p.resolve()
            if written / OVERLAYS not in real.parents:
                found.setdefault(real, str(p))
    if not found:
        raise UserError(f'--input {" ".join(inputs)}: there is no photo or video in it')
    outputs_of_this = {written / file for file in outputs.FILES}
    return list(found.values()), [str(p) for p in dict.fromkeys(passed) if p.resolve() not in outputs_of_this]


def is_video(file: str) -> bool:
    return Path(file).suffix.lower() in video.SUFFIXES


class Boxes:
    """The boxes of --boxes.

    A file in it is an input if its path, from the boxes' folder or the working directory, is the input's; or else, if
    there is no such file, if the input's path ends with it (of an absolute path: with its last folder and name).
    `unmatched`: its files that are no input.
    """

    def __init__(self, path: str, inputs: Sequence[str]):
        """
        Raises:
          UserError: the file cannot be read, its boxes of an input are wrong, or a file in it may be several inputs, or
            an input several of its files.
        """
        given = outputs.read_boxes(path) if path else {}
        files = _matched(path, list(given), inputs)
        for box in itertools.chain.from_iterable(b for file in files.values() for b in given[file].values()):
            geometry.checked_box(box)
        self._of = {file: given[files[file]] if file in files else {} for file in inputs}
        self.unmatched = sorted(given.keys() - files.values())
        if given and not files:
            raise UserError(f'--boxes={path}: none of its files is an input')

    def __call__(self, file: str, frame: int | None = None) -> list:
        """Those of a picture; [None] where no box is given. Boxes of a video without a frame are its first frame's."""
        frames = self._of[file]
        return frames.get(frame) or (frame == 0 and frames.get(None)) or [None]


def _matched(path: str, given: Sequence[str], inputs: Sequence[str]) -> dict[str, str]:
    """Input -> the file among those of --boxes that it is."""
    resolved = {os.path.realpath(file): file for file in inputs}
    same_name = defaultdict(list)
    for real, file in resolved.items():
        same_name[os.path.basename(real)].append((Path(real).parts, file))
    claims = defaultdict(list)  # input -> (how surely, file) of all that it may be
    for key in given:
        reals = {os.path.realpath(os.path.join(folder, key)) for folder in ('.', os.path.dirname(path))}
        rank, found = math.inf, [resolved[real] for real in sorted(reals) if real in resolved]
        if not found and not any(map(os.path.exists, reals)):  # else it is another file, however alike its name is
            parts = [part for part in Path(key).parts if part not in ('/', '.', '..')]
            tails = [(_common_tail(parts, other), file) for other, file in same_name[parts[-1] if parts else '']]
            rank = max((tail for tail, _ in tails), default=0)
            needed = min(2, len(parts)) if os.path.isabs(key) else len(parts)  # a folder may lie elsewhere now
            found = [file for tail, file in tails if tail == rank >= needed]
        if len(found) > 1:
            raise UserError(f'--boxes={path}: {key} may be {found[0]} or {found[1]}; give more of its path')
        for file in found:
            claims[file].append((rank, key))
    matched = {}
    for file, keys in claims.items():
        best = [key for rank, key in keys if rank == max(keys)[0]]
        if len(best) > 1:
            raise UserError(f'--boxes={path}: {file} may be {best[0]} or {best[1]}; give it once, or more of its path')
        matched[file] = best[0]
    return matched


def _common_tail(a: Sequence[str], b: Sequence[str]) -> int:
    """How many of the last parts are the same."""
    pairs = zip(reversed(a), reversed(b), strict=False)
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))


def ahead(
    pool: ThreadPoolExecutor, function: Callable, items: Sequence, num_ahead: int
) -> Iterator[tuple[str, Future]]:
    """(item, function(item) to come) in the items' order, some of them begun before they are asked for."""
    waiting = deque()
    for item in items:
        waiting.append((item, pool.submit(function, item)))
        if len(waiting) > num_ahead:
            yield waiting.popleft()
    yield from waiting
