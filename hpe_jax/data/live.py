"""Fresh hands: nothing on disk, every training image rendered where it is trained on.

The host ships the images' numbers; `expand`, inside jit, makes a batch (see preprocess.py) of them. Or `pool` renders
as many hands as fit into the device's memory before training, which then takes them as those of any resident split.
"""

from collections.abc import Callable, Iterator
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int
from ml_collections import ConfigDict

from hpe_jax import geometry, runtime, sharding
from hpe_jax.data import prepared
from hpe_jax.data.synthetic_hands import generate
from hpe_jax.errors import UserError

SEEDS = 1 << 20  # prepared sets have small seeds; a live stream must never meet their images


class Live:
    """The training source of `config.data.source = 'live'`.

    Args:
      data: config.data; of its own are `live_preset`, presets of the renderer and their weights, and `live_batch`, how
        many images are rendered side by side (1 on a CPU, where nothing is gained from more).
      seed: the run's; an image is a pure function of (seed, preset, number), and each number comes once.

    Raises:
      UserError: there is no such preset.
    """

    def __init__(self, data: ConfigDict, seed: int):
        self._renderers, self._weights = {}, []
        for name, weight in prepared.weighted(data.live_preset, 'live_preset'):
            if name not in generate.PRESETS:
                raise UserError(
                    f'config.data.live_preset={data.live_preset!r}: {name!r} is unknown; choose from '
                    f'{", ".join(generate.PRESETS)}'
                )
            self._renderers[name] = generate.renderer(name, SEEDS + seed, data.image_size, data.live_batch)
            self._weights.append(weight)
        self._size, self._side_by_side = data.image_size, data.live_batch

    def epochs(self, seed: int, first: int, steps: int, batch_size: int) -> Iterator[dict]:
        """Endless batches of numbers, `steps` per epoch, from epoch `first` on."""
        start, local = first * steps * batch_size, sharding.local_slice(batch_size)
        while True:
            yield sharding.shard({'number': np.arange(start, start + batch_size)[local]})
            start += batch_size

    def expand(self, batch: dict) -> dict:
        """Numbers to images and labels; other batches pass through.

        Every device renders its own: of a loop over images XLA would have each device do the whole. Of these each
        preset makes its weight's fraction, to the next whole image.
        """
        return _on_each_device(self._batch)(batch['number']) if 'number' in batch else batch

    def _batch(self, numbers: Int[jax.Array, ' b']) -> dict:
        ends = prepared.ends(self._weights, len(numbers))
        drawn = [
            self._examples(render, numbers[first:end])
            for render, first, end in zip(self._renderers.values(), (0, *ends[:-1]), ends, strict=True)
            if end > first
        ]
        return jax.tree.map(lambda *arrays: jnp.concatenate(arrays), *drawn)

    def _examples(self, render: Callable, numbers: Int[jax.Array, ' b']) -> dict:
        hands = render(numbers)
        keypoints = hands.uv / jnp.float32(self._size)
        return {
            'image': hands.image,
            'keypoints': keypoints,
            'visible': geometry.inside_frame(keypoints),
            'mask': jnp.ones(len(keypoints), bool),
        }

    def pool(self, number: int) -> prepared.Split:
        """The hands 0 to `number` - 1, of each preset its weight's fraction, one preset after the other."""
        together = self._side_by_side * sharding.mesh().size
        ends = prepared.ends(self._weights, number).tolist()
        local = sharding.local_slice(together)
        batches, names = [], []
        for (preset, render), first, end in zip(self._renderers.items(), (0, *ends[:-1]), ends, strict=True):
            draw = jax.jit(_on_each_device(partial(self._examples, render)), out_shardings=sharding.replicated())
            for start in range(first, end, together):
                numbers = sharding.shard({'number': np.arange(start, start + together)[local]})['number']
                batches.append((slice(start, min(start + together, end)), draw(numbers)))
            names += [f'{preset} {i}' for i in range(first, end)]
        images = np.empty((number, self._size, self._size, 3), np.uint8)
        keypoints = np.empty((number, 21, 2), np.float32)
        with runtime.Progress(number, 'hand', 'Rendering hands') as bar:
            while batches:  # which the device may still be rendering
                where, batch = batches.pop(0)
                images[where] = np.asarray(batch['image'])[: where.stop - where.start]
                keypoints[where] = np.asarray(batch['keypoints'])[: where.stop - where.start]
                bar.update(where.stop - where.start)
        return prepared.Split(images, keypoints, None, np.array(names, str))


def _on_each_device(function: Callable) -> Callable:
    """A function of a batch, of which each device computes its own part."""
    spec = sharding.split().spec
    return jax.shard_map(function, mesh=sharding.mesh(), in_specs=spec, out_specs=spec, check_vma=False)
