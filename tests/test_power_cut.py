"""A run directory after a power cut, at any moment of its writing.

For certain a disk keeps what was synced alone: of a file its content, of a folder its list of names. All else may be
lost, and parts of it before others. So each moment leaves two run directories here: one with all names that there were
(as ext4 may leave it), and one with the synced names only; the contents are the synced ones in both.
"""

import json
import os
import sys
from pathlib import Path

import numpy as np
import optax
import pytest
from flax import nnx

from configs import tiny
from hpe_jax import checkpoint, configuration, files, train
from hpe_jax.errors import UserError

pytestmark = pytest.mark.slow
EPOCHS = 3


class Disk:
    """Records what every sync makes certain, and what a power cut before or after each call would leave.

    left: (files by their relative paths, a folder's being None; the last epoch whose save had returned) of each moment.
    """

    def __init__(self, root: Path, monkeypatch):
        self.root, self.epoch, self.left = root, 0, []
        self._contents, self._names, self._held = {}, {root.stat().st_ino: {}}, []
        for name in ('fsync', 'rename', 'replace', 'unlink', 'rmdir'):
            monkeypatch.setattr(os, name, self._watched(name, getattr(os, name)))

    def _watched(self, name: str, call):
        def watched(*arguments, **options):
            self._note()
            if name == 'fsync':
                self._sync(*arguments)
            result = call(*arguments, **options)
            self._note()
            return result

        return watched

    def _sync(self, descriptor: int) -> None:
        self._held.append(os.dup(descriptor))  # so that no other file gets its number
        number, path = os.fstat(descriptor).st_ino, Path(f'/proc/self/fd/{descriptor}')
        if path.is_dir():
            self._names[number] = {entry.name: (entry.inode(), entry.is_dir()) for entry in os.scandir(path)}
        else:
            self._contents[number] = path.read_bytes()

    def _note(self) -> None:
        for left in (self._all_names(), dict(self._synced_names(self.root.stat().st_ino, ''))):
            if (left, self.epoch) not in self.left[-2:]:
                self.left.append((left, self.epoch))

    def _all_names(self) -> dict[str, bytes | None]:
        paths = {str(path.relative_to(self.root)): path for path in self.root.rglob('*')}
        return {
            name: None if path.is_dir() else self._contents.get(path.stat().st_ino, b'') for name, path in paths.items()
        }

    def _synced_names(self, number: int, prefix: str):
        for name, (inner, is_dir) in self._names.get(number, {}).items():
            yield prefix + name, None if is_dir else self._contents.get(inner, b'')
            if is_dir:
                yield from self._synced_names(inner, f'{prefix}{name}/')

    def close(self) -> None:
        for descriptor in self._held:
            os.close(descriptor)


class State(train.TrainState):
    """The smallest there is, whose weights are all one number."""

    def __init__(self, weight: int):
        self.model = nnx.Linear(2, 3, rngs=nnx.Rngs(0))
        self.model.kernel[...] = np.full((2, 3), weight, np.float32)
        self.optimizer = nnx.Optimizer(self.model, optax.sgd(0.1), wrt=nnx.Param)


def write_run(root: Path, monkeypatch) -> list[tuple[dict, int]]:
    """What train.run writes, in its order; returns what each moment leaves."""
    root.mkdir()
    with monkeypatch.context() as patch:
        disk = Disk(root, patch)
        configuration.save(tiny.get_config(), root)
        checkpoints = checkpoint.Checkpoints(root)
        for epoch in range(1, EPOCHS + 1):
            state = State(epoch)
            # The first one is saved twice, as a signal in the middle of its epoch has it.
            for loss in (None, 0.4) if epoch == 1 else (0.5,):
                checkpoints.save(epoch, state.model, state.optimizer, {'history': [epoch]}, loss)
                disk.epoch = epoch
            files.write_text(root / 'metrics.jsonl', ''.join(f'{{"epoch": {i + 1}}}\n' for i in range(epoch)))
    disk.close()
    return disk.left


def restored_epoch(folder: Path, left: dict[str, bytes | None]) -> int:
    """Writes what a power cut left, and goes on from it as a run does; 0 is from the start."""
    folder.mkdir()
    for name, content in sorted(left.items()):
        (folder / name).mkdir() if content is None else (folder / name).write_bytes(content)
    for line in (left.get('metrics.jsonl') or b'').splitlines():
        json.loads(line)
    checkpoint.Checkpoints.recover(folder)
    checkpoints, state = checkpoint.Checkpoints(folder), State(0)
    if not checkpoints.epochs():
        return 0
    try:
        configuration.check_same(tiny.get_config(), folder)
        epoch, meta = train.restore_latest(checkpoints, state)
    except UserError:
        return 0
    assert meta == {'history': [epoch]} and np.all(state.model.kernel[...] == epoch)
    return epoch


@pytest.fixture
def quick_errors(monkeypatch):
    """A corrupt checkpoint is not waited for: see checkpoint._one_error."""
    monkeypatch.setattr(checkpoint.time, 'sleep', lambda seconds: None)
    monkeypatch.setattr(sys, 'unraisablehook', lambda raised: None)


def test_a_power_cut_loses_no_epoch_whose_checkpoint_was_saved(tmp_path, monkeypatch, quick_errors):
    left = write_run(tmp_path / 'run', monkeypatch)
    assert {saved for _, saved in left} == set(range(EPOCHS + 1))
    for i, (run, saved) in enumerate(left):
        assert restored_epoch(tmp_path / f'{i}', run) >= saved, f'moment {i} of {len(left)}'


def test_without_syncing_a_power_cut_loses_all(tmp_path, monkeypatch, quick_errors):
    monkeypatch.setattr(files, 'sync', lambda path: None)
    (left, epoch), *_ = reversed(write_run(tmp_path / 'run', monkeypatch))
    assert epoch == EPOCHS and restored_epoch(tmp_path / 'left', left) < epoch
