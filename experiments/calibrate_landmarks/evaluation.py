"""How well the detector's landmarks and a head's agree: on renders of known heads, and after fitting photos."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import fitting
from experiments.calibrate_landmarks.embedding import offset
from experiments.calibrate_landmarks.views import Views
from experiments.reconstruct.photos import find_photos
from fitting.detector import FaceDetector
from flamejax.head import HeadModel
from flamejax.head.dense_landmarks import DenseLandmarks, calibrated
from flamejax.io.images import load_image

GROUPS = {"inner 51": (17, 68), "brows": (17, 27), "nose": (27, 36), "eyes": (36, 48), "lips": (48, 68)}
"""Name -> first iBUG landmark and the one after the last."""

Row = dict[str, Any]


def render_table(head: HeadModel, dense: DenseLandmarks, views: Views) -> list[Row]:
    """Deviation of detected from model landmarks on renders, in outer-eye distances.

    Returns:
        One row per group of landmarks: `group`, `points`, `renders`, means `before` (the head's own landmarks; None
        for the dense points, of which it has none) and `after` calibration, their share of pure offset `bias_before`
        and `bias_after` (length of a landmark's mean deviation, mean over landmarks), and the model's `spread`.
    """
    faces, own = np.asarray(head.faces), head.landmark_embedding
    embeddings = {
        "before": (own.face, own.barycentric),
        "after": (dense.landmark_face, dense.landmark_barycentric),
        "dense": (dense.dense_face, dense.dense_barycentric),
    }
    offsets = {
        name: offset(views, faces, np.asarray(face), np.asarray(weights))
        for name, (face, weights) in embeddings.items()
    }
    rows: list[Row] = []
    for group, (first, last) in GROUPS.items():
        row: Row = {"group": group, "points": last - first, "renders": len(views)}
        for name in ("before", "after"):
            part = offsets[name][:, first - 17 : last - 17]
            row[name] = float(np.linalg.norm(part, axis=-1).mean())
            row[f"bias_{name}"] = float(np.linalg.norm(part.mean(axis=0), axis=-1).mean())
        row["spread"] = float(np.asarray(dense.landmark_spread)[first - 17 : last - 17].mean())
        rows.append(row)
    sliding = np.asarray(dense.sliding)
    for group, chosen in {"dense 468": np.ones_like(sliding), "dense, not sliding": ~sliding}.items():
        part = offsets["dense"][:, chosen]
        rows.append(
            {
                "group": group,
                "points": int(chosen.sum()),
                "renders": len(views),
                "before": None,
                "bias_before": None,
                "after": float(np.linalg.norm(part, axis=-1).mean()),
                "bias_after": float(np.linalg.norm(part.mean(axis=0), axis=-1).mean()),
                "spread": float(np.asarray(dense.dense_spread)[chosen].mean()),
            }
        )
    return rows


def photo_table(
    head: HeadModel,
    dense: DenseLandmarks,
    folder: Path,
    detector: FaceDetector,
    say: Callable[[str], None] = print,
) -> list[Row]:
    """Reprojection error of fits to photos (`Fit.losses["nme"]`: inner landmarks, outer-eye distances).

    Returns:
        One row per photo, then "mean" and "median": `photo`, `before`, `after` for the default fit, and
        `landmarks_before`, `landmarks_after` for a fit to landmarks alone. Photos without a face are said and left out.
    """
    photos, failures = find_photos([str(folder)], exclude=Path("/dev/null"))
    for failure in failures:
        say(f"skipped: {failure.photo}: {failure.reason}")
    names, observations = [], []
    for photo in photos:
        try:
            observations.append(fitting.observe_photo(load_image(photo.path), detector=detector)[0])
            names.append(photo.path.stem)
        except ValueError as error:
            say(f"skipped: {photo.path}: {error}")
    if not observations:
        raise ValueError(f"{folder}: no photo with a face.")
    batch = fitting.stack(observations)
    found = {}
    for prefix, config in (("", fitting.FitConfig()), ("landmarks_", fitting.FitConfig(photometric_steps=0))):
        for name, model in (("before", head), ("after", calibrated(head, dense))):
            found[prefix + name] = np.asarray(fitting.fit(model, batch, config).losses["nme"], np.float64)
    rows: list[Row] = [
        {"photo": name, **{column: float(values[i]) for column, values in found.items()}}
        for i, name in enumerate(names)
    ]
    for name, mean in (("mean", np.mean), ("median", np.median)):
        rows.append({"photo": name, **{column: float(mean(values)) for column, values in found.items()}})
    return rows
