import os
import shutil
import sys
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from flax import nnx

from configs import tiny
from hpe_jax import checkpoint, train
from hpe_jax.errors import UserError, WriteError


def state(seed: int = 0, optimizer: str = 'sgd', **model):
    config = tiny.get_config()
    config.seed = seed
    config.optimizer.name = optimizer
    config.model.update(model)
    return train.TrainState(config)


def equal(a, b) -> bool:
    a, b = checkpoint.leaves(a), checkpoint.leaves(b)
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize('optimizer', ['sgd', 'muon'])  # Muon's state has empty places
def test_round_trip_is_exact_and_carries_the_meta_data(tmp_path, optimizer):
    saved, other = state(0, optimizer), state(1, optimizer)
    assert not equal(saved.model, other.model)
    saved.optimizer.update(saved.model, nnx.state(saved.model, nnx.Param), value=1.0)  # some state that is not zero
    assert not equal(saved.optimizer, other.optimizer)
    meta = {'history': [{'epoch': 1, 'train_loss': 0.1}], 'mean': [0.1, 0.2, 0.3]}
    checkpoint.Checkpoints(tmp_path).save(1, saved.model, saved.optimizer, meta, 0.5)
    assert checkpoint.Checkpoints(tmp_path, read_only=True).restore(1, other.model, other.optimizer) == meta
    assert equal(saved.model, other.model) and equal(saved.optimizer, other.optimizer)


def test_the_latest_two_and_the_best_are_kept_and_nothing_else(tmp_path):
    kept = checkpoint.Checkpoints(tmp_path)
    assert kept.latest() is None and kept.best() is None
    some = state()
    for epoch, loss in enumerate([0.9, 0.3, 0.5, 0.6, 0.4], start=1):
        kept.save(epoch, some.model, some.optimizer, {}, loss)
    assert (kept.latest(), kept.best()) == (5, 2)
    assert sorted(int(path.name) for path in (tmp_path / 'checkpoints').iterdir()) == [2, 4, 5]
    again = checkpoint.Checkpoints(tmp_path, read_only=True)
    assert (again.latest(), again.best()) == (5, 2)


def test_every_leaf_has_a_readable_name():
    names = checkpoint.leaves(state().model)
    assert {'down.0.conv1.kernel', 'bottleneck.norm2.var', 'up.0.norm1.scale', 'out.kernel'} <= names.keys()
    assert sum(leaf.size for leaf in names.values()) == sum(x.size for x in jax.tree.leaves(nnx.state(state().model)))


def test_a_save_that_fails_keeps_what_it_was_to_replace(tmp_path, monkeypatch):
    kept, some, other = checkpoint.Checkpoints(tmp_path), state(0), state(1)
    kept.save(1, some.model, some.optimizer, {}, None)

    def fail(*arguments):
        raise OSError('no more')

    with monkeypatch.context() as patch, pytest.raises(WriteError, match='no more'):
        patch.setattr(kept, '_save', fail)
        kept.save(1, other.model, other.optimizer, {}, 0.1)
    kept.restore(1, other.model)
    assert equal(some.model, other.model)
    assert [path.name for path in (tmp_path / 'checkpoints').iterdir()] == ['1']


@pytest.mark.parametrize('damaged', [True, False])
def test_a_kill_in_the_middle_of_a_save_or_a_deletion_leaves_whole_checkpoints(tmp_path, monkeypatch, damaged):
    monkeypatch.setattr(checkpoint.time, 'sleep', lambda seconds: None)  # see checkpoint._one_error
    kept, before, after = checkpoint.Checkpoints(tmp_path), state(0), state(1)
    kept.save(1, before.model, before.optimizer, {}, None)
    folder = tmp_path / 'checkpoints'
    shutil.copytree(folder / '1', folder / '.before.1')
    kept.save(2, after.model, after.optimizer, {}, None)
    shutil.rmtree(folder / '1')
    (folder / '2').rename(folder / '1')  # the new one
    (folder / '.removed.3/model').mkdir(parents=True)
    if damaged:
        shutil.rmtree(folder / '1/meta')
    checkpoint.Checkpoints.recover(tmp_path)
    assert [path.name for path in folder.iterdir()] == ['1']
    checkpoint.Checkpoints(tmp_path).restore(1, (read := state(2)).model)
    assert equal(read.model, (before if damaged else after).model)


@pytest.mark.slow
@pytest.mark.parametrize('model', [{'widths': (4, 12)}, {'widths': (4, 8, 8)}])
def test_a_checkpoint_of_another_model_names_the_leaf(tmp_path, model):
    some = state()
    checkpoint.Checkpoints(tmp_path).save(1, some.model, some.optimizer, {}, 0.5)
    before = state(**model)
    untouched = dict(checkpoint.leaves(before.model))
    with pytest.raises(UserError, match=r'is of another model: \d+ leaves differ, the first is model bottleneck'):
        checkpoint.Checkpoints(tmp_path).restore(1, before.model)
    assert all(np.array_equal(untouched[name], leaf) for name, leaf in checkpoint.leaves(before.model).items())


