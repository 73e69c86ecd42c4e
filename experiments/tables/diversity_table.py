"""Diverse3DFace's Tables 2 to 4 and appendix A.5: diversity and accuracy of hypotheses, on photos of the open scans or
of a folder.

CSE, ASD-V and ASD-O are those of the paper (`flamejax.metrics.cse`, `asd`), x 1000, in the head frame and without
alignment. All methods share the visible and occluded vertices of `diverse_cases.VisibilityMasks`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from experiments.datasets.open_faces import Scans
from experiments.tables.diverse_cases import Case, VisibilityMasks
from experiments.tables.diverse_runs import LOCAL, METHODS, OURS, DrawnHypotheses, Runner
from experiments.tables.realism import COMPONENTS, MOST_DEVIATIONS, Realism
from experiments.tables.report import Sheet, counts, interval, intervals, number, sheet
from experiments.tables.runs import Progress, Tick, progress_tick
from experiments.tables.statistics import (
    ALL,
    columns,
    finite_or_none,
    groups,
    mean_columns,
    mean_of,
    ratio_of,
    subjects_of,
)
from flamejax.metrics import asd, cse, rms

DISTANCES = ("cse", "asd_v", "asd_o", "asd_o_under")
PLAUSIBLE = ("inside", "vertices_inside", "mahalanobis")
MEASURES = (*DISTANCES, *PLAUSIBLE)
K_VALUES = (0.1, 0.25, 0.5, 1.0, 2.0)
N_SIGMA_VALUES = (1.0, 2.0, 3.0, 4.0, 5.0)
TITLES = {
    "diversity": "Hypotheses, metres x 1000 (95 % interval); lower CSE and ASD-V, higher ASD-O are better",
    "hyperparameters": "global+local+vae+dpp by k and n_sigma, metres x 1000 (95 % interval)",
    "moving-occlusion": "global+local+vae+dpp behind a patch, metres x 1000 (95 % interval)",
}

Values = dict[str, np.ndarray]
"""Measures, `seconds` and `failed` of every photo, each (N,)."""


@dataclass(frozen=True)
class HypothesesPicture:
    """The data for pictures of one photo's hypotheses."""

    case: Case
    masks: VisibilityMasks
    fit: np.ndarray
    """(V, 3) head frame, by the global and local models."""
    drawn: DrawnHypotheses


@dataclass(frozen=True)
class DiversityTable:
    """The rows, as printed and as written; None for values that could not be measured.

    A row has the number of `photos`, the number of fits that `failed`, each of `MEASURES` with a 95 % interval (`_low`,
    `_high`; subjects drawn with replacement), `ratio` = asd_o / asd_v of the means with its interval, and the median
    `seconds` per photo.
    """

    rows: list[dict]
    reference: list[dict]
    """Measures of realism for real heads and for the fits, and the threshold."""
    each: list[dict]
    """Values of every photo."""


def diversity(
    runner: Runner, cases: Sequence[Case], realism: Realism, held_out: Scans | None, progress: Progress
) -> DiversityTable:
    """Measure every method on every photo: Table 2, or Table 3 for photos without true heads. held_out: test scans, for
    the reference."""
    masks = runner.visibility_masks(cases, progress_tick(progress, f"fits: {LOCAL}", cases))
    runner.fits("global", cases, progress_tick(progress, "fits: global", cases))
    rows, each = [], []
    for method in METHODS:
        values = measure_photos(runner, method, cases, masks, realism, progress_tick(progress, method, cases))
        for occluder, which in groups([case.occluder for case in cases]):
            rows.append({"method": method, "occluder": occluder} | _row(values, cases, which))
        each += _photo_rows({"method": method}, cases, values, ("photo", "occluder"))
    return DiversityTable(rows, references(runner, cases, realism, held_out), each)


def hyperparameters(
    runner: Runner, cases: Sequence[Case], realism: Realism, progress: Progress,
    k_values: Sequence[float] = K_VALUES, n_sigma_values: Sequence[float] = N_SIGMA_VALUES,
) -> DiversityTable:  # fmt: skip
    """Measure Diverse3DFace itself for each k and n_sigma: Table 4."""
    masks = runner.visibility_masks(cases, progress_tick(progress, f"fits: {LOCAL}", cases))
    rows, each = [], []
    grid = [{"k": k, "n_sigma": n_sigma} for k in k_values for n_sigma in n_sigma_values]
    tick = progress_tick(progress, "k x n_sigma", [changes for changes in grid for _ in cases])
    for changes in grid:
        values = measure_photos(runner, OURS, cases, masks, realism, tick, **changes)
        rows.append(changes | _row(values, cases))
        each += _photo_rows(changes, cases, values)
    return DiversityTable(rows, [], each)


def moving_occlusion(
    runner: Runner, cases: dict[str, list[Case]], realism: Realism, progress: Progress
) -> DiversityTable:
    """Measure Diverse3DFace itself with a patch at several places: appendix A.5. cases: place -> the same photos."""
    rows, each = [], []
    all_cases = [case for moved in cases.values() for case in moved]
    runner.visibility_masks(all_cases, progress_tick(progress, f"fits: {LOCAL}", all_cases))
    for place, moved in cases.items():
        masks, tick = runner.visibility_masks(moved), progress_tick(progress, place, moved)
        values = measure_photos(runner, OURS, moved, masks, realism, tick)
        rows.append({"place": place} | _row(values, moved))
        each += _photo_rows({"place": place}, moved, values)
    return DiversityTable(rows, [], each)


def hypotheses_pictures(runner: Runner, cases: Sequence[Case]) -> list[HypothesesPicture]:
    """Returns the data for pictures of Diverse3DFace's hypotheses."""
    drawn, masks = runner.hypotheses(OURS, cases), runner.visibility_masks(cases)
    fits = runner.fitted_heads(LOCAL, cases)
    return [HypothesesPicture(*fields) for fields in zip(cases, masks, fits, drawn, strict=True)]


