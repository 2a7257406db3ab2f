"""Commands like `python -m hpe_jax.main` in processes of their own, forked from one that imported what is slow."""

import atexit
import multiprocessing
import os
import runpy
import sys
from collections.abc import Callable, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
SERVER = multiprocessing.get_context('forkserver')
SERVER.set_forkserver_preload(
    ['flax.nnx', 'optax', 'orbax.checkpoint', 'tensorflow_datasets', 'tensorflow', 'matplotlib.figure', 'tensorboardX']
)


def start(output: Path, function: Callable, *arguments, devices: int = 0) -> BaseProcess:
    """A process that calls the function; what it prints is in the folder's `stdout` and `stderr`.

    devices: how many fake ones it has; 0 leaves it the usual one.
    """
    output.mkdir(parents=True, exist_ok=True)
    process = SERVER.Process(target=_call, args=(output, function, arguments, devices))
    process.start()
    return process


def _call(output: Path, function: Callable, arguments: Sequence, devices: int) -> None:
    for stream, name in (1, 'stdout'), (2, 'stderr'):
        os.dup2(os.open(output / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
    os.chdir(REPOSITORY)
    if devices:  # little of what other tests compiled serves them, and unoptimised it takes a third of the time
        flags = f'--xla_backend_optimization_level=0 --xla_force_host_platform_device_count={devices}'
        os.environ['XLA_FLAGS'] = f'{os.environ.get("XLA_FLAGS", "")} {flags}'
    try:
        function(*arguments)
    finally:
        atexit._run_exitfuncs()  # which multiprocessing skips: several processes leave jax.distributed together


def main(*arguments: str, module: str = 'hpe_jax.main') -> None:
    """The command, as a user gives it."""
    sys.argv = [module, *map(str, arguments)]
    runpy.run_module(module, run_name='__main__')
