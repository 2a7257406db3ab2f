"""What a process keeps for later, freed memory and compiled programs; how signals stop it; how far it has come."""

import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata, util
from pathlib import Path
from typing import Any

from tqdm import tqdm

COMPILED = os.environ.get('JAX_COMPILATION_CACHE_DIR') or '~/.cache/hpe_jax/compiled'
EVERY = 10  # seconds between two lines of Progress
M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8  # of glibc's malloc.h


def keep_freed() -> bool:
    """Has the C library keep freed memory, where XLA computes on a CPU; call it before JAX makes its backend.

    Each execution of a compiled program allocates its buffers again (a training step of 48 photos 2.6 GB). glibc takes
    that much from the kernel and gives it back every time, and the page faults were a third of the step. Kept, the
    process holds up to twice the memory.

    Returns:
      whether it could: on glibc (mallopt(3)), without a GPU's or TPU's plugin for JAX.
    """
    if metadata.entry_points(group='jax_plugins') or util.find_spec('libtpu') or sys.platform == 'win32':
        return False
    mallopt = getattr(ctypes.CDLL(None), 'mallopt', None)
    if mallopt is None:
        return False
    # No mmap for large blocks, no second arena (which always maps them), and nothing given back from the heap's top.
    return all([mallopt(M_MMAP_MAX, 0), mallopt(M_ARENA_MAX, 1), mallopt(M_TRIM_THRESHOLD, -1)])


def keep_compiled(folder: str) -> None:
    """Has JAX keep compiled programs there, so that the next start need not compile them; '': nowhere."""
    import jax

    if folder:
        jax.config.update('jax_compilation_cache_dir', str(Path(folder).expanduser()))


class Stopped(Exception):
    """A signal asked the process to stop, and it has saved what it had. The second argument is the signal's number."""

    @property
    def exit_status(self) -> int:
        return 128 + self.args[1]


class StopSignals:
    """While entered, the first SIGINT (Ctrl-C) or SIGTERM (as SLURM sends it) is only noted in `received`; a second one
    ends the process as usual. Does nothing outside the main thread, which alone gets signals, or if not `noted`."""

    def __init__(self, noted: bool = True):
        self._noted = noted

    def __enter__(self) -> 'StopSignals':
        self.received, self._usual = None, {}
        if self._noted and threading.current_thread() is threading.main_thread():
            self._usual = {signum: signal.signal(signum, self._note) for signum in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_) -> None:
        self._restore()

    def _note(self, signum: int, frame) -> None:
        self.received = signum
        self._restore()

    def _restore(self) -> None:
        for signum, handler in self._usual.items():
            signal.signal(signum, handler)


class Progress(tqdm):
    """A bar where a terminal watches, a line every ten seconds where none does.

    bar: false where another bar is shown already. initial: how many were done earlier; the rate is that of the others.
    """

    def __init__(self, total: int | None, unit: str, what: str = '', bar: bool = True, initial: int = 0):
        super().__init__(total=total, unit=unit, desc=what or None, disable=None if bar else True, initial=initial)
        self._lines = self.disable and not sys.stderr.isatty()
        self._count, self._total, self._unit, self._what = initial, total, unit, f'{what}: ' if what else ''
        self._initial = initial
        self._began = self._said = time.monotonic()

    def update(self, n: int = 1) -> None:
        super().update(n)
        self._count, now = self._count + n, time.monotonic()
        if self._lines and now - self._said > EVERY:
            self._said, rate = now, (self._count - self._initial) / (now - self._began)
            left = f' of {self._total}, {(self._total - self._count) / rate:.0f} s left' if self._total else ''
            print(f'{self._what}{self._count}{left}, {rate:.1f} {self._unit}s a second', flush=True)


def parallel(function: Callable, items: Sequence, ahead: int = 512) -> Iterator[Any]:
    """function(item) of each, in order, by a thread a core; no more than `ahead` results wait to be taken."""
    with ThreadPoolExecutor() as pool:
        for start in range(0, len(items), ahead):
            yield from pool.map(function, items[start : start + ahead])


def progress(items: Iterable, total: int, unit: str, what: str, bar: bool = True) -> Iterator[Any]:
    """The items, with a Progress."""
    with Progress(total, unit, what, bar) as shown:
        for item in items:
            yield item
            shown.update()
