"""Imports run from a higher layer to a lower one, and heavy packages have one owner each."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / 'hpe_jax'
LAYERS = [
    {'errors', 'hand', 'runtime'},
    {'geometry', 'files', 'inference.images', 'sharding', 'export.jaxpr', 'models.layers', 'data.features'},
    {'augment', 'heatmap', 'losses', 'metrics', 'models.convolution', 'optim', 'data.freihand', 'data.coco_hands'},
    {'inference.video', 'inference.outputs', 'export.to_onnx', 'export.to_tflite'},
    {'data.synthetic_hands', 'export.formats', 'models.unet', 'models.handnet'},
    {'models', 'preprocess', 'visualize', 'data.prepared', 'logbook', 'inference.inputs'},
    {'configuration', 'checkpoint', 'data.pipeline', 'data.resident', 'data.live'},
    {'data.sources', 'trained_model'},
    {'evaluate', 'torch_weights', 'inference.estimator', 'export.verify'},
    {'report', 'inference.tracking', 'export'},
    {'train', 'export.__main__'},
    {'main', 'predict', 'demo'},
]
OWNERS = {
    'tensorflow': {'data.pipeline', 'export.to_tflite'},
    'tensorflow_datasets': {
        *('data.features', 'data.prepared', 'data.resident'),
        *('data.coco_hands', 'data.freihand', 'data.synthetic_hands'),
    },
    'orbax': {'checkpoint'},
    'matplotlib': {'visualize'},
    'torch': {'torch_weights'},
    'onnx': {'export.to_onnx'},
    'onnxruntime': {'export.formats'},
    'ai_edge_litert': {'export.formats'},
    'tensorboardX': {'logbook'},
    'av': {'inference.video'},
    'aiohttp': {'demo'},
}


def module(path: Path) -> str:
    """'hpe_jax/data/freihand/folder.py' -> 'data.freihand': a data set's folder is one module."""
    parts = path.relative_to(PACKAGE).with_suffix('').parts
    parts = parts[:-1] if parts[-1] == '__init__' else parts
    return '.'.join(parts[:2])


def imports(path: Path) -> set[str]:
    """Dotted names of all modules that a file imports, at its top or inside functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {node.module} | {f'{node.module}.{alias.name}' for alias in node.names}
    return found


FILES = {path: module(path) for path in sorted(PACKAGE.rglob('*.py')) if module(path) not in ('', 'data', 'inference')}


def test_every_module_has_a_layer():
    assert set(FILES.values()) == set().union(*LAYERS)


@pytest.mark.parametrize('path', FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_run_downwards(path):
    layer = {name: level for level, names in enumerate(LAYERS) for name in names}
    for imported in imports(path):
        name = imported.removeprefix('hpe_jax.')
        for other in {name, '.'.join(name.split('.')[:2])} & layer.keys() if imported.startswith('hpe_jax.') else ():
            if other != FILES[path] and not FILES[path].startswith(f'{other}.'):
                assert layer[other] < layer[FILES[path]], f'{FILES[path]} imports {other}'


@pytest.mark.parametrize('package', OWNERS)
def test_heavy_packages_have_their_owners(package):
    users = {FILES[path] for path in FILES if package in {name.split('.')[0] for name in imports(path)}}
    assert users == OWNERS[package]


def test_importing_the_package_costs_nothing():
    script = 'import sys, hpe_jax; sys.exit(bool({"jax", "numpy", "tensorflow"} & sys.modules.keys()))'
    assert subprocess.run([sys.executable, '-c', script], cwd=PACKAGE.parent).returncode == 0


@pytest.mark.slow
def test_only_their_own_commands_load_heavy_packages():
    modules = ', '.join(f'hpe_jax.{name}' for name in ('main', 'predict', 'demo', 'export'))
    script = f'import sys, {modules}; sys.exit(bool({{"tensorflow", "torch", "onnx", "av"}} & sys.modules.keys()))'
    assert subprocess.run([sys.executable, '-c', script], cwd=PACKAGE.parent).returncode == 0
