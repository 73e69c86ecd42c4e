"""Cut the head out of the MakeHuman base mesh: topology, UV islands, mirror map and named vertex rings.

Every head vertex is a fixed linear combination of base-mesh vertices (`Head.operator`). One sparse product therefore
transfers morph targets of the full body to the head, including the subdivided eyeballs.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
from scipy import sparse
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from experiments.datasets.open_people.refine import EdgeSplitter, QuadMeshEdges, long_edges, split_polygon
from experiments.datasets.open_people.sources import N_BASE, MakeHumanSource, load_base

NECK_SEED = 8177  # a vertex of the closed 42-vertex loop along which the neck is cut
REFINE_ABOVE, REFINE_LONGEST = 0.06, 0.0128  # metres above the neck's cut; maximum length of edges, metres


@dataclass
class Head:
    """Topology of the head; vertices are body first, then left eye, then right eye."""

    base: dict  # of `load_base`
    operator: sparse.csr_matrix  # (V, 19158)
    faces: np.ndarray  # (F, 3)
    uv: np.ndarray  # (Vt, 2) as in base.obj
    uv_faces: np.ndarray  # (F, 3)
    part: np.ndarray  # (V,) 0 body, 1 left eye, 2 right eye
    base_ids: np.ndarray  # (V,) index of the base vertex, -1 for vertices from subdivision
    mirror: np.ndarray  # (V,) index of the mirrored vertex
    neck_loop: np.ndarray  # vertex ids of the open border

    def to_head(self, base_field: np.ndarray) -> np.ndarray:
        """Transfer a field (19158, 3) on the base mesh to the head: (V, 3)."""
        return self.operator @ base_field


def edge_loop(mesh: QuadMeshEdges, start: int, towards: int) -> list[int] | None:
    """Follow the edge loop of a quad mesh from `start`; None if it ends at an irregular vertex."""
    loop = [start, towards]
    while loop[-1] != start:
        ahead = mesh.continuations(*loop[-2:])
        if len(mesh.neighbours[loop[-1]]) != 4 or len(ahead) != 1:
            return None
        loop.append(ahead[0])
    return loop[:-1]


def find_neck_loop(quads: list) -> list[int]:
    """Find the closed 42-vertex loop through NECK_SEED."""
    mesh = QuadMeshEdges(quads)
    for quad in quads:
        if NECK_SEED in quad:
            i = quad.index(NECK_SEED)
            for other in sorted((quad[i - 1], quad[(i + 1) % 4]), key=quad.index):
                loop = edge_loop(mesh, NECK_SEED, other)
                if loop and len(loop) == 42:
                    return loop
    raise ValueError("no neck loop: is this base.obj hm08?")


def _quads_above(quads: list, loop: list[int], vertices: np.ndarray) -> np.ndarray:
    """Returns the indices of the quads that are connected with the top of the head without crossing the loop."""
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
    """Split a quad along its shorter diagonal, or the one with the higher corner, so that mirrored quads agree."""
    d02, d13 = np.linalg.norm(points[0] - points[2]), np.linalg.norm(points[1] - points[3])
    if abs(d02 - d13) > 1e-7:
        first = d02 < d13
    else:
        first = max(points[0, 1], points[2, 1]) > max(points[1, 1], points[3, 1])
    return ((0, 1, 2), (0, 2, 3)) if first else ((0, 1, 3), (1, 2, 3))


def _triangles(quads: list, vertices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Triangulate polygons (vertex ids, UV ids): (F, 3) each. Polygons at the eyeballs' poles may be triangles."""
    triangles, uv_triangles = [], []
    for ids, uvs in quads:
        if len(ids) > 4:
            corners = split_polygon(vertices[ids])
        else:
            corners = split_quad(vertices[ids]) if len(ids) == 4 else ((0, 1, 2),)
        for c in corners:
            triangles.append([ids[i] for i in c])
            uv_triangles.append([uvs[i] for i in c])
    return np.array(triangles), np.array(uv_triangles)


def cut_head(source: MakeHumanSource) -> Head:
    """Cut the head, subdivide the eyes and the long edges of the skull once, and triangulate.

    The new skull vertices come last, so that all others keep their indices.

    Raises:
      ValueError: base.obj is not the expected mesh.
    """
    base = load_base(source)
    points = base["vertices"]
    body = base["groups"]["body"]
    loop = find_neck_loop([q for q, _ in body])
    head_quads = [body[f] for f in _quads_above([q for q, _ in body], loop, points)]
    outer = [q for q, _ in head_quads]
    skull = EdgeSplitter(outer, long_edges(outer, points, points[loop, 1].max() + REFINE_ABOVE, REFINE_LONGEST), points,
                    base["uv"])  # fmt: skip
    triangles, uv_triangles = _triangles([skull.polygon(*quad) for quad in head_quads], skull.points)
    used = np.unique(triangles[triangles < N_BASE])
    index = np.full(len(skull.points), -1)
    index[used] = np.arange(len(used))
    rows = [sparse.csr_matrix((np.ones(len(used)), (np.arange(len(used)), used)), (len(used), N_BASE))]
    faces, uv_faces, uv = [triangles], [uv_triangles], np.array(skull.uv)
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
    faces[0] = index[triangles]
    rows.append(_weight_matrix(skull.rows))
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


