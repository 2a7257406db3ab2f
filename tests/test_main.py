"""The command line, as a user meets it: wrong input gets one sentence and no traceback."""

import sys
from types import SimpleNamespace

import pytest
from absl.testing import flagsaver

from hpe_jax import main
from hpe_jax.errors import UserError
from tests import command

pytestmark = pytest.mark.slow


@pytest.fixture
def run(tmp_path):
    """The command in a process."""

    def run(*arguments) -> SimpleNamespace:
        process = command.start(tmp_path, command.main, *arguments)
        process.join()
        return SimpleNamespace(returncode=process.exitcode, stderr=(tmp_path / 'stderr').read_text())

    return run


@pytest.fixture
def call(monkeypatch, capfd):
    """What the command does, but here, which takes no seconds to start."""

    def call(*arguments) -> SimpleNamespace:
        here = ['--nokeep_memory', '--compilation_cache=']  # of this process, too, are the C library and JAX
        monkeypatch.setattr(sys, 'argv', ['main', *here, *arguments])
        with flagsaver.flagsaver(), pytest.raises((SystemExit, UserError)) as e:
            main.main(main.parse(sys.argv))
        code = e.value.code if e.type is SystemExit else 1
        return SimpleNamespace(returncode=code, stderr=capfd.readouterr().err + str(e.value))

    return call


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--config.optimiser.name=sgd'], 'no field config.optimiser.name; the nearest is config.optimizer.name'),
        (['--config.data.zzz', '1'], 'no field config.data.zzz; the nearest is config.data.'),
        (['--config.train.batch_size=many'], 'batch_size'),
        (['--config.loss.name=huber'], "config.loss.name='huber': unknown; choose from iou, mse"),
        (['--config.train.batch_size=0'], 'config.train.batch_size=0: must be at least 1'),
        (['--config.augment.rotation=200'], 'config.augment.rotation=200.0: must lie between 0 and 180'),
        (['--config.data.image_size=33'], 'config.data.image_size=33: must be a multiple of 2'),
        (['--config.eval.decoder=best'], 'choose from argmax, mean, softargmax, window'),
        (['--config.data.mean=(.1,.2)'], 'give both with 3 numbers'),
        (['--config.data.manual_dir=/no/such/folder'], '/no/such/folder: no such FreiHAND folder'),
        (['--config.data.dataset=coco'], 'unknown dataset; there is freihand'),
        (['extra'], 'unexpected argument: extra'),
        (['--coordinator=localhost:1234'], '--num_processes=N and --process_id=I go together'),
        (['--distributed', '--process_id=0'], 'leave out --coordinator'),
    ],
)
def test_wrong_input_is_answered_in_one_sentence(call, tmp_path, arguments, message):
    done = call('--config=configs/tiny.py', f'--workdir={tmp_path / "run"}', *arguments)
    assert done.returncode != 0 and message in done.stderr
    assert 'Traceback' not in done.stderr
    assert not (tmp_path / 'run/config.json').exists()


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--workdir=x'], '--config'),
        (['--config=configs/tiny.py'], '--workdir'),
        (['--config=configs/absent.py', '--workdir=x'], 'configs/absent.py: no such config file'),
    ],
)
def test_missing_flags_and_files(call, arguments, message):
    done = call(*arguments)
    assert done.returncode != 0 and message in done.stderr
    assert 'Traceback' not in done.stderr


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (
            ['--config.train.batchsize=3'],
            'error: no field config.train.batchsize; the nearest is config.train.batch_size',
        ),
        (['--mode=evaluate'], 'run is no run directory: it holds no config.json'),
        (['--mode=test'], 'train|evaluate'),
        (['--distributed'], 'error: the processes did not find each other'),
    ],
)
def test_the_process_prints_the_sentence_and_fails(run, tmp_path, arguments, message):
    done = run('--config=configs/tiny.py', f'--workdir={tmp_path / "run"}', *arguments)
    assert done.returncode == 1 and message in done.stderr
    assert 'Traceback' not in done.stderr
    assert not (tmp_path / 'run').exists()
