"""Endless fresh hands: nothing on disk, every training picture rendered inside the training step.

The host ships the pictures' numbers; `expand`, inside jit, makes a batch (see preprocess.py) of them.
"""

from collections.abc import Iterator

import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from hpe_jax import geometry
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
        start = first * steps * batch_size
        while True:
            yield {'number': np.arange(start, start + batch_size)}
            start += batch_size

    def expand(self, batch: dict) -> dict:
        """Numbers to photos and labels; other batches pass through."""
        if 'number' not in batch:
            return batch
        hands = self._render(batch['number'])
        keypoints = hands.uv / jnp.float32(self._size)
        return {
            'image': hands.image,
            'keypoints': keypoints,
            'visible': geometry.inside_frame(keypoints),
            'mask': jnp.ones(len(keypoints), bool),
        }
