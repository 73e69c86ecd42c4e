"""OFER's tables of identities: errors of identities drawn by IdGen and picked by IdRank (Table 1), by the number of
samples (Table 8) and by the sampler, and IdRank's quality (Tables 9, 10).

Errors are of the neutral face's frontal vertices after the best similarity, mm (`flamejax.metrics.identity_errors_mm`).
The paper's scans and photos are not free, so the cases are those of `ofer_cases`. Means are over cases, 95 % intervals
over people.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from experiments.tables.ofer_cases import COVERED, OferCase
from experiments.tables.ofer_runs import DrawErrors, OferRunner
from experiments.tables.report import Column, Sheet, counts, interval, sheet
from experiments.tables.runs import Progress, progress_tick
from experiments.tables.statistics import (
    ALL,
    columns,
    difference_of,
    finite_or_none,
    groups,
    mean_columns,
    ratio_of,
    subjects_of,
)
from flamejax.metrics import error_ratio, iou_at, precision_at
from sampling import SamplerConfig

CANDIDATES = 100
"""Number of identities per case, as in the paper."""
ROWS = {
    "random": ("random", "average"),
    "random minimum": ("random", "minimum"),
    "linear-gaussian": ("linear-gaussian", "average"),
    "linear-gaussian mean": ("linear-gaussian", "of mean"),
    "average": ("idgen", "average"),
    "ranked": ("idgen", "ranked"),
    "minimum": ("idgen", "minimum"),
}
"""Method -> the source of identities and which of them count, as in `select_errors`."""
MEASURES = ("median_mm", "mean_mm", "std_mm")
COUNTS = (1, 10, 50, 100, 500)
REFERENCE = SamplerConfig("ancestral", steps=1000)
SAMPLERS = (
    *(SamplerConfig("dpm", steps=steps) for steps in (5, 10, 20, 50)),
    *(SamplerConfig("ddim", steps=steps) for steps in (20, 50)),
    REFERENCE,
)
SAMPLER_CASES = 64
"""Fewer cases, since a thousand steps are slow."""
RANDOM_ORDERS = 32
BEST_SHARE = 0.2


COMPARISONS: tuple[tuple[str, str, str, str, Callable[[float, float], bool]], ...] = (
    ("average", "random", "ratio", "below 1, 95 %", lambda value, high: high < 1),
    ("average", "linear-gaussian", "ratio", "at most 1.15", lambda value, high: value <= 1.15),
    ("ranked", "average", "difference", "below 0, 95 %", lambda value, high: high < 0),
    ("minimum", "average", "ratio", "at most 0.82", lambda value, high: value <= 0.82),
)
"""Comparisons of two methods' `median_mm` over the same cases: method, reference, kind (ratio of the means, or
difference in mm), the criterion in words, and as a function of the value and its interval's upper end."""
RANK_MEASURES: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    **{f"precision_{k}": partial(precision_at, share=k / 100) for k in (1, 10, 20)},
    **{f"iou_{k}": partial(iou_at, share=k / 100) for k in (10, 20, 30)},
    "error_ratio": partial(error_ratio, count=1),
    **{f"error_ratio_{n}": partial(error_ratio, count=n) for n in (5, 10)},
    "best_fifth": lambda scores, errors: top_is_among(scores, errors, BEST_SHARE),
}
TITLES = {
    "identity": f"Errors of {CANDIDATES} identities, frontal vertices after a similarity, mm (95 % interval)",
    "comparisons": "Comparisons of the means of median_mm (95 % interval)",
    "samples": "The best of n identities: median_mm (95 % interval)",
    "samplers": f"{CANDIDATES} identities by the sampler; ratio to all 1000 steps (target for 20: 0.95 to 1.05)",
    "ranking": f"{CANDIDATES} of IdGen's identities by their true median_mm (95 % interval); chance: the mean of "
    f"{RANDOM_ORDERS} random orders; best_fifth: the first is among the best 20 %",
}


@dataclass(frozen=True)
class OferTable:
    """The rows, as printed and as written; None for values that could not be measured.

    Rows have the number of `cases`, the number that `failed` (an identity is not finite; they are left out of means),
    and measures with 95 % intervals (`_low`, `_high`).
    """

    rows: list[dict]
    comparisons: list[dict]
    """identity: comparisons of methods, with their criteria."""
    samplers: list[dict]
    """samples: rows by sampler; `ratio` and `minimum_ratio` are relative to all 1000 steps."""
    each: list[dict]
    """Values of every case."""


