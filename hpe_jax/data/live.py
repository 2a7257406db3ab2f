"""Endless fresh hands: nothing on disk, every training picture rendered inside the training step.

The host ships the pictures' numbers; `expand`, inside jit, makes a batch (see preprocess.py) of them.
"""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int
from ml_collections import ConfigDict

from hpe_jax import geometry, sharding
from hpe_jax.data.synthetic_hands import generate

SEEDS = 1 << 20  # prepared sets have small seeds; a live stream must never meet their pictures


class Live:
    """The training source of `config.data.source = 'live'`.

    Args:
      data: config.data; of its own are `live_preset`, a preset of the renderer, and `live_batch`, how many pictures are
        rendered side by side (1 on a CPU, where nothing is gained from more).
      seed: the run's; a picture is a pure function of (seed, number), and each number comes once.
    """

    def __init__(self, data: ConfigDict, seed: int):
        self._render = generate.renderer(data.live_preset, SEEDS + seed, data.image_size, data.live_batch)
        self._size = data.image_size

    def epochs(self, seed: int, first: int, steps: int, batch_size: int) -> Iterator[dict]:
        """Endless batches of numbers, `steps` per epoch, from epoch `first` on."""
        start, local = first * steps * batch_size, sharding.local_slice(batch_size)
        while True:
            yield sharding.shard({'number': np.arange(start, start + batch_size)[local]})
            start += batch_size

    def expand(self, batch: dict) -> dict:
        """Numbers to photos and labels; other batches pass through.

        Every device renders its own: of a loop over pictures XLA would have each device do the whole.
        """
        if 'number' not in batch:
            return batch
        spec = sharding.split().spec
        render = jax.shard_map(self._batch, mesh=sharding.mesh(), in_specs=spec, out_specs=spec, check_vma=False)
        return render(batch['number'])

    def _batch(self, numbers: Int[jax.Array, ' b']) -> dict:
        hands = self._render(numbers)
        keypoints = hands.uv / jnp.float32(self._size)
        return {
            'image': hands.image,
            'keypoints': keypoints,
            'visible': geometry.inside_frame(keypoints),
            'mask': jnp.ones(len(keypoints), bool),
        }
