"""How long a data set of FreiHAND's full size takes from its folder to the first batch, and what memory.

    python -m experiments.benchmark_freihand [--photos=130240] [--source=resident] [--output=FILE.json]

The stand-in has FreiHAND's layout and number of files, but shows the same 480 rendered hands again and again: what it
costs to read, check, copy, decode and resize a photo is that of other photos. 'preparing' is TFDS' copy, made in one
pass on all cores that checks each photo, sums its channels and, for the resident source, crops it and keeps the crop;
'first start' is what the first training waits for then; 'second start' what every later one waits for. Folder and copy
are deleted at the end.
"""

import argparse
import json
import os
import resource
import sys
import tempfile
import time
from pathlib import Path

from absl import logging

from configs import unet
from hpe_jax import files, logbook
from hpe_jax.data import prepared, sources
from hpe_jax.data.synthetic_hands import generate
from hpe_jax.errors import UserError

RENDERED = 480
VERSIONS = 4  # of each photo of FreiHAND


def stand_in(folder: Path, num_photos: int) -> Path:
    """FreiHAND's training half: labels of a quarter of the photos, and links to rendered hands as photos."""
    rendered = generate.write(folder / 'rendered', RENDERED)
    root = folder / 'freihand'
    (root / 'training/rgb').mkdir(parents=True)
    for i in range(num_photos):
        os.link(rendered / f'training/rgb/{i % RENDERED:08d}.jpg', root / f'training/rgb/{i:08d}.jpg')
    for name in ('xyz', 'K'):
        labels = json.loads((rendered / f'training_{name}.json').read_text())
        repeated = [labels[i % RENDERED] for i in range(num_photos // VERSIONS)]
        files.write_text(root / f'training_{name}.json', json.dumps(repeated))
    return root


def measure(root: Path, data_dir: Path, source: str) -> dict[str, float]:
    """Seconds of each part, and the largest memory of this process, GB."""
    config = unet.get_config()
    config.data.update(dataset='freihand/full', manual_dir=str(root), data_dir=str(data_dir), source=source)
    seconds, data = {}, None
    for name in ('preparing', 'first_start', 'second_start'):
        began = time.perf_counter()
        if name == 'preparing':
            sources.open_datasets(config, sources.split_expressions(config.data), prepared.members(config.data))
        else:
            del data  # or else both starts' maps of the photos would count
            data = sources.open_data(config)
            next(iter(data.train.epochs(0, 0, 1, config.train.batch_size)))
        seconds[name] = round(time.perf_counter() - began, 1)
    return {**seconds, 'peak_memory_GB': round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2)}


def main() -> None:
    parser = argparse.ArgumentParser('python -m experiments.benchmark_freihand', description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument('--photos', type=int, default=130_240)
    parser.add_argument('--source', choices=('resident', 'tfdata'), default='resident')
    parser.add_argument('--output', default='', metavar='FILE')
    options = parser.parse_args()
    num_photos = max(VERSIONS, options.photos // VERSIONS * VERSIONS)
    with tempfile.TemporaryDirectory() as folder:
        root = stand_in(Path(folder), num_photos)
        result = {
            'photos': num_photos,
            'source': options.source,
            **measure(root, Path(folder) / 'data', options.source),
        }
    result['preparing_ms_a_photo'] = round(1000 * result['preparing'] / num_photos, 3)
    result |= logbook.environment()
    print(json.dumps(result, indent=2))
    if options.output:
        files.write_json(options.output, result)


if __name__ == '__main__':
    logging.set_verbosity(logging.FATAL)
    try:
        main()
    except UserError as e:
        sys.exit(f'error: {e}')
