"""Diverse3DFace's Tables 2 to 4 and appendix A.5: how far apart hypotheses are, and how near the truth, on photos of
the open scans or of a folder.

CSE, ASD-V and ASD-O are those of the paper (`flamejax.metrics.heads.cse`, `asd`), x 1000, in the head frame and without
alignment. Visible and occluded vertices are the same for all methods: those of `diverse_cases.Parts`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from experiments.datasets.open_faces import Scans
from experiments.tables.diverse_cases import Case, Parts, Progress, Tick, tick_of
from experiments.tables.diverse_runs import LOCAL, METHODS, OURS, Found, Runner
from experiments.tables.head_realism import Realism
from experiments.tables.statistics import interval_columns, mean_of, none_of, ratio_of
from flamejax.metrics.heads import asd, cse, rms

OCCLUDERS = ("glasses", "face-mask", "random", "overall")
RANDOM = ("hand", "object")
MEASURES = ("cse", "asd_v", "asd_o", "asd_o_under", "inside", "vertices_inside", "mahalanobis")
K_VALUES = (0.1, 0.25, 0.5, 1.0, 2.0)
N_SIGMA_VALUES = (1.0, 2.0, 3.0, 4.0, 5.0)


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
    """Every method on every photo: Table 2; Table 3 where there is no truth.

    Args:
      held_out: test scans, for the reference.
    """
    parts = runner.parts(cases, tick_of(progress, f"fits: {LOCAL}", cases))
    runner.fits("global", cases, tick_of(progress, "fits: global", cases))
    rows, each = [], []
    for method in METHODS:
        values = measured(runner, method, cases, parts, realism, tick_of(progress, method, cases))
        for occluder in OCCLUDERS:
            which = chosen(cases, occluder)
            if which.any():
                rows.append({"method": method, "occluder": occluder} | summary(values, cases, which))
        each += [{"method": method, "photo": case.key, "occluder": case.occluder} | one
                 for case, one in zip(cases, _each(values), strict=True)]  # fmt: skip
    return DiversityTable(rows, references(runner, cases, realism, held_out), each)


def hyperparameters(
    runner: Runner, cases: Sequence[Case], realism: Realism, progress: Progress,
    k_values: Sequence[float] = K_VALUES, n_sigma_values: Sequence[float] = N_SIGMA_VALUES,
) -> DiversityTable:  # fmt: skip
    """Diverse3DFace itself for each k and n_sigma: Table 4."""
    parts = runner.parts(cases, tick_of(progress, f"fits: {LOCAL}", cases))
    rows, each = [], []
    total = len(cases) * len(k_values) * len(n_sigma_values)
    for k in k_values:
        for n_sigma in n_sigma_values:
            changes = {"k": k, "n_sigma": n_sigma}
            values = measured(
                runner, OURS, cases, parts, realism, lambda n: progress("k x n_sigma", total, n), **changes
            )
            rows.append(changes | summary(values, cases))
            each += [changes | {"photo": case.key} | one for case, one in zip(cases, _each(values), strict=True)]
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
        rows.append({"place": place} | summary(values, moved))
        each += [{"place": place, "photo": case.key} | one for case, one in zip(moved, _each(values), strict=True)]
    return DiversityTable(rows, [], each)


def pictured(runner: Runner, cases: Sequence[Case]) -> list[Pictured]:
    """What pictures of Diverse3DFace itself need of photos."""
    found, parts, fits = runner.hypotheses(OURS, cases), runner.parts(cases), runner.fitted_heads(LOCAL, cases)
    return [Pictured(*one) for one in zip(cases, parts, fits, found, strict=True)]


def chosen(cases: Sequence[Case], occluder: str) -> np.ndarray:
    """(N,) bool: the photos of a row; `random` are hands and objects, `overall` all."""
    kinds = np.array([case.occluder for case in cases])
    if occluder == "overall":
        return np.ones(len(cases), bool)
    return np.isin(kinds, RANDOM) if occluder == "random" else kinds == occluder


def measured(
    runner: Runner, method: str, cases: Sequence[Case], parts: Sequence[Parts], realism: Realism, tick: Tick,
    **changes: Any,
) -> dict[str, np.ndarray]:  # fmt: skip
    """Each of `MEASURES`, `seconds` and `failed` for every photo: (N,), NaN where there is nothing to measure.

    `failed` is 1 where the fit failed (the photo counts with what it got) or hypotheses are not finite.
    Hypotheses are measured photo by photo, and not held: hundreds of heads for hundreds of photos are gigabytes.
    """
    rows = []
    for case, part in zip(cases, parts, strict=True):
        (one,) = runner.hypotheses(method, [case], tick, **changes)
        (fit,) = runner.fits(METHODS[method].fitted, [case])
        failed = int(fit.code) != 0 or not np.isfinite(one.heads).all()
        row = _measures(one.heads, case.truth, part, realism)
        rows.append(row | {"seconds": one.seconds, "failed": float(failed)})
    return {name: np.array([row[name] for row in rows]) for name in (*MEASURES, "seconds", "failed")}


def _measures(heads: np.ndarray, truth: np.ndarray | None, parts: Parts, realism: Realism) -> dict[str, float]:
    if not np.isfinite(heads).all():
        return dict.fromkeys(MEASURES, math.nan)
    distance = realism.distance(heads)
    return {
        "cse": math.nan if truth is None else cse(heads, truth),
        "asd_v": asd(heads, parts.visible),
        "asd_o": asd(heads, parts.occluded),
        "asd_o_under": asd(heads, parts.under),
        "inside": float(np.mean(distance <= realism.threshold)),
        "vertices_inside": float(realism.vertices_inside(heads).mean()),
        "mahalanobis": float(distance.mean()),
    }


def summary(values: dict[str, np.ndarray], cases: Sequence[Case], which: np.ndarray | None = None) -> dict:
    """The numbers of a row over the photos `which` (N,) bool."""
    which = np.ones(len(cases), bool) if which is None else which
    subjects = np.array([case.subject for case in cases])[which]
    row: dict = {"photos": int(which.sum()), "failed": int(values["failed"][which].sum())}
    for name in MEASURES:
        row |= interval_columns(name, mean_of(values[name][which], subjects), subjects)
    row |= interval_columns("ratio", ratio_of(values["asd_o"][which], values["asd_v"][which], subjects), subjects)
    row["seconds"] = none_of(float(np.median(values["seconds"][which])))
    return row


def references(runner: Runner, cases: Sequence[Case], realism: Realism, held_out: Scans | None) -> list[dict]:
    """Realism of real heads (test scans, none of them seen in training) and of the fits that hypotheses start from; of
    these `rms`, too, the distance from the true head that `cse` is to be held against."""
    rows = []
    if held_out is not None:
        rows.append(_reference("test scans", held_out.vertices, held_out.subject, realism))
    subjects = np.array([case.subject for case in cases])
    truths = [case.truth for case in cases if case.truth is not None]
    if len(truths) == len(cases):
        rows.append(_reference("true heads of the photos", np.stack(truths), subjects, realism))
    for fitted in ("global", LOCAL):
        heads = runner.fitted_heads(fitted, cases)
        row = _reference(f"fits: {fitted}", heads, subjects, realism)
        away = [math.nan if c.truth is None else rms(head, c.truth) for head, c in zip(heads, cases, strict=True)]
        rows.append(row | interval_columns("rms", mean_of(np.array(away), subjects), subjects))
    return rows


def _reference(name: str, heads: np.ndarray, subjects: np.ndarray, realism: Realism) -> dict:
    distance = realism.distance(heads)
    row: dict = {"heads": name, "count": len(heads)}
    row |= interval_columns("inside", mean_of((distance <= realism.threshold).astype(float), subjects), subjects)
    row |= interval_columns("vertices_inside", mean_of(realism.vertices_inside(heads), subjects), subjects)
    row |= interval_columns("mahalanobis", mean_of(distance, subjects), subjects)
    return row | {"threshold": realism.threshold, "rms": None, "rms_low": None, "rms_high": None}


def _each(values: dict[str, np.ndarray]) -> list[dict]:
    names = (*MEASURES, "seconds", "failed")
    return [{name: none_of(float(values[name][k])) for name in names} for k in range(len(values["failed"]))]
