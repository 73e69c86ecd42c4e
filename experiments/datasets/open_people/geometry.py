"""Cuts the head out of the MakeHuman base mesh: topology, UV islands, mirror map and named vertex rings.

Every head vertex is a fixed linear combination of base-mesh vertices (`Head.operator`), so morph targets of the whole
body carry over to the head by one sparse product, subdivided eyeballs included.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
from scipy import sparse
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from experiments.datasets.open_people.refine import Edges, Splitter, long_edges, split_polygon
from experiments.datasets.open_people.sources import N_BASE, Source, load_base

NECK_SEED = 8177  # a vertex on the closed 42-vertex loop where the neck is cut
REFINE_ABOVE, REFINE_LONGEST = 0.06, 0.0128  # metres above the neck's cut; edges longer than this are split


@dataclass
class Head:
    """Topology of the head; vertices are body first, then left eye, then right eye."""

    base: dict  # load_base
    operator: sparse.csr_matrix  # (V, 19158)
    faces: np.ndarray  # (F, 3)
    uv: np.ndarray  # (Vt, 2) of base.obj, not repacked
    uv_faces: np.ndarray  # (F, 3)
    part: np.ndarray  # (V,) 0 body, 1 left eye, 2 right eye
    base_ids: np.ndarray  # (V,) the base vertex, -1 for vertices made by subdivision
    mirror: np.ndarray  # (V,) index of the mirrored vertex
    neck_loop: np.ndarray  # vertex ids of the open border

    def carry(self, base_field: np.ndarray) -> np.ndarray:
        """(19158, 3) on the base mesh -> (V, 3) on the head."""
        return self.operator @ base_field


def edge_loop(mesh: Edges, start: int, towards: int) -> list[int] | None:
    """Follows a quad mesh's edge loop from `start`; the closed loop or None where it ends at an irregular vertex."""
    loop = [start, towards]
    while loop[-1] != start:
        ahead = mesh.ahead(*loop[-2:])
        if len(mesh.near[loop[-1]]) != 4 or len(ahead) != 1:
            return None
        loop.append(ahead[0])
    return loop[:-1]


def neck_cut(quads: list) -> list[int]:
    """The closed 42-vertex loop through NECK_SEED."""
    mesh = Edges(quads)
    for quad in quads:
        if NECK_SEED in quad:
            i = quad.index(NECK_SEED)
            for other in sorted((quad[i - 1], quad[(i + 1) % 4]), key=quad.index):
                loop = edge_loop(mesh, NECK_SEED, other)
                if loop and len(loop) == 42:
                    return loop
    raise ValueError("the neck loop was not found: is this base.obj hm08?")


def _above(quads: list, loop: list[int], vertices: np.ndarray) -> np.ndarray:
    """Ids of the quads on the head's side of the loop: those that hang together with the top across other edges."""
    barrier = {frozenset(edge) for edge in zip(loop, loop[1:] + loop[:1], strict=True)}
    by_edge = defaultdict(list)
    for f, quad in enumerate(quads):
        for edge in zip(quad, quad[1:] + quad[:1], strict=True):
            by_edge[frozenset(edge)].append(f)
    pairs = np.array([pair for edge, pair in by_edge.items() if len(pair) == 2 and edge not in barrier])
    graph = sparse.coo_matrix((np.ones(len(pairs)), pairs.T), (len(quads), len(quads)))
    _, label = connected_components(graph, directed=False)
    top = int(np.argmax([vertices[q, 1].mean() for q in quads]))
    return np.flatnonzero(label == label[top])


def split_quad(points: np.ndarray) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """Two triangles along the shorter diagonal; ties go to the one with the higher corner, so mirror twins agree."""
    d02, d13 = np.linalg.norm(points[0] - points[2]), np.linalg.norm(points[1] - points[3])
    if abs(d02 - d13) > 1e-7:
        first = d02 < d13
    else:
        first = max(points[0, 1], points[2, 1]) > max(points[1, 1], points[3, 1])
    return ((0, 1, 2), (0, 2, 3)) if first else ((0, 1, 3), (1, 2, 3))


