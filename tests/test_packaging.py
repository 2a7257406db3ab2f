"""What pip installs: the lists of pyproject.toml, and the files that a wheel must carry."""

import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / 'pyproject.toml').read_text())
EXTRAS = PROJECT['project']['optional-dependencies']


def requirements(path: str) -> set[str]:
    lines = (line.partition('#')[0].strip() for line in (ROOT / path).read_text().splitlines())
    return {line.replace(' ', '').replace("'", '"') for line in lines if line}


def test_requirements_are_the_dependencies_with_data_and_tests():
    listed = [*PROJECT['project']['dependencies'], *EXTRAS['data'], *EXTRAS['test']]
    assert requirements('requirements.txt') == {line.replace(' ', '').replace("'", '"') for line in listed}


def test_those_who_only_predict_need_no_tensorflow():
    names = {line.partition('>')[0] for line in PROJECT['project']['dependencies']}
    assert not names & {'tensorflow', 'tensorflow-cpu', 'torch', 'onnx'}
    assert EXTRAS.keys() == {'data', 'export', 'heif', 'torch', 'test'}


def test_constraints_name_each_direct_dependency_once():
    pinned = [line.partition('==')[0].lower() for line in requirements('constraints.txt')]
    names = {line.partition('>')[0].lower() for line in PROJECT['project']['dependencies']}
    assert len(pinned) == len(set(pinned)) and names <= set(pinned)


@pytest.mark.parametrize('file', ['demo.html', 'data/synthetic_hands/hand_mesh.npz', 'data/freihand/checksums.tsv'])
def test_files_beside_the_code_are_package_data(file):
    patterns = PROJECT['tool']['setuptools']['package-data']['*']
    assert (ROOT / 'hpe_jax' / file).is_file() and any(Path(file).match(pattern) for pattern in patterns)


def test_the_shipped_weights_are_package_data():
    (pattern,) = PROJECT['tool']['setuptools']['package-data']['hpe_jax']
    assert ROOT / 'hpe_jax/weights/hands/config.json' in set((ROOT / 'hpe_jax').glob(pattern))


def test_no_file_names_the_address_of_a_registry():
    files = ['pyproject.toml', 'requirements.txt', 'constraints.txt', 'Makefile', '.ci/run', '.pre-commit-config.yaml']
    for file in files:
        text = (ROOT / file).read_text()
        assert '://' not in text and 'index-url' not in text, file
