"""Whether training survives being killed, and what that costs.

    python -m experiments.durability [--kills=50] [--seed=0] [--output=FILE.json]

configs/tiny.py is trained on rendered hands, from their preparation on, and killed (SIGKILL) at random moments of its
whole length, again and again until it ends; then from the start once more, until there were as many kills as asked for,
half of them with each source. Each run must end in the parameters of one that nobody disturbed, bit for bit.

The cost is that of syncing a checkpoint of configs/hands.py to the disk, against leaving that to the system.
"""

import argparse
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from unittest import mock

from absl import logging

from configs import hands
from hpe_jax import checkpoint, files, logbook, train, trained_model
from hpe_jax.data.synthetic_hands import generate

SOURCES = ('resident', 'tfdata')
SAVES = 9


class Training:
    """One training in a folder of its own."""

    def __init__(self, folder: Path, photos: Path, source: str):
        self.workdir, self.data = folder / 'run', folder / 'data'
        self.command = [sys.executable, '-W', 'ignore', '-m', 'hpe_jax.main', '--config=configs/tiny.py']
        self.command += [f'--workdir={self.workdir}', f'--compilation_cache={folder.parent / "compiled"}']
        fields = {'dataset': 'freihand/raw', 'manual_dir': photos, 'data_dir': self.data, 'source': source}
        self.command += [f'--config.data.{name}={value}' for name, value in fields.items()]

    def go_on(self, seconds: float | None = None) -> bool:
        """Runs it, for that time at most, when it is killed; returns whether it ended by itself.

        Raises:
          RuntimeError: it failed.
        """
        with tempfile.TemporaryFile('w+') as output:
            process = subprocess.Popen(self.command, stdout=output, stderr=output)
            try:
                status = process.wait(seconds)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                return False
            if status:
                output.seek(0)
                raise RuntimeError(f'exit status {status}:\n{output.read()}')
            return True

    def phase(self) -> str:
        """How far it came."""
        if (self.workdir / 'report.json').exists():
            return 'after the report'
        if any((self.workdir / 'checkpoints').glob('[0-9]*')):
            return 'after a checkpoint'
        if (self.workdir / 'config.json').exists():
            return 'before the first checkpoint'
        return 'preparing' if self.data.exists() else 'starting'

    def parameters(self) -> str:
        """A hash of those of the last epoch."""
        model = trained_model.load(self.workdir).model
        checkpoints = checkpoint.Checkpoints(self.workdir, read_only=True)
        checkpoints.restore(checkpoints.latest(), model)
        return checkpoint.digest(checkpoint.leaves(model))


def campaign(folder: Path, photos: Path, source: str, num_kills: int, rng: random.Random) -> dict:
    """Kills trainings until there were that many kills; returns what happened."""
    Training(folder / f'{source}-0', photos, source).go_on()  # compiles
    undisturbed = Training(folder / f'{source}-1', photos, source)
    began = time.perf_counter()
    undisturbed.go_on()
    seconds, expected = time.perf_counter() - began, undisturbed.parameters()
    phases, runs, same = Counter(), 0, 0
    while phases.total() < num_kills:
        runs += 1
        training = Training(folder / f'{source}-{runs + 1}', photos, source)
        while not training.go_on(rng.uniform(0, seconds) if phases.total() < num_kills else None):
            phases[training.phase()] += 1
        same += training.parameters() == expected
        print(f'{source}: {phases.total()} kills, {same} of {runs} runs as the undisturbed one', flush=True)
    return {'seconds': round(seconds, 1), 'kills': dict(phases), 'runs': runs, 'same_parameters': same}


def sync_cost(folder: Path) -> dict[str, float]:
    """Median milliseconds of a save of configs/hands.py's checkpoint, its size in MB, with and without syncing."""
    config = hands.get_config()
    state = train.TrainState(config)
    checkpoints, milliseconds = checkpoint.Checkpoints(folder), {'synced': [], 'not_synced': []}
    for epoch in range(2 * SAVES):
        synced = epoch % 2 == 0
        began = time.perf_counter()
        with mock.patch.object(os, 'fsync', os.fsync if synced else lambda _: None):
            checkpoints.save(epoch, state.best_model, state.rest, {}, float(epoch))
        milliseconds['synced' if synced else 'not_synced'].append(1000 * (time.perf_counter() - began))
    size = sum(file.stat().st_size for file in (checkpoints.folder / '0').rglob('*') if file.is_file())
    return {name: round(statistics.median(times), 1) for name, times in milliseconds.items()} | {'MB': size / 1e6}


def main() -> None:
    parser = argparse.ArgumentParser('python -m experiments.durability', description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument('--kills', type=int, default=50)
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--output', default='', metavar='FILE')
    options = parser.parse_args()
    rng = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        result = {'save_ms': sync_cost(folder / 'saves')}
        photos = generate.write(folder / 'photos', 48)
        for i, source in enumerate(SOURCES):
            kills = (options.kills + i) // len(SOURCES)
            result[source] = campaign(folder, photos, source, kills, rng)
    result |= logbook.environment()
    print(result)
    if options.output:
        files.write_json(options.output, result)
    sys.exit(any(result[source]['same_parameters'] < result[source]['runs'] for source in SOURCES))


if __name__ == '__main__':
    logging.set_verbosity(logging.FATAL)
    main()
