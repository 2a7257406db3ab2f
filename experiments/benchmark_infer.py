"""Inference, ours against the PyTorch baseline, in turns on one device: latency at batch 1, photos a second at more.

    python -m experiments.benchmark_infer [--output=FILE.json] [--only=REGEX]                     (pip install torch)

'network' is photos as floats to heatmaps, on the device. 'file to keypoints', ours alone, is all that hpe_jax.predict
does: a JPEG of 640 x 480 read, cropped, resized, normalised, through the network, decoded, in pixels of the photo;
'refined once', its default, crops again around what was found and looks once more. 'searched for hands' is what the
shipped model does to a whole photo without a box; here it shows none, and the best windows are looked into all the
same. The implementations are those of implementations.py.
"""

import re
import statistics
import sys

from absl import app, flags

from experiments import implementations
from hpe_jax import files
from hpe_jax.errors import UserError

SEARCH = 'shipped model: file searched for hands'

SECONDS = flags.DEFINE_float('seconds', 2, 'How long each is measured at each batch size in a round.')
TURNS = flags.DEFINE_integer('turns', 2, 'How often each has its turn.')
NETWORK = flags.DEFINE_enum('network', 'unet', implementations.NETWORKS, 'Which network both sides have.')
SIZE = flags.DEFINE_integer('image_size', 128, 'The side of the photos, pixels.')
ONLY = flags.DEFINE_string('only', '', 'Only implementations whose names this regular expression finds.')
OUTPUT = flags.DEFINE_string('output', '', 'Also write all numbers to this JSON file.')
BATCH_SIZES = flags.DEFINE_multi_integer('at', [1, 8, 48, 64, 256], 'Batch sizes.')


def search(num_photos: int) -> float:
    """Median seconds."""
    from hpe_jax import HandPoseEstimator

    estimator, photos = HandPoseEstimator(), num_photos * [implementations.photo_file()]
    return statistics.median(implementations.calls(lambda: estimator.detect(photos), SECONDS.value))


def main(_) -> None:
    environment, gpu = implementations.describe()
    settings = {
        'network': NETWORK.value,
        'size': SIZE.value,
        'batch_size': 1,
        'gpu': gpu,
        'dataset': '',
        'data_dir': '',
    }
    wanted = implementations.chosen(gpu, ONLY.value)
    wanted = {name: spec for name, spec in wanted.items() if 'xla' not in name}  # which differs in gradients alone
    seconds, failed = {}, {}
    for _ in range(TURNS.value):
        for name, spec in wanted.items():  # one at a time: at batch 256 their memories together are too much
            running, broken = implementations.start(settings, {name: spec}, 'infer', 'network', 1, 0.0)
            failed |= broken
            for implementation in running.values():
                for what in ('network',) if 'torch' in spec else ('network', *implementations.LOOKS):
                    by_size = seconds.setdefault(f'{name}: {what}', {n: [] for n in BATCH_SIZES.value})
                    for n, values in by_size.items():
                        values.append(statistics.median(implementation('infer', what, n, SECONDS.value)))
                implementation()
    if re.search(ONLY.value, SEARCH):
        seconds[SEARCH] = {n: [search(n)] for n in BATCH_SIZES.value}
    medians = {name: {n: statistics.median(v) for n, v in turns.items()} for name, turns in seconds.items()}
    print('| | ms at batch 1 |' + ''.join(f' photos a second at {n} |' for n in BATCH_SIZES.value))
    print('| --- | ---: |' + ' ---: |' * len(BATCH_SIZES.value))
    for name, by_size in medians.items():
        rates = ''.join(f' {n / by_size[n]:.0f} |' for n in BATCH_SIZES.value)
        print(f'| {name} | {1e3 * by_size[1]:.2f} |{rates}')
    if OUTPUT.value:
        record = {**environment, 'settings': settings, 'seconds': seconds, 'failed': failed}
        files.write_json(OUTPUT.value, record)


if __name__ == '__main__':
    try:
        app.run(main)
    except UserError as e:
        sys.exit(f'error: {e}')
