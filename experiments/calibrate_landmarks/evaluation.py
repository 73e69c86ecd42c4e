"""How well the detector's landmarks and a head's agree: on renders of known heads, and after fitting photos."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jax import Array

import fitting
from experiments.calibrate_landmarks.embedding import offset
from experiments.calibrate_landmarks.views import Views
from experiments.photos import find_photos
from fitting import Observation
from fitting.detector import FaceDetector
from flamejax.head import DenseLandmarks, HeadModel, calibrated
from flamejax.io.images import load_image

GROUPS = {"inner 51": (17, 68), "brows": (17, 27), "nose": (27, 36), "eyes": (36, 48), "lips": (48, 68)}
"""Name -> first iBUG landmark and the one after the last."""

Row = dict[str, Any]


def render_table(head: HeadModel, dense: DenseLandmarks, views: Views) -> list[Row]:
    """Deviation of detected from model landmarks on renders, in outer-eye distances.

    One row per group of landmarks: `group`, `points`, `renders`, the means over points and renders `before` (the head's
    own landmarks; None for dense points, of which it has none) and `after` calibration, and what of them is a constant
    offset, `bias_before` and `bias_after` (length of a point's mean deviation, mean over points).
    """
    faces, own = np.asarray(head.faces), head.landmark_embedding

    def offsets(face: Array, barycentric: Array) -> np.ndarray:
        return offset(views, faces, np.asarray(face), np.asarray(barycentric))

    before, after = offsets(own.face, own.barycentric), offsets(dense.landmark_face, dense.landmark_barycentric)
    rows = [
        _row(group, before[:, first - 17 : last - 17], after[:, first - 17 : last - 17])
        for group, (first, last) in GROUPS.items()
    ]
    for kind, chosen in {"inner 51, calm faces": ~views.lively, "inner 51, lively faces": views.lively}.items():
        if chosen.any():
            rows.append(_row(kind, before[chosen], after[chosen]))
    all_dense = offsets(dense.dense_face, dense.dense_barycentric)
    rows.append(_row("dense 468", None, all_dense))
    rows.append(_row("dense, not sliding", None, all_dense[:, ~np.asarray(dense.sliding)]))
    return rows


def _row(group: str, before: np.ndarray | None, after: np.ndarray) -> Row:
    """One row from offsets (N, L, 2)."""
    row: Row = {"group": group, "points": after.shape[1], "renders": len(after)}
    for name, offsets in (("before", before), ("after", after)):
        row[name] = None if offsets is None else float(np.linalg.norm(offsets, axis=-1).mean())
        row[f"bias_{name}"] = None if offsets is None else float(np.linalg.norm(offsets.mean(axis=0), axis=-1).mean())
    return row


def observe_photos(
    arguments: Sequence[str], exclude: Path, detector: FaceDetector, say: Callable[[str], None]
) -> tuple[list[str], list[Observation]]:
    """Stems and observations of the photos with a face among files, folders and globs; the others are said."""
    photos, failures = find_photos(arguments, exclude=exclude)
    for failure in failures:
        say(f"skipped: {failure.photo}: {failure.reason}")
    names, observations = [], []
    for photo in photos:
        try:
            observations.append(fitting.observe_photo(load_image(photo.path), detector=detector)[0])
            names.append(photo.path.stem)
        except ValueError as error:
            say(f"skipped: {photo.path}: {error}")
    return names, observations


def photo_table(
    head: HeadModel, dense: DenseLandmarks, folder: Path, detector: FaceDetector, say: Callable[[str], None]
) -> list[Row]:
    """Reprojection error of fits to photos (`Fit.losses["nme"]`: inner landmarks, outer-eye distances).

    One row per photo, then "mean" and "median": `photo`, and `before` and `after` calibration of the landmarks.
    Photos without a face are said and left out. Raises: ValueError, no photo has one.
    """
    names, observations = observe_photos([str(folder)], folder / "output", detector, say)
    if not observations:
        raise ValueError(f"{folder}: no photo with a face.")
    batch = fitting.stack(observations)
    found = {
        name: np.asarray(fitting.fit(model, batch).losses["nme"], np.float64)
        for name, model in (("before", head), ("after", calibrated(head, dense)))
    }
    columns = {name: [*values, np.mean(values), np.median(values)] for name, values in found.items()}
    return [
        {"photo": name, **{column: float(values[i]) for column, values in columns.items()}}
        for i, name in enumerate([*names, "mean", "median"])
    ]
