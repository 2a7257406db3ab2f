"""What a config must satisfy before any work begins, and how it is kept beside the checkpoints it made."""

import difflib
import hashlib
import inspect
import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from hpe_jax import augment, files, hand, heatmap, losses, models, optim
from hpe_jax.errors import UserError

FILE = 'config.json'
# Fields that may change when a run goes on: they alter none of the steps that were already taken, but for rounding.
CHANGEABLE = (
    'data.manual_dir',
    'data.data_dir',
    'data.cache_dir',
    'data.cache',
    'model.conv',
    'train.epochs',
    'train.images_every',
    'train.checkpoint_every',
    'eval.batch_size',
    'eval.decoder',
)
ONCE_FIXED = ('eval.batch_size', 'eval.decoder')  # those of them that were not changeable in older run directories
# What each number may be: at least, at most. A field that a config lacks is not looked at.
MOST = 2**31 - 1
RANGES = {
    'seed': (0, MOST),
    'data.image_size': (1, 4096),
    'data.live_batch': (1, MOST),
    'data.live_pool': (0, MOST),
    'data.relative_hand_size': (0.01, 1),
    'data.context': (1, 4),
    'heatmap.sigma': (0.01, 1000),
    'loss.presence': (0, MOST),
    'loss.handedness': (0, MOST),
    'optimizer.learning_rate': (0, 1e38),
    'optimizer.clip': (0, MOST),
    'optimizer.cosine.warmup': (0, 1),
    'optimizer.cosine.final': (0, 1),
    'optimizer.plateau.factor': (0, 1),
    'optimizer.plateau.patience': (1, MOST),
    'optimizer.plateau.rtol': (0, 1),
    'train.batch_size': (1, MOST),
    'train.epochs': (1, MOST),
    'train.steps_per_epoch': (1, MOST),
    'train.minutes': (0, MOST),
    'train.validation_batches': (1, MOST),
    'train.average': (0, 1),
    'train.early_stopping.window': (1, MOST),
    'train.early_stopping.patience': (0, MOST),
    'train.checkpoint_every': (1, MOST),
    'train.images_every': (1, MOST),
    'eval.batch_size': (1, MOST),
    'augment.left': (0, 1),
    **{f'augment.{name}': limits for name, limits in augment.RANGES.items()},
}
# Fields that older run directories do not have, and what they stand for there.
ADDED = {'data.relative_hand_size': 0.47, 'data.joints': 'freihand', 'data.handedness': 'right'}
ADDED |= {'augment.gamma': 0.0, 'augment.sharpen': 0.0, 'data.cache_dir': '', 'data.context': 1.5, 'data.live_pool': 0}
ADDED |= {'train.heads_only': False}
FORMAT_VERSION = 1  # of a run directory: what config.json and the checkpoints hold


