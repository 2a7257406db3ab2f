"""A power cut at any moment keeps the last epoch that was saved: the log of all syncs is replayed on an empty disk."""

import json
import os
import stat
from pathlib import Path

import pytest

from configs import tiny
from hpe_jax import checkpoint, configuration, files, logbook, train

pytestmark = pytest.mark.slow

EPOCHS, CUTS = 3, 6


class Disk:
    """What is kept of a folder: of its files the content, and of its folders the names, when they were last synced."""

    def __init__(self, monkeypatch):
        self.log, self.open = [], []
        monkeypatch.setattr(os, 'fsync', self._sync)

    def _sync(self, descriptor: int) -> None:
        path, facts = Path(os.readlink(f'/proc/self/fd/{descriptor}')), os.fstat(descriptor)
        self.open.append(os.dup(descriptor))  # no later file gets the inode of this one
        if stat.S_ISDIR(facts.st_mode):
            content = {entry.name: (entry.inode(), entry.is_dir()) for entry in os.scandir(path)}
        else:
            content = path.read_bytes()
        self.log.append((facts.st_ino, content))

    def after(self, moment: int, folder: Path, copy: Path) -> Path:
        """What a cut after that many syncs leaves of the folder."""
        kept = dict(self.log[:moment])

        def write(inode: int, is_folder: bool, path: Path) -> None:
            if is_folder:
                path.mkdir()
                for name, inner in kept.get(inode, {}).items():
                    write(*inner, path / name)
            else:
                path.write_bytes(kept.get(inode, b''))

        write(folder.stat().st_ino, True, copy)
        return copy

    def close(self) -> None:
        for descriptor in self.open:
            os.close(descriptor)


def write_run(workdir: Path, disk: Disk) -> list[int]:
    """As training does; returns the moment when the config and then each epoch was safe."""
    config, history = tiny.get_config(), []
    configuration.save(config, workdir)
    safe, kept, state = [len(disk.log)], checkpoint.Checkpoints(workdir), train.TrainState(config)
    book = logbook.Logbook(workdir, history)
    for epoch in range(1, EPOCHS + 1):
        history.append({'epoch': epoch, 'train_loss': 1.0})
        kept.save(epoch, state.model, state.optimizer, {'history': list(history)}, 1 / epoch)
        book.record(history)
        safe.append(len(disk.log))
    book.close()
    return safe


def newest_whole(workdir: Path) -> int:
    """The newest epoch that can be gone on from; 0 without one."""
    kept, state = checkpoint.Checkpoints(workdir), train.TrainState(tiny.get_config())
    for epoch in reversed(kept.epochs()):
        try:
            assert len(kept.restore(epoch, state.model, state.optimizer)['history']) == epoch
            return epoch
        except checkpoint.CorruptCheckpoint:
            pass
    return 0


@pytest.fixture
def disk(monkeypatch):
    made = Disk(monkeypatch)
    yield made
    made.close()


@pytest.fixture
def workdir(tmp_path) -> Path:
    (tmp_path / 'run').mkdir()
    return tmp_path / 'run'


@pytest.mark.filterwarnings('ignore::pytest.PytestUnraisableExceptionWarning')  # orbax leaves tasks behind that failed
def test_no_epoch_that_was_saved_is_lost(workdir, tmp_path, disk):
    safe = write_run(workdir, disk)
    moments = {*safe, *range(1, safe[-1], max(1, safe[-1] // CUTS))}
    for moment in sorted(moments):
        left = disk.after(moment, workdir, tmp_path / f'after-{moment}')
        saved = sum(when <= moment for when in safe) - 1
        if saved >= 0:
            assert configuration.load(left).to_dict() == json.loads(json.dumps(tiny.get_config().to_dict()))
        assert newest_whole(left) >= saved
        records = left / 'metrics.jsonl'
        assert not records.exists() or all(json.loads(line) for line in records.read_text().splitlines())


def test_without_syncs_all_would_be_lost(workdir, tmp_path, disk, monkeypatch):
    """What the test above is worth."""
    monkeypatch.setattr(files, 'sync', lambda path: None)
    write_run(workdir, disk)
    assert newest_whole(workdir) == EPOCHS
    left = disk.after(len(disk.log), workdir, tmp_path / 'left')
    assert newest_whole(left) == 0 and not (left / 'config.json').exists()
