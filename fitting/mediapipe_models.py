"""Run the three MediaPipe networks of the default detector by LiteRT, and decode their outputs."""

from __future__ import annotations

import os
import threading
from functools import cached_property
from pathlib import Path

import numpy as np

ASSETS = Path(__file__).parent / "assets"
LANDMARK_INPUT = 192
# name -> (file, input side, anchor grids as (stride, anchors per cell)). Both networks have 896 anchors.
DETECTORS = {
    "back": ("face_detection_back.tflite", 256, ((16, 2), (32, 6))),
    "short_range": ("face_detection_short_range.tflite", 128, ((8, 2), (16, 6))),
}


class MissingDependencyError(ImportError):
    """An optional package is not installed; the message says which and how to get it."""


def ssd_anchors(side: int, grids: tuple[tuple[int, int], ...]) -> np.ndarray:
    """(A, 2) anchor centres x, y of a MediaPipe face detector, in units of the input side; all have unit size."""
    anchors = []
    for stride, per_cell in grids:
        centres = (np.arange(side // stride) + 0.5) * stride / side
        x, y = np.meshgrid(centres, centres)
        anchors.append(np.repeat(np.stack([x.ravel(), y.ravel()], -1), per_cell, axis=0))
    return np.concatenate(anchors).astype(np.float32)


def decode_detections(regressors: np.ndarray, logits: np.ndarray, anchors: np.ndarray, side: int):
    """Decode boxes, keypoints and scores of all anchors (source: MediaPipe's TensorsToDetections options for faces).

    Args:
        regressors: (A, 16) offsets in input pixels: centre x, y, width, height, then six x, y keypoints.
        logits: (A,). anchors: (A, 2). side: the network's input side, pixels.

    Returns:
        boxes (A, 4) as x0, y0, x1, y1, keypoints (A, 6, 2), both in units of the input side, and scores (A,).
    """
    values = regressors / side
    centre, extent = values[:, :2] + anchors, values[:, 2:4]
    boxes = np.concatenate([centre - extent / 2, centre + extent / 2], axis=-1)
    keypoints = values[:, 4:].reshape(-1, 6, 2) + anchors[:, None]
    return boxes, keypoints, 1.0 / (1.0 + np.exp(-np.clip(logits, -80.0, 80.0)))


class MediaPipeModels:
    """Interpreters, loaded when first used. Each thread has its own, since an interpreter stores its input."""

    def __init__(self, folder: str | os.PathLike = ASSETS, num_threads: int = 1):
        self.folder = Path(folder)
        self.num_threads = num_threads
        self._local = threading.local()

    def detect(self, name: str, pixels: np.ndarray):
        """Run a detector of `DETECTORS` on pixels (side, side, 3) float32 in [0, 1]; returns as `decode_detections`."""
        filename, side, _ = DETECTORS[name]
        regressors, logits = self._run(filename, pixels * 2.0 - 1.0, ("regressors", "classificators"))
        return decode_detections(regressors.reshape(-1, 16), logits.reshape(-1), self._anchors[name], side)

    def landmarks(self, pixels: np.ndarray) -> tuple[np.ndarray, float]:
        """Run the face mesh on an upright face crop (192, 192, 3) float32 in [0, 1].

        Returns:
            (468, 3) x, y, z in input pixels (z at the scale of x, smaller is nearer), and the face presence in [0, 1].
        """
        mesh, logit = self._run("face_landmark.tflite", pixels, ("conv2d_20", "conv2d_30"))
        presence = 1.0 / (1.0 + np.exp(-np.clip(float(logit.reshape(())), -80.0, 80.0)))
        return mesh.reshape(468, 3), presence

    def _run(self, filename: str, pixels: np.ndarray, outputs: tuple[str, str]) -> list[np.ndarray]:
        interpreter, input_index, output_index = self._interpreter(filename)
        interpreter.set_tensor(input_index, np.ascontiguousarray(pixels[None], np.float32))
        interpreter.invoke()
        return [interpreter.get_tensor(output_index[name]) for name in outputs]  # copies

    def _interpreter(self, filename: str):
        interpreters = self._local.__dict__
        if filename not in interpreters:
            path = self.folder / filename
            if not path.exists():
                raise FileNotFoundError(
                    f"{path}: model file missing; reinstall flamejax (pip install 'flamejax[photos]')."
                )
            try:
                from ai_edge_litert.interpreter import Interpreter
            except ImportError as error:
                raise MissingDependencyError(
                    "finding faces in photos needs ai-edge-litert: pip install 'flamejax[photos]' "
                    "(or give your own landmarks with --landmarks, which needs no detector)."
                ) from error
            interpreter = Interpreter(model_path=str(path), num_threads=self.num_threads)
            interpreter.allocate_tensors()
            outputs = {d["name"]: d["index"] for d in interpreter.get_output_details()}
            interpreters[filename] = interpreter, interpreter.get_input_details()[0]["index"], outputs
        return interpreters[filename]

    @cached_property
    def _anchors(self) -> dict[str, np.ndarray]:
        return {name: ssd_anchors(side, grids) for name, (_, side, grids) in DETECTORS.items()}