def identity(runner: OferRunner, cases: Sequence[OferCase], progress: Progress) -> OferTable:
    """Compute the errors of each of `ROWS`, over all cases and by the share of hidden landmarks. The runner needs
    a ranker."""
    sources = dict.fromkeys(source for source, _ in ROWS.values())
    drawn = {name: runner.evaluate(name, cases, CANDIDATES, progress_tick(progress, name, cases)) for name in sources}
    rows, each, medians = [], [], {}
    for method, (source, selection) in ROWS.items():
        errors = np.stack([select_errors(case, selection) for case in drawn[source]])
        for occluder, which in groups([case.occluder for case in cases], ("overall", *(name for name, _ in COVERED))):
            rows.append({"method": method, "occluder": occluder} | summary(errors, MEASURES, cases, which))
        case_rows = _case_rows({"method": method}, MEASURES, cases, errors)
        each += [row | {"covered": case.covered} for row, case in zip(case_rows, cases, strict=True)]
        medians[method] = errors[:, 0]
    return OferTable(rows, comparisons(medians, cases), [], each)


def samples(runner: OferRunner, cases: Sequence[OferCase], progress: Progress) -> OferTable:
    """Compute the errors of the best of the first n samples, of IdGen and at random, and those of other samplers."""
    most, names = max(COUNTS), ("median_mm", "random_median_mm")
    drawn = [
        runner.evaluate(name, cases, most, progress_tick(progress, f"{name}: {most}", cases))
        for name in ("idgen", "random")
    ]
    rows, each = [], []
    for n in COUNTS:
        # NaN if any sample is not finite: the case failed.
        minima = np.array([[case.median[:n].min() for case in source] for source in drawn]).T
        rows.append({"method": "minimum", "occluder": "overall", "n": n} | summary(minima, names, cases))
        each += _case_rows({"n": n}, names, cases, minima)
    return OferTable(rows, [], by_sampler(runner, cases[:SAMPLER_CASES], progress), each)


def by_sampler(runner: OferRunner, cases: Sequence[OferCase], progress: Progress) -> list[dict]:
    """Compute the average and minimum of 100 samples by each sampler, relative to those of `REFERENCE`."""
    names = {sampler: f"{sampler.method} {sampler.steps}" for sampler in SAMPLERS}
    errors_by_sampler = {}
    for sampler, name in names.items():
        drawn = runner.evaluate("idgen", cases, CANDIDATES, progress_tick(progress, name, cases), sampler)
        errors_by_sampler[sampler] = np.array([[case.median.mean(), case.median.min()] for case in drawn])
    subjects, rows = subjects_of(cases), []
    for sampler, errors in errors_by_sampler.items():
        row = {"sampler": sampler.method, "steps": sampler.steps} | summary(errors, ("median_mm", "minimum_mm"), cases)
        for k, name in enumerate(("ratio", "minimum_ratio")):
            pair = _finite_pairs(errors[:, k], errors_by_sampler[REFERENCE][:, k])
            row |= columns(name, ratio_of(*pair, subjects), subjects)
        rows.append(row)
    return rows


def ranking(runner: OferRunner, cases: Sequence[OferCase], progress: Progress) -> OferTable:
    """Compute how well IdRank orders IdGen's identities by their true `median_mm`, compared with a random order and
    with the order by distance from the mean. The runner needs a ranker."""
    drawn = runner.evaluate("idgen", cases, CANDIDATES, progress_tick(progress, "idgen", cases))
    random = np.random.default_rng(runner.seed)
    values = {
        "idrank": [rank_measures(case.score, case.median) for case in drawn],
        "mean residual": [rank_measures(case.closeness, case.median) for case in drawn],
        "chance": [random_rank_measures(random, case.median) for case in drawn],
    }
    rows, each = [], []
    for method, measures in values.items():
        row = {"method": method, "occluder": "overall"}
        rows.append(row | summary(np.stack(measures), tuple(RANK_MEASURES), cases))
        each += _case_rows({"method": method}, tuple(RANK_MEASURES), cases, measures)
    return OferTable(rows, [], [], each)


def _case_rows(
    labels: dict, names: Sequence[str], cases: Sequence[OferCase], values: Iterable[np.ndarray]
) -> list[dict]:  # fmt: skip
    """Returns a row for each case, from its values (K,)."""
    return [
        labels | {"case": case.key} | dict(zip(names, map(finite_or_none, row), strict=True))
        for case, row in zip(cases, values, strict=True)
    ]


