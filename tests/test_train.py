"""The real loop, with a network and a budget that are tiny."""

import json
import shutil
import signal
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx
from PIL import Image

from configs import hands, tiny
from hpe_jax import checkpoint, configuration, evaluate, logbook, metrics, runtime, train, trained_model
from hpe_jax.data import resident, sources
from hpe_jax.errors import UserError, WriteError
from tests import command

pytestmark = pytest.mark.slow


@pytest.fixture(scope='module')
def data_dir(tmp_path_factory):
    return tmp_path_factory.mktemp('tfds')


@pytest.fixture(scope='module')
def config(freihand_like, data_dir):
    config = tiny.get_config()
    config.data.manual_dir, config.data.data_dir = str(freihand_like), str(data_dir)
    return config


@pytest.fixture(scope='module')
def finished(config, tmp_path_factory):
    """A run that nothing disturbed, and its report."""
    workdir = tmp_path_factory.mktemp('finished')
    return workdir, train.train_and_evaluate(config, workdir)


def final_state(config, workdir) -> dict[str, np.ndarray]:
    state = train.TrainState(config)
    checkpoints = checkpoint.Checkpoints(workdir, read_only=True)
    checkpoints.restore(checkpoints.latest(), state.model, state.optimizer)
    return checkpoint.leaves(state.model) | checkpoint.leaves(state.optimizer)


def assert_same_run(config, a, b):
    one, other = final_state(config, a), final_state(config, b)
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)
    for x, y in zip(records(a), records(b), strict=True):
        timings = ('seconds', 'images_per_second')
        assert {k: v for k, v in x.items() if k not in timings} == {k: v for k, v in y.items() if k not in timings}


def records(workdir) -> list[dict]:
    return [json.loads(line) for line in (Path(workdir) / 'metrics.jsonl').read_text().splitlines()]


def test_a_run_leaves_all_that_it_promises(finished, config):
    workdir, report = finished
    assert json.loads((workdir / 'report.json').read_text()) == json.loads(json.dumps(report))
    assert report['epochs'] == 3 and report['split'] == 'test' and report['num_images'] == 1
    assert report['decoders'].keys() == set(config.eval.decoders)
    assert all(np.isfinite(report['decoders']['mean'][name]) for name in metrics.NAMES)
    assert report['config']['train']['batch_size'] == 4 and report['wall_time_s'] > 0 and 'cpu' in report['device']
    history = records(workdir)
    assert [record['epoch'] for record in history] == [1, 2, 3]
    assert history[-1]['train_loss'] < history[0]['train_loss']
    assert report['best_epoch'] == 1 + int(np.argmin([record['validation_loss'] for record in history]))
    assert json.loads((workdir / 'config.json').read_text())['model']['widths'] == [4, 8]
    for name in ('curves', 'skeletons', 'heatmaps', 'pck'):
        assert np.asarray(Image.open(workdir / f'{name}.png')).std() > 10
    left = {path.name for path in workdir.iterdir()}
    pictures = {'curves.png', 'skeletons.png', 'heatmaps.png', 'pck.png'}
    assert left == pictures | {'checkpoints', 'tensorboard', 'config.json', 'metrics.jsonl', 'report.json'}


def tensorboard(workdir) -> list:
    """All values in a run's event files; a record is its length (8 bytes), a checksum (4), the event, a checksum."""
    from tensorboardX.proto.event_pb2 import Event  # it imports torch, for seconds, where that is installed

    values = []
    for path in sorted((workdir / 'tensorboard').iterdir()):
        data = path.read_bytes()
        while data:
            size = int.from_bytes(data[:8], 'little')
            values += Event.FromString(data[12 : 12 + size]).summary.value
            data = data[16 + size :]
    return values


def test_tensorboard_has_scalars_and_pictures(finished):
    values = tensorboard(finished[0])
    losses = [value.simple_value for value in values if value.tag == 'validation_loss']
    np.testing.assert_allclose(losses, [record['validation_loss'] for record in records(finished[0])], rtol=1e-6)
    assert any(value.image.encoded_image_string for value in values if value.tag == 'predictions')


def test_the_same_command_again_reports_without_training(finished, config):
    workdir, report = finished
    before = final_state(config, workdir)
    again = train.train_and_evaluate(config, workdir)
    assert again['decoders'] == json.loads(json.dumps(report))['decoders']
    assert all(np.array_equal(before[name], leaf) for name, leaf in final_state(config, workdir).items())


def test_stopped_after_an_epoch_and_gone_on_equals_undisturbed(finished, config, tmp_path):
    short = config.copy_and_resolve_references()
    short.train.epochs = 1
    train.train_and_evaluate(short, tmp_path)
    train.train_and_evaluate(config, tmp_path)
    assert_same_run(config, tmp_path, finished[0])


