"""People of all kinds, drawn from MakeHuman's morph targets; used by make_hand_mesh.py."""

import gzip
from pathlib import Path

import numpy as np

MACRO = {
    'gender': ('female', 'male'),
    'age': ('child', 'young', 'old'),
    'muscle': ('minmuscle', 'averagemuscle', 'maxmuscle'),
    'weight': ('minweight', 'averageweight', 'maxweight'),
    'height': ('minheight', 'maxheight'),
    'proportions': ('idealproportions', 'uncommonproportions'),
    'race': ('african', 'asian', 'caucasian'),
}
# Files of one kind blend by the product of these axes' weights.
MACRO_FILES = (
    ('universal-{gender}-{age}-{muscle}-{weight}', ('gender', 'age', 'muscle', 'weight')),
    ('{race}-{gender}-{age}', ('race', 'gender', 'age')),
    ('height/{gender}-{age}-{muscle}-{weight}-{height}', ('gender', 'age', 'muscle', 'weight', 'height')),
    ('proportions/{gender}-{age}-{muscle}-{weight}-{proportions}',
     ('gender', 'age', 'muscle', 'weight', 'proportions')),
)  # fmt: skip
LOCAL = {  # morphs of one body part, each from -1 to 1, and their standard deviation here
    'hands/r-hand-fingers-length': 0.4,
    'hands/r-hand-fingers-diameter': 0.6,
    'hands/measure-wrist-circ': 0.4,
    'arms/r-lowerarm-fat': 0.4,
    'arms/r-lowerarm-muscle': 0.4,
}


def read_target(path: Path, num_vertices: int) -> np.ndarray:
    """One morph: offsets (V, 3)."""
    offsets = np.zeros((num_vertices, 3))
    with gzip.open(path, 'rt') as f:
        for line in f:
            if not line.startswith('#') and line.strip():
                vertex, *xyz = line.split()
                offsets[int(vertex)] = [float(x) for x in xyz]
    return offsets


def combinations(axes: tuple[str, ...]) -> list[dict[str, str]]:
    """Every choice of one value for each axis."""
    found = [{}]
    for axis in axes:
        found = [{**c, axis: value} for c in found for value in MACRO[axis]]
    return found


def sample_people(rng: np.random.Generator, n: int) -> dict[str, np.ndarray]:
    """Weights (n, values) of each macro axis: adults of all kinds, one in six a child in part."""

    def between(position, values):  # linear interpolation between equally spaced anchors
        anchors = np.linspace(0, 1, values)
        return np.maximum(0, 1 - np.abs(np.clip(position, 0, 1)[:, None] - anchors) * (values - 1))

    child = rng.random(n) < 1 / 6
    age = np.where(child, rng.uniform(0.1, 0.5, n), rng.uniform(0.5, 0.95, n))
    positions = {
        'gender': rng.beta(0.5, 0.5, n),
        'age': age,
        **{axis: rng.normal(0.5, 0.25, n) for axis in ('muscle', 'weight')},
        'height': rng.normal(0.5, 0.1, n),
        'proportions': rng.uniform(0, 1, n),
    }
    people = {axis: between(position, len(MACRO[axis])) for axis, position in positions.items()}
    return {**people, 'race': rng.dirichlet([0.5, 0.5, 0.5], n)}


def sample_bodies(targets: Path, vertices: np.ndarray, keep: np.ndarray, n: int, seed: int) -> np.ndarray:
    """Vertices `keep` of n people, (n, len(keep), 3), in the body's frame and decimetres."""
    rng = np.random.default_rng(seed)
    people = sample_people(rng, n)
    bodies = np.repeat(vertices[keep][None], n, 0)
    for pattern, axes in MACRO_FILES:
        for choice in combinations(axes):
            path = targets / 'macrodetails' / (pattern.format(**choice) + '.target.gz')
            offsets = read_target(path, len(vertices))[keep]
            weight = np.prod([people[a][:, MACRO[a].index(v)] for a, v in choice.items()], axis=0)
            bodies += weight[:, None, None] * offsets
    for name, spread in LOCAL.items():
        amount = np.clip(rng.normal(0, spread, n), -1, 1)
        for sign, suffix in ((1, 'incr'), (-1, 'decr')):
            offsets = read_target(targets / f'{name}-{suffix}.target.gz', len(vertices))[keep]
            bodies += np.maximum(0, sign * amount)[:, None, None] * offsets
    return bodies
