"""The only orbax file: the latest and the best checkpoint of a run directory.

A checkpoint holds three items: `model` and `optimizer` (leaf name -> array) and `meta` (JSON: the history of the run
and the channel statistics that its photos were normalised with). `meta` also keeps a digest of the arrays, since the
files alone would not show a flipped bit.
"""

import contextlib
import hashlib
import json
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
from flax import nnx
from orbax.checkpoint import checkpoint_managers

from hpe_jax.errors import UserError


def leaves(module: nnx.Module | nnx.Optimizer) -> dict[str, jax.Array]:
    """The value of every variable of a module by name: 'down.0.conv1.kernel' -> array."""
    return {name: variable[...] for name, variable in _by_name(nnx.state(module)).items()}


def _by_name(state: nnx.State) -> dict[str, nnx.Variable]:
    """All variables but the empty ones that optax puts where it masks a leaf."""
    named = {'.'.join(map(str, path)): variable for path, variable in nnx.to_flat_state(state)}
    return {name: v for name, v in named.items() if not isinstance(v.get_value(), optax.MaskedNode)}


def digest(arrays: dict[str, np.ndarray | jax.Array]) -> str:
    """One hash of all names and values."""
    hashed = hashlib.sha256()
    for name in sorted(arrays):
        hashed.update(name.encode() + np.asarray(arrays[name]).tobytes())
    return hashed.hexdigest()


