"""How many examples a second the tf.data pipeline makes, with and without heatmaps, from JPEG and from the cache.

    python -m experiments.benchmark_input [--dataset=synthetic_hands/studio] [--output=FILE.json]

All photos of the dataset (224x224 JPEG), resized to 128x128, in batches of 48; medians of several passes, the ways
taking turns. 'jpeg' decodes every photo on the way: an epoch, the first and any other, with config.data.cache = False.
'filling the cache' is the one pass that config.data.cache = True makes before training; 'cache' are the epochs after.
"""

import os
import statistics
import sys
import time

from absl import app, flags

from configs import unet
from hpe_jax import files, logbook
from hpe_jax.data import prepared, sources
from hpe_jax.errors import UserError

DATASET = flags.DEFINE_string('dataset', 'synthetic_hands/studio', 'As config.data.dataset.')
DATA_DIR = flags.DEFINE_string('data_dir', 'runs/tensorflow_datasets', 'As config.data.data_dir.')
PASSES = flags.DEFINE_integer('passes', 5, 'Passes over them; the median counts.')
OUTPUT = flags.DEFINE_string('output', '', 'Also write the numbers to this JSON file.')


def rate(batches, batch_size: int) -> float:
    """Examples a second over all batches of an iterator, its start included."""
    began, num_examples = time.perf_counter(), 0
    for _ in batches:
        num_examples += batch_size
    return num_examples / (time.perf_counter() - began)


def measure(photos: prepared.Split, config) -> dict[str, list[float]]:
    """Rates of every pass, by what was measured; the ways take turns, so that a slow moment hits all of them."""
    from hpe_jax.data import pipeline  # TensorFlow takes seconds to import, and may be absent

    size, batch_size = config.data.image_size, config.train.batch_size
    began = time.perf_counter()
    cached = pipeline.cache(photos, size)
    rates = {'filling the cache': [len(photos) / (time.perf_counter() - began)]}
    for _ in range(PASSES.value):
        for source, split in (('jpeg', photos), ('cache', cached)):
            for targets in ('host', 'device'):
                config.data.targets = targets
                batches = pipeline.Pipeline(split, config.data, config.heatmap).once(batch_size)
                name = f'{source}, {"with heatmaps" if targets == "host" else "uint8 photos and keypoints"}'
                rates.setdefault(name, []).append(rate(batches, batch_size))
    return rates


def main(_) -> None:
    config = unet.get_config()
    config.data.update(dataset=DATASET.value, data_dir=DATA_DIR.value)
    sources.check_installed(config)
    photos = prepared.load(prepared.open_dataset(config.data), 'train+validation+test')
    rates = measure(photos, config)
    device = f'{os.cpu_count()} cores, {logbook.processor()}, load {os.getloadavg()[0]:.1f} at the end'
    print(f'{len(photos)} photos of {DATASET.value} to {config.data.image_size}x{config.data.image_size}, {device}\n')
    print('| examples a second | median | lowest | highest |\n| --- | ---: | ---: | ---: |')
    for name, values in rates.items():
        print(f'| {name} | {statistics.median(values):.0f} | {min(values):.0f} | {max(values):.0f} |')
    if OUTPUT.value:
        record = {'device': device, 'dataset': DATASET.value, 'photos': len(photos), 'rates': rates}
        files.write_json(OUTPUT.value, record)


if __name__ == '__main__':
    try:
        app.run(main)
    except UserError as e:
        sys.exit(f'error: {e}')
