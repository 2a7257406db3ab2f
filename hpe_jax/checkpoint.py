"""The only orbax file: the latest two checkpoints of a run directory, and the best.

A checkpoint holds three items: `model` and `optimizer` (leaf name -> array) and `meta` (JSON: the history of the run,
the loss that it is ranked by, and what else the caller keeps). `meta` also has digests of the arrays and of itself,
since the files alone would not show a flipped bit.
"""

import contextlib
import errno
import hashlib
import json
import os
import shutil
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

from hpe_jax import files
from hpe_jax.errors import UserError, WriteError

BEFORE, REMOVED = '.before.', '.removed.'  # names of checkpoints that are being replaced, and deleted
SPARE = 1 << 20  # bytes, for what a checkpoint holds beside its arrays, and for the records of the epoch


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


def digest_of_json(value) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


class CorruptCheckpoint(UserError):
    """Its files cannot be read, or do not hold what was saved."""


class Checkpoints:
    """The checkpoints under `workdir/checkpoints`, one a saved epoch; only the latest two and the best are kept."""

    def __init__(self, workdir: str | Path, read_only: bool = False):
        self.folder = Path(workdir).resolve() / 'checkpoints'
        self._manager = ocp.CheckpointManager(
            self.folder,
            item_handlers={
                'model': ocp.StandardCheckpointHandler(),
                'optimizer': ocp.StandardCheckpointHandler(),
                'meta': ocp.JsonCheckpointHandler(),
            },
            options=ocp.CheckpointManagerOptions(
                enable_async_checkpointing=False,
                read_only=read_only,
                create=not read_only,
                lightweight_initialize=True,  # one that is damaged does not keep the others from being found
            ),
        )

    def latest(self) -> int | None:
        """The last saved epoch; None without one."""
        return self._manager.latest_step()

    def best(self) -> int | None:
        """The saved epoch with the lowest loss; None without one.

        Raises:
          UserError: one of them is corrupt, so that the best one is not known.
        """
        losses = {epoch: self._full_meta(epoch)['loss'] for epoch in self.epochs()}
        return min((e for e in losses if losses[e] is not None), key=lambda e: (losses[e], -e), default=None)

    def epochs(self) -> list[int]:
        """The saved epochs, rising."""
        return sorted(self._manager.all_steps())

    def save(self, epoch: int, model: nnx.Module, optimizer: nnx.Optimizer, meta: dict, loss: float | None) -> None:
        """Keeps an epoch, in place of an earlier save of it. The best one has the lowest `loss`, never NaN or None.

        When it returns, a power cut does not lose it.

        Raises:
          UserError: a weight is NaN or infinite.
          WriteError: the disk is full, or cannot be written.
        """
        arrays = {'model': leaves(model), 'optimizer': leaves(optimizer)}
        for name, array in arrays['model'].items():
            if not np.isfinite(array).all():
                raise UserError(
                    f'{name} of the model is not finite after epoch {epoch}, which is not kept; the last good one is '
                    f'epoch {self.latest()} in {self.folder}; try a lower config.optimizer.learning_rate'
                )
        loss = loss if loss is not None and np.isfinite(loss) else None
        meta = meta | {'loss': loss, 'sha256': {item: digest(values) for item, values in arrays.items()}}
        meta['sha256']['meta'] = digest_of_json(meta)
        try:
            self._check_space(arrays)
            before = self.folder / f'{BEFORE}{epoch}'
            if epoch in self.epochs():
                os.replace(self.folder / str(epoch), before)
                self.reload()
            self._save(epoch, meta, arrays)
            files.sync_tree(self.folder / str(epoch))
            files.sync(self.folder)
            files.sync(self.folder.parent)  # which has its name
            shutil.rmtree(before, ignore_errors=True)
            for old in set(self.epochs()[:-2]) - {self.best()}:
                self.remove(old)
        except (OSError, ValueError) as e:  # TensorStore raises ValueError where a disk is full
            reason = getattr(e, 'strerror', None) or str(e).partition('\n')[0]
            with contextlib.suppress(OSError):
                self.recover(self.folder.parent)
                self.reload()
            raise WriteError(f'cannot write checkpoint {self.folder / str(epoch)}: {reason}') from e

    def _check_space(self, arrays: dict) -> None:
        """Orbax leaves tasks behind that print tracebacks when the disk becomes full, so it is not to begin."""
        needed = SPARE + sum(array.nbytes for values in arrays.values() for array in values.values())
        free = shutil.disk_usage(self.folder).free
        if free < needed:
            raise OSError(errno.ENOSPC, f'{needed / 1e6:.1f} MB are needed and {free / 1e6:.1f} MB are free')

    def _save(self, epoch: int, meta: dict, arrays: dict) -> None:
        self._manager.save(
            epoch,
            args=ocp.args.Composite(
                meta=ocp.args.JsonSave(meta),
                **{item: ocp.args.StandardSave(values) for item, values in arrays.items()},
            ),
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
            raise CorruptCheckpoint(self._corrupt(epoch, e, tuple(modules))) from e
        states = {name: nnx.state(module) for name, module in modules.items()}
        variables = {name: _by_name(state) for name, state in states.items()}
        for name, wanted in variables.items():
            self._check_fit(epoch, name, arrays[name], wanted)
        for name, module in modules.items():
            for leaf, variable in variables[name].items():
                variable.set_value(jnp.asarray(arrays[name][leaf]))
            nnx.update(module, states[name])
        return _own(meta)

    def meta(self, epoch: int) -> dict:
        """The meta data alone.

        Raises:
          UserError: the checkpoint is corrupt.
        """
        return _own(self._full_meta(epoch))

    def _full_meta(self, epoch: int) -> dict:
        try:
            return self._read(epoch)[0]
        except Exception as e:  # see restore
            raise CorruptCheckpoint(self._corrupt(epoch, e, ())) from e

    def remove(self, epoch: int) -> None:
        """Deletes a checkpoint, such as one that is corrupt: under another name, so that none is ever there by half."""
        removed = self.folder / f'{REMOVED}{epoch}'
        shutil.rmtree(removed, ignore_errors=True)
        os.replace(self.folder / str(epoch), removed)
        shutil.rmtree(removed)
        self.reload()

    @classmethod
    def recover(cls, workdir: str | Path) -> None:
        """Tidies up after a run that was killed while it saved: what was to be replaced is back unless the new one is
        whole, and what was being deleted is gone. The run directory must be locked."""
        folder = Path(workdir).resolve() / 'checkpoints'
        for before in folder.glob(f'{BEFORE}*'):
            epoch, kept = int(before.name.removeprefix(BEFORE)), cls(workdir, read_only=True)
            if epoch in kept.epochs() and not kept._is_whole(epoch, ('model', 'optimizer')):
                shutil.rmtree(folder / str(epoch))
            if (folder / str(epoch)).exists():
                shutil.rmtree(before)
            else:
                os.replace(before, folder / str(epoch))
        for removed in folder.glob(f'{REMOVED}*'):
            shutil.rmtree(removed)

    def reload(self) -> None:
        """Looks again which checkpoints there are, after another process has removed one."""
        self._manager.reload()

    def _read(self, epoch: int, *items: str) -> tuple[dict, dict[str, dict[str, np.ndarray]]]:
        """The meta data, and the arrays of each item by name, checked against their digests."""
        saved = self._manager.item_metadata(epoch) if items else {}
        arrays = {
            item: ocp.args.StandardRestore({name: np.zeros(x.shape, x.dtype) for name, x in saved[item].items()})
            for item in items
        }
        with _one_error():
            found = self._manager.restore(epoch, args=ocp.args.Composite(meta=ocp.args.JsonRestore(), **arrays))
        meta = found['meta']
        digests = dict(meta['sha256'])
        own = digests.pop('meta')
        if own != digest_of_json(meta | {'sha256': digests}):
            raise ValueError('the meta data are not those that were saved')
        for item in items:
            if digests[item] != digest(found[item]):
                raise ValueError(f'the values of {item} are not those that were saved')
        for name, array in found['model'].items() if 'model' in items else ():
            if not np.isfinite(array).all():
                raise ValueError(f'{name} of the model is not finite')
        return meta, {item: found[item] for item in items}

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

    def _check_fit(self, epoch: int, item: str, saved: dict[str, np.ndarray], wanted: dict[str, nnx.Variable]) -> None:
        saved = {name: leaf.shape for name, leaf in saved.items()}
        wanted = {name: leaf.shape for name, leaf in wanted.items()}
        differing = sorted(name for name in saved.keys() | wanted.keys() if saved.get(name) != wanted.get(name))
        if differing:
            name = differing[0]
            raise UserError(
                f'checkpoint {self.folder / str(epoch)} is of another model: {len(differing)} leaves differ, the first '
                f'is {item} {name}, {saved.get(name, "absent")} there and {wanted.get(name, "absent")} here'
            )

    def close(self) -> None:
        self._manager.close()


def _own(meta: dict) -> dict:
    """What the caller of `save` gave."""
    return {name: value for name, value in meta.items() if name not in ('loss', 'sha256')}


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