def select_errors(drawn: DrawErrors, which: str) -> np.ndarray:
    """Returns median, mean and std, mm, (3,): the `average` over identities, those of the top-`ranked` identity, of
    the one of lowest median (`minimum`), or of the mean identity (`of mean`). NaN if an identity is not finite."""
    errors = drawn.errors
    if which == "of mean":
        return drawn.of_mean
    if which == "average" or not np.isfinite(errors).all():
        return errors.mean(axis=0)
    return errors[np.argmin(drawn.median) if which == "minimum" else best_index(drawn.score)]


def best_index(scores: np.ndarray) -> int:
    """Returns the index of the highest score; the first of equal ones, with NaN last."""
    return int(np.argsort(-scores, kind="stable")[0])


def top_is_among(scores: np.ndarray, errors: np.ndarray, share: float) -> float:
    """Returns 1 if less than a share of all candidates is better than the one with the highest score, else 0. A
    random order has the share as its expected value."""
    return float((errors < errors[best_index(scores)]).mean() < share)


def rank_measures(scores: np.ndarray, errors: np.ndarray) -> np.ndarray:
    """Returns each of `RANK_MEASURES` of one case, (K,); NaN if an error is not finite."""
    finite = np.isfinite(errors).all()
    return np.array([measure(scores, errors) if finite else np.nan for measure in RANK_MEASURES.values()])


def random_rank_measures(random: np.random.Generator, errors: np.ndarray) -> np.ndarray:
    """Returns the mean of `rank_measures` over some random orders."""
    orders = (random.permutation(len(errors)).astype(float) for _ in range(RANDOM_ORDERS))
    return np.mean([rank_measures(scores, errors) for scores in orders], axis=0)


def comparisons(medians: dict[str, np.ndarray], cases: Sequence[OferCase]) -> list[dict]:
    """Returns rows of `COMPARISONS` of methods' `median_mm` (N,), over the cases where both are finite."""
    subjects, rows = subjects_of(cases), []
    for method, reference, kind, wanted, is_met in COMPARISONS:
        pair = _finite_pairs(medians[method], medians[reference])
        value, low, high = (ratio_of if kind == "ratio" else difference_of)(*pair, subjects)
        row = {"method": method, "reference": reference, "kind": kind} | columns("value", (value, low, high), subjects)
        rows.append(row | {"wanted": wanted, "met": bool(is_met(value, high))})
    return rows


def summary(
    values: np.ndarray, names: Sequence[str], cases: Sequence[OferCase], which: np.ndarray | slice = ALL
) -> dict:
    """Returns the columns of a row: means of values (N, K) over the cases `which` (N,) bool."""
    values = values[which]
    row = {"cases": len(values), "failed": int((~np.isfinite(values)).any(axis=1).sum())}
    return row | mean_columns(dict(zip(names, values.T, strict=True)), names, subjects_of(cases)[which])


def _finite_pairs(values: np.ndarray, reference: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    finite = np.isfinite(values) & np.isfinite(reference)
    return np.where(finite, values, np.nan), np.where(finite, reference, np.nan)


def sheets(name: str, table: OferTable) -> list[Sheet]:
    """Returns all tables as text. name: identity, samples or ranking."""
    if name == "ranking":
        # Measures are rows, as the table would otherwise be wider than a terminal.
        cells = [[measure, *(_interval(measure)[1](row) for row in table.rows)] for measure in RANK_MEASURES]
        return [Sheet(TITLES[name], ["measure", *(row["method"] for row in table.rows)], cells)]
    if name == "samples":
        shown = counts("cases"), _interval("median_mm", "IdGen"), _interval("random_median_mm", "random")
        result = [sheet(TITLES[name], table.rows, "n", *shown)]
    else:
        covered: Column = "landmarks covered", lambda row: row["occluder"]
        shown = [_interval(measure) for measure in MEASURES]
        methods: Column = "methods", lambda r: f"{r['method']} {'/' if r['kind'] == 'ratio' else '-'} {r['reference']}"
        met: Column = "met", lambda row: "yes" if row["met"] else "no"
        result = [
            sheet(TITLES[name], table.rows, "method", covered, counts("cases"), *shown),
            sheet(TITLES["comparisons"], table.comparisons, methods, _interval("value"), "wanted", met),
        ]
    names = {"median_mm": "average", "ratio": "ratio", "minimum_mm": "minimum", "minimum_ratio": "ratio"}
    shown = [_interval(measure, heading) for measure, heading in names.items()]
    return [*result, sheet(TITLES["samplers"], table.samplers, "sampler", "steps", counts("cases"), *shown)]


def _interval(name: str, heading: str | None = None) -> Column:
    # Differences may be negative, and a dash would then look like another minus.
    return interval(name, heading=heading, between=" to ")
