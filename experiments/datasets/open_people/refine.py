"""Subdivide the coarse skull once, without moving vertices of the base mesh.

The base mesh has edges of 16 mm on the scalp, which appear as corners of the silhouette. Long quad edges get a new
vertex by the four-point rule (Dyn, Levin, Gregory 1987) along the mesh's edge loops. It is a fixed linear combination
of base vertices, like every head vertex, so morph targets transfer to it.
"""

from __future__ import annotations

from collections import defaultdict

import numpy as np

TENSION = 1 / 16
FLAT = 0.3  # a corner whose angle has a smaller sine counts as flat


class QuadMeshEdges:
    """Adjacency of a quad mesh: the neighbours and quads of each vertex."""

    def __init__(self, quads: list[list[int]]):
        self.neighbours, self.quads_at = defaultdict(set), defaultdict(set)
        for quad in quads:
            corners = frozenset(quad)
            for a, b in zip(quad, quad[1:] + quad[:1], strict=True):
                self.neighbours[a].add(b)
                self.neighbours[b].add(a)
                self.quads_at[a].add(corners)

    def continuations(self, a: int, b: int) -> list[int]:
        """Returns the vertices that continue the edge (a, b) beyond b: one in a regular mesh, none at a border."""
        beside = set().union(*(q for q in self.quads_at[a] & self.quads_at[b]))
        return sorted(self.neighbours[b] - beside)

    def four_point(self, a: int, b: int) -> dict[int, float]:
        """Returns the weights of the midpoint of the edge (a, b) on a smooth curve through its neighbours."""
        row = {a: 0.5, b: 0.5}
        for near, far in ((a, b), (b, a)):
            beyond = self.continuations(far, near)
            if not beyond:
                continue
            row[near] += 2 * TENSION
            row[far] -= TENSION
            for v in beyond:
                row[v] = row.get(v, 0.0) - TENSION / len(beyond)
        return row


def long_edges(quads: list[list[int]], points: np.ndarray, above: float, longest: float) -> list[tuple[int, int]]:
    """List interior quad edges longer than `longest` with both ends above y = `above`, as sorted (low, high) pairs."""
    count: dict[tuple[int, int], int] = defaultdict(int)
    for quad in quads:
        for a, b in zip(quad, quad[1:] + quad[:1], strict=True):
            count[min(a, b), max(a, b)] += 1
    return sorted(
        (a, b)
        for (a, b), n in count.items()
        if n == 2 and min(points[a, 1], points[b, 1]) > above and np.linalg.norm(points[a] - points[b]) > longest
    )


def split_polygon(points: np.ndarray) -> list[tuple[int, int, int]]:
    """Triangulate a nearly planar convex polygon (n, 3), cutting off the corner with the shortest diagonal first.

    Flat corners, the midpoints of straight sides, are cut last. Ties are decided by the corner's position (higher, then
    farther from the symmetry plane), so that mirrored polygons are cut alike.
    """
    ring, out = list(range(len(points))), []
    while len(ring) > 3:
        keys = []
        for k, i in enumerate(ring):
            a, b = points[ring[k - 1]], points[ring[(k + 1) % len(ring)]]
            u, w = a - points[i], b - points[i]
            flat = np.linalg.norm(np.cross(u, w)) < FLAT * np.linalg.norm(u) * np.linalg.norm(w)
            position = (-round(float(points[i, 1]), 6), -round(abs(float(points[i, 0])), 6))
            keys.append((flat, round(float(np.linalg.norm(b - a)), 6), *position))
        k = keys.index(min(keys))
        out.append((ring[k - 1], ring[k], ring[(k + 1) % len(ring)]))
        del ring[k]
    return [*out, tuple(ring)]


class EdgeSplitter:
    """Assigns new vertex and UV ids to the midpoints of the edges to split."""

    def __init__(self, quads: list[list[int]], edges: list[tuple[int, int]], points: np.ndarray, uv: np.ndarray):
        mesh = QuadMeshEdges(quads)
        self.rows = [mesh.four_point(a, b) for a, b in edges]
        self.number = {edge: len(points) + k for k, edge in enumerate(edges)}
        middles = [sum(w * points[v] for v, w in row.items()) for row in self.rows]
        self.points = np.concatenate([points, np.reshape(middles, (-1, 3))])
        self.uv, self._uv_number = [tuple(p) for p in uv], {}

    def middle_uv(self, a: int, b: int) -> int:
        """Returns the id of the midpoint of a UV edge; the two sides of a seam have different ones."""
        key = (min(a, b), max(a, b))
        if key not in self._uv_number:
            self._uv_number[key] = len(self.uv)
            self.uv.append(tuple((np.array(self.uv[a]) + self.uv[b]) / 2))
        return self._uv_number[key]

    def polygon(self, ids: list[int], uvs: list[int]) -> tuple[list[int], list[int]]:
        """Returns the vertex and UV ids of a quad's outline with the new vertices inserted."""
        out, out_uv = [], []
        for k in range(len(ids)):
            a, b = ids[k], ids[(k + 1) % len(ids)]
            out.append(a)
            out_uv.append(uvs[k])
            if (min(a, b), max(a, b)) in self.number:
                out.append(self.number[min(a, b), max(a, b)])
                out_uv.append(self.middle_uv(uvs[k], uvs[(k + 1) % len(ids)]))
        return out, out_uv
