"""Flags only.

python -m hpe_jax.main --config=configs/unet.py --workdir=runs/unet [--config.FIELD=VALUE ...]
python -m hpe_jax.main --mode=evaluate --workdir=runs/unet [--split=test] [--config=FILE --config.FIELD=VALUE ...]
"""

import runpy
import sys

from absl import app, flags, logging
from ml_collections import config_flags

from hpe_jax import configuration, evaluate, runtime, sharding, train
from hpe_jax.errors import UserError

CONFIG = config_flags.DEFINE_config_file('config', None, 'The config file, such as configs/unet.py.')
WORKDIR = flags.DEFINE_string('workdir', None, 'The run directory: checkpoints, logs, report, pictures.')
MODE = flags.DEFINE_enum(
    'mode',
    'train',
    ['train', 'evaluate'],
    'Train and evaluate; or score the best checkpoint by the config in its workdir, where --config only lends its name '
    'to the fields that --config.FIELD=VALUE replaces.',
)
SPLIT = flags.DEFINE_string('split', None, 'With --mode=evaluate: a TFDS split; default config.data.test_split.')
COMPILED = flags.DEFINE_string(
    'compilation_cache',
    runtime.COMPILED,
    'Where compiled programs are kept, so that the next start need not compile them; empty: nowhere.',
)
KEEP_MEMORY = flags.DEFINE_bool(
    'keep_memory', True, 'On a CPU: keep freed memory for the next step; half the time for up to twice the memory.'
)
DISTRIBUTED = flags.DEFINE_bool(
    'distributed', False, 'SLURM, Open MPI or a TPU pod started several processes of this command, to train together.'
)
COORDINATOR = flags.DEFINE_string(
    'coordinator', None, 'To train together with processes started by hand: HOST:PORT, the same for all, of process 0.'
)
NUM_PROCESSES = flags.DEFINE_integer('num_processes', None, 'With --coordinator: how many processes there are.')
PROCESS_ID = flags.DEFINE_integer('process_id', None, 'With --coordinator: which this one is, counted from 0.')
flags.mark_flag_as_required('workdir')


def parse(argv: list[str]) -> list[str]:
    """absl's parser, but a config file or field that does not exist is answered in one sentence."""
    argv = configuration.find_file_in(argv)
    values = dict(argument.partition('=')[::2] for argument in argv)
    path = values.get('--config') or next((b for a, b in zip(argv, argv[1:], strict=False) if a == '--config'), None)
    try:
        return app.parse_flags_with_usage(argv)
    except (AttributeError, KeyError) as e:
        config = runpy.run_path(path)['get_config']()
        fields = [name.removeprefix('--config.') for name in values if name.startswith('--config.')]
        unknown = next(field for field in fields if field not in configuration.fields(config))
        nearest = configuration.nearest_field(config, unknown)
        raise UserError(f'no field config.{unknown}; the nearest is config.{nearest}') from e


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise UserError(f'unexpected argument: {argv[1]}; options begin with --')
    if not WORKDIR.value:
        raise UserError('--workdir is empty; give a folder, such as runs/unet')
    if KEEP_MEMORY.value:
        runtime.keep_freed()
    runtime.keep_compiled(COMPILED.value)
    sharding.join(COORDINATOR.value, NUM_PROCESSES.value, PROCESS_ID.value, DISTRIBUTED.value)
    if MODE.value == 'train':
        if CONFIG.value is None:
            raise UserError('--config=FILE is needed to train, such as configs/unet.py')
        result = train.train_and_evaluate(CONFIG.value, WORKDIR.value)
        decoder = CONFIG.value.eval.decoder
    else:
        overrides = flags.FLAGS['config'].override_values if CONFIG.value else None
        result = evaluate.evaluate_run(WORKDIR.value, SPLIT.value or '', overrides)
        decoder = result['decoder']
    sharding.log(f'\nBest checkpoint on {result["split"]}: {evaluate.table(result, decoder)}')


if __name__ == '__main__':
    logging.set_verbosity(logging.FATAL)  # orbax logs the tracebacks of what is said in one sentence below
    try:
        app.run(main, flags_parser=parse)
    except UserError as e:
        sys.exit(f'error: {e}')
    except runtime.Stopped as e:
        print(e.args[0], file=sys.stderr)
        sys.exit(e.exit_status)
    except KeyboardInterrupt:  # outside the training loop, which saves first
        print('interrupted; the same command goes on', file=sys.stderr)
        sys.exit(130)
