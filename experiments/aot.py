"""Compiles the train step for a GPU or TPU that is not there, and writes down what it would take of it.

    python -m experiments.aot --target=tpu [--networks=unet,handnet] [--batches=48,128] [--output=FILE.json]
    python -m experiments.aot --target=cuda --device=h100_target.txtpb ...

Of each network, in float32 and bfloat16 and at each batch size: the arithmetic and the bytes that are read and written
in a step, by XLA's count, the memory beside the arguments, and the bounds that the device's peaks put on pictures a
second. Nothing runs, so nothing here is a time.

tpu: one chip of a v5e, 'v5e:2x2'; needs pip install libtpu. cuda: needs the wheels jax-cuda13-plugin, jax-cuda13-pjrt
and nvidia-cuda-nvcc, XLA_FLAGS=--xla_gpu_autotune_level=0, and a text file that describes the GPU (XLA's
GpuTargetConfigProto); its compiler tells the memory alone.
"""

import argparse
import itertools
import json
import os
from pathlib import Path
from unittest import mock

PEAKS = {  # operations and bytes a second: of an H100 SXM and a v5e chip, from the makers' data sheets
    'cuda': {'float32': 67e12, 'bfloat16': 989e12, 'bytes': 3.35e12},
    'tpu': {'float32': 197e12, 'bfloat16': 197e12, 'bytes': 819e9},
}
os.environ.setdefault('TPU_SKIP_MDS_QUERY', '1')
os.environ.setdefault('JAX_SKIP_CUDA_CONSTRAINTS_CHECK', '1')
os.environ.setdefault('JAX_PLATFORMS', 'cpu')

import jax  # noqa: E402
import numpy as np  # noqa: E402
from flax import nnx  # noqa: E402
from jax.experimental import topologies  # noqa: E402
from ml_collections import ConfigDict  # noqa: E402

from configs import hands, unet  # noqa: E402
from hpe_jax import files, logbook, sharding, train  # noqa: E402

CONFIGS = {'unet': unet.get_config, 'handnet': hands.get_config}


def config_of(network: str, precision: str, batch_size: int) -> ConfigDict:
    config = CONFIGS[network]()
    config.data.update(source='resident', targets='device')
    config.model.conv, config.precision, config.train.batch_size = 'xla', precision, batch_size
    return config


def batch_shapes(config: ConfigDict) -> dict[str, jax.ShapeDtypeStruct]:
    size, batch_size = config.data.image_size, config.train.batch_size
    shapes = {'image': ((size, size, 3), np.uint8), 'keypoints': ((21, 2), np.float32), 'visible': ((21,), np.bool_)}
    shapes['mask'] = (), np.bool_
    return {
        name: jax.ShapeDtypeStruct((batch_size, *shape), dtype, sharding=sharding.split())
        for name, (shape, dtype) in shapes.items()
    }


def compiled(config: ConfigDict, peaks: dict[str, float]) -> dict[str, float]:
    """What the compiler says of one step."""
    state = nnx.eval_shape(lambda: train.TrainState(config))
    step = train.make_train_step(config, nnx.graphdef(state), lambda batch: batch)
    variables = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding.replicated()), nnx.state(state)
    )
    program = step.lower(variables, batch_shapes(config)).compile()
    cost, memory, batch_size = program.cost_analysis(), program.memory_analysis(), config.train.batch_size
    found = {
        'GB_temporary': memory.temp_size_in_bytes / 1e9,
        'GB_arguments': memory.argument_size_in_bytes / 1e9,
    }
    if cost:
        found |= {'GFLOP': cost['flops'] / 1e9, 'GB_accessed': cost['bytes accessed'] / 1e9}
        found['images_a_second_by_arithmetic'] = batch_size * peaks[config.precision] / cost['flops']
        found['images_a_second_by_bytes'] = batch_size * peaks['bytes'] / cost['bytes accessed']
    return {name: float(f'{value:.4g}') for name, value in found.items()}


COLUMNS = {
    'GB_temporary': 'memory, GB',
    'GB_accessed': 'read and written, GB',
    'images_a_second_by_bytes': 'images/s by bytes',
    'images_a_second_by_arithmetic': 'images/s by arithmetic',
}


def table(result: dict) -> str:
    """A record in Markdown."""
    programs = result['programs']
    columns = [column for column in COLUMNS if all(column in found for found in programs.values())]
    lines = [f'| | {" | ".join(COLUMNS[column] for column in columns)} |', '| --- |' + len(columns) * ' ---: |']
    for name, found in programs.items():
        cells = [f'{found[column]:,.0f}' if found[column] > 1000 else f'{found[column]:.3g}' for column in columns]
        lines.append(f'| {name} | {" | ".join(cells)} |')
    return '\n'.join(lines)


def topology_of(target: str, device: str) -> topologies.TopologyDescription:
    if target == 'tpu':
        return topologies.get_topology_desc('v5e:2x2', 'tpu')
    return topologies.get_topology_desc('gpu', 'cuda', target_config=Path(device).read_text(), topology='1x1x1')


def main() -> None:
    parser = argparse.ArgumentParser('python -m experiments.aot', description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument('--target', choices=PEAKS, required=True)
    parser.add_argument('--device', default='', metavar='FILE', help='describes the GPU')
    parser.add_argument('--networks', default='unet,handnet')
    parser.add_argument('--precisions', default='float32,bfloat16')
    parser.add_argument('--batches', default='48,128')
    parser.add_argument('--output', default='', metavar='FILE')
    options = parser.parse_args()
    if unknown := set(options.networks.split(',')) - CONFIGS.keys():
        parser.error(f'--networks: {min(unknown)} is unknown; choose from {", ".join(CONFIGS)}')
    if options.target == 'cuda' and not Path(options.device).is_file():
        parser.error(f'--device={options.device}: no file; --target=cuda needs one that describes the GPU')
    try:
        topology = topology_of(options.target, options.device)
    except (RuntimeError, NotImplementedError, ValueError) as e:
        reason = str(e).splitlines()[0]
        parser.error(
            f'--target={options.target}: its compiler cannot be reached ({reason}); --help has what to install'
        )
    one = jax.sharding.Mesh(np.array(topology.devices[:1]), sharding.mesh().axis_names)
    peaks = PEAKS[options.target]
    result = {'target': str(topology.devices[0]), 'peaks': peaks, 'programs': {}}
    sizes = options.networks.split(','), options.precisions.split(','), map(int, options.batches.split(','))
    for network, precision, batch_size in itertools.product(*sizes):
        config = config_of(network, precision, batch_size)
        with mock.patch.object(sharding, 'mesh', lambda: one):
            found = compiled(config, peaks)
        name = f'{network}, {precision}, batch {batch_size}'
        result['programs'][name] = found
        print(json.dumps({name: found}), flush=True)
    print(table(result))
    if options.output:
        files.write_json(options.output, result | logbook.environment())


if __name__ == '__main__':
    main()
