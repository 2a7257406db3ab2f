"""What a run leaves to read: `metrics.jsonl`, TensorBoard events, and the facts of its environment."""

import contextlib
import json
import os
import platform
import re
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path

import jax
import numpy as np

from hpe_jax import files
from hpe_jax.errors import WriteError

VECTORS = {'avx512f': 'AVX-512', 'avx2': 'AVX2'}  # flag of Linux: name


class Logbook:
    """One record an epoch: into metrics.jsonl, which always equals the history, and into TensorBoard.

    Each method raises WriteError where the disk is full or can only be read. (tensorboardX' own SummaryWriter writes in
    a thread, whose errors nobody could catch.)
    """

    def __init__(self, workdir: str | Path, history: Sequence[dict]):
        """`history`: the records of the epochs that a resumed run goes on from; later ones on disk are dropped."""
        # They import torch, for seconds, where that is installed.
        from tensorboardX.proto.event_pb2 import SessionLog
        from tensorboardX.record_writer import RecordWriter

        self._path, self._folder = Path(workdir) / 'metrics.jsonl', Path(workdir) / 'tensorboard'
        self._write(history)
        first = history[-1]['epoch'] + 1 if history else 1
        name = f'events.out.tfevents.{int(time.time())}.{socket.gethostname()}'
        with self._one_sentence():
            self._folder.mkdir(exist_ok=True)
            self._events = RecordWriter(str(self._folder / name))
        # The second one drops what the files before have of these epochs.
        self._add(first, {'file_version': 'brain.Event:2'}, {'session_log': SessionLog(status=SessionLog.START)})

    def record(self, history: Sequence[dict]) -> None:
        """Writes down the newest record of the history."""
        from tensorboardX import summary

        self._write(history)
        values = {name: value for name, value in history[-1].items() if name != 'epoch' and value is not None}
        self._add(history[-1]['epoch'], *({'summary': summary.scalar(*item)} for item in values.items()))

    def image(self, name: str, image: np.ndarray, epoch: int) -> None:
        """An (H, W, 3) uint8 picture."""
        from tensorboardX import summary

        self._add(epoch, {'summary': summary.image(name, image, dataformats='HWC')})

    def close(self) -> None:
        self._events.close()

    def _write(self, history: Sequence[dict]) -> None:
        files.write_text(self._path, ''.join(json.dumps(record) + '\n' for record in history))

    def _add(self, epoch: int, *events: dict) -> None:
        from tensorboardX.proto.event_pb2 import Event

        with self._one_sentence():
            for fields in events:
                self._events.write(Event(wall_time=time.time(), step=epoch, **fields).SerializeToString())
            self._events.flush()

    @contextlib.contextmanager
    def _one_sentence(self) -> Iterator[None]:
        try:
            yield
        except OSError as e:
            with contextlib.suppress(OSError, AttributeError):  # else it tries again at the end of the process
                self._events.close()
            raise WriteError(f'cannot write {self._folder}: {e.strerror or e}') from e


def environment() -> dict:
    """Command, commit, device and versions, for the record of a result."""
    device = jax.devices()[0]
    kind = f'{os.cpu_count()} cores, {processor()}' if device.platform == 'cpu' else device.device_kind
    packages = ('jax', 'flax', 'optax', 'orbax-checkpoint', 'numpy')
    return {
        'command': shlex.join(sys.orig_argv),
        'git_commit': _git_commit(),
        'device': f'{jax.device_count()} x {device.platform} ({kind})',
        'python': platform.python_version(),
        'versions': {name: version(name) for name in packages},
    }


def processor(cpuinfo: str | Path = '/proc/cpuinfo') -> str:
    """Architecture, name and widest vectors of this machine's processor; the architecture alone where Linux is not.

    Example: 'x86_64, AMD EPYC, AVX-512'.
    """
    parts, path = [platform.machine()], Path(cpuinfo)
    if path.exists():
        fields = dict(re.findall(r'^(model name|flags)\s*: (.*)$', path.read_text(), re.MULTILINE))
        flags = fields.get('flags', '').split()
        widest = next((name for flag, name in VECTORS.items() if flag in flags), '')
        parts += [fields.get('model name', ''), widest]
    return ', '.join(filter(None, parts))


def _git_commit() -> str | None:
    """The commit of this code, '-dirty' if files differ from it; None outside a checkout."""
    command = ['git', 'describe', '--always', '--abbrev=40', '--dirty', '--exclude=*']
    try:
        done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
