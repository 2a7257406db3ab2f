"""What a run leaves to read: `metrics.jsonl`, TensorBoard events, and the facts of its environment."""

import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import jax
import numpy as np

from hpe_jax import files


class Logbook:
    """One record an epoch: into metrics.jsonl, which always equals the history, and into TensorBoard."""

    def __init__(self, workdir: str | Path, history: Sequence[dict]):
        """`history`: the records of the epochs that a resumed run goes on from; later ones on disk are dropped."""
        from tensorboardX import SummaryWriter  # it imports torch, for seconds, where that is installed

        self._path = Path(workdir) / 'metrics.jsonl'
        self._write(history)
        first = history[-1]['epoch'] + 1 if history else 1
        self._events = SummaryWriter(str(Path(workdir) / 'tensorboard'), purge_step=first)

    def record(self, history: Sequence[dict]) -> None:
        """Writes down the newest record of the history."""
        self._write(history)
        for name, value in history[-1].items():
            if name != 'epoch' and value is not None:
                self._events.add_scalar(name, value, history[-1]['epoch'])
        self._events.flush()

    def image(self, name: str, image: np.ndarray, epoch: int) -> None:
        """An (H, W, 3) uint8 picture."""
        self._events.add_image(name, image, epoch, dataformats='HWC')

    def close(self) -> None:
        self._events.close()

    def _write(self, history: Sequence[dict]) -> None:
        files.write_text(self._path, ''.join(json.dumps(record) + '\n' for record in history))


def environment() -> dict:
    """Command, commit, device and versions, for the record of a result."""
    device = jax.devices()[0]
    kind = f'{os.cpu_count()} cores, {platform.machine()}' if device.platform == 'cpu' else device.device_kind
    packages = ('jax', 'flax', 'optax', 'orbax-checkpoint', 'numpy')
    return {
        'command': shlex.join(sys.orig_argv),
        'git_commit': _git_commit(),
        'device': f'{jax.device_count()} x {device.platform} ({kind})',
        'python': platform.python_version(),
        'versions': {name: version(name) for name in packages},
    }


def _git_commit() -> str | None:
    """The commit of this code, '-dirty' if files differ from it; None outside a checkout."""
    command = ['git', 'describe', '--always', '--abbrev=40', '--dirty', '--exclude=*']
    try:
        done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