class Checkpoints:
    """The checkpoints under `workdir/checkpoints`, one a saved epoch; all but the latest and the best are removed.

    Raises:
      UserError: one of them is corrupt, so that the best one cannot be told.
    """

    def __init__(self, workdir: str | Path, read_only: bool = False):
        self.folder = Path(workdir).resolve() / 'checkpoints'
        self._check_losses()
        best = checkpoint_managers.BestN(get_metric_fn=_loss, reverse=True, n=1)
        policy = checkpoint_managers.AnyPreservationPolicy([checkpoint_managers.LatestN(1), best])
        self._manager = ocp.CheckpointManager(
            self.folder,
            item_handlers={
                'model': ocp.StandardCheckpointHandler(),
                'optimizer': ocp.StandardCheckpointHandler(),
                'meta': ocp.JsonCheckpointHandler(),
            },
            options=ocp.CheckpointManagerOptions(
                preservation_policy=policy,
                best_fn=_loss,
                best_mode='min',
                enable_async_checkpointing=False,
                read_only=read_only,
                create=not read_only,
            ),
        )

    def latest(self) -> int | None:
        """The last saved epoch; None if there is none."""
        return self._manager.latest_step()

    def best(self) -> int | None:
        """The saved epoch with the lowest loss; None if there is none."""
        return self._manager.best_step()

    def save(self, epoch: int, model: nnx.Module, optimizer: nnx.Optimizer, meta: dict, loss: float) -> None:
        """Keeps an epoch; `loss` decides which one is the best."""
        arrays = {'model': leaves(model), 'optimizer': leaves(optimizer)}
        meta = meta | {'sha256': {item: digest(held) for item, held in arrays.items()}}
        self._manager.save(
            epoch,
            args=ocp.args.Composite(
                meta=ocp.args.JsonSave(meta),
                **{item: ocp.args.StandardSave(held) for item, held in arrays.items()},
            ),
            metrics={'loss': loss},
        )

    def restore(self, epoch: int, model: nnx.Module, optimizer: nnx.Optimizer | None = None) -> dict:
        """Fills the modules in place and returns the meta data; they may be abstract (nnx.eval_shape).

        Raises:
          UserError: the checkpoint is of another model, or corrupt; then the message names the last one that is not.
        """
        modules = {'model': model} | ({} if optimizer is None else {'optimizer': optimizer})
        try:
            meta, arrays = self._read(epoch, *modules)
        except Exception as e:  # orbax and TensorStore raise anything from AttributeError to a bare Exception here
            raise UserError(self._corrupt(epoch, e, tuple(modules))) from e
        states = {name: nnx.state(module) for name, module in modules.items()}
        variables = {name: _by_name(state) for name, state in states.items()}
        for name, wanted in variables.items():
            self._check_fit(epoch, name, arrays[name], wanted)
        for name, module in modules.items():
            for leaf, variable in variables[name].items():
                variable.set_value(jnp.asarray(arrays[name][leaf]))
            nnx.update(module, states[name])
        return meta

    def meta(self, epoch: int) -> dict:
        """The meta data alone.

        Raises:
          UserError: the checkpoint is corrupt.
        """
        try:
            return self._read(epoch)[0]
        except Exception as e:  # see restore
            raise UserError(self._corrupt(epoch, e, ())) from e

    def _read(self, epoch: int, *items: str) -> tuple[dict, dict[str, dict[str, np.ndarray]]]:
        """The meta data, and the arrays of each item by name, held against their digests."""
        held = self._manager.item_metadata(epoch)
        arrays = {
            item: ocp.args.StandardRestore({name: np.zeros(x.shape, x.dtype) for name, x in held[item].items()})
            for item in items
        }
        with _one_error():
            found = self._manager.restore(epoch, args=ocp.args.Composite(meta=ocp.args.JsonRestore(), **arrays))
        digests = found['meta'].pop('sha256', {})  # checkpoints of older commits have none
        for item in items:
            if digests.get(item, digest(found[item])) != digest(found[item]):
                raise ValueError(f'the values of {item} are not those that were saved')
        return found['meta'], {item: found[item] for item in items}

    def _corrupt(self, epoch: int, error: Exception, items: tuple[str, ...]) -> str:
        """The sentence for a checkpoint that cannot be read."""
        whole = [other for other in self._manager.all_steps() if other != epoch and self._is_whole(other, items)]
        return _sentence(self.folder / str(epoch), error.__cause__ or error, max(whole, default=None))

    def _is_whole(self, epoch: int, items: tuple[str, ...]) -> bool:
        try:
            self._read(epoch, *items)
        except Exception:  # see restore
            return False
        return True

    def _check_losses(self) -> None:
        """Raises UserError for a loss that cannot be read, before orbax does it without saying whose."""
        epochs = {int(path.parents[1].name): path for path in self.folder.glob('[0-9]*/metrics/metrics')}
        errors = {}
        for epoch, path in epochs.items():
            try:
                _loss(json.loads(path.read_text()))
            except (ValueError, KeyError, TypeError) as e:
                errors[epoch] = e
        for epoch, error in errors.items():
            whole = max(epochs.keys() - errors.keys(), default=None)
            raise UserError(_sentence(self.folder / str(epoch), error, whole))

    def _check_fit(self, epoch: int, item: str, held: dict[str, np.ndarray], wanted: dict[str, nnx.Variable]) -> None:
        held = {name: leaf.shape for name, leaf in held.items()}
        wanted = {name: leaf.shape for name, leaf in wanted.items()}
        differing = sorted(name for name in held.keys() | wanted.keys() if held.get(name) != wanted.get(name))
        if differing:
            name = differing[0]
            raise UserError(
                f'checkpoint {self.folder / str(epoch)} is of another model: {len(differing)} leaves differ, the first '
                f'is {item} {name}, {held.get(name, "absent")} there and {wanted.get(name, "absent")} here'
            )

    def close(self) -> None:
        self._manager.close()


def _loss(metrics: dict) -> float:
    return metrics['loss']


@contextlib.contextmanager
def _one_error() -> Iterator[None]:
    """Where the block fails, its exception is all that is said.

    When one array cannot be read, TensorStore's threads find the event loop closed and print a traceback for each of
    the other arrays, some of them late.
    """
    usual = sys.unraisablehook
    sys.unraisablehook = lambda raised: None if isinstance(raised.exc_value, RuntimeError) else usual(raised)
    try:
        yield
    except Exception:
        time.sleep(0.5)
        raise
    finally:
        sys.unraisablehook = usual


def _sentence(checkpoint: Path, error: BaseException, whole: int | None) -> str:
    reason = textwrap.shorten(str(error), 150, placeholder=' ...')
    good = 'there is no other good one' if whole is None else f'the last good one is epoch {whole}'
    return f'checkpoint {checkpoint} is corrupt ({reason}); {good}: delete that folder to go on without it'