def measure_photos(
    runner: Runner, method: str, cases: Sequence[Case], masks: Sequence[VisibilityMasks], realism: Realism,
    tick: Tick, **changes: Any,
) -> Values:  # fmt: skip
    """Compute `MEASURES` of every photo, NaN if they cannot be measured.

    `failed` is 1 if the fit failed (the photo counts with its result) or hypotheses are not finite. Hypotheses are
    measured photo by photo, since those of all photos would take gigabytes.
    """
    rows = []
    for case, mask in zip(cases, masks, strict=True):
        (drawn,) = runner.hypotheses(method, [case], tick, **changes)
        (fit,) = runner.fits(METHODS[method].model_name, [case])
        failed = int(fit.code) != 0 or not np.isfinite(drawn.heads).all()
        measures = _measure(drawn.heads, case.truth, mask, realism)
        rows.append(measures | {"seconds": drawn.seconds, "failed": float(failed)})
    return values_of(rows)


def values_of(rows: Sequence[Mapping[str, float]]) -> Values:
    """Returns an array for each column of the rows."""
    return {name: np.array([row[name] for row in rows], float) for name in rows[0]}


def _measure(
    heads: np.ndarray, truth: np.ndarray | None, masks: VisibilityMasks, realism: Realism
) -> dict[str, float]:  # fmt: skip
    if not np.isfinite(heads).all():
        return dict.fromkeys(MEASURES, math.nan)
    return {
        "cse": math.nan if truth is None else cse(heads, truth),
        "asd_v": asd(heads, masks.visible),
        "asd_o": asd(heads, masks.occluded),
        "asd_o_under": asd(heads, masks.under),
    } | {name: float(values.mean()) for name, values in realism.measures(heads).items()}


def summary(
    values: Values, names: Sequence[str], cases: Sequence[Case], which: np.ndarray | slice = ALL
) -> dict:  # fmt: skip
    """Returns the columns of a row: means of `names` over the photos `which` (N,) bool."""
    chosen, subjects = {name: array[which] for name, array in values.items()}, subjects_of(cases)[which]
    row = {"photos": len(subjects), "failed": int(chosen["failed"].sum())} | mean_columns(chosen, names, subjects)
    seconds = chosen["seconds"][np.isfinite(chosen["seconds"])]
    return row | {"seconds": float(np.median(seconds)) if len(seconds) else None}


def _row(values: Values, cases: Sequence[Case], which: np.ndarray | slice = ALL) -> dict:
    subjects = subjects_of(cases)[which]
    ratio = ratio_of(values["asd_o"][which], values["asd_v"][which], subjects)
    return summary(values, MEASURES, cases, which) | columns("ratio", ratio, subjects)


def references(runner: Runner, cases: Sequence[Case], realism: Realism, held_out: Scans | None) -> list[dict]:
    """Returns rows of the realism of real heads (test scans, not used in training) and of the fits that hypotheses
    start from. Rows of fits also have `rms`, their distance from the true head, to compare `cse` with."""
    subjects, rows = subjects_of(cases), []
    if held_out is not None:
        rows.append(_reference("test scans", held_out.vertices, held_out.subject, realism))
    truths = [case.truth for case in cases if case.truth is not None]
    if len(truths) == len(cases):
        rows.append(_reference("true heads of the photos", np.stack(truths), subjects, realism))
    for name in ("global", LOCAL):
        heads = runner.fitted_heads(name, cases)
        distances = [math.nan if c.truth is None else rms(head, c.truth) for head, c in zip(heads, cases, strict=True)]
        row = _reference(f"fits: {name}", heads, subjects, realism)
        rows.append(row | columns("rms", mean_of(np.array(distances), subjects), subjects))
    return rows


def _reference(name: str, heads: np.ndarray, subjects: np.ndarray, realism: Realism) -> dict:
    row = {"heads": name, "count": len(heads)} | mean_columns(realism.measures(heads), PLAUSIBLE, subjects)
    return row | {"threshold": realism.threshold, "rms": None, "rms_low": None, "rms_high": None}


def _photo_rows(labels: dict, cases: Sequence[Case], values: Values, names: Sequence[str] = ("photo",)) -> list[dict]:
    """Returns a row for every photo. names: columns that describe the photo, besides the labels."""
    descriptions = [{"photo": case.key, "occluder": case.occluder} for case in cases]
    return [
        labels
        | {name: description[name] for name in names}
        | {name: finite_or_none(array[k]) for name, array in values.items()}
        for k, description in enumerate(descriptions)
    ]


def sheets(name: str, table: DiversityTable) -> list[Sheet]:
    """Returns all tables as text. name: of `TITLES`."""
    labels = [label for label in ("method", "occluder", "k", "n_sigma", "place") if label in table.rows[0]]
    realism = (
        f"Realism: share of hypotheses inside the training heads' {COMPONENTS} components, share of vertices within "
        f"{MOST_DEVIATIONS:g} standard deviations, mean distance"
    )
    reference = "The same for real heads and for fits; inside: distance at most the threshold; rms: from the truth"
    return [
        sheet(
            TITLES[name], table.rows,
            *labels, counts(), *intervals(DISTANCES, 2), interval("ratio", 2, "asd_o/asd_v"), number("seconds", 1),
        ),
        sheet(realism, table.rows, *labels, *intervals(PLAUSIBLE)),
        sheet(
            reference, table.reference,
            "heads", "count", *intervals(PLAUSIBLE), number("threshold"), interval("rms", 2),
        ),
    ]  # fmt: skip
