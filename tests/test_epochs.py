"""The three ways to train an epoch, through the real loop, with a tiny network."""

import subprocess
from pathlib import Path

import numpy as np
import pytest

from configs import tiny
from hpe_jax import checkpoint, report, train
from hpe_jax.errors import UserError
from tests import minimal

pytestmark = pytest.mark.slow

TIMINGS = ('seconds', 'images_per_second')
WAYS = {'tfdata': ('tfdata', False), 'looped': ('resident', False), 'scanned': ('resident', True)}


@pytest.fixture(scope='module')
def config(freihand_like, tmp_path_factory):
    config = tiny.get_config()
    config.data.update(manual_dir=str(freihand_like), data_dir=str(tmp_path_factory.mktemp('tfds')), image_size=16)
    config.data.targets, config.augment.quarter_turns = 'device', True
    config.augment.update(rotation=30, brightness=0.3, borders=0.5, fill='random')
    config.train.update(epochs=2, steps_per_epoch=2)
    return config


@pytest.fixture(scope='module', autouse=True)
def without_report():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, 'write', lambda config, workdir, model, checkpoints, history, data: {'history': history})
        yield


def run(config, workdir, way: str, **changes) -> list[dict]:
    """The history of a run, without its timings."""
    config = config.copy_and_resolve_references()
    config.data.source, config.train.scan_epochs = WAYS[way]
    config.update_from_flattened_dict(changes)
    history = train.train_and_evaluate(config, workdir)['history']
    return [{name: value for name, value in record.items() if name not in TIMINGS} for record in history]


def final_state(config, workdir) -> dict[str, np.ndarray]:
    state = train.TrainState(config)
    checkpoints = checkpoint.Checkpoints(workdir, read_only=True)
    checkpoints.restore(checkpoints.latest(), state.model, state.optimizer)
    return checkpoint.leaves(state.model) | checkpoint.leaves(state.optimizer)


@pytest.fixture(scope='module')
def runs(config, tmp_path_factory):
    """By way: the history and the final state of an undisturbed run."""
    done = {}
    for way in WAYS:
        workdir = tmp_path_factory.mktemp(way)
        done[way] = run(config, workdir, way), final_state(config, workdir)
    return done


def test_the_resident_source_equals_tf_data_bit_for_bit(runs):
    (history, state), (expected_history, expected) = runs['looped'], runs['tfdata']
    assert history == expected_history
    for name in expected:
        np.testing.assert_array_equal(state[name], expected[name], err_msg=name)


def test_epochs_in_one_call_equal_the_loop(runs):
    (history, state), (expected_history, expected) = runs['scanned'], runs['looped']
    for record, wanted in zip(history, expected_history, strict=True):
        assert record == pytest.approx(wanted, rel=1e-6)
    for name in expected:
        np.testing.assert_allclose(state[name], expected[name], rtol=1e-6, atol=1e-6, err_msg=name)


def test_epochs_in_one_call_go_on_bit_for_bit(runs, config, tmp_path):
    run(config, tmp_path, 'scanned', **{'train.epochs': 1})
    assert run(config, tmp_path, 'scanned') == runs['scanned'][0]
    state = final_state(config, tmp_path)
    for name, leaf in runs['scanned'][1].items():
        np.testing.assert_array_equal(state[name], leaf, err_msg=name)


def test_an_epoch_begun_too_many_is_dropped(runs, config, tmp_path, monkeypatch):
    """The host learns that training shall stop when the next epoch has begun on the device."""
    monkeypatch.setattr(train, 'should_stop', lambda config, history: len(history) == 1)
    assert run(config, tmp_path, 'scanned') == runs['scanned'][0][:1]
    assert final_state(config, tmp_path)['step'] == config.train.steps_per_epoch


def test_the_photos_to_validate_on_are_drawn_anew_in_each_epoch(config):
    first, second = (train.validation_indices(config, 40, epoch) for epoch in (0, 1))
    assert len(first) == config.train.validation_batches * config.train.batch_size == len(set(first))
    assert not np.array_equal(first, second) and len(train.validation_indices(config, 0, 0)) == 0


def test_only_resident_photos_can_be_scanned(config, tmp_path):
    with pytest.raises(UserError, match="scan_epochs: .* set data.source='resident'"):
        run(config, tmp_path, 'tfdata', **{'train.scan_epochs': True})


SCRIPT = """
sys.argv[0] = 'main'
try:
    runpy.run_module('hpe_jax.main', run_name='__main__')
except SystemExit as e:
    assert not e.code, e.code
from hpe_jax import evaluate
print('Afterwards', evaluate.evaluate_run(sys.argv[-1], 'train')['num_images'])
"""


def test_the_whole_command_runs_with_nothing_but_the_dependencies(config, tmp_path):
    """Preparing the data, training, validation, the report of the test split, and evaluation afterwards."""
    fields = {'data.source': 'resident', 'data.data_dir': tmp_path / 'tfds', 'data.manual_dir': config.data.manual_dir}
    fields |= {'train.epochs': 1, 'data.image_size': 16}
    arguments = ['--config=configs/tiny.py', f'--compilation_cache={tmp_path / "compiled"}']
    arguments += [*(f'--config.{name}={value}' for name, value in fields.items()), '--workdir', tmp_path / 'run']
    command = minimal.command(SCRIPT, *arguments)
    done = subprocess.run(command, cwd=Path(train.__file__).parents[1], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert 'Best checkpoint on test' in done.stdout and 'Afterwards 10' in done.stdout
    assert any((tmp_path / 'compiled').iterdir())
