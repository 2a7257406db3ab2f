from itertools import islice
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import tiny
from hpe_jax import configuration, report, train
from hpe_jax.data import live, resident
from hpe_jax.data.synthetic_hands import generate
from hpe_jax.errors import UserError

pytestmark = pytest.mark.slow


@pytest.fixture
def asked(monkeypatch):
    """Makes the renderer quick, and tells what it was asked for.

    Image n is grey n, and greener of 'open'; its keypoints lie at (n, n / 2).
    """
    asked = []

    def renderer(preset, seed, size, side_by_side):
        asked.append((preset, seed, size, side_by_side))

        def render(numbers):
            numbers = jnp.asarray(numbers)
            image = jnp.broadcast_to(numbers[:, None, None, None], (len(numbers), size, size, 3)).astype(jnp.uint8)
            image = image.at[..., 1].add(100 * (preset == 'open'))
            uv = jnp.broadcast_to(numbers[:, None, None] * jnp.array([[[1.0, 0.5]]]), (len(numbers), 21, 2))
            return SimpleNamespace(image=image, uv=uv)

        return render

    monkeypatch.setattr(generate, 'renderer', renderer)
    return asked


def data(**changes):
    data = tiny.get_config().data
    data.update(source='live', **changes)
    return data


@pytest.fixture
def source(asked):
    made = live.Live(data(), seed=3)
    assert asked == [('full', live.SEEDS + 3, 32, 1)]
    return made


def test_every_number_comes_once_and_a_run_can_go_on_at_any_epoch(source):
    numbers = [batch['number'].tolist() for batch in islice(source.epochs(0, 0, steps=3, batch_size=2), 9)]
    assert sum(numbers, []) == list(range(18))
    again = [batch['number'].tolist() for batch in islice(source.epochs(0, 2, steps=3, batch_size=2), 3)]
    assert again == numbers[6:]


def test_expand_makes_a_batch_inside_jit(source):
    batch = jax.jit(source.expand)({'number': np.array([8, 16, 40])})
    assert batch['image'].dtype == jnp.uint8 and batch['image'][:, 0, 0, 0].tolist() == [8, 16, 40]
    np.testing.assert_allclose(batch['keypoints'][:, 0], [[0.25, 0.125], [0.5, 0.25], [1.25, 0.625]])
    assert batch['visible'].all(1).tolist() == [True, True, False] and batch['mask'].all()


def test_a_batch_from_disk_passes_through(source):
    batch = {'image': np.zeros((2, 32, 32, 3), np.uint8)}
    assert source.expand(batch) is batch


MIXED = 'presence:3, open:2'


def test_each_preset_makes_its_fraction_of_a_batch(asked):
    source = live.Live(data(live_preset=MIXED, live_batch=4), seed=3)
    assert asked == [(preset, live.SEEDS + 3, 32, 4) for preset in ('presence', 'open')]
    batch = jax.jit(source.expand)({'number': np.arange(7)})
    assert batch['image'][:, 0, 0].tolist() == [[n, n + 100 * (n >= 4), n] for n in range(7)]
    one = jax.jit(source.expand)({'number': np.array([5])})
    assert one['image'][0, 0, 0].tolist() == [5, 5, 5]


@pytest.mark.parametrize('number', [1, 10, 13])
def test_a_pool_is_a_split_of_the_first_hands(asked, number):
    split = live.Live(data(live_preset=MIXED, live_batch=4), seed=3).pool(number)
    of_presence = round(number * 3 / 5)
    assert len(split) == number and split.photos.dtype == np.uint8
    assert split.photos[:, 0, 0].tolist() == [[n, n + 100 * (n >= of_presence), n] for n in range(number)]
    np.testing.assert_array_equal(
        split.keypoints[:, 0], np.float32(np.arange(number))[:, None] / np.float32([[32, 64]])
    )
    assert split.names[-1] == f'open {number - 1}' if number > 1 else 'presence 0'
    assert split.visible.all() and split.left is None


@pytest.mark.parametrize(
    ('preset', 'message'),
    [('ful', "live_preset='ful': 'ful' is unknown; choose from studio, full"), ('full:-1', 'the weight of full must')],
)
def test_wrong_presets_are_named(preset, message):
    with pytest.raises(UserError, match=message):
        live.Live(data(live_preset=preset), seed=0)


def test_training_on_a_pool_is_that_on_resident_images(asked, tmp_path, freihand_like, monkeypatch):
    """Through the real loop, step by step and an epoch in one call, to the same losses."""
    monkeypatch.setattr(
        report, 'write', lambda config, workdir, model, checkpoints, history, data: {'history': history}
    )
    config = tiny.get_config()
    config.data.update(source='live', live_pool=12, live_preset=MIXED, live_batch=4)
    config.data.update(manual_dir=str(freihand_like), data_dir=str(tmp_path / 'data'))
    config.train.update(epochs=2, steps_per_epoch=2)
    losses = []
    for scan in (False, True):
        config.train.scan_epochs = scan
        history = train.train_and_evaluate(config, tmp_path / str(scan))['history']
        losses.append([record['train_loss'] for record in history])
    np.testing.assert_allclose(*losses, rtol=1e-4)


def test_a_stream_cannot_be_scanned():
    config = tiny.get_config()
    config.data.source, config.train.scan_epochs = 'live', True
    with pytest.raises(UserError, match='scan_epochs: the photos must lie on the device'):
        configuration.check(config)
    config.data.live_pool = 10
    configuration.check(config)


def test_a_pool_that_does_not_fit_is_refused_in_a_sentence(monkeypatch):
    monkeypatch.setattr(resident, 'free_memory', lambda: 1_000_000)
    with pytest.raises(UserError, match='lower config.data.image_size or config.data.live_pool$'):
        resident.check_fits(1000, 32, ' or config.data.live_pool')
