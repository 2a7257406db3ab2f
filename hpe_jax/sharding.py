"""The devices of all hosts as one mesh, and how arrays lie on it: batches split along it, all else whole on each.

Every step is written for the whole batch, and XLA divides its work by where the arrays lie. So one code serves one
device, many, and many hosts, and BatchNorm's statistics, losses and metrics are those of the whole batch.
"""

import atexit
import contextlib
import functools
import itertools
import re
from collections.abc import Iterator

import jax
import numpy as np
from jax._src import distributed  # its barrier, unlike the public one, may take hours: no device waits in it
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from hpe_jax.errors import UserError

LEAVING = 60  # seconds that one with nothing left to do, or with an error, waits for the others; then all are ended
PREPARING = 24 * 3600  # seconds that the other processes wait while process 0 prepares data
_barriers = itertools.count()


def join(
    coordinator: str | None = None, processes: int | None = None, process: int | None = None, cluster: bool = False
) -> None:
    """Makes this process one of several that train together; before any other call of JAX.

    Args:
      coordinator, processes, process: 'HOST:PORT' of process 0, how many there are, and which this is; or none of them.
      cluster: SLURM, Open MPI or a TPU pod started the processes and gives each all of this.

    Raises:
      UserError: these do not go together, or the processes did not find each other.
    """
    given = [value is not None for value in (coordinator, processes, process)]
    if cluster and any(given):
        raise UserError('--distributed finds the other processes itself: leave out --coordinator and what goes with it')
    if any(given) and not all(given):
        raise UserError('--coordinator=HOST:PORT, --num_processes=N and --process_id=I go together, all or none')
    if not (cluster or any(given)):
        return
    known = {}
    if coordinator is not None:
        if not re.fullmatch(r'.+:\d+', coordinator):
            raise UserError(f'--coordinator={coordinator}: want HOST:PORT')
        if not 0 <= process < processes:
            raise UserError(f'--process_id={process}: must be 0 to {processes - 1}, as there are {processes} processes')
        known = {'coordinator_address': coordinator, 'num_processes': processes, 'process_id': process}
        known['cluster_detection_method'] = 'deactivate'  # every device of this host, even inside a SLURM allocation
    try:
        jax.distributed.initialize(shutdown_timeout_seconds=LEAVING, **known)
    except (RuntimeError, ValueError) as e:
        raise UserError(f'the processes did not find each other: {str(e).splitlines()[0]}') from e
    atexit.register(_leave)


def _leave() -> None:
    """Waits for the others, since JAX 0.12 ends the process 0 without that, and its end is that of all."""
    client = distributed.global_state.client
    with contextlib.suppress(jax.errors.JaxRuntimeError):  # another one has failed, or takes longer
        if client:
            client.wait_at_barrier('hpe_jax-leave', LEAVING * 1000)


def log(text: str) -> None:
    """Prints a line, once however many processes train."""
    if is_main():
        print(text, flush=True)


def is_main() -> bool:
    """Whether this is the process that writes files and speaks: the first of them, or the only one."""
    return jax.process_index() == 0


@contextlib.contextmanager
def main_first() -> Iterator[None]:
    """The block runs in process 0, and when it is done or has failed there, in all the others at once.

    What process 0 prepares on a file system that they share, they find done; elsewhere they do it themselves.
    """
    if not is_main():
        _wait()
    try:
        yield
    finally:
        if is_main():
            _wait()


def _wait() -> None:
    """Returns when every process is here."""
    if jax.process_count() > 1:
        distributed.global_state.client.wait_at_barrier(f'hpe_jax-{next(_barriers)}', PREPARING * 1000)


@functools.cache
def mesh() -> Mesh:
    """All devices of all hosts, those of a host side by side."""
    devices = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
    return Mesh(np.array(devices), ('data',), axis_types=(AxisType.Auto,))


def split() -> NamedSharding:
    """The leading axis in equal parts over all devices."""
    return NamedSharding(mesh(), PartitionSpec('data'))


def replicated() -> NamedSharding:
    """The whole array on every device."""
    return NamedSharding(mesh(), PartitionSpec())


def check_divides(size: int, name: str) -> None:
    """Raises UserError, with the name of its field, if the devices cannot share a batch of this size equally."""
    devices = mesh().size
    if size % devices:
        low = size - size % devices
        near = f'{low} or {low + devices}' if low else devices
        raise UserError(f'{name}={size}: a batch must divide over the {devices} devices; take {near}')


def local_slice(batch_size: int) -> slice:
    """Which part of each batch this process makes: that of its own devices."""
    check_divides(batch_size, 'batch_size')
    mine = [i for i, device in enumerate(mesh().devices) if device.process_index == jax.process_index()]
    each = batch_size // mesh().size
    return slice(mine[0] * each, (mine[-1] + 1) * each)


def shard(batch: dict) -> dict:
    """The global batch of which every process holds its `local_slice`, NumPy arrays with a leading axis.

    A single device gets it as it is: jit ships NumPy arrays faster than anything that is called before it.
    """
    return batch if mesh().size == 1 else jax.make_array_from_process_local_data(split(), batch)


def replicate(tree):
    """A tree of arrays that every process holds alike, whole on every device."""
    return jax.make_array_from_process_local_data(
        replicated(), tree if jax.process_count() == 1 else jax.tree.map(np.asarray, tree)
    )