def check(config: ConfigDict) -> None:
    """Raises UserError for the first value that cannot work, naming its field."""
    choices = {
        'model.name': models.MODELS,
        'model.conv': ('auto', *models.CONVS),
        'precision': ('float32', 'bfloat16'),
        'optimizer.name': optim.OPTIMIZERS,
        'optimizer.schedule': ('plateau', 'cosine'),
        'loss.name': losses.LOSSES,
        'heatmap.codec': heatmap.CODECS,
        'heatmap.activation': heatmap.ACTIVATIONS,
        'heatmap.stride': (models.MODELS[config.model.name].STRIDE,) if config.model.name in models.MODELS else (1,),
        'data.targets': ('host', 'device'),
        'data.source': ('tfdata', 'resident', 'live'),
        'augment.fill': augment.FILLS,
        'eval.decoder': config.eval.decoders,
    }
    for field, known in choices.items():
        value = fields(config)[field]
        if value not in known:
            value = repr(value).strip()  # that of an empty section ends a line
            raise UserError(f'config.{field}={value}: unknown; choose from {", ".join(map(str, known))}')
    for name in config.eval.decoders:
        if name not in heatmap.DECODERS:
            raise UserError(f'config.eval.decoders.{name}: unknown; choose from {", ".join(heatmap.DECODERS)}')
    for field in ('window', 'patience'):
        if field not in config.train.early_stopping:
            raise UserError(f'config.train.early_stopping: it lacks {field}; give window and patience')
    flat = fields(config)
    for field in (field for field in RANGES if field in flat):
        low, high = RANGES[field]
        if not low <= flat[field] <= high:  # NaN is not
            limits = f'be at least {low}' if high == MOST and flat[field] < low else f'lie between {low} and {high}'
            raise UserError(f'config.{field}={flat[field]}: must {limits}')
    widths = config.model.widths
    if not widths or not all(isinstance(width, int) and width > 0 for width in widths):
        raise UserError(f'config.model.widths={tuple(widths)}: must be whole numbers of channels, at least 1 each')
    known = inspect.signature(models.MODELS[config.model.name].__init__).parameters
    if unknown := [name for name in config.model if name != 'name' and name not in known]:
        raise UserError(
            f'config.model.{unknown[0]}: {config.model.name} has no such option; leave it out of the config'
        )
    blocks, levels = config.model.get('blocks'), len(widths) - 2
    if blocks is not None and (len(blocks) != levels or not all(isinstance(n, int) and n >= 0 for n in blocks)):
        raise UserError(
            f'config.model.blocks={tuple(blocks)}: must be {levels} whole numbers of residual blocks, at least 0 each, '
            f'for the {len(widths)} levels of config.model.widths'
        )
    lists = {'joints': (*hand.ORDERS, 'names'), 'handedness': ('right', 'left')}
    for name, known in lists.items():
        for value in map(str.strip, config.data[name].split(',')):
            if value not in known:
                raise UserError(f'config.data.{name}={value!r}: unknown; choose from {", ".join(known)}')
    step = models.MODELS[config.model.name].multiple(config.model.widths)
    if config.data.image_size % step or config.data.image_size < step:
        raise UserError(
            f'config.data.image_size={config.data.image_size}: must be a multiple of {step} for '
            f'{len(config.model.widths)} levels of config.model.widths'
        )
    on = [name for name in ('left', 'quarter_turns', *augment.RANGES) if config.augment[name]]
    if on and config.data.targets == 'host' and config.data.source == 'tfdata':
        raise UserError(
            f"config.augment.{on[0]}: the host's heatmaps and standardised photos stay as they are; "
            "set data.targets='device'"
        )
    if config.data.targets == 'host' and config.data.source == 'tfdata' and config.heatmap.stride > 1:
        raise UserError(
            "config.heatmap.stride: the host's heatmaps are as large as the photos; set data.targets='device'"
        )
    heads = [name for name in ('presence', 'handedness') if config.loss[name]]
    if heads and not hasattr(models.MODELS[config.model.name], 'HEADS'):
        raise UserError(f'config.loss.{heads[0]}={config.loss[heads[0]]}: {config.model.name} has no such head; set 0')
    if config.train.heads_only and not heads:
        raise UserError(
            'config.train.heads_only: there is no head to train; set config.loss.presence or config.loss.handedness'
        )
    on_device = config.data.source == 'resident' or (config.data.source == 'live' and config.data.live_pool)
    if config.train.scan_epochs and not on_device:
        raise UserError(
            "config.train.scan_epochs: the photos must lie on the device; set data.source='resident', or data.live_pool"
        )
    if len(config.data.mean) != len(config.data.std) or len(config.data.mean) not in (0, 3):
        raise UserError('config.data.mean and config.data.std: give both with 3 numbers, or neither')
    for field, low in ('mean', 0.0), ('std', 1e-6):
        for value in config.data[field]:
            if not isinstance(value, int | float) or not low <= value <= 1:
                raise UserError(f'config.data.{field}={tuple(config.data[field])}: must be numbers from {low:g} to 1')


def check_options(config: ConfigDict) -> None:
    """Raises UserError if the optimiser or the loss does not take the options that it is given."""

    def step():
        weights = {'kernel': jnp.zeros((3, 3, 2, 2)), 'bias': jnp.zeros(2)}
        tx = optim.make(config.optimizer, 1)
        return tx.update(weights, tx.init(weights), weights, value=jnp.zeros(()), horizon=jnp.ones(()))

    def loss():
        return losses.per_keypoint(config.loss.name, *2 * [jnp.zeros((1, 2, 2, 1))], **config.loss.options)

    for decoder, options in config.eval.decoders.items():
        name = f'config.eval.decoders.{decoder}'
        for option, value in options.items():
            if not isinstance(value, int | float) or not 0 < value < MOST:
                raise UserError(f'{name}.{option}={value!r}: must be a number over 0')
        try:
            jax.eval_shape(partial(heatmap.decode, decoder=decoder, **options), jnp.zeros((8, 8, 1)))
        except TypeError as e:
            raise UserError(f'{name}={options.to_dict()}: {decoder} does not take them: {e}') from e
    for field, use in {'optimizer.options': step, 'loss.options': loss}.items():
        try:
            jax.eval_shape(use)
        except (TypeError, ValueError, AttributeError) as e:  # a name or a type that it does not know
            section = field.partition('.')[0]
            reason = str(e).partition('\n')[0]
            options = config[section].options.to_dict()
            raise UserError(f'config.{field}={options}: {config[section].name} does not take them: {reason}') from e


def find_file(path: str | Path) -> Path:
    """The config file of that path; or that of this project, so that configs/unet.py is found from any folder.

    Raises:
      UserError: there is no such file.
    """
    for candidate in (Path(path), Path(__file__).parents[1] / path):
        if candidate.is_file():
            return candidate
    raise UserError(f'--config={path}: no such config file')


def find_file_in(argv: Sequence[str]) -> list[str]:
    """Command-line arguments, with the path in --config=FILE or --config FILE as `find_file` finds it.

    Raises:
      UserError: as `find_file`.
    """
    argv = list(argv)
    for i, argument in enumerate(argv):
        if argument.startswith('--config='):
            argv[i] = f'--config={find_file(argument.removeprefix("--config="))}'
        elif argument == '--config' and argv[i + 1 :]:
            argv[i + 1] = str(find_file(argv[i + 1]))
    return argv