def _triangles(quads: list, vertices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Position and UV triangles (F, 3) of (vertex ids, uv ids) polygons; eyeball poles may already be triangles."""
    tri, tri_uv = [], []
    for ids, uvs in quads:
        if len(ids) > 4:
            corners = split_polygon(vertices[ids])
        else:
            corners = split_quad(vertices[ids]) if len(ids) == 4 else ((0, 1, 2),)
        for c in corners:
            tri.append([ids[i] for i in c])
            tri_uv.append([uvs[i] for i in c])
    return np.array(tri), np.array(tri_uv)


def cut_head(source: Source) -> Head:
    """Cuts, subdivides the eyes and the long edges of the skull once, triangulates.

    The new skull vertices come last, so all others keep their numbers.
    """
    base = load_base(source)
    points = base["vertices"]
    body = base["groups"]["body"]
    loop = neck_cut([q for q, _ in body])
    keep = _above([q for q, _ in body], loop, points)
    kept = [body[f] for f in keep]
    outer = [q for q, _ in kept]
    skull = Splitter(outer, long_edges(outer, points, points[loop, 1].max() + REFINE_ABOVE, REFINE_LONGEST), points,
                    base["uv"])  # fmt: skip
    tri, tri_uv = _triangles([skull.polygon(*quad) for quad in kept], skull.points)
    used = np.unique(tri[tri < N_BASE])
    index = np.full(len(skull.points), -1)
    index[used] = np.arange(len(used))
    rows = [sparse.csr_matrix((np.ones(len(used)), (np.arange(len(used)), used)), (len(used), N_BASE))]
    faces, uv_faces, uv = [tri], [tri_uv], np.array(skull.uv)
    part, base_ids = [np.zeros(len(used), int)], [used]
    count = len(used)
    for number, group in ((1, "helper-l-eye"), (2, "helper-r-eye")):
        eye, eye_uv = _triangles(base["groups"][group], points)
        ids = np.unique(eye)
        op, fine, uv, fine_uv = _subdivide(ids, eye, eye_uv, points, uv)
        rows.append(op)
        faces.append(fine + count)
        uv_faces.append(fine_uv)
        part.append(np.full(op.shape[0], number))
        base_ids.append(np.concatenate([ids, np.full(op.shape[0] - len(ids), -1)]))
        count += op.shape[0]
    index[N_BASE:] = count + np.arange(len(skull.rows))
    faces[0] = index[tri]
    rows.append(_rows(skull.rows))
    part.append(np.zeros(len(skull.rows), int))
    base_ids.append(np.full(len(skull.rows), -1))
    count += len(skull.rows)
    operator = sparse.vstack(rows).tocsr()
    uv_faces = np.concatenate(uv_faces)
    uv_used, flat = np.unique(uv_faces, return_inverse=True)
    template = operator @ points
    distance, mirror = cKDTree(template).query(template * [-1, 1, 1])
    if distance.max() > 1e-4 or not np.array_equal(mirror[mirror], np.arange(count)):
        raise ValueError("the head is not mirror symmetric")
    return Head(base, operator, np.concatenate(faces), uv[uv_used], flat.reshape(-1, 3), np.concatenate(part),
                np.concatenate(base_ids), mirror, index[np.array(loop)])  # fmt: skip


def _subdivide(ids, tri, tri_uv, points, uv):
    """One midpoint subdivision of an eyeball; midpoints are pushed out to the ball by a linear rule.

    Returns operator (n, 19158), triangles (4f, 3), uv with the new UV vertices appended, uv triangles (4f, 3).
    """
    local = {int(v): i for i, v in enumerate(ids)}
    centre = points[ids].mean(0)
    rows = [{int(v): 1.0} for v in ids]
    middle, middle_uv, uv = {}, {}, [list(p) for p in uv]

    def mid(a, b):
        key = (min(a, b), max(a, b))
        if key not in middle:
            half = (points[a] + points[b]) / 2 - centre
            radius = (np.linalg.norm(points[a] - centre) + np.linalg.norm(points[b] - centre)) / 2
            k = radius / np.linalg.norm(half)
            # centre + k (mid - centre): linear in the base vertices, so it scales and moves with the eye
            row = {int(v): (1 - k) / len(ids) for v in ids}
            row[a] += k / 2
            row[b] += k / 2
            middle[key] = len(rows)
            rows.append(row)
        return middle[key]

    def mid_uv(a, b):
        key = (min(a, b), max(a, b))
        if key not in middle_uv:
            middle_uv[key] = len(uv)
            uv.append([(uv[a][0] + uv[b][0]) / 2, (uv[a][1] + uv[b][1]) / 2])
        return middle_uv[key]

    fine, fine_uv = [], []
    for (a, b, c), (ta, tb, tc) in zip(tri.tolist(), tri_uv.tolist(), strict=True):
        ab, bc, ca = mid(a, b), mid(b, c), mid(c, a)
        tab, tbc, tca = mid_uv(ta, tb), mid_uv(tb, tc), mid_uv(tc, ta)
        a, b, c = local[a], local[b], local[c]
        fine += [[a, ab, ca], [ab, b, bc], [ca, bc, c], [ab, bc, ca]]
        fine_uv += [[ta, tab, tca], [tab, tb, tbc], [tca, tbc, tc], [tab, tbc, tca]]
    return _rows(rows), np.array(fine), np.array(uv), np.array(fine_uv)


def _rows(rows: list[dict[int, float]]) -> sparse.csr_matrix:
    """(n, 19158) from one dict of base vertex -> weight per new vertex."""
    i = [r for r, row in enumerate(rows) for _ in row]
    j = [c for row in rows for c in row]
    data = [w for row in rows for w in row.values()]
    return sparse.csr_matrix((data, (i, j)), (len(rows), N_BASE))


def adjacency(faces: np.ndarray, count: int) -> sparse.csr_matrix:
    """Symmetric 0/1 vertex adjacency (V, V)."""
    i, j = faces[:, [0, 1, 2]].ravel(), faces[:, [1, 2, 0]].ravel()
    a = sparse.coo_matrix((np.ones(2 * len(i)), (np.r_[i, j], np.r_[j, i])), (count, count)).tocsr()
    a.data[:] = 1.0
    return a


def neighbour_mean(faces: np.ndarray, count: int) -> sparse.csr_matrix:
    """(V, V) operator that gives the mean over each vertex's neighbours."""
    near = adjacency(faces, count)
    return sparse.diags(1 / np.asarray(near.sum(1)).ravel()) @ near


def edge_lengths(near: sparse.csr_matrix, vertices: np.ndarray) -> sparse.csr_matrix:
    """(V, V) lengths of the edges of an adjacency: the graph whose paths are geodesics."""
    edges = near.tocoo()
    lengths = np.linalg.norm(vertices[edges.row] - vertices[edges.col], axis=1)
    return sparse.csr_matrix((lengths, (edges.row, edges.col)), shape=near.shape)


def smoothstep(t: np.ndarray, start: float = 0.0, end: float = 1.0) -> np.ndarray:
    """0 at `start`, 1 at `end`, either way round, with level ends."""
    s = np.clip((t - start) / (end - start), 0, 1)
    return s * s * (3 - 2 * s)
