"""Fit errors of heads with and without local models on scans of held-out subjects."""

from __future__ import annotations

import numpy as np
from rich.console import Console

from experiments.datasets.scans import LabelledScans, fit
from fitting.local_model import LocalModel, top_components, with_local
from flamejax.geometry import vertex_normals
from flamejax.head import HeadModel

Row = dict[str, str | int | float]
FACE = ("face", "nose", "lips", "forehead", "eye_region")
COUNTS = (10, 25, 50, 100)
"""Numbers of leading components of the global models that are compared."""
SHARES = (0.9, 0.95, 0.99)
"""Shares of the residual variance that the compared local models explain."""
FRONTAL = 0.3
"""Smallest cosine between a vertex's normal and +z for the vertex to count as frontal."""


def frontal_face_mask(head: HeadModel) -> np.ndarray:
    """Returns the face vertices seen from the front, (V,) bool: no eyeballs, no insides of lips and lids."""
    face = np.any([np.asarray(head.regions[name]) for name in FACE], axis=0)
    return face & (np.asarray(vertex_normals(head.v_template, head.faces))[:, 2] > FRONTAL)


def variants(head: HeadModel, local: LocalModel, brief: bool = False) -> dict[str, HeadModel]:
    """Returns name -> head: the global model with its leading components, then with local models of growing size.

    A share of the local models that is all of them has no head of its own.
    """
    counts = [n for n in COUNTS if n < head.num_betas] if not brief else []
    sizes = {f"global {n} + {min(n, head.num_expression)}": (n, min(n, head.num_expression)) for n in counts}
    sizes[f"global {head.num_betas} + {head.num_expression}"] = head.num_betas, head.num_expression
    heads = {name: top_components(head, *size) for name, size in sizes.items()}
    start = f"global {local.num_betas} + {local.num_expression}, local"
    for share in () if brief else SHARES:
        part = local.truncated(share)
        if (part.num_shape, part.num_local_expression) != (local.num_shape, local.num_local_expression):
            heads[f"{start} {share:g}"] = with_local(head, part)
    return {**heads, f"{start} all": with_local(head, local)}


def error_table(
    head: HeadModel, local: LocalModel, scans: LabelledScans, split: str, console: Console, brief: bool
) -> list[Row]:
    """Returns one row per head: numbers of components, and the distances between fit and scan."""
    face = frontal_face_mask(head)
    rows: list[Row] = []
    for name, variant in variants(head, local, brief).items():
        fits, _ = fit(variant, scans.vertices, f"{split}: {name}", console)
        error = 1e3 * np.linalg.norm(np.asarray(fits.vertices) - scans.vertices, axis=-1)
        rows.append({
            "model": name,
            "identity": variant.num_betas,
            "expression": variant.num_expression,
            "face_median_mm": float(np.median(error[:, face])),
            "face_mean_mm": float(error[:, face].mean()),
            "face_p95_mm": float(np.percentile(error[:, face], 95)),
            "head_rms_mm": float(np.sqrt(np.mean(error**2))),
        })  # fmt: skip
    return rows


def rank_note(local: LocalModel, num_subjects: int) -> str | None:
    """Returns a note if regions have as many shape components as there were training subjects; else None."""
    full = sum(len(region.shape) >= num_subjects for region in local.regions)
    if not full:
        return None
    return (
        f"{full} of {len(local.regions)} regions have a shape component for each of the {num_subjects} training "
        "subjects, the most there can be. An explained share of 1 then means that these subjects are stored exactly. "
        "It says nothing about other people: see the errors on scans that were not trained on."
    )


def region_table(local: LocalModel) -> list[Row]:
    """Returns one row per region: vertices, components, explained variance."""
    return [
        {
            "region": region.name,
            "vertices": len(region.index),
            "shape": len(region.shape),
            "explained_shape": region.explained[0],
            "expression": len(region.expression),
            "explained_expression": region.explained[1],
        }
        for region in local.regions
    ]