def nearest_field(config: ConfigDict, field: str) -> str:
    """The field of the config, 'section.name', that is spelt most like the given one."""
    return difflib.get_close_matches(field, fields(config), n=1, cutoff=0)[0]


def save(config: ConfigDict, workdir: str | Path) -> None:
    files.write_json(Path(workdir) / FILE, {'format_version': FORMAT_VERSION, **config.to_dict()})


def digest(config: Mapping | ConfigDict, fixed: Sequence[str] = ()) -> str:
    """A hash of the fields that decide what a checkpoint's weights mean.

    Those that may change are left out, but for the ones in `fixed`.
    """
    nested = config.to_dict() if isinstance(config, ConfigDict) else config
    flat = fields(json.loads(json.dumps(nested)))
    left_out = {*CHANGEABLE, 'init_from'} - {*fixed}
    kept = {name: value for name, value in flat.items() if name not in left_out}
    kept = {name: value for name, value in kept.items() if name not in ADDED or value != ADDED[name]}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


def saved(workdir: str | Path) -> dict | None:
    """The config that a run directory was made with, as nested dicts; None without one.

    Raises:
      UserError: the file is not a JSON object, or of another format.
    """
    path = Path(workdir) / FILE
    try:
        nested = json.loads(path.read_text()) if path.exists() else None
    except (ValueError, OSError) as e:
        raise UserError(f'{path} cannot be read: {e}') from e
    if not isinstance(nested, dict | None):
        raise UserError(f'{path}: not a config but {type(nested).__name__}')
    version = FORMAT_VERSION if nested is None else nested.pop('format_version', None)
    if version != FORMAT_VERSION:
        raise UserError(
            f'{path}: format_version {version}, but this hpe_jax reads {FORMAT_VERSION}; use the one that made the run'
        )
    for field, value in ADDED.items() if nested else ():
        section, name = field.split('.')
        if isinstance(nested.setdefault(section, {}), dict):
            nested[section].setdefault(name, value)
    return nested


def load(workdir: str | Path, overrides: Mapping | None = None) -> ConfigDict:
    """The config of a run directory, with some fields replaced.

    Args:
      overrides: fields by their dotted names, such as {'data.manual_dir': 'FOLDER'}.

    Raises:
      UserError: it is not a run directory, or a field or its value cannot work.
    """
    nested = saved(workdir)
    if nested is None:
        raise UserError(f'{workdir} is no run directory: it holds no {FILE}')
    config = ConfigDict(nested)
    for field, value in (overrides or {}).items():
        if field not in fields(config):
            raise UserError(f'no field config.{field}; the nearest is config.{nearest_field(config, field)}')
        try:
            config.update_from_flattened_dict({field: value})
        except TypeError as e:
            raise UserError(f'config.{field}={value!r}: {e}') from e
    try:
        check(config)
    except (KeyError, AttributeError, TypeError, ValueError) as e:
        raise UserError(f'{Path(workdir) / FILE} is no whole config: {e}') from e
    return config


def check_same(config: ConfigDict, workdir: str | Path) -> None:
    """Raises UserError if the run directory was made with another config."""
    before = saved(workdir)
    if before is None:
        if (Path(workdir) / 'checkpoints').exists():
            raise UserError(f'{workdir} holds checkpoints but no {FILE}; use another --workdir')
        return
    before, now = fields(before), fields(json.loads(json.dumps(config.to_dict())))
    changed = [
        f'{field} was {before.get(field)!r} and is now {now.get(field)!r}'
        for field in sorted(before.keys() | now.keys())
        if before.get(field) != now.get(field) and field not in CHANGEABLE
    ]
    if changed:
        raise UserError(
            f'{workdir} holds a run of another config ({"; ".join(changed)}); choose another --workdir, or that config'
        )


def check_alike(config: ConfigDict, workdir: str | Path) -> None:
    """Raises UserError if process 0 did not save this config there, but for where its data are kept."""
    anywhere = dict.fromkeys(('data.manual_dir', 'data.data_dir', 'data.cache_dir'), '')  # each host may have its own
    if fields(saved(workdir) or {}) | anywhere != fields(json.loads(json.dumps(config.to_dict()))) | anywhere:
        raise UserError(
            f'process 0 put no such config into {workdir}: all processes need the same command, and a workdir on a '
            'file system that they share'
        )


def fields(nested: Mapping | ConfigDict, prefix: str = '') -> dict:
    """All fields by their dotted names: {'data': {'mean': ()}} -> {'data.mean': ()}."""
    flat = {}
    for key, value in nested.items():
        if isinstance(value, Mapping | ConfigDict) and value:
            flat |= fields(value, f'{prefix}{key}.')
        else:
            flat[prefix + key] = value
    return flat
