"""Memory of training on a full-size resident set: by arithmetic, and as it is.

    python -m experiments.benchmark_memory [--photos=32560] [--batch_size=48] [--image_size=128] [--output=FILE.json]

The photos are black, lie in a file that is mapped, as resident.py keeps them, and are trained on by real steps of the
reference recipe. On a GPU the device's own peak is reported, on a CPU that of the process, above what it had before.
"""

import os
import resource
import tempfile

import jax
import numpy as np
from absl import app, flags
from flax import nnx

from configs import unet
from hpe_jax import files, logbook, train
from hpe_jax.data import prepared, resident

PHOTOS = flags.DEFINE_integer('photos', 32_560, 'How many; FreiHAND raw has 32,560, with all colourings 130,240.')
SIZE = flags.DEFINE_integer('image_size', 128, 'Their side, pixels.')
BATCH = flags.DEFINE_integer('batch_size', 48, 'Photos a step.')
OUTPUT = flags.DEFINE_string('output', '', 'Also write the numbers to this JSON file.')


def black_split(path: str, num_images: int, size: int) -> prepared.Split:
    """Black photos, in a file that is mapped."""
    np.lib.format.open_memmap(path, 'w+', np.uint8, (num_images, size, size, 3)).flush()
    keypoints, xyz = np.full((num_images, 21, 2), 0.5, np.float32), np.zeros((num_images, 21, 3), np.float32)
    names = np.arange(num_images).astype(str)
    return prepared.Split(np.load(path, mmap_mode='r'), keypoints, xyz, names)


def in_use() -> int:
    """Bytes, at the peak so far: of the first device; where it is the CPU, of what the process alone holds."""
    stats = jax.local_devices()[0].memory_stats()
    if stats:
        return stats['peak_bytes_in_use']
    with open('/proc/self/status') as status:
        mapped = next(int(line.split()[1]) for line in status if line.startswith('RssFile'))
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - mapped) * 1024


def main(_) -> None:
    config = unet.get_config()
    config.data.update(image_size=SIZE.value, source='resident')
    config.train.batch_size = BATCH.value
    with tempfile.TemporaryDirectory(dir='runs' if os.path.isdir('runs') else None) as folder:
        split = black_split(f'{folder}/photos.npy', PHOTOS.value, SIZE.value)
        graphdef, state = nnx.split(train.TrainState(config))
        step = train.make_train_step(config, graphdef, resident.Resident.expand)
        before = in_use()
        source = resident.Resident(split)
        jax.block_until_ready(source.arrays)
        with_photos = in_use()
        batches = source.epochs(0, 0, 5, BATCH.value)
        step_needs = step.lower(state, next(batches)).compile().memory_analysis().temp_size_in_bytes
        for _ in range(5):
            state, loss = step(state, next(batches))
        loss.block_until_ready()
        after = in_use()
    photos = PHOTOS.value * (3 * SIZE.value**2 + 21 * 9)
    record = {
        **logbook.environment(),
        'photos': PHOTOS.value,
        'arithmetic_bytes': {'photos': photos, 'step, by XLA': step_needs, 'together': photos + step_needs},
        'measured_bytes': {'before': before, 'photos': with_photos - before, 'photos and training': after - before},
    }
    for what in ('arithmetic_bytes', 'measured_bytes'):
        print(what, {name: f'{value / 1e9:.2f} GB' for name, value in record[what].items()})
    if OUTPUT.value:
        files.write_json(OUTPUT.value, record)


if __name__ == '__main__':
    app.run(main)