def _subdivide(ids, triangles, uv_triangles, points, uv):
    """Subdivide an eyeball once at edge midpoints, which a linear rule moves onto the sphere.

    Returns operator (n, 19158), triangles (4f, 3), uv with the new UV vertices appended, uv triangles (4f, 3).
    """
    local = {int(v): i for i, v in enumerate(ids)}
    centre = points[ids].mean(0)
    rows = [{int(v): 1.0} for v in ids]
    midpoints, uv_midpoints, uv = {}, {}, [list(p) for p in uv]

    def midpoint(a, b):
        key = (min(a, b), max(a, b))
        if key not in midpoints:
            half = (points[a] + points[b]) / 2 - centre
            radius = (np.linalg.norm(points[a] - centre) + np.linalg.norm(points[b] - centre)) / 2
            k = radius / np.linalg.norm(half)
            # centre + k (mid - centre) is linear in the base vertices, so it scales and moves with the eye
            row = {int(v): (1 - k) / len(ids) for v in ids}
            row[a] += k / 2
            row[b] += k / 2
            midpoints[key] = len(rows)
            rows.append(row)
        return midpoints[key]

    def uv_midpoint(a, b):
        key = (min(a, b), max(a, b))
        if key not in uv_midpoints:
            uv_midpoints[key] = len(uv)
            uv.append([(uv[a][0] + uv[b][0]) / 2, (uv[a][1] + uv[b][1]) / 2])
        return uv_midpoints[key]

    fine, fine_uv = [], []
    for (a, b, c), (ta, tb, tc) in zip(triangles.tolist(), uv_triangles.tolist(), strict=True):
        ab, bc, ca = midpoint(a, b), midpoint(b, c), midpoint(c, a)
        tab, tbc, tca = uv_midpoint(ta, tb), uv_midpoint(tb, tc), uv_midpoint(tc, ta)
        a, b, c = local[a], local[b], local[c]
        fine += [[a, ab, ca], [ab, b, bc], [ca, bc, c], [ab, bc, ca]]
        fine_uv += [[ta, tab, tca], [tab, tb, tbc], [tca, tbc, tc], [tab, tbc, tca]]
    return _weight_matrix(rows), np.array(fine), np.array(uv), np.array(fine_uv)


def _weight_matrix(rows: list[dict[int, float]]) -> sparse.csr_matrix:
    """Build a matrix (n, 19158) from one dict of base vertex -> weight per new vertex."""
    i = [r for r, row in enumerate(rows) for _ in row]
    j = [c for row in rows for c in row]
    data = [w for row in rows for w in row.values()]
    return sparse.csr_matrix((data, (i, j)), (len(rows), N_BASE))


def adjacency(faces: np.ndarray, count: int) -> sparse.csr_matrix:
    """Returns the symmetric 0/1 vertex adjacency (V, V)."""
    i, j = faces[:, [0, 1, 2]].ravel(), faces[:, [1, 2, 0]].ravel()
    a = sparse.coo_matrix((np.ones(2 * len(i)), (np.r_[i, j], np.r_[j, i])), (count, count)).tocsr()
    a.data[:] = 1.0
    return a


def neighbour_mean(faces: np.ndarray, count: int) -> sparse.csr_matrix:
    """Returns the operator (V, V) that takes the mean over each vertex's neighbours."""
    neighbours = adjacency(faces, count)
    return sparse.diags(1 / np.asarray(neighbours.sum(1)).ravel()) @ neighbours


def edge_lengths(neighbours: sparse.csr_matrix, vertices: np.ndarray) -> sparse.csr_matrix:
    """Returns (V, V) edge lengths of an adjacency; shortest paths in this graph approximate geodesics."""
    edges = neighbours.tocoo()
    lengths = np.linalg.norm(vertices[edges.row] - vertices[edges.col], axis=1)
    return sparse.csr_matrix((lengths, (edges.row, edges.col)), shape=neighbours.shape)


def smoothstep(t: np.ndarray, start: float = 0.0, end: float = 1.0) -> np.ndarray:
    """Smooth step from 0 at `start` to 1 at `end`, in either order, with zero slope at both ends."""
    s = np.clip((t - start) / (end - start), 0, 1)
    return s * s * (3 - 2 * s)