@pytest.fixture(scope='module')
def two_epochs(tmp_path_factory):
    """Epoch 1 is the best one, epoch 2 the latest."""
    folder, some = tmp_path_factory.mktemp('two_epochs'), state()
    kept = checkpoint.Checkpoints(folder)
    kept.save(1, some.model, some.optimizer, {'mean': [0.1]}, 0.3)
    kept.save(2, some.model, some.optimizer, {'mean': [0.1]}, 0.5)
    return folder, some


def spoil(folder, change):
    """Changes every file of some kind; returns how many there were."""
    paths = [path for path in folder.rglob('*') if path.is_file() and path.name != 'commit_success.txt']
    for path in paths:
        path.write_bytes(change(path.read_bytes()))
    return len(paths)


@pytest.mark.parametrize('part', ['model', 'optimizer', 'meta', 'model/_METADATA', 'model/ocdbt.process_0/d', '.'])
def test_a_corrupt_checkpoint_names_the_last_good_one(two_epochs, tmp_path, capfd, part):
    source, some = two_epochs
    folder = shutil.copytree(source, tmp_path / 'run')
    place = folder / 'checkpoints/2' / part
    if place.is_file():
        place.unlink()
    else:
        assert spoil(place, lambda data: data[: len(data) // 2])
    with pytest.raises(UserError, match=r'checkpoints/2 is corrupt \(.*\); the last good one is epoch 1: delete') as e:
        checkpoint.Checkpoints(folder, read_only=True).restore(2, some.model, some.optimizer)
    assert len(str(e.value).splitlines()) == 1 and 'Traceback' not in capfd.readouterr().err
    shutil.rmtree(folder / 'checkpoints/2')
    kept = checkpoint.Checkpoints(folder, read_only=True)
    assert kept.latest() == 1 and kept.restore(1, some.model, some.optimizer) == {'mean': [0.1]}


def test_one_that_is_damaged_does_not_keep_the_others_from_being_found(two_epochs, tmp_path):
    source, some = two_epochs
    folder = shutil.copytree(source, tmp_path / 'run')
    (folder / 'checkpoints/2/_CHECKPOINT_METADATA').write_text('[]')  # orbax' own
    kept = checkpoint.Checkpoints(folder, read_only=True)
    assert kept.epochs() == [1, 2] and kept.restore(1, some.model, some.optimizer) == {'mean': [0.1]}


def test_a_flipped_bit_in_the_weights_is_found(two_epochs, tmp_path, monkeypatch):
    """Wherever it is; a few bytes of Orbax's files are never read, and there it changes nothing."""
    monkeypatch.setattr(sys, 'unraisablehook', lambda raised: None)  # TensorStore's threads, after a failed read
    monkeypatch.setattr(checkpoint.time, 'sleep', lambda seconds: None)  # checkpoint._one_error waits for them
    source, some = two_epochs
    folder, read, found = shutil.copytree(source, tmp_path / 'run'), state(1).model, 0
    weights = max((folder / 'checkpoints/2/model').rglob('d/*'), key=lambda path: path.stat().st_size)
    whole = weights.read_bytes()
    for at in np.linspace(0, len(whole) - 1, 9).astype(int):
        weights.write_bytes(whole[:at] + bytes([whole[at] ^ 0x40]) + whole[at + 1 :])
        try:
            checkpoint.Checkpoints(folder, read_only=True).restore(2, read)
            assert equal(read, some.model)
        except UserError as e:
            assert 'checkpoints/2 is corrupt' in str(e) and 'the last good one is epoch 1' in str(e)
            found += 1
    assert found


def test_no_good_checkpoint_is_left(two_epochs, tmp_path):
    source, some = two_epochs
    folder = shutil.copytree(source, tmp_path / 'run')
    spoil(folder / 'checkpoints/1/model', lambda _: b'')
    spoil(folder / 'checkpoints/2/model', lambda _: b'')
    with pytest.raises(UserError, match='checkpoints/1 is corrupt .*; there is no other good one'):
        checkpoint.Checkpoints(folder, read_only=True).restore(1, some.model)


@pytest.mark.parametrize('digit', ['0.3', '0.1'])  # of the loss, and of what the caller keeps
def test_a_changed_digit_in_the_meta_data_is_found(two_epochs, tmp_path, digit):
    source, some = two_epochs
    folder = shutil.copytree(source, tmp_path / 'run')
    path = folder / 'checkpoints/1/meta/metadata'
    assert digit in path.read_text()
    path.write_text(path.read_text().replace(digit, '0.7'))
    kept = checkpoint.Checkpoints(folder, read_only=True)
    for use in (kept.best, lambda: kept.meta(1), lambda: kept.restore(1, some.model)):
        with pytest.raises(UserError, match='checkpoints/1 is corrupt .*meta data are not those that were saved'):
            use()


def test_weights_that_are_not_finite_are_not_kept(tmp_path):
    some = state()
    kept = checkpoint.Checkpoints(tmp_path)
    kept.save(1, some.model, some.optimizer, {}, 0.5)
    some.model.out.kernel[...] = some.model.out.kernel[...].at[0, 0, 0, 0].set(np.nan)
    with pytest.raises(UserError, match='out.kernel of the model is not finite after epoch 2, .* is epoch 1'):
        kept.save(2, some.model, some.optimizer, {}, 0.4)
    assert kept.epochs() == [1]


def test_weights_that_became_nan_are_taken_for_damage(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint.time, 'sleep', lambda seconds: None)  # see checkpoint._one_error
    kept, some, other = checkpoint.Checkpoints(tmp_path), state(0), state(1)
    kept.save(1, some.model, some.optimizer, {}, 0.3)
    some.model.out.kernel[...] = some.model.out.kernel[...].at[0].set(np.nan)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.np, 'isfinite', np.ones_like)
        kept.save(2, some.model, some.optimizer, {}, 0.2)
    with pytest.raises(
        UserError, match='2 is corrupt .out.kernel of the model is not finite.; the last good one is ep'
    ):
        kept.restore(2, other.model)
    assert train.restore_latest(kept, other)[0] == 1


def test_a_loss_that_is_no_number_is_not_the_best(tmp_path):
    kept, some = checkpoint.Checkpoints(tmp_path), state()
    for epoch, loss in enumerate([float('nan'), 0.5, 0.6], start=1):
        kept.save(epoch, some.model, some.optimizer, {}, loss)
    assert kept.best() == 2


def test_files_are_synced_before_a_checkpoint_is_deleted(tmp_path, monkeypatch):
    """What a power cut after `save` may lose is nothing: all of the new one is synced first."""
    events, some = [], state()
    monkeypatch.setattr(os, 'fsync', lambda descriptor: events.append(os.readlink(f'/proc/self/fd/{descriptor}')))
    kept = checkpoint.Checkpoints(tmp_path)
    remove = kept.remove
    monkeypatch.setattr(kept, 'remove', lambda epoch: (events.append(epoch), remove(epoch)))
    for epoch, loss in enumerate([0.5, 0.6, 0.4], start=1):
        kept.save(epoch, some.model, some.optimizer, {}, loss)
    synced = events[: events.index(1)]
    written = {str(path) for path in (tmp_path / 'checkpoints/3').rglob('*')}
    assert written <= set(synced) and str(tmp_path / 'checkpoints') in synced


@pytest.mark.parametrize('epoch', [1, 3])
def test_a_full_disk_is_reported_before_anything_is_written(two_epochs, tmp_path, monkeypatch, epoch):
    """`epoch`: 1, the first of a new run; 3, after two good ones."""
    source, some = two_epochs
    if epoch == 3:
        shutil.copytree(source, tmp_path / 'run')
    kept = checkpoint.Checkpoints(tmp_path / 'run')
    before = kept.epochs()
    monkeypatch.setattr(shutil, 'disk_usage', lambda path: SimpleNamespace(free=900_000))
    with pytest.raises(WriteError) as raised:
        kept.save(epoch, some.model, some.optimizer, {}, 0.5)
    assert f'checkpoints/{epoch}: 1.' in str(raised.value)
    assert ' MB are needed and 0.9 MB are free' in str(raised.value)
    assert kept.epochs() == before
    monkeypatch.undo()
    kept.save(epoch, some.model, some.optimizer, {}, 0.5)  # space was made
    assert kept.latest() == epoch


@pytest.mark.parametrize(
    'error', [ValueError('RESOURCE_EXHAUSTED: Error writing\nand more'), OSError(30, 'Read-only file system')]
)
def test_what_a_disk_refuses_is_reported_in_a_sentence(two_epochs, tmp_path, monkeypatch, error):
    source, some = two_epochs
    kept = checkpoint.Checkpoints(shutil.copytree(source, tmp_path / 'run'))

    def refuse(*arguments, **options):
        raise error

    monkeypatch.setattr(kept._manager, 'save', refuse)
    reason = 'Read-only file system' if isinstance(error, OSError) else 'RESOURCE_EXHAUSTED: Error writing'
    with pytest.raises(WriteError, match=f'checkpoints/3: {reason}$'):
        kept.save(3, some.model, some.optimizer, {}, 0.5)
