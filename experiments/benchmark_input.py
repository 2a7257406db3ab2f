"""How many examples a second the tf.data pipeline makes, with and without heatmaps, from JPEG and from the cache.

    python -m experiments.benchmark_input [--photos=2000] [--output=FILE.json]

It draws its own 224x224 photos (28 KB each at JPEG quality 90; FreiHAND's are 10 to 40 KB), resizes to 128 and reports
the median of several passes. 'jpeg' decodes every photo on the way, which is also what the first epoch costs with
config.data.cache = False; 'filling the cache' is the one pass that config.data.cache = True makes before training.
"""

import json
import os
import platform
import statistics
import tempfile
import time

from absl import app, flags

from configs import unet
from hpe_jax import files
from hpe_jax.data import drawn_hands, pipeline, prepared

PHOTOS = flags.DEFINE_integer('photos', 2000, 'Number of photos.')
PASSES = flags.DEFINE_integer('passes', 5, 'Passes over them; the median counts.')
OUTPUT = flags.DEFINE_string('output', '', 'Also write the numbers to this JSON file.')


def rate(batches, batch_size: int) -> float:
    """Examples a second over all batches of an iterator, its start included."""
    began, number = time.perf_counter(), 0
    for _ in batches:
        number += batch_size
    return number / (time.perf_counter() - began)


def measure(photos: prepared.Split, config, mean, std) -> dict[str, list[float]]:
    """Rates of every pass, by what was measured; the ways take turns, so that a slow moment hits all of them."""
    size, batch_size = config.data.image_size, config.train.batch_size
    began = time.perf_counter()
    cached = pipeline.cache(photos, size)
    rates = {'filling the cache': [len(photos) / (time.perf_counter() - began)]}
    for _ in range(PASSES.value):
        for source, split in (('jpeg', photos), ('cache', cached)):
            for targets in ('host', 'device'):
                config.data.targets = targets
                batches = pipeline.Pipeline(split, config.data, config.heatmap, mean, std).once(batch_size)
                name = f'{source}, {"with heatmaps" if targets == "host" else "uint8 photos and keypoints"}'
                rates.setdefault(name, []).append(rate(batches, batch_size))
    return rates


def main(_) -> None:
    config = unet.get_config()
    with tempfile.TemporaryDirectory() as folder:
        config.data.manual_dir = str(drawn_hands.write(f'{folder}/photos', PHOTOS.value))
        config.data.data_dir = f'{folder}/tfds'
        photos = prepared.load(prepared.open_dataset(config.data), 'train+validation+test')
    rates = measure(photos, config, (0.5,) * 3, (0.25,) * 3)
    device = f'{os.cpu_count()} cores, {platform.machine()}, load {os.getloadavg()[0]:.1f} at the end'
    print(f'{len(photos)} photos to {config.data.image_size}x{config.data.image_size}, {device}\n')
    print('| examples a second | median | lowest | highest |\n| --- | ---: | ---: | ---: |')
    for name, values in rates.items():
        print(f'| {name} | {statistics.median(values):.0f} | {min(values):.0f} | {max(values):.0f} |')
    if OUTPUT.value:
        files.write_text(OUTPUT.value, json.dumps({'device': device, 'photos': len(photos), 'rates': rates}) + '\n')


if __name__ == '__main__':
    app.run(main)
