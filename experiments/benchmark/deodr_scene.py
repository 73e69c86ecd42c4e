"""deodr at our work, for `render --peers`. It comes with the extra "bench"."""

from __future__ import annotations

import numpy as np

from experiments.benchmark.timing import Call, PeerMissing


class DeodrScene:
    """A mesh with vertex colours as deodr draws it: float64, one core, back faces culled, black background.

    `forward` draws without antialiasing; `gradient` draws with antialiased silhouettes and takes the gradient of half
    the image's squared sum in the vertices' positions and colours. Which edges are silhouettes is worked out
    beforehand and not timed, to the peer's advantage.
    """

    def __init__(self, screen: object, colours: object, faces: object, opposite: object, size: int) -> None:
        """screen (V, 3), colours (V, 3), faces (F, 3), opposite (F, 3) from `opposite_vertices`.

        Raises:
            PeerMissing: deodr is not installed.
        """
        try:
            from deodr.differentiable_renderer import Scene2D
        except ImportError as missing:
            raise PeerMissing("no row against deodr: pip install deodr==0.2.3 (docs/benchmark.md)") from missing
        points, triangles = np.asarray(screen, np.float64), np.asarray(faces, np.uint32)
        count, nothing = len(triangles), np.zeros(len(points))
        arguments = {
            "faces": triangles,
            "faces_uv": triangles,
            "ij": np.ascontiguousarray(points[:, :2]),
            "depths": np.ascontiguousarray(points[:, 2]),
            "textured": np.zeros(count, bool),
            "uv": np.zeros((len(points), 2)),
            "shade": nothing,
            "colors": np.asarray(colours, np.float64),
            "shaded": np.zeros(count, bool),
            "height": size,
            "width": size,
            "nb_colors": 3,
            "texture": np.zeros((2, 2, 3)),
            "background_color": np.zeros(3),
            "backface_culling": True,
            "integer_pixel_centers": False,
        }
        plain = Scene2D(edgeflags=np.zeros((count, 3), bool), **arguments)
        smooth = Scene2D(edgeflags=_silhouettes(points, triangles, np.asarray(opposite)), **arguments)
        self.image: np.ndarray = plain.render(1.0)[0]
        self.forward = Call(lambda: plain.render(1.0))

        def gradient() -> None:
            smooth.clear_gradients()
            image, _ = smooth.render(1.0)
            smooth.render_backward(image)

        self.gradient = Call(gradient)


def _silhouettes(points: np.ndarray, faces: np.ndarray, opposite: np.ndarray) -> np.ndarray:
    """(F, 3) bool: is the edge from each corner to the next one a silhouette of the front faces?"""

    def front(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
        (ux, uy), (vx, vy) = (points[b] - points[a])[:, :2].T, (points[c] - points[a])[:, :2].T
        return ux * vy - uy * vx < 0

    flags = []
    for k in range(3):
        a, b, third = faces[:, k], faces[:, (k + 1) % 3], faces[:, (k + 2) % 3]
        far = opposite[:, (k + 2) % 3]
        hidden = (far < 0) | ~front(b, a, np.maximum(far, 0))
        flags.append(front(a, b, third) & hidden)
    return np.stack(flags, axis=1)
