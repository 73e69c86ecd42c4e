"""Diverse3DFace's Tables 2 to 4 and appendix A.5: how far apart hypotheses are, and how near the truth, on photos of
the open scans or of a folder.

CSE, ASD-V and ASD-O are those of the paper (`flamejax.metrics.cse`, `asd`), x 1000, in the head frame and without
alignment. Visible and occluded vertices are the same for all methods: those of `diverse_cases.Parts`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from experiments.datasets.open_faces import Scans
from experiments.tables.diverse_cases import Case, Parts
from experiments.tables.diverse_runs import LOCAL, METHODS, OURS, Found, Runner
from experiments.tables.realism import COMPONENTS, MOST_DEVIATIONS, Realism
from experiments.tables.report import Sheet, counts, interval, intervals, number, sheet
from experiments.tables.runs import Progress, Tick, tick_of
from experiments.tables.statistics import ALL, columns, groups, mean_columns, mean_of, none_of, ratio_of, subjects_of
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
"""Measures, `seconds` and `failed` of every photo, (N,)."""


@dataclass(frozen=True)
class Pictured:
    """What a picture shows of one photo."""

    case: Case
    parts: Parts
    fit: np.ndarray
    """(V, 3) head frame, by the global and local models."""
    found: Found


@dataclass(frozen=True)
class DiversityTable:
    """The rows, as printed and as written; what could not be measured is None.

    A row has `photos`, how many fits `failed`, each of `MEASURES` with a 95 % interval (`_low`, `_high`; subjects drawn
    with replacement), `ratio` = asd_o / asd_v of the means with its interval, and the median `seconds` a photo.
    """

    rows: list[dict]
    reference: list[dict]
    """The measures of realism for real heads and for the fits, and the threshold."""
    each: list[dict]
    """The numbers of every photo."""


def diversity(
    runner: Runner, cases: Sequence[Case], realism: Realism, held_out: Scans | None, progress: Progress
) -> DiversityTable:
    """Every method on every photo: Table 2; Table 3 where there is no truth. held_out: test scans, for the
    reference."""
    parts = runner.parts(cases, tick_of(progress, f"fits: {LOCAL}", cases))
    runner.fits("global", cases, tick_of(progress, "fits: global", cases))
    rows, each = [], []
    for method in METHODS:
        values = measured(runner, method, cases, parts, realism, tick_of(progress, method, cases))
        for occluder, which in groups([case.occluder for case in cases]):
            rows.append({"method": method, "occluder": occluder} | _row(values, cases, which))
        each += _each({"method": method}, cases, values, ("photo", "occluder"))
    return DiversityTable(rows, references(runner, cases, realism, held_out), each)


def hyperparameters(
    runner: Runner, cases: Sequence[Case], realism: Realism, progress: Progress,
    k_values: Sequence[float] = K_VALUES, n_sigma_values: Sequence[float] = N_SIGMA_VALUES,
) -> DiversityTable:  # fmt: skip
    """Diverse3DFace itself for each k and n_sigma: Table 4."""
    parts = runner.parts(cases, tick_of(progress, f"fits: {LOCAL}", cases))
    rows, each = [], []
    grid = [{"k": k, "n_sigma": n_sigma} for k in k_values for n_sigma in n_sigma_values]
    tick = tick_of(progress, "k x n_sigma", [changes for changes in grid for _ in cases])
    for changes in grid:
        values = measured(runner, OURS, cases, parts, realism, tick, **changes)
        rows.append(changes | _row(values, cases))
        each += _each(changes, cases, values)
    return DiversityTable(rows, [], each)


def moving_occlusion(
    runner: Runner, cases: dict[str, list[Case]], realism: Realism, progress: Progress
) -> DiversityTable:
    """Diverse3DFace itself behind a patch that moves around the face: appendix A.5. cases: place -> the same photos."""
    rows, each = [], []
    everything = [case for moved in cases.values() for case in moved]
    runner.parts(everything, tick_of(progress, f"fits: {LOCAL}", everything))
    for place, moved in cases.items():
        values = measured(runner, OURS, moved, runner.parts(moved), realism, tick_of(progress, place, moved))
        rows.append({"place": place} | _row(values, moved))
        each += _each({"place": place}, moved, values)
    return DiversityTable(rows, [], each)


def pictured(runner: Runner, cases: Sequence[Case]) -> list[Pictured]:
    """What pictures of Diverse3DFace itself need of photos."""
    found, parts, fits = runner.hypotheses(OURS, cases), runner.parts(cases), runner.fitted_heads(LOCAL, cases)
    return [Pictured(*one) for one in zip(cases, parts, fits, found, strict=True)]


def measured(
    runner: Runner, method: str, cases: Sequence[Case], parts: Sequence[Parts], realism: Realism, tick: Tick,
    **changes: Any,
) -> Values:  # fmt: skip
    """`MEASURES` of every photo, NaN where there is nothing to measure.

    `failed` is 1 where the fit failed (the photo counts with what it got) or hypotheses are not finite.
    Hypotheses are measured photo by photo, and not held: hundreds of heads for hundreds of photos are gigabytes.
    """
    rows = []
    for case, part in zip(cases, parts, strict=True):
        (one,) = runner.hypotheses(method, [case], tick, **changes)
        (fit,) = runner.fits(METHODS[method].fitted, [case])
        failed = int(fit.code) != 0 or not np.isfinite(one.heads).all()
        measures = _measures(one.heads, case.truth, part, realism)
        rows.append(measures | {"seconds": one.seconds, "failed": float(failed)})
    return values_of(rows)


def values_of(rows: Sequence[Mapping[str, float]]) -> Values:
    """Rows of the same numbers, as one array for each of these."""
    return {name: np.array([row[name] for row in rows], float) for name in rows[0]}


def _measures(heads: np.ndarray, truth: np.ndarray | None, parts: Parts, realism: Realism) -> dict[str, float]:
    if not np.isfinite(heads).all():
        return dict.fromkeys(MEASURES, math.nan)
    return {
        "cse": math.nan if truth is None else cse(heads, truth),
        "asd_v": asd(heads, parts.visible),
        "asd_o": asd(heads, parts.occluded),
        "asd_o_under": asd(heads, parts.under),
    } | {name: float(found.mean()) for name, found in realism.measures(heads).items()}


def summary(
    values: Values, names: Sequence[str], cases: Sequence[Case], which: np.ndarray | slice = ALL
) -> dict:  # fmt: skip
    """The numbers of a row, means of `names` over the photos `which` (N,) bool."""
    taken, subjects = {name: found[which] for name, found in values.items()}, subjects_of(cases)[which]
    row = {"photos": len(subjects), "failed": int(taken["failed"].sum())} | mean_columns(taken, names, subjects)
    known = taken["seconds"][np.isfinite(taken["seconds"])]
    return row | {"seconds": float(np.median(known)) if len(known) else None}


def _row(values: Values, cases: Sequence[Case], which: np.ndarray | slice = ALL) -> dict:
    subjects = subjects_of(cases)[which]
    ratio = ratio_of(values["asd_o"][which], values["asd_v"][which], subjects)
    return summary(values, MEASURES, cases, which) | columns("ratio", ratio, subjects)


def references(runner: Runner, cases: Sequence[Case], realism: Realism, held_out: Scans | None) -> list[dict]:
    """Realism of real heads (test scans, none of them seen in training) and of the fits that hypotheses start from; of
    these `rms`, too, the distance from the true head that `cse` is to be held against."""
    subjects, rows = subjects_of(cases), []
    if held_out is not None:
        rows.append(_reference("test scans", held_out.vertices, held_out.subject, realism))
    truths = [case.truth for case in cases if case.truth is not None]
    if len(truths) == len(cases):
        rows.append(_reference("true heads of the photos", np.stack(truths), subjects, realism))
    for fitted in ("global", LOCAL):
        heads = runner.fitted_heads(fitted, cases)
        away = [math.nan if c.truth is None else rms(head, c.truth) for head, c in zip(heads, cases, strict=True)]
        row = _reference(f"fits: {fitted}", heads, subjects, realism)
        rows.append(row | columns("rms", mean_of(np.array(away), subjects), subjects))
    return rows


def _reference(name: str, heads: np.ndarray, subjects: np.ndarray, realism: Realism) -> dict:
    row = {"heads": name, "count": len(heads)} | mean_columns(realism.measures(heads), PLAUSIBLE, subjects)
    return row | {"threshold": realism.threshold, "rms": None, "rms_low": None, "rms_high": None}


def _each(labels: dict, cases: Sequence[Case], values: Values, names: Sequence[str] = ("photo",)) -> list[dict]:
    """The numbers of every photo as rows. names: of what is said of it beside the labels."""
    about = [{"photo": case.key, "occluder": case.occluder} for case in cases]
    return [
        labels | {name: one[name] for name in names} | {name: none_of(found[k]) for name, found in values.items()}
        for k, one in enumerate(about)
    ]


def sheets(name: str, table: DiversityTable) -> list[Sheet]:
    """All tables as text. name: of `TITLES`."""
    labels = [label for label in ("method", "occluder", "k", "n_sigma", "place") if label in table.rows[0]]
    realism = (
        f"Realism: share of hypotheses inside the training heads' {COMPONENTS} components, share of vertices within "
        f"{MOST_DEVIATIONS:g} standard deviations, mean distance"
    )
    reference = "The same of real heads and of fits; inside: distance at most the threshold; rms: from the truth"
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
