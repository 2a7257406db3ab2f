"""One device, eight fake ones, and two processes on this machine give the same numbers."""

import json
import socket
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from configs import tiny
from hpe_jax import metrics
from hpe_jax.data import prepared
from tests import command

pytestmark = pytest.mark.slow

CONFIG = """
from configs import tiny

def get_config():
    config = tiny.get_config()
    config.data.update(image_size=16, targets='device')
    config.augment.quarter_turns = True
    config.optimizer.learning_rate = 1.0
    config.train.update(batch_size=8, epochs=2)
    config.eval.batch_size = 8
    config.eval.decoders = {'window': {'radius': 4.5}}
    return config
"""
LOSSES = ('train_loss', 'validation_loss')


def finish(*processes_and_folders) -> bool:
    """Waits for all; whether they ended well. What a process found wrong is printed."""
    for process, folder in processes_and_folders:
        process.join(600)
        process.kill()
        if process.exitcode:
            print((folder / 'stderr').read_text())
    return all(process.exitcode == 0 for process, _ in processes_and_folders)


def free_port() -> int:
    with socket.socket() as one:
        one.bind(('localhost', 0))
        return one.getsockname()[1]


def records(workdir: Path) -> list[dict]:
    return [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]


@pytest.fixture(scope='module')
def start(freihand_like, tmp_path_factory):
    """Begins a run with a number of devices; (process, folder of what it prints)."""
    folder = tmp_path_factory.mktemp('sharding')
    (folder / 'config.py').write_text(CONFIG)

    def start(name, devices, *flags, process=0):
        data = (f'--config.data.manual_dir={freihand_like}', f'--config.data.data_dir={folder / "tfds"}')
        arguments = (f'--config={folder / "config.py"}', *data, *flags, f'--workdir={folder / name}')
        output = folder / f'{name}-{process}'
        return command.start(output, command.main, *arguments, devices=devices), output

    start.folder = folder
    return start


@pytest.fixture(scope='module')
def runs(start, freihand_like) -> dict[str, Path]:
    """Workdirs: `one` device, and what must equal it. `two` processes with two devices each stop and go on."""

    def two_processes(*flags):
        where = (f'--coordinator=localhost:{free_port()}', '--num_processes=2')
        assert finish(*(start('two', 2, *flags, *where, f'--process_id={i}', process=i) for i in (1, 0)))

    data = tiny.get_config().data
    data.update(manual_dir=str(freihand_like), data_dir=str(start.folder / 'tfds'))
    prepared.open_dataset(data)
    scanned = ('--config.data.source=resident', '--config.train.scan_epochs=True')
    assert finish(start('one', 1), start('eight', 8), start('scanned', 8, *scanned))
    two_processes('--config.train.epochs=1')
    two_processes()
    return {name: start.folder / name for name in ('one', 'eight', 'scanned', 'two')}


@pytest.mark.parametrize('name', ['eight', 'scanned', 'two'])
def test_the_loss_curve_is_that_of_one_device(runs, name):
    ours, theirs = ([[record[loss] for loss in LOSSES] for record in records(runs[of])] for of in (name, 'one'))
    assert len(theirs) == 2 and abs(theirs[0][0] - theirs[1][0]) > 1e-3
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)


@pytest.mark.parametrize('name', ['eight', 'scanned', 'two'])
def test_the_report_is_that_of_one_device(runs, name):
    ours, theirs = (json.loads((runs[of] / 'report.json').read_text()) for of in (name, 'one'))
    assert ours['device'].startswith({'eight': '8', 'scanned': '8', 'two': '4'}[name])
    for score in metrics.NAMES:
        assert ours['decoders']['window'][score] == pytest.approx(theirs['decoders']['window'][score], abs=1e-3)
    ours, theirs = ({path.name for path in runs[of].iterdir()} for of in (name, 'one'))
    assert ours - {'evaluate_test.json'} == theirs


def test_only_the_first_of_two_processes_speaks_and_writes(runs, start):
    first, second = ((start.folder / f'two-{i}' / 'stdout').read_text() for i in (0, 1))
    assert 'Going on after epoch 1' in first and 'epoch 2  train_loss' in first and 'Best checkpoint on' in first
    assert not any(word in second for word in ('photos', 'Going on', 'train_loss', 'Best'))
    assert len(list((runs['two'] / 'tensorboard').iterdir())) == 2  # one a start


def test_a_run_on_many_devices_is_scored_on_one(runs, start):
    assert finish(start('two', 1, '--mode=evaluate', process='evaluate'))
    result, report = (json.loads((runs['two'] / f'{name}.json').read_text()) for name in ('evaluate_test', 'report'))
    assert result['loss'] == pytest.approx(report['loss'], abs=1e-5)


def test_a_batch_that_does_not_divide(start):
    process, output = start('odd', 8, '--config.eval.batch_size=12')
    process.join(600)
    error = (output / 'stderr').read_text()
    assert 'error: config.eval.batch_size=12: a batch must divide over the 8 devices; take 8 or 16' in error
    assert process.exitcode == 1 and 'Traceback' not in error and not (start.folder / 'odd').exists()


def test_eight_devices(tmp_path):
    assert finish((command.start(tmp_path, _eight_devices, devices=8), tmp_path))


def _eight_devices() -> None:
    _resident_photos()
    _what_fits()
    _live_pictures()


