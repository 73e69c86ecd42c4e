"""Evaluate how well the detector's and a head's landmarks agree: on renders of known heads, and in fits to photos."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jax import Array

import fitting
from experiments.calibrate_landmarks.embedding import landmark_offsets
from experiments.calibrate_landmarks.views import DetectedViews
from experiments.photos import find_photos
from fitting import Observation
from fitting.detector import FaceDetector
from flamejax.head import DenseLandmarks, HeadModel, calibrated
from flamejax.io.images import load_image

GROUPS = {"inner 51": (17, 68), "brows": (17, 27), "nose": (27, 36), "eyes": (36, 48), "lips": (48, 68)}
"""Name -> first iBUG landmark and the one after the last."""

Row = dict[str, Any]


def render_table(head: HeadModel, dense: DenseLandmarks, views: DetectedViews) -> list[Row]:
    """Compute deviations of detected landmarks from the model's on renders, in outer-eye distances.

    One row per group of landmarks: `group`, `points`, `renders`, and the mean deviation over points and renders
    `before` calibration (of the head's own landmarks; None for dense points, which it lacks) and `after`. The constant
    part of it is `bias_before` and `bias_after`: the length of a point's mean deviation, averaged over points.
    """
    faces, own = np.asarray(head.faces), head.landmark_embedding

    def offsets(face: Array, barycentric: Array) -> np.ndarray:
        return landmark_offsets(views, faces, np.asarray(face), np.asarray(barycentric))

    before, after = offsets(own.face, own.barycentric), offsets(dense.landmark_face, dense.landmark_barycentric)
    rows = [
        _row(group, before[:, first - 17 : last - 17], after[:, first - 17 : last - 17])
        for group, (first, last) in GROUPS.items()
    ]
    for group, selected in {"inner 51, calm faces": ~views.lively, "inner 51, lively faces": views.lively}.items():
        if selected.any():
            rows.append(_row(group, before[selected], after[selected]))
    all_dense = offsets(dense.dense_face, dense.dense_barycentric)
    rows.append(_row("dense 468", None, all_dense))
    rows.append(_row("dense, not sliding", None, all_dense[:, ~np.asarray(dense.sliding)]))
    return rows


def _row(group: str, before: np.ndarray | None, after: np.ndarray) -> Row:
    """Make one row from offsets (N, L, 2)."""
    row: Row = {"group": group, "points": after.shape[1], "renders": len(after)}
    for name, offsets in (("before", before), ("after", after)):
        row[name] = None if offsets is None else float(np.linalg.norm(offsets, axis=-1).mean())
        row[f"bias_{name}"] = None if offsets is None else float(np.linalg.norm(offsets.mean(axis=0), axis=-1).mean())
    return row


def observe_photos(
    arguments: Sequence[str], exclude: Path, detector: FaceDetector, report: Callable[[str], None]
) -> tuple[list[str], list[Observation]]:
    """Observe the photos among files, folders and globs; those without a face are reported by `report`.

    Returns:
      The photos' stems and their observations.
    """
    photos, failures = find_photos(arguments, exclude=exclude)
    for failure in failures:
        report(f"skipped: {failure.photo}: {failure.reason}")
    names, observations = [], []
    for photo in photos:
        try:
            observations.append(fitting.observe_photo(load_image(photo.path), detector=detector)[0])
            names.append(photo.path.stem)
        except ValueError as error:
            report(f"skipped: {photo.path}: {error}")
    return names, observations


def photo_table(
    head: HeadModel, dense: DenseLandmarks, folder: Path, detector: FaceDetector, report: Callable[[str], None]
) -> list[Row]:
    """Compute the reprojection error of fits to photos (`Fit.losses["nme"]`: inner landmarks, outer-eye distances).

    One row per photo, then "mean" and "median": `photo`, and `before` and `after` calibration of the landmarks.
    Photos without a face are reported and skipped. Raises: ValueError, no photo has a face.
    """
    names, observations = observe_photos([str(folder)], folder / "output", detector, report)
    if not observations:
        raise ValueError(f"{folder}: no photo with a face.")
    batch = fitting.stack(observations)
    errors = {
        name: np.asarray(fitting.fit(model, batch).losses["nme"], np.float64)
        for name, model in (("before", head), ("after", calibrated(head, dense)))
    }
    columns = {name: [*values, np.mean(values), np.median(values)] for name, values in errors.items()}
    return [
        {"photo": name, **{column: float(values[i]) for column, values in columns.items()}}
        for i, name in enumerate([*names, "mean", "median"])
    ]
