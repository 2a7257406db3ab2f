"""The command line, as a user meets it: wrong input gets one sentence and no traceback."""

from types import SimpleNamespace

import pytest

from tests import command

pytestmark = pytest.mark.slow


@pytest.fixture
def run(tmp_path):
    def run(*arguments) -> SimpleNamespace:
        process = command.start(tmp_path, command.main, *arguments)
        process.join()
        out, err = ((tmp_path / name).read_text() for name in ('stdout', 'stderr'))
        return SimpleNamespace(returncode=process.exitcode, stdout=out, stderr=err)

    return run


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--config.train.batchsize=3'], 'no field config.train.batchsize; the nearest is config.train.batch_size'),
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
        (['--mode=test'], 'train|evaluate'),
        (['extra'], 'unexpected argument: extra'),
        (['--coordinator=localhost:1234'], '--num_processes=N and --process_id=I go together'),
        (['--distributed', '--process_id=0'], 'leave out --coordinator'),
        (['--distributed'], 'the processes did not find each other'),
    ],
)
def test_wrong_input_is_answered_in_one_sentence(run, tmp_path, arguments, message):
    done = run('--config=configs/tiny.py', f'--workdir={tmp_path / "run"}', *arguments)
    assert done.returncode != 0 and message in done.stderr
    assert 'Traceback' not in done.stderr
    assert not (tmp_path / 'run/config.json').exists()


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--workdir=x'], '--config'),
        (['--config=configs/tiny.py'], '--workdir'),
        (['--mode=evaluate', '--workdir=absent'], 'error: absent is no run directory: it holds no config.json'),
        (['--config=configs/absent.py', '--workdir=x'], 'configs/absent.py: no such config file'),
    ],
)
def test_missing_flags_and_files(run, arguments, message):
    done = run(*arguments)
    assert done.returncode != 0 and message in done.stderr
    assert 'Traceback' not in done.stderr