def _photos(number: int) -> SimpleNamespace:
    from hpe_jax.data import prepared

    rng = np.random.default_rng(0)
    photos = rng.integers(0, 256, (number, 8, 8, 3), np.uint8)
    keypoints = rng.random((number, 21, 2), np.float32)
    return prepared.Split(photos, keypoints, np.zeros((number, 21, 3), np.float32), photos)


def _resident_photos() -> None:
    """Padded, spread, and taken by index without any device ever holding all of them."""
    import jax

    from hpe_jax.data import resident

    split = _photos(101)
    source = resident.Resident(split)
    for name, array in source.arrays.items():
        assert {shard.data.shape[0] for shard in array.addressable_shards} == {13}, name
    batches = list(source.once(16))
    for name, expected in {'image': split.photos, 'keypoints': split.keypoints, 'visible': split.visible}.items():
        assert all(len(batch[name].addressable_shards[0].data) == 2 for batch in batches)
        taken = np.concatenate([batch[name] for batch in batches])
        np.testing.assert_array_equal(taken[:101], expected)
        np.testing.assert_array_equal(taken[101:], expected[[0] * 11])
    np.testing.assert_array_equal(np.concatenate([batch['mask'] for batch in batches]), np.arange(112) < 101)
    assert len(resident.Resident(_photos(0))) == 0

    def scan(arrays, order):
        return jax.lax.scan(lambda _, index: (None, source.expand(arrays | {'index': index})), None, order)[1]

    for program, index in (resident._gather, np.arange(16)), (jax.jit(scan), np.zeros((3, 16), int)):
        arguments = (source.arrays | {'index': index},) if index.ndim == 1 else (source.arrays, index)
        lines = program.lower(*arguments).compile().as_text().splitlines()
        sent = [line for line in lines if any(f' {name}' in line for name in ('all-', 'collective-', 'reduce-scatter'))]
        sent = [line.split('u8[')[1].split(']')[0] for line in sent if '= u8[' in line]
        assert sent and set(sent) <= {'16,8,8,3', '2,8,8,3'}, sent  # photos of the batch, never the 104


def _what_fits() -> None:
    from hpe_jax.data import resident
    from hpe_jax.errors import UserError

    host = int(Path('/proc/meminfo').read_text().split('MemAvailable:')[1].split()[0]) * 1024
    assert 0.5 < 8 * resident.free_memory() / host < 2  # of which each fake device has a part
    resident.free_memory = lambda: 230_000_000
    resident.check_fits(32_560, 128)  # 1.61 GB, an eighth of it on each
    resident.free_memory = lambda: 220_000_000
    with pytest.raises(UserError, match=r'take 1.61 GB, 0.20 GB on each of 8 devices, more than 90% of the 0.22 GB'):
        resident.check_fits(32_560, 128)


def _live_pictures() -> None:
    """Every device renders its own numbers and no others."""
    import jax
    import jax.numpy as jnp

    from configs import tiny
    from hpe_jax.data import live
    from hpe_jax.data.synthetic_hands import generate

    def render(numbers):
        assert len(numbers) == 2
        return SimpleNamespace(image=jax.lax.map(lambda n: jnp.full((8, 8, 3), n, jnp.uint8), numbers), uv=uv)

    uv = np.ones((2, 21, 2), np.float32)
    generate.renderer = lambda *_: render
    source = live.Live(tiny.get_config().data, seed=0)
    batches = source.epochs(0, 0, steps=1, batch_size=16)
    pictures = [jax.jit(source.expand)(next(batches))['image'] for _ in range(2)]
    np.testing.assert_array_equal(np.concatenate(pictures)[:, 0, 0, 0], np.arange(32))


def test_two_processes(tmp_path):
    port = free_port()
    folders = [tmp_path / str(i) for i in (0, 1)]
    assert finish(*((command.start(f, _one_of_two, port, i, tmp_path, devices=2), f) for i, f in enumerate(folders)))


def _one_of_two(port: int, process: int, folder: Path) -> None:
    import jax

    from hpe_jax import sharding
    from hpe_jax.data import resident

    sharding.join(f'localhost:{port}', 2, process)
    try:
        with sharding.main_first():
            if sharding.is_main():
                time.sleep(0.5)
                (folder / 'prepared').touch()
                raise OSError
            assert (folder / 'prepared').exists()
    except OSError:
        assert process == 0

    assert sharding.local_slice(8) == slice(4 * process, 4 * process + 4)
    number = sharding.replicate({'x': np.arange(3)})['x']
    assert number.is_fully_replicated and int(number.sum()) == 3

    split = _photos(9)  # 12 with the padding, 6 a process
    read = []

    class Photos(SimpleNamespace):
        def __len__(self):
            return 9

        def __getitem__(self, at):
            read.extend(range(12)[at])
            return split.photos[at]

    resident._spread(Photos(ndim=4, shape=split.photos.shape))
    assert sorted(read) == list(range(6 * process, 6 * process + 6))
    (batch,) = resident.Resident(split).once(12)
    whole = jax.jit(lambda batch: batch, out_shardings=sharding.replicated())(batch)
    np.testing.assert_array_equal(whole['image'][:9], split.photos)
    np.testing.assert_array_equal(whole['mask'], np.arange(12) < 9)
