"""Inference, ours against the PyTorch twin, taking turns on one device: latency at batch 1, photos a second at more.

    python -m experiments.benchmark_infer [--output=FILE.json] [--only=REGEX]                     (pip install torch)

'network' is photos as floats to heatmaps, on the device. 'photo to keypoints', ours alone, is uint8 photos, normalised,
through the network, decoded. The contenders are those of benchmark_train.
"""

import re
import statistics

from absl import app, flags

from experiments import benchmark_train
from hpe_jax import files

SECONDS = flags.DEFINE_float('seconds', 2, 'How long each is measured at each batch size in a round.')
TURNS = flags.DEFINE_integer('turns', 2, 'How often each has its turn.')
BATCH_SIZES = flags.DEFINE_multi_integer('at', [1, 8, 48, 64, 256], 'Batch sizes.')


def main(_) -> None:
    surroundings, gpu = benchmark_train.describe()
    settings = {'size': benchmark_train.SIZE.value, 'batch_size': 1, 'gpu': gpu, 'dataset': '', 'data_dir': ''}
    specs = benchmark_train.GPU if gpu else benchmark_train.CPU
    wanted = {name: spec for name, spec in specs.items() if re.search(benchmark_train.ONLY.value, name)}
    wanted = {name: spec for name, spec in wanted.items() if 'xla' not in name}  # which differs in gradients alone
    seconds, failed = {}, {}
    for _ in range(TURNS.value):
        for name, spec in wanted.items():  # one at a time: at batch 256 their memories together are too much
            running, broken = benchmark_train.start(settings, {name: spec}, 'infer', 'network', 1, 0.0)
            failed |= broken
            for contender in running.values():
                for what in ('network', 'photo to keypoints')[: 1 if 'torch' in spec else 2]:
                    by_size = seconds.setdefault(f'{name}: {what}', {n: [] for n in BATCH_SIZES.value})
                    for n, values in by_size.items():
                        values.append(statistics.median(contender('infer', what, n, SECONDS.value)))
                contender()
    medians = {name: {n: statistics.median(v) for n, v in turns.items()} for name, turns in seconds.items()}
    print('| | ms at batch 1 |' + ''.join(f' photos a second at {n} |' for n in BATCH_SIZES.value))
    print('| --- | ---: |' + ' ---: |' * len(BATCH_SIZES.value))
    for name, by_size in medians.items():
        rates = ''.join(f' {n / by_size[n]:.0f} |' for n in BATCH_SIZES.value)
        print(f'| {name} | {1e3 * by_size[1]:.2f} |{rates}')
    if benchmark_train.OUTPUT.value:
        record = {**surroundings, 'settings': settings, 'seconds': seconds, 'failed': failed}
        files.write_json(benchmark_train.OUTPUT.value, record)


if __name__ == '__main__':
    app.run(main)
