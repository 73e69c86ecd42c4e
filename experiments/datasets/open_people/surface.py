"""UV islands of the mean head and the seams between them."""

from __future__ import annotations

import numpy as np
from scipy.sparse import csgraph

from experiments.datasets.open_people.geometry import Head, adjacency


class MeshIslands:
    """The mean head, `vertices` (V,3), with its UV islands; `skin` (F,) marks the faces of the outer skin."""

    def __init__(self, head: Head, vertices: np.ndarray):
        self.head, self.vertices, self.faces = head, vertices, head.faces
        _, label = csgraph.connected_components(adjacency(head.uv_faces, len(head.uv)))
        self.island = label[head.uv_faces[:, 0]]  # (F,)
        body = head.part[head.faces[:, 0]] == 0
        counts = np.bincount(self.island[body])
        self.skin_island = int(np.argmax(counts))
        self.skin = self.island == self.skin_island
        others = [i for i in np.unique(self.island[body]) if i != self.skin_island]
        centre = {i: vertices[np.unique(head.faces[self.island == i])].mean(0) for i in others}
        sockets = [i for i in others if abs(centre[i][0]) > 0.01]
        self.socket_islands = sorted(sockets, key=lambda i: centre[i][0])  # right eye (-x) first
        remaining = [i for i in others if i not in sockets]
        self.mouth_island = max(remaining, key=lambda i: centre[i][2])
        self.neck_island = min(remaining, key=lambda i: centre[i][2])

    def seam_loop(self, island: int) -> np.ndarray:
        """Returns the vertices of an island's seam with the skin in order; the seam must be one closed loop."""
        edges = [
            {tuple(sorted(e)) for tri in self.faces[mask].tolist() for e in zip(tri, tri[1:] + tri[:1], strict=True)}
            for mask in (self.island == island, self.skin)
        ]
        neighbours: dict[int, list[int]] = {}
        for a, b in sorted(edges[0] & edges[1]):
            neighbours.setdefault(a, []).append(b)
            neighbours.setdefault(b, []).append(a)
        loop = [min(neighbours)]
        while len(loop) < len(neighbours):
            unvisited = [n for n in neighbours[loop[-1]] if n not in loop]
            if len(neighbours[loop[-1]]) != 2 or not unvisited:
                raise ValueError("the seam is not one closed loop")
            loop.append(unvisited[0])
        return np.array(loop)

    def outer_height(self) -> np.ndarray:
        """Returns (V,), the mean y of the skin around each vertex in base.obj, to tell the upper lip from the lower."""
        total, count = np.zeros(len(self.vertices)), np.zeros(len(self.vertices))
        heights = self.head.to_head(self.head.base["vertices"])[self.faces[self.skin], 1].mean(1)
        for k in range(3):
            np.add.at(total, self.faces[self.skin, k], heights)
            np.add.at(count, self.faces[self.skin, k], 1)
        return total / np.maximum(count, 1)
