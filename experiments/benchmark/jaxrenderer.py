"""jaxrenderer at our work, for `render --jaxrenderer-python`. It pins another JAX than ours, so it runs in a process of
its own, with the interpreter of its own environment, and waits there while we are timed.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from experiments.benchmark.timing import PeerMissing

WORKER = Path(__file__).with_name("jaxrenderer_worker.py")
HOW = "python3.12 -m venv jr && jr/bin/pip install jaxrenderer==0.4.0 (docs/benchmark.md)"
SAME_PIXELS = 0.98
"""Share of pixels that have to be the same for the work to be the same: contours and slivers differ."""


@dataclasses.dataclass
class WorkerProgram:
    """One of the worker's programs; its clock is the worker's, so that messages are not counted."""

    ask: Callable[[str], dict]
    command: str
    compile_s: float = 0.0

    def seconds(self) -> float:
        """One run."""
        return self.ask(self.command)["seconds"]


class JaxrendererScene:
    """A mesh with vertex colours as jaxrenderer draws it: depth test, back faces culled, black background.

    A context manager. `gradient` is None where jaxrenderer's is not finite or needs more memory than there is; `say`
    is told which.
    """

    def __init__(
        self, python: Path, screen: object, colours: object, faces: object, size: int, say: Callable[[str], object]
    ) -> None:
        """screen (V, 3) pixels and depth, colours (V, 3), faces (F, 3).

        Raises:
            PeerMissing: the interpreter is not there, or has no jaxrenderer that works.
        """
        self._folder = tempfile.TemporaryDirectory()
        self._log = Path(self._folder.name) / "stderr.txt"
        scene = {"screen": screen, "colours": colours, "faces": faces, "size": size, "memory": 0.75 * _free_memory()}
        arrays: dict[str, Any] = {name: np.asarray(value) for name, value in scene.items()}
        np.savez(Path(self._folder.name) / "scene.npz", **arrays)
        try:
            self._worker = self._start(python)
        except OSError as missing:
            self._folder.cleanup()
            raise PeerMissing(
                f"no row against jaxrenderer: {python} does not run ({missing.strerror}): {HOW}"
            ) from None
        try:
            about = self._ask("compile")
        except PeerMissing:
            self.close()
            raise
        self.name = f"jaxrenderer {about['version']}, jax {about['jax']}"
        self.forward = WorkerProgram(self._ask, "forward", about["compile_s"])
        self.gradient = None if about["gradient"] else WorkerProgram(self._ask, "gradient")
        if about["gradient"]:
            say(f"no gradient of jaxrenderer: {about['gradient']}")

    def check_image(self, ours: object) -> None:
        """Raises RuntimeError unless our image (H, W, 3) is theirs but for a few pixels."""
        theirs = np.load(Path(self._folder.name) / "image.npy")
        same = float(np.mean(np.abs(theirs - np.asarray(ours)).max(-1) < 1 / 255))
        if same < SAME_PIXELS:
            raise RuntimeError(f"jaxrenderer and flamejax agree on {same:.1%} of the pixels only: not the same work.")

    def close(self) -> None:
        """End the worker and remove its files."""
        self._worker.terminate()
        self._worker.communicate()
        self._folder.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _start(self, python: Path) -> subprocess.Popen:
        with self._log.open("wb") as log:
            return subprocess.Popen(
                [python, WORKER, self._folder.name],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                # The worker must not find our packages through the caller's path.
                env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
            )

    def _ask(self, command: str) -> dict:
        assert self._worker.stdin is not None and self._worker.stdout is not None
        try:
            print(command, file=self._worker.stdin, flush=True)
        except BrokenPipeError:
            line = ""
        else:
            line = self._worker.stdout.readline()
        if not line:
            last = (self._log.read_text(errors="replace").split("\n") or [""])[-2:]
            raise PeerMissing(f"no row against jaxrenderer: its worker ended ({' '.join(last).strip()}): {HOW}")
        return json.loads(line)


def _free_memory() -> int:
    """Bytes of physical memory that are free now; a guess of 8 GB where the system does not say."""
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return 8 * 10**9
