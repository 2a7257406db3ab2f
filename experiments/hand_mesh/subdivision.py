"""Closing and subdividing a quad mesh, as a linear map that can be stored; used by make_hand_mesh.py."""

import numpy as np
import scipy.sparse as sp


def close(quads: np.ndarray, num_vertices: int) -> tuple[np.ndarray, np.ndarray]:
    """Closes the one hole, the cut through the upper arm, by quads around a new last vertex; and the hole's ring."""
    sides = {(a, b) for q in quads.tolist() for a, b in zip(q, q[1:] + q[:1], strict=True)}
    following = {b: a for a, b in sides if (b, a) not in sides}  # against the faces' winding
    ring = [next(iter(following))]
    while following[ring[-1]] != ring[0]:
        ring.append(following[ring[-1]])
    assert len(ring) == len(following) and len(ring) % 2 == 0, 'the cut must be one even ring'
    caps = [(ring[i - 1], ring[i], ring[(i + 1) % len(ring)], num_vertices) for i in range(1, len(ring), 2)]
    return np.concatenate([quads, caps]), np.array(ring)


def averages(groups: np.ndarray, num_points: int) -> sp.csr_matrix:
    """Matrix whose row i averages the points groups[i]."""
    row = np.repeat(np.arange(len(groups)), groups.shape[1])
    return sp.csr_matrix((np.full(groups.size, 1 / groups.shape[1]), (row, groups.ravel())), (len(groups), num_points))


def catmull_clark(quads: np.ndarray, num_vertices: int) -> tuple[sp.csr_matrix, np.ndarray]:
    """One step on a closed quad mesh: the linear map from coarse to fine vertices, and the fine quads."""
    ids, sides = {}, np.zeros((len(quads), 4), int)  # sides[q, i]: the edge from corner i to corner i + 1
    for q, quad in enumerate(quads.tolist()):
        for i in range(4):
            sides[q, i] = ids.setdefault(tuple(sorted((quad[i], quad[(i + 1) % 4]))), len(ids))
    edges = np.array(list(ids))
    faces_of_edge = np.argsort(sides.ravel(), kind='stable').reshape(-1, 2) // 4  # closed: two faces at each edge

    face_points = averages(quads, num_vertices)
    midpoints = averages(edges, num_vertices)
    edge_points = (midpoints + averages(faces_of_edge, len(quads)) @ face_points) / 2
    # A vertex of valence n goes to (mean of face points + 2 x mean of edge midpoints + (n - 3) x itself) / n.
    # The middle of the cut has many more neighbours, lies out of sight, and stays.
    at_face = averages(quads, num_vertices).T.sign()
    at_edge = averages(edges, num_vertices).T.sign()
    valence = np.asarray(at_edge.sum(1)).ravel()
    per, stays = sp.diags(1 / valence), sp.diags((valence > 6).astype(float))
    moved = per @ (per @ at_face @ face_points + 2 * per @ at_edge @ midpoints)
    moved += sp.identity(num_vertices) - 3 * per
    vertex_points = stays + (sp.identity(num_vertices) - stays) @ moved

    first_edge, first_face = num_vertices, num_vertices + len(edges)
    face_id = first_face + np.arange(len(quads))
    fine = [
        np.stack([quads[:, i], first_edge + sides[:, i], face_id, first_edge + sides[:, i - 1]], 1) for i in range(4)
    ]
    return sp.vstack([vertex_points, edge_points, face_points]).tocsr(), np.concatenate(fine)


def padded(matrix: sp.csr_matrix) -> tuple[np.ndarray, np.ndarray]:
    """A sparse matrix as (rows, k) column ids and weights, k the fullest row's count; the padding weighs nothing."""
    matrix.eliminate_zeros()
    counts = np.diff(matrix.indptr)
    ids, weights = np.zeros((2, matrix.shape[0], counts.max()))
    slot = np.arange(matrix.nnz) - np.repeat(matrix.indptr[:-1], counts)
    row = np.repeat(np.arange(matrix.shape[0]), counts)
    ids[row, slot], weights[row, slot] = matrix.indices, matrix.data
    return ids.astype(np.uint16), weights.astype(np.float32)


def shorter_diagonal_first(vertices: np.ndarray, quads: np.ndarray) -> np.ndarray:
    """Turns each quad so that the cut from its first to its third corner is the shorter one."""
    first = np.linalg.norm(vertices[quads[:, 0]] - vertices[quads[:, 2]], axis=1)
    second = np.linalg.norm(vertices[quads[:, 1]] - vertices[quads[:, 3]], axis=1)
    return np.where((first <= second)[:, None], quads, np.roll(quads, 1, axis=1))
