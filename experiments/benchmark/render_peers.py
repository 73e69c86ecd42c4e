"""Other renderers for `benchmark render --peers` and `--jaxrenderer-python`.

All draw vertex colours with a depth test, back faces culled, on black.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from experiments.benchmark.timing import PeerMissing, Programs, TimedCall

WORKER = Path(__file__).with_name("jaxrenderer_worker.py")
INSTALL_HINT = "python3.12 -m venv jr && jr/bin/pip install jaxrenderer==0.4.0 (docs/results/benchmark.md)"
SAME_PIXELS = 0.98
"""Smallest share of equal pixels for two images to count as the same: contours and slivers differ."""


def deodr(screen: object, colours: object, faces: object, opposite: object, size: int) -> tuple[TimedCall, TimedCall]:
    """Return deodr's programs (float64, one core) of the image and of a gradient.

    The image is drawn without antialiasing. The gradients are those of half the image's squared sum for positions and
    colours, with antialiased silhouettes. Silhouette edges are computed beforehand and not timed, to the peer's
    advantage. Raises: PeerMissing, deodr is not installed; it comes with the extra "bench".

    screen: (V, 3) pixels and depth. colours: (V, 3). faces: (F, 3). opposite: (F, 3) from `opposite_vertices`.
    """
    try:
        from deodr.differentiable_renderer import Scene2D
    except ImportError as missing:
        raise PeerMissing("no row against deodr: pip install deodr==0.2.3 (docs/results/benchmark.md)") from missing
    points, triangles = np.asarray(screen, np.float64), np.asarray(faces, np.uint32)
    count = len(triangles)
    unused = {"textured": np.zeros(count, bool), "uv": np.zeros((len(points), 2)), "texture": np.zeros((2, 2, 3))}
    unused |= {"shaded": np.zeros(count, bool), "shade": np.zeros(len(points)), "background_color": np.zeros(3)}
    mesh = {"faces": triangles, "faces_uv": triangles, "colors": np.asarray(colours, np.float64)}
    mesh |= {"ij": points[:, :2].copy(), "depths": points[:, 2].copy()}
    image = {"height": size, "width": size, "nb_colors": 3, "backface_culling": True, "integer_pixel_centers": False}
    arguments: dict[str, Any] = {**unused, **mesh, **image}
    plain = Scene2D(edgeflags=np.zeros((count, 3), bool), **arguments)
    smooth = Scene2D(edgeflags=_silhouettes(points, triangles, np.asarray(opposite)), **arguments)

    def gradient() -> None:
        smooth.clear_gradients()
        image, _ = smooth.render(1.0)
        smooth.render_backward(image)

    return TimedCall(lambda: plain.render(1.0)), TimedCall(gradient)


def _silhouettes(points: np.ndarray, faces: np.ndarray, opposite: np.ndarray) -> np.ndarray:
    """Return (F, 3) bool: whether the edge from each corner to the next is a silhouette of the front faces."""

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


class WorkerProgram(TimedCall):
    """One of the worker's programs; the worker measures the run itself, without the messages."""

    def seconds(self) -> float:
        """Return the seconds of one run."""
        return self.run()["seconds"]


@dataclasses.dataclass
class JaxrendererScene:
    """jaxrenderer's programs for one mesh, while its worker runs."""

    name: str
    programs: Programs
    """The image, and the gradient; None where it is not finite or needs more memory than is free."""
    image: np.ndarray
    """(size, size, 3)"""

    def check_image(self, ours: object) -> None:
        """Raise RuntimeError unless our image equals theirs except for a few pixels."""
        same = float(np.mean(np.abs(self.image - np.asarray(ours)).max(-1) < 1 / 255))
        if same < SAME_PIXELS:
            raise RuntimeError(f"jaxrenderer and flamejax agree on {same:.1%} of the pixels only: not the same work.")


@contextlib.contextmanager
def jaxrenderer(
    python: Path, screen: object, colours: object, faces: object, size: int, report: Callable[[str], object]
) -> Iterator[JaxrendererScene]:
    """Start jaxrenderer in its own process and environment, since it pins another JAX than ours.

    The worker waits while our programs are timed. Raises: PeerMissing, the interpreter or jaxrenderer does not work.

    screen: (V, 3) pixels and depth. colours: (V, 3). faces: (F, 3). report: called if there is no gradient.
    """
    with tempfile.TemporaryDirectory() as name:
        folder, log = Path(name), Path(name) / "stderr.txt"
        scene = {"screen": screen, "colours": colours, "faces": faces, "size": size, "memory": 0.75 * _free_memory()}
        arrays: dict[str, Any] = {key: np.asarray(value) for key, value in scene.items()}
        np.savez(folder / "scene.npz", **arrays)
        # The worker must not import our packages through the caller's PYTHONPATH.
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        try:
            with log.open("wb") as errors:
                worker = subprocess.Popen(
                    [python, WORKER, folder],
                    stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment,
                )  # fmt: skip
        except OSError as missing:
            reason = f"{python} does not run ({missing.strerror})"
            raise PeerMissing(f"no row against jaxrenderer: {reason}: {INSTALL_HINT}") from None

        def ask(command: str) -> dict:
            assert worker.stdin is not None and worker.stdout is not None
            line = ""
            with contextlib.suppress(BrokenPipeError):
                print(command, file=worker.stdin, flush=True)
                line = worker.stdout.readline()
            if not line:
                last = " ".join(log.read_text(errors="replace").split("\n")[-2:]).strip()
                raise PeerMissing(f"no row against jaxrenderer: its worker ended ({last}): {INSTALL_HINT}")
            return json.loads(line)

        try:
            about = ask("compile")
            gradient = None if about["gradient"] else WorkerProgram(lambda: ask("gradient"))
            if about["gradient"]:
                report(f"no gradient of jaxrenderer: {about['gradient']}")
            programs = WorkerProgram(lambda: ask("forward"), about["compile_s"]), gradient
            image = np.load(folder / "image.npy")
            yield JaxrendererScene(f"jaxrenderer {about['version']}, jax {about['jax']}", programs, image)
        finally:
            worker.terminate()
            worker.communicate()


def _free_memory() -> int:
    """Return the bytes of free physical memory; 8 GB where the system does not say."""
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return 8 * 10**9