def signalled(make, at: int, number: int):
    """make_train_step, but its step gets the signal when it is called for the at-th time."""

    def make_signalled(*arguments):
        step, calls = make(*arguments), []

        def train_step(*arguments):
            calls.append(None)
            if len(calls) == at:
                signal.raise_signal(number)
            return step(*arguments)

        return train_step

    return make_signalled


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_step_saves_and_loses_nothing(finished, config, tmp_path, monkeypatch, number):
    with monkeypatch.context() as patch:
        patch.setattr(
            train, 'make_train_step', signalled(train.make_train_step, config.train.steps_per_epoch + 2, number)
        )
        with pytest.raises(runtime.Stopped, match='Stopped after step 2 of epoch 2; the same command goes on') as e:
            train.train_and_evaluate(config, tmp_path)
    assert e.value.exit_status == {signal.SIGTERM: 143, signal.SIGINT: 130}[number]
    kept = checkpoint.Checkpoints(tmp_path, read_only=True)
    assert (kept.latest(), kept.best()) == (2, 1)
    train.train_and_evaluate(config, tmp_path)
    assert_same_run(config, tmp_path, finished[0])


def _train_until_killed(config, workdir) -> None:
    """In a process: SIGKILL comes in the last epoch, while the checkpoint of the one before may be half written."""
    at = (config.train.epochs - 1) * config.train.steps_per_epoch + 2
    train.make_train_step = signalled(train.make_train_step, at, signal.SIGKILL)
    train.train_and_evaluate(config, workdir)


def test_killed_in_the_middle_and_started_again_equals_undisturbed(finished, config, tmp_path, capfd):
    workdir = tmp_path / 'run'
    process = command.start(tmp_path / 'printed', _train_until_killed, config, workdir)
    process.join()
    assert process.exitcode == -signal.SIGKILL, (tmp_path / 'printed/stderr').read_text()
    assert len(records(workdir)) == 2 and not (workdir / 'report.json').exists()
    train.train_and_evaluate(config, workdir)
    assert 'Going on after epoch' in capfd.readouterr().out
    assert_same_run(config, workdir, finished[0])


def test_a_full_disk_is_reported_and_the_same_command_goes_on_when_there_is_space(
    finished, config, tmp_path, monkeypatch
):
    def record(log, history):
        if len(history) == 2:
            raise WriteError('cannot write a: No space left on device')

    with monkeypatch.context() as patch:
        patch.setattr(logbook.Logbook, 'record', record)
        with pytest.raises(UserError, match='left on device; the last good checkpoint is epoch 2; mend that and give'):
            train.train_and_evaluate(config, tmp_path)
    train.train_and_evaluate(config, tmp_path)
    assert_same_run(config, tmp_path, finished[0])


def test_evaluate_mode_scores_the_best_checkpoint_of_any_split(finished, config):
    workdir, report = finished
    result = evaluate.evaluate_run(workdir)
    assert result['epoch'] == report['best_epoch']
    for name in metrics.NAMES:
        expected = report['decoders']['mean'][name]  # the others jump where two pixels are nearly as high
        assert result['decoders']['mean'][name] == pytest.approx(expected, rel=1e-5)
    both = evaluate.evaluate_run(workdir, 'train[:3]+test')
    assert both['num_images'] == 4
    assert json.loads((workdir / 'evaluate_train_3_test.json').read_text())['num_images'] == 4


def test_without_photos_to_validate_on_the_training_loss_decides(config, tmp_path):
    alone = config.copy_and_resolve_references()
    alone.data.validation_split = 'validation[:0]'
    report = train.train_and_evaluate(alone, tmp_path)
    assert [record['validation_loss'] for record in records(tmp_path)] == [None] * 3
    assert report['best_epoch'] == 3


def test_early_stopping_ends_the_run(config, tmp_path):
    stuck = config.copy_and_resolve_references()
    stuck.optimizer.learning_rate = 1e-12
    stuck.train.epochs = 40
    stuck.train.early_stopping = {'window': 1, 'patience': 2}
    report = train.train_and_evaluate(stuck, tmp_path)
    assert report['stopped_early'] and report['epochs'] < 40


def test_the_plateau_halves_the_rate_in_the_real_loop(config, tmp_path):
    stuck = config.copy_and_resolve_references()
    stuck.optimizer.plateau.patience = 1
    stuck.optimizer.plateau.rtol = 0.9  # no epoch is so much better than the one before
    train.train_and_evaluate(stuck, tmp_path)
    assert [record['learning_rate'] for record in records(tmp_path)] == pytest.approx([0.1, 0.05, 0.025])


