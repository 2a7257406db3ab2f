from itertools import islice
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import tiny
from hpe_jax.data import live
from hpe_jax.data.synthetic_hands import generate

pytestmark = pytest.mark.slow


@pytest.fixture
def source(monkeypatch):
    """A live source with a renderer that is quick: picture n is grey n, its keypoints lie at n pixels."""
    asked = []

    def renderer(preset, seed, size, side_by_side):
        asked.append((preset, seed, size, side_by_side))

        def render(numbers):
            numbers = jnp.asarray(numbers)
            image = jnp.broadcast_to(numbers[:, None, None, None], (len(numbers), size, size, 3)).astype(jnp.uint8)
            uv = jnp.broadcast_to(numbers[:, None, None], (len(numbers), 21, 2)).astype(jnp.float32)
            return SimpleNamespace(image=image, uv=uv)

        return render

    monkeypatch.setattr(generate, 'renderer', renderer)
    config = tiny.get_config().data
    config.source = 'live'
    made = live.Live(config, seed=3)
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
    np.testing.assert_allclose(batch['keypoints'][:, 0], [[0.25, 0.25], [0.5, 0.5], [1.25, 1.25]])
    assert batch['visible'].all(1).tolist() == [True, True, False] and batch['mask'].all()


def test_a_batch_from_disk_passes_through(source):
    batch = {'image': np.zeros((2, 32, 32, 3), np.uint8)}
    assert source.expand(batch) is batch
