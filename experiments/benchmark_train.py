"""The training step and whole epochs, ours against a PyTorch baseline of the reference, taking turns on one device.

    python -m experiments.benchmark_train [--output=FILE.json] [--only=REGEX] [--rounds=9]        (pip install torch)

Step: the same batch (48 photos of 128x128, normalised, with their heatmaps) lies on the device; medians of a round's
mean. Epoch: from the photos on; ours by the resident source, PyTorch's by a DataLoader with a worker a core.
"""

import os
import statistics
import sys

from absl import app, flags

from experiments import implementations
from hpe_jax import files
from hpe_jax.errors import UserError

ROUNDS = flags.DEFINE_integer('rounds', 9, 'How often each has its turn.')
STEPS = flags.DEFINE_integer('steps', 0, 'Steps a turn; 0: one on a CPU, 20 on a GPU.')
EPOCH = flags.DEFINE_integer('epoch_steps', 0, 'Steps an epoch; 0: 4 on a CPU, 50 on a GPU.')
EPOCHS = flags.DEFINE_integer('epochs', 5, 'How many epochs are timed.')
BATCH = flags.DEFINE_integer('batch_size', 48, 'Photos a step.')
NETWORK = flags.DEFINE_enum('network', 'unet', implementations.NETWORKS, 'Which network both sides train.')
SIZE = flags.DEFINE_integer('image_size', 128, 'Their side, pixels.')
ONLY = flags.DEFINE_string('only', '', 'Only implementations whose names this regular expression finds.')
DATASET = flags.DEFINE_string('dataset', 'synthetic_hands/studio', 'Of the epochs; as config.data.dataset.')
DATA_DIR = flags.DEFINE_string('data_dir', 'runs/tensorflow_datasets', 'As config.data.data_dir.')
OUTPUT = flags.DEFINE_string('output', '', 'Also write all numbers to this JSON file.')


def main(_) -> None:
    os.environ.setdefault('XLA_PYTHON_CLIENT_PREALLOCATE', 'false')  # the implementations share a GPU
    environment, gpu = implementations.describe()
    settings = {'network': NETWORK.value, 'size': SIZE.value, 'batch_size': BATCH.value, 'gpu': gpu}
    settings |= {'dataset': DATASET.value, 'data_dir': DATA_DIR.value}
    running, failed = implementations.start(settings, implementations.chosen(gpu, ONLY.value), 'turn', 3)
    steps, epoch_steps = STEPS.value or (20 if gpu else 1), EPOCH.value or (50 if gpu else 4)
    seconds = {name: [] for name in running}
    for _ in range(ROUNDS.value):
        for name, implementation in running.items():
            seconds[name].append(implementation('turn', steps))
    epochs = {name: [] for name in running}
    for epoch in range(EPOCHS.value + 1):
        for name, implementation in running.items():
            taken = implementation('epoch', epoch_steps, epoch)
            epochs[name] += [taken] if epoch else []  # the first fills caches and starts workers
    facts = running['ours']('facts') if 'ours' in running else {}
    peaks = {name: implementation() for name, implementation in running.items()}
    record = {**environment, 'settings': settings, 'rounds': ROUNDS.value, 'steps': steps, 'epoch_steps': epoch_steps}
    record |= {'step_seconds': seconds, 'epoch_seconds': epochs, 'peak_bytes': peaks, 'facts': facts, 'failed': failed}
    print(table(record))
    if OUTPUT.value:
        files.write_json(OUTPUT.value, record)


def table(record: dict) -> str:
    """Markdown: medians, ratios to 'ours', peaks; then the roofline."""
    medians = {name: statistics.median(values) for name, values in record['step_seconds'].items()}
    ours, batch_size = medians.get('ours'), record['settings']['batch_size']
    lines = [
        '| | a step, ms | ours / it | images a second, whole epochs | peak memory, GB |',
        '| --- |' + ' ---: |' * 4,
    ]
    for name, median in medians.items():
        ratio = f'{ours / median:.2f}' if ours else ''
        rate = batch_size * record['epoch_steps'] / statistics.median(record['epoch_seconds'][name])
        peak = record['peak_bytes'][name] / 1e9
        lines.append(f'| {name} | {1e3 * median:.1f} | {ratio} | {rate:.1f} | {peak:.2f} |')
    if ours and (facts := record['facts']):
        speed, traffic = facts['flops'] / ours, facts['bytes'] / ours
        lines.append(
            f'\nOurs: {facts["flops"] / 1e9:.0f} GFLOP of convolutions a step at {speed / 1e9:.0f} GFLOP/s, '
            f'{speed / facts["ceiling_flops_per_s"]:.0%} of what a matrix product reaches here '
            f"({facts['ceiling_flops_per_s'] / 1e9:.0f}); by XLA's count {facts['bytes'] / 1e9:.1f} GB at "
            f'{traffic / 1e9:.1f} GB/s, {traffic / facts["ceiling_bytes_per_s"]:.0%} of what copying reaches '
            f'({facts["ceiling_bytes_per_s"] / 1e9:.1f}).'
        )
    return '\n'.join(lines)


if __name__ == '__main__':
    try:
        app.run(main)
    except UserError as e:
        sys.exit(f'error: {e}')
