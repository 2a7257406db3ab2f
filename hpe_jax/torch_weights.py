"""The weights published with the PyTorch reference (MIT), as a run directory of ours. Strict: all or nothing.

    python -m hpe_jax.torch_weights published.pth WORKDIR [--config=configs/published.py]

PyTorch is needed only to read the file, and only here.
"""

import hashlib
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from absl import app, logging
from flax import nnx
from ml_collections import ConfigDict, config_flags

from hpe_jax import checkpoint, configuration, files, logbook, models, optim
from hpe_jax.errors import UserError
from hpe_jax.models.layers import Standardise

PUBLISHED_LOSS = 0.476  # on the validation split; training on in the same directory must beat it to be called best

# Leaf of ours -> (leaf of PyTorch's, how to turn PyTorch's array into ours).
LEAVES = {
    'kernel': ('weight', lambda oihw: oihw.transpose(2, 3, 1, 0)),
    'scale': ('weight', np.asarray),
    'bias': ('bias', np.asarray),
    'mean': ('running_mean', np.asarray),
    'var': ('running_var', np.asarray),
}
# Place of each layer of a ConvBlock in PyTorch's Sequential; 2 and 5 are the ReLUs.
LAYERS = {'norm1': 0, 'conv1': 1, 'norm2': 3, 'conv2': 4}


def torch_name(path: tuple) -> str:
    """PyTorch's name of a leaf: ('down', 0, 'norm1', 'mean') -> 'conv_down1.double_conv.0.running_mean'."""
    *module, leaf = path
    leaf = LEAVES[leaf][0]
    if module == ['out']:
        return f'conv_out.0.{leaf}'
    *block, layer = module
    block = 'bottleneck' if block == ['bottleneck'] else f'{block[0]}{block[1] + 1}'
    return f'conv_{block}.double_conv.{LAYERS[layer]}.{leaf}'


def read(path: str | Path) -> dict[str, np.ndarray]:
    """The state dict in a .pth file, as NumPy arrays.

    Raises:
      UserError: PyTorch is not installed, or the file is missing or no state dict of tensors.
    """
    try:
        import torch
    except ImportError as e:
        raise UserError('reading PyTorch weights needs PyTorch: pip install torch') from e
    try:
        state = torch.load(path, map_location='cpu', weights_only=True)
        return {name: tensor.numpy() for name, tensor in state.items()}
    except FileNotFoundError as e:
        raise UserError(f'{path}: no such file') from e
    except Exception as e:  # torch raises anything from EOFError to UnpicklingError here
        raise UserError(f'{path}: not a PyTorch state dict of tensors ({type(e).__name__})') from e


def load_into(model: nnx.Module, weights: dict[str, np.ndarray]) -> None:
    """Replaces every parameter and BatchNorm statistic of `model` (a models.UNet) in place.

    The model may be abstract (nnx.eval_shape). PyTorch's `num_batches_tracked` counters have no counterpart and are the
    only entries passed over.

    Raises:
      UserError: names every leaf that is missing, extra, or of another shape; the model is then unchanged.
    """
    state = nnx.state(model, (nnx.Param, nnx.BatchStat))
    ours = {torch_name(path): (path[-1], variable) for path, variable in nnx.to_flat_state(state)}
    theirs = {name: w for name, w in weights.items() if not name.endswith('num_batches_tracked')}
    shared = ours.keys() & theirs.keys()
    arrays = {name: _convert(ours[name][0], theirs[name]) for name in shared}
    problems = [f'missing {name}' for name in sorted(ours.keys() - theirs.keys())]
    problems += [f'extra {name}' for name in sorted(theirs.keys() - ours.keys())]
    problems += [
        f'{name} has shape {arrays[name].shape}, the model wants {ours[name][1].shape}'
        for name in sorted(shared)
        if arrays[name].shape != ours[name][1].shape
    ]
    if problems:
        raise UserError('these weights do not fit the model: ' + '; '.join(problems))
    for name, (_, variable) in ours.items():
        variable.set_value(jnp.asarray(arrays[name], variable.dtype))
    nnx.update(model, state)


def _convert(leaf: str, array: np.ndarray) -> np.ndarray:
    return LEAVES[leaf][1](array) if array.ndim == 4 or leaf != 'kernel' else array


def convert(path: str | Path, workdir: str | Path, config: ConfigDict) -> None:
    """Makes a run directory whose only checkpoint, epoch 0, holds the weights in a .pth file.

    Args:
      config: what the run directory will be used with; its `data.mean` and `data.std` are the weights' own.

    Raises:
      UserError: the file or its weights do not fit (see `read` and `load_into`), or the directory holds a run.
    """
    configuration.check(config)
    if not config.data.mean:
        raise UserError('config.data.mean and config.data.std: weights need the channel statistics they were made with')
    model = nnx.eval_shape(lambda: models.make(config))  # the initial values are not needed
    load_into(model, read(path))
    tx = optim.make(config.optimizer, config.train.steps_per_epoch)
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
    files.check_writable(workdir)
    configuration.check_same(config, workdir)
    checkpoints = checkpoint.Checkpoints(workdir)
    if checkpoints.latest() is not None:
        raise UserError(f'{workdir} holds a run already; choose another directory')
    configuration.save(config, workdir)
    model.standardise = Standardise()
    model.standardise.set(config.data.mean, config.data.std)
    meta = {
        'history': [],
        'config_sha256': configuration.digest(config),
        'source': {'file': str(path), 'sha256': hashlib.sha256(Path(path).read_bytes()).hexdigest()},
        **logbook.environment(),
    }
    checkpoints.save(0, model, optimizer, meta, PUBLISHED_LOSS)


def main(argv: list[str]) -> None:
    if len(argv) != 3:
        raise UserError(f'give a .pth file and a run directory to make, not {len(argv) - 1} arguments')
    convert(*argv[1:], app.flags.FLAGS.config)
    print(f'{argv[2]} holds the weights of {argv[1]}, to be evaluated, analysed and fine-tuned like any run.')


if __name__ == '__main__':
    logging.set_verbosity(logging.FATAL)
    default = str(configuration.find_file('configs/published.py'))
    config_flags.DEFINE_config_file('config', default, 'What to use the weights with.')
    try:
        app.run(main, flags_parser=lambda argv: app.parse_flags_with_usage(configuration.find_file_in(argv)))
    except UserError as e:
        sys.exit(f'error: {e}')
