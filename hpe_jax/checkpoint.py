"""The only orbax file: the latest and the best checkpoint of a run directory.

A checkpoint holds three items: `model` and `optimizer` (leaf name -> array) and `meta` (JSON: the history of the run
and the channel statistics that its photos were normalised with).
"""

from pathlib import Path

import jax
import optax
import orbax.checkpoint as ocp
from flax import nnx
from orbax.checkpoint import checkpoint_managers

from hpe_jax.errors import UserError


def variables(state: nnx.State) -> dict[str, nnx.Variable]:
    """All variables by name, such as 'down.0.conv1.kernel', but for the empty ones where optax masks a leaf."""
    named = {'.'.join(map(str, path)): variable for path, variable in nnx.to_flat_state(state)}
    return {name: v for name, v in named.items() if not isinstance(v.get_value(), optax.MaskedNode)}


def leaves(module: nnx.Module | nnx.Optimizer) -> dict[str, jax.Array]:
    """The value of every variable, by name."""
    return {name: variable[...] for name, variable in variables(nnx.state(module)).items()}


class Checkpoints:
    """The checkpoints under `workdir/checkpoints`, one a saved epoch; all but the latest and the best are removed."""

    def __init__(self, workdir: str | Path, read_only: bool = False):
        self.folder = Path(workdir).resolve() / 'checkpoints'
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
        self._manager.save(
            epoch,
            args=ocp.args.Composite(
                model=ocp.args.StandardSave(leaves(model)),
                optimizer=ocp.args.StandardSave(leaves(optimizer)),
                meta=ocp.args.JsonSave(meta),
            ),
            metrics={'loss': loss},
        )

    def restore(self, epoch: int, model: nnx.Module, optimizer: nnx.Optimizer | None = None) -> dict:
        """Fills the modules in place and returns the meta data.

        Raises:
          UserError: the checkpoint is of another model, or cannot be read.
        """
        modules = {'model': model} | ({} if optimizer is None else {'optimizer': optimizer})
        restore = {name: ocp.args.StandardRestore(leaves(module)) for name, module in modules.items()}
        try:
            for name, module in modules.items():
                self._check_fit(epoch, name, leaves(module))
            found = self._manager.restore(epoch, args=ocp.args.Composite(meta=ocp.args.JsonRestore(), **restore))
        except (ValueError, KeyError, OSError) as e:
            reason = str(e).splitlines()[0]
            raise UserError(f'checkpoint {self.folder / str(epoch)} cannot be read: {reason}') from e
        for name, module in modules.items():
            state = nnx.state(module)
            for leaf, variable in variables(state).items():
                variable[...] = found[name][leaf]
            nnx.update(module, state)
        return found['meta']

    def _check_fit(self, epoch: int, item: str, wanted: dict[str, jax.Array]) -> None:
        held = {name: leaf.shape for name, leaf in self._manager.item_metadata(epoch)[item].items()}
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
