"""Flags only.

python -m hpe_jax.main --config=configs/unet.py --workdir=runs/unet [--config.FIELD=VALUE ...]
python -m hpe_jax.main --mode=evaluate --config=configs/unet.py --workdir=runs/unet [--split=test]
"""

import sys

from absl import app, flags, logging
from ml_collections import config_flags

from hpe_jax import evaluate, train
from hpe_jax.errors import UserError

CONFIG = config_flags.DEFINE_config_file('config', None, 'The config file, such as configs/unet.py.')
WORKDIR = flags.DEFINE_string('workdir', None, 'The run directory: checkpoints, logs, report, pictures.')
MODE = flags.DEFINE_enum('mode', 'train', ['train', 'evaluate'], 'Train and evaluate, or score the best checkpoint.')
SPLIT = flags.DEFINE_string('split', None, 'With --mode=evaluate: a TFDS split; default config.data.test_split.')
flags.mark_flags_as_required(['config', 'workdir'])


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f'unexpected argument: {argv[1]}')
    config = CONFIG.value
    if MODE.value == 'train':
        result = train.train_and_evaluate(config, WORKDIR.value)
    else:
        result = evaluate.evaluate_run(config, WORKDIR.value, SPLIT.value or config.data.test_split)
    print(f'\nBest checkpoint on {result["split"]}: {evaluate.table(result, config.eval.decoder)}')


if __name__ == '__main__':
    logging.set_verbosity(logging.ERROR)
    try:
        app.run(main)
    except UserError as e:
        sys.exit(f'error: {e}')
