"""What a training waits for before its first step, with nothing compiled before.

    python -m experiments.benchmark_start [--output=FILE.json]

Seconds, once each, in this order: fresh weights and optimiser; the train step, the evaluation step and the renderer,
each first traced and lowered (Python), then compiled (XLA). Later starts compile nothing: `hpe_jax.main` keeps compiled
programs (--compilation_cache).
"""

import argparse
import time
from collections.abc import Callable

import jax
import numpy as np
from absl import logging
from flax import nnx

from configs import hands, unet
from hpe_jax import evaluate, files, logbook, train
from hpe_jax.data.synthetic_hands import generate

CONFIGS = {'unet': unet.get_config, 'handnet': hands.get_config}


def timed(function: Callable, *arguments) -> tuple[float, float]:
    """Seconds of tracing and lowering a jitted function, and of compiling it."""
    began = time.perf_counter()
    lowered = function.lower(*arguments)
    between = time.perf_counter()
    lowered.compile()
    return between - began, time.perf_counter() - between


def of_network(name: str) -> dict[str, float]:
    config = CONFIGS[name]()
    size, batch_size = config.data.image_size, config.train.batch_size
    began = time.perf_counter()
    state = train.TrainState(config)
    jax.block_until_ready(jax.tree.leaves(nnx.state(state)))
    seconds = {f'{name}: weights and optimiser': time.perf_counter() - began}
    shapes = {'image': ((size, size, 3), np.uint8), 'keypoints': ((21, 2), np.float32), 'visible': ((21,), np.bool_)}
    shapes['mask'] = (), np.bool_
    batch = {key: jax.ShapeDtypeStruct((batch_size, *shape), dtype) for key, (shape, dtype) in shapes.items()}
    steps = {
        'train step': (train.make_train_step(config, nnx.graphdef(state), lambda batch: batch), nnx.state(state)),
        'evaluation step': (
            evaluate.make_eval_step(config, state.model, config.eval.decoders),
            nnx.state(state.best_model),
        ),
    }
    for step, (function, variables) in steps.items():
        seconds[f'{name}: {step}, lowered'], seconds[f'{name}: {step}, compiled'] = timed(function, variables, batch)
    return seconds


def table(seconds: dict[str, float]) -> str:
    """A record in Markdown."""
    return '\n'.join(['| | seconds |', '| --- | ---: |', *(f'| {name} | {value} |' for name, value in seconds.items())])


def main() -> None:
    parser = argparse.ArgumentParser('python -m experiments.benchmark_start', description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument('--output', default='', metavar='FILE')
    options = parser.parse_args()
    jax.devices()  # not a part of what is measured
    seconds = of_network('unet') | of_network('handnet')
    numbers = jax.ShapeDtypeStruct((generate.CHUNK,), np.int32)
    renderer = generate.renderer('presence', 0, 128)
    seconds['renderer, lowered'], seconds['renderer, compiled'] = timed(renderer, numbers)
    seconds = {name: round(value, 1) for name, value in seconds.items()}
    print(table(seconds))
    if options.output:
        files.write_json(options.output, {'seconds': seconds, **logbook.environment()})


if __name__ == '__main__':
    logging.set_verbosity(logging.FATAL)
    main()