def test_another_config_in_the_same_workdir(finished, config):
    other = config.copy_and_resolve_references()
    other.optimizer.learning_rate = 0.2
    with pytest.raises(UserError, match='optimizer.learning_rate was 0.1 and is now 0.2'):
        train.train_and_evaluate(other, finished[0])


def test_checkpoints_without_their_config(config, tmp_path):
    (tmp_path / 'checkpoints').mkdir()
    with pytest.raises(UserError, match='holds checkpoints but no config.json'):
        train.train_and_evaluate(config, tmp_path)


def test_another_model_cannot_be_evaluated(finished):
    with pytest.raises(UserError, match='of another model'):
        evaluate.evaluate_run(finished[0], overrides={'model.widths': (4, 12)})


def test_a_changed_digit_in_the_config_is_found(finished, tmp_path):
    workdir = shutil.copytree(finished[0], tmp_path / 'run')
    path = workdir / 'config.json'
    assert '"sigma": 1.5' in path.read_text()
    path.write_text(path.read_text().replace('"sigma": 1.5', '"sigma": 1.7'))
    with pytest.raises(UserError, match='config.json is not the config that the checkpoint was made with'):
        trained_model.load(workdir)


def test_nothing_to_evaluate(config, tmp_path):
    with pytest.raises(UserError, match='no run directory'):
        evaluate.evaluate_run(tmp_path / 'empty')
    configuration.save(config, tmp_path)
    with pytest.raises(UserError, match='holds no checkpoint'):
        evaluate.evaluate_run(tmp_path)


def test_a_broken_newest_checkpoint_is_deleted_and_the_run_goes_on_from_the_one_before(
    finished, config, tmp_path, capfd
):
    workdir = shutil.copytree(finished[0], tmp_path / 'run')
    *_, newest = sorted((workdir / 'checkpoints').iterdir(), key=lambda path: int(path.name))
    for path in (newest / 'model').rglob('*'):
        if path.is_file():
            path.write_bytes(b'')  # as after a power cut
    train.train_and_evaluate(config, workdir)
    assert f'checkpoint {newest} is corrupt' in capfd.readouterr().out
    assert_same_run(config, finished[0], workdir)


def test_a_run_starts_from_another_ones_model_and_channel_statistics(finished, config, tmp_path):
    """And once it has a checkpoint of its own, it needs the other run no more."""
    source = shutil.copytree(finished[0], tmp_path / 'source')
    tuned = config.copy_and_resolve_references()
    tuned.init_from, tuned.data.train_split, tuned.train.epochs = str(source), 'train[:4]', 1
    state = train.TrainState(tuned)
    train.start(tuned, tmp_path / 'begun', sources.open_data(tuned), state)
    theirs = checkpoint.leaves(trained_model.load(source).model)
    ours = checkpoint.leaves(state.model)
    assert 'standardise.mean' in theirs and all(np.array_equal(ours[name], theirs[name]) for name in theirs)
    train.train_and_evaluate(tuned, tmp_path / 'tuned')
    shutil.rmtree(source)
    _, history, _ = train.start(tuned, tmp_path / 'tuned', sources.open_data(tuned), state)
    assert len(history) == 1
    ours = checkpoint.leaves(state.model)
    assert all(np.array_equal(ours[f'standardise.{name}'], theirs[f'standardise.{name}']) for name in ('mean', 'std'))


def test_heads_alone_are_trained():
    config = hands.get_config()
    config.model.update(widths=(4, 4, 8, 8), blocks=(1, 1), conv='xla')
    config.data.image_size, config.train.heads_only, config.augment = 32, True, tiny.get_config().augment
    train_state = train.TrainState(config)
    train_state.restart_average()
    rng = np.random.default_rng(0)
    batch = {
        'image': rng.integers(0, 256, (4, 32, 32, 3), np.uint8),
        'keypoints': rng.uniform(0.3, 0.7, (4, 21, 2)).astype(np.float32),
        'visible': np.ones((4, 21), bool),
        'mask': np.ones(4, bool),
    }
    graphdef, state = nnx.split(train_state)
    before = jax.tree.map(np.array, nnx.to_pure_dict(state))
    step = train.make_train_step(config, graphdef, resident.Resident.expand)
    for _ in range(2):  # the first one's rate is 0
        state, _ = step(state, batch, np.float32(10))
    after = nnx.to_pure_dict(state)

    def changed(name):
        leaves = zip(*(jax.tree.leaves_with_path(tree[name]) for tree in (before, after)), strict=True)
        return {path[0].key for (path, a), (_, b) in leaves if (a != b).any()}

    assert changed('model') == changed('averaged') == {'hidden', 'heads'}
    kept = {
        key.key for path, _ in jax.tree.leaves_with_path(before['optimizer']) for key in path if hasattr(key, 'key')
    }
    assert 'hidden' in kept and 'maps' not in kept and 'stem' not in kept


