"""What pip installs: the lists of pyproject.toml, and the files that a wheel must carry."""

import json
import subprocess
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from PIL import Image

from tests import minimal

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / 'pyproject.toml').read_text())
SETUPTOOLS = PROJECT['tool']['setuptools']
DEPENDENCIES = PROJECT['project']['dependencies']
EXTRAS = PROJECT['project']['optional-dependencies']
FOLDERS = [
    folder
    for name in ('hpe_jax', 'configs', 'experiments')
    for folder in (ROOT / name, *(path for path in (ROOT / name).rglob('*') if path.is_dir()))
    if folder.name != '__pycache__' and ROOT / 'experiments/records' not in (folder, *folder.parents)
]
VERSIONED = ('jax', 'flax', 'optax', 'orbax-checkpoint', 'numpy')  # that a record names


def lines(path: str) -> list[str]:
    stripped = (line.partition('#')[0].strip() for line in (ROOT / path).read_text().splitlines())
    return [line for line in stripped if line]


def parsed(listed: list[str]) -> set[tuple]:
    requirements = map(Requirement, listed)
    return {(one.name.lower(), str(one.specifier), str(one.marker)) for one in requirements}


def test_requirements_are_the_dependencies_with_data_and_tests():
    assert parsed(lines('requirements.txt')) == parsed([*DEPENDENCIES, *EXTRAS['data'], *EXTRAS['test']])


def test_those_who_only_predict_need_no_tensorflow():
    assert EXTRAS.keys() == {'data', 'export', 'heif', 'torch', 'test', 'browser'}
    optional = {name for listed in EXTRAS.values() for name, *_ in parsed(listed)}
    assert not optional & {name for name, *_ in parsed(DEPENDENCIES)}
    assert {'tensorflow', 'tensorflow-cpu', 'torch', 'onnx', 'pytest'} <= optional


@pytest.mark.parametrize('requirement', [*DEPENDENCIES, *(one for listed in EXTRAS.values() for one in listed)])
def test_constraints_name_a_version_within_the_bounds_of_each_direct_dependency(requirement):
    requirement = Requirement(requirement)
    if requirement.marker and not requirement.marker.evaluate({'sys_platform': 'linux', 'platform_machine': 'x86_64'}):
        return  # the records were made on this platform
    pins = [pin for pin in map(Requirement, lines('constraints.txt')) if pin.name.lower() == requirement.name.lower()]
    assert len(pins) == 1 and str(pins[0].specifier).startswith('==')
    assert requirement.specifier.contains(str(pins[0].specifier).removeprefix('=='))


SCRIPT = """
import hpe_jax.demo
from hpe_jax import export, predict, trained_model
print('status', predict.main(['--input', sys.argv[1], '--output', sys.argv[2]]))
export.export(trained_model.SHIPPED, 'stablehlo', sys.argv[2])
"""


@pytest.mark.slow
def test_predict_demo_and_export_run_with_nothing_but_the_dependencies(tmp_path):
    assert 'pytest' in minimal.absent()
    Image.new('RGB', (64, 48)).save(tmp_path / 'grey.png')
    command = minimal.command(SCRIPT, tmp_path / 'grey.png', tmp_path / 'out')
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert 'status 0' in done.stdout
    assert {path.name for path in (tmp_path / 'out').iterdir()} == {
        'predictions.json',
        'model.stablehlo',
        'metadata.json',
    }


@pytest.mark.parametrize('path', sorted((ROOT / 'experiments/records').glob('*.json')), ids=lambda path: path.stem)
def test_constraints_are_the_versions_of_the_records(path):
    pins = {name: specifier.removeprefix('==') for name, specifier, _ in parsed(lines('constraints.txt'))}
    kept = json.loads(path.read_text())
    versions = {} if 'gpu' in kept.get('device', '') else kept.get('versions', {})  # that machine had its own
    assert {name: versions[name] for name in VERSIONED if name in versions}.items() <= pins.items()


def test_every_folder_with_code_is_a_package():
    for folder in FOLDERS:
        if list(folder.glob('*.py')):
            name = '.'.join(folder.relative_to(ROOT).parts)
            assert any(fnmatch(name, pattern) for pattern in SETUPTOOLS['packages']['find']['include']), name


def test_every_file_beside_the_code_is_package_data():
    """As setuptools finds them: the patterns of '*' in each package, those of a package below it."""
    patterns = dict(SETUPTOOLS['package-data'])
    everywhere = patterns.pop('*')
    found = {path for folder in FOLDERS for pattern in everywhere for path in folder.glob(pattern)}
    found |= {path for name, of_one in patterns.items() for pattern in of_one for path in (ROOT / name).glob(pattern)}
    files = {path for folder in FOLDERS for path in folder.iterdir() if path.is_file() and path.suffix != '.py'}
    files = {path for path in files if not path.name.startswith('.')}
    assert files <= found, sorted(files - found)
    assert ROOT / 'hpe_jax/demo.html' in files and ROOT / 'hpe_jax/weights/hands/config.json' in files


def test_no_file_names_the_address_of_a_registry():
    files = ['pyproject.toml', 'requirements.txt', 'constraints.txt', 'Makefile', '.ci/run', '.pre-commit-config.yaml']
    for file in files:
        text = (ROOT / file).read_text()
        assert '://' not in text and 'index-url' not in text, file
