"""Commands as they run after `pip install .`: no package can be imported but the dependencies and what those bring."""

import sys
import tomllib
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

DEPENDENCIES = tomllib.loads((Path(__file__).parents[1] / 'pyproject.toml').read_text())['project']['dependencies']
HIDE = """
import runpy, sys
from importlib.machinery import PathFinder

find, absent = PathFinder.find_spec, set(sys.argv.pop(1).split(','))
PathFinder.find_spec = lambda name, *rest: None if name.partition('.')[0] in absent else find(name, *rest)
"""


def command(script: str, *arguments) -> list[str]:
    """The command that runs a script there; `runpy` and `sys` are imported already."""
    return [sys.executable, '-c', HIDE + script, ','.join(absent()), *map(str, arguments)]


def absent() -> set[str]:
    """The modules that are installed here, but would not be."""
    kept = brought(DEPENDENCIES) | {'hpe-jax'}
    owners = metadata.packages_distributions()
    return {module for module, names in owners.items() if not kept & set(map(canonicalize_name, names))}


def brought(requirements: list[str]) -> set[str]:
    """The packages that these requirements bring, as far as they are installed here."""
    found, waiting = {}, [(Requirement(line), '') for line in requirements]
    while waiting:
        requirement, extra = waiting.pop()
        if requirement.marker and not requirement.marker.evaluate({'extra': extra}):
            continue
        name = canonicalize_name(requirement.name)
        extras = {'', *requirement.extras} - found.get(name, set())
        found.setdefault(name, set()).update(extras)
        try:
            lines = metadata.requires(name) or [] if extras else []
        except metadata.PackageNotFoundError:
            lines = []
        waiting += [(Requirement(line), extra) for line in lines for extra in extras]
    return set(found)