def test_a_run_that_cannot_start_from_another(finished, config, tmp_path):
    other = config.copy_and_resolve_references()
    other.init_from = str(tmp_path / 'absent')
    with pytest.raises(UserError, match='absent holds no checkpoint'):
        train.train_and_evaluate(other, tmp_path / 'run')
    other.init_from, other.model.widths = str(finished[0]), (4, 12)
    with pytest.raises(UserError, match='of another model'):
        train.train_and_evaluate(other, tmp_path / 'run')


def test_a_nan_loss_names_the_step_and_keeps_the_last_good_checkpoint(config, tmp_path, monkeypatch):
    make = train.make_train_step

    def make_failing(*arguments):
        step, calls = make(*arguments), []

        def train_step(state, batch, horizon):
            calls.append(None)
            state, loss = step(state, batch, horizon)
            return state, loss if len(calls) < 7 else loss * np.nan

        return train_step

    monkeypatch.setattr(train, 'make_train_step', make_failing)
    with pytest.raises(UserError, match=r'the training loss is nan at step 7 \(epoch 2\); epoch 1 is kept'):
        train.train_and_evaluate(config, tmp_path)
    assert checkpoint.Checkpoints(tmp_path, read_only=True).latest() == 1
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(final_state(config, tmp_path)) if leaf.ndim)


def test_a_rate_that_explodes_is_a_nan_loss(config, tmp_path):
    wild = config.copy_and_resolve_references()
    wild.optimizer.learning_rate = 1e30
    with pytest.raises(UserError, match='the training loss is nan at step .* lower config.optimizer.learning_rate'):
        train.train_and_evaluate(wild, tmp_path)


def test_an_unwritable_workdir(config, tmp_path):
    (tmp_path / 'file').write_text('')
    with pytest.raises(UserError, match=r'cannot write .*file'):
        train.train_and_evaluate(config, tmp_path / 'file')


def test_a_training_split_without_photos(config, tmp_path):
    empty = config.copy_and_resolve_references()
    empty.data.train_split = 'train[:0]'
    with pytest.raises(UserError, match=r"train_split='train\[:0\]' of freihand/raw holds no photos"):
        train.train_and_evaluate(empty, tmp_path)


def exchange_labels(folder: Path) -> None:
    path = folder / 'training_xyz.json'
    path.write_text(json.dumps(json.loads(path.read_text())[::-1]))


def exchange_photo(folder: Path) -> None:
    """For another one of the same name and of the same number of bytes."""
    first, last = folder / 'training/rgb/00000000.jpg', folder / 'training/rgb/00000012.jpg'
    Image.open(last).save(last, quality=50)
    first.write_bytes(last.read_bytes().ljust(first.stat().st_size, b'\0'))


@pytest.mark.parametrize('exchange', [exchange_labels, exchange_photo])
def test_other_labels_or_another_photo_in_the_same_workdir(finished, config, freihand_like, tmp_path, exchange):
    other = config.copy_and_resolve_references()
    other.data.manual_dir = str(shutil.copytree(freihand_like, tmp_path / 'other'))
    exchange(tmp_path / 'other')
    with pytest.raises(UserError, match='other images or labels than those that config.data names now; bring back'):
        train.train_and_evaluate(other, finished[0])


def test_an_older_checkpoint_is_known_by_its_channel_statistics(config, tmp_path):
    data, state = sources.open_data(config), train.TrainState(config)
    state.model.standardise.set(data.mean, data.std)
    train.check_same_data(config, tmp_path, state, {}, data)
    state.model.standardise.set(data.mean + np.float32(0.1), data.std)
    with pytest.raises(UserError, match='other images or labels'):
        train.check_same_data(config, tmp_path, state, {}, data)


def test_a_finished_run_is_scored_by_another_decoder_on_a_copy_of_its_data(finished, config, freihand_like, tmp_path):
    workdir = shutil.copytree(finished[0], tmp_path / 'run')
    other = config.copy_and_resolve_references()
    other.eval.update(decoder='mean', batch_size=8)
    copy = shutil.copytree(freihand_like, tmp_path / 'copy', copy_function=shutil.copyfile)  # with times of its own
    other.data.manual_dir = str(copy)
    assert train.train_and_evaluate(other, workdir)['config']['eval']['decoder'] == 'mean'
    assert records(workdir) == records(finished[0])
    assert trained_model.load(workdir).config.eval.decoder == 'mean'


def test_other_photos_in_the_same_workdir(finished, config, tmp_path):
    from tests import drawn_hands

    other = config.copy_and_resolve_references()
    other.data.manual_dir = str(drawn_hands.write(tmp_path / 'other', 13, seed=5))
    with pytest.raises(UserError, match='other images'):
        train.train_and_evaluate(other, finished[0])
