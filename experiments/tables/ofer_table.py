"""OFER's tables of identities: errors of what IdGen draws and IdRank picks (Table 1), by the number of samples (Table
8) and by the sampler, and how well IdRank ranks (Tables 9, 10).

An error is that of the neutral face's frontal vertices after the best similarity, mm
(`flamejax.metrics.identity_errors_mm`). The paper's scans and photos are not free, so the cases are those of
`ofer_cases`. All means are over cases, 95 % intervals over people.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from experiments.tables.ofer_cases import COVERED, OferCase
from experiments.tables.ofer_runs import Judged, OferRunner
from experiments.tables.report import Column, Sheet, counts, interval, sheet
from experiments.tables.runs import Progress, tick_of
from experiments.tables.statistics import (
    ALL,
    columns,
    difference_of,
    groups,
    mean_columns,
    none_of,
    ratio_of,
    subjects_of,
)
from flamejax.metrics import error_ratio, iou_at, precision_at
from sampling import SamplerConfig

CANDIDATES = 100
"""N, as in the paper."""
ROWS = {
    "random": ("random", "average"),
    "random minimum": ("random", "minimum"),
    "linear-gaussian": ("linear-gaussian", "average"),
    "linear-gaussian mean": ("linear-gaussian", "of mean"),
    "average": ("idgen", "average"),
    "ranked": ("idgen", "ranked"),
    "minimum": ("idgen", "minimum"),
}
"""Methods: what identities are drawn from, and which of them count. Those without a source are IdGen's."""
MEASURES = ("median_mm", "mean_mm", "std_mm")
COUNTS = (1, 10, 50, 100, 500)
REFERENCE = SamplerConfig("ancestral", steps=1000)
SAMPLERS = (
    *(SamplerConfig("dpm", steps=steps) for steps in (5, 10, 20, 50)),
    *(SamplerConfig("ddim", steps=steps) for steps in (20, 50)),
    REFERENCE,
)
SAMPLER_CASES = 64
"""A thousand steps are slow."""
RANDOM_ORDERS = 32
BEST = 0.2


COMPARISONS: tuple[tuple[str, str, str, str, Callable[[float, float], bool]], ...] = (
    ("average", "random", "ratio", "below 1, 95 %", lambda value, high: high < 1),
    ("average", "linear-gaussian", "ratio", "at most 1.15", lambda value, high: value <= 1.15),
    ("ranked", "average", "difference", "below 0, 95 %", lambda value, high: high < 0),
    ("minimum", "average", "ratio", "at most 0.82", lambda value, high: value <= 0.82),
)
"""Of two methods' `median_mm` over the same cases: method, reference, kind (ratio of the means, or difference in mm),
what is wanted, and whether the value and its interval's upper end are that."""
RANK_MEASURES: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    **{f"precision_{k}": partial(precision_at, share=k / 100) for k in (1, 10, 20)},
    **{f"iou_{k}": partial(iou_at, share=k / 100) for k in (10, 20, 30)},
    "error_ratio": partial(error_ratio, count=1),
    **{f"error_ratio_{n}": partial(error_ratio, count=n) for n in (5, 10)},
    "best_fifth": lambda scores, errors: top_is_among(scores, errors, BEST),
}
TITLES = {
    "identity": f"Errors of {CANDIDATES} identities, frontal vertices after a similarity, mm (95 % interval)",
    "comparisons": "Of the means of median_mm (95 % interval)",
    "samples": "The best of n identities: median_mm (95 % interval)",
    "samplers": f"{CANDIDATES} identities by the sampler, and the ratio to all 1000 steps (wanted of 20: 0.95 to 1.05)",
    "ranking": f"{CANDIDATES} of IdGen's identities by their true median_mm (95 % interval); chance: the mean of "
    f"{RANDOM_ORDERS} random orders; best_fifth: the first is among the best 20 %",
}


@dataclass(frozen=True)
class OferTable:
    """The rows, as printed and as written; what could not be measured is None.

    Rows have `cases`, how many of them `failed` (an identity is not finite: they count nowhere), and measures with 95 %
    intervals (`_low`, `_high`).
    """

    rows: list[dict]
    comparisons: list[dict]
    """identity: how methods compare, and what is wanted."""
    samplers: list[dict]
    """samples: by the sampler; `ratio` and `minimum_ratio` to all 1000 steps."""
    each: list[dict]
    """The numbers of every case."""


def identity(runner: OferRunner, cases: Sequence[OferCase], progress: Progress) -> OferTable:
    """Errors of each of `ROWS`, over all cases and by how much is covered. runner: with a ranker."""
    sources = dict.fromkeys(source for source, _ in ROWS.values())
    drawn = {name: runner.judged(name, cases, CANDIDATES, tick_of(progress, name, cases)) for name in sources}
    rows, each, medians = [], [], {}
    for method, (source, counting) in ROWS.items():
        errors = np.stack([counted(one, counting) for one in drawn[source]])
        for occluder, which in groups([case.occluder for case in cases], ("overall", *(name for name, _ in COVERED))):
            rows.append({"method": method, "occluder": occluder} | summary(errors, MEASURES, cases, which))
        numbers = _each({"method": method}, MEASURES, cases, errors)
        each += [row | {"covered": case.covered} for row, case in zip(numbers, cases, strict=True)]
        medians[method] = errors[:, 0]
    return OferTable(rows, comparisons(medians, cases), [], each)


def samples(runner: OferRunner, cases: Sequence[OferCase], progress: Progress) -> OferTable:
    """The best of the first n samples, by IdGen and at random, and what other samplers cost."""
    most, names = max(COUNTS), ("median_mm", "random_median_mm")
    drawn = [runner.judged(n, cases, most, tick_of(progress, f"{n}: {most}", cases)) for n in ("idgen", "random")]
    rows, each = [], []
    for n in COUNTS:
        # Of which one is not finite, the least is NaN: the case failed.
        both = np.array([[one.median[:n].min() for one in found] for found in drawn]).T
        rows.append({"method": "minimum", "occluder": "overall", "n": n} | summary(both, names, cases))
        each += _each({"n": n}, names, cases, both)
    return OferTable(rows, [], by_sampler(runner, cases[:SAMPLER_CASES], progress), each)


def by_sampler(runner: OferRunner, cases: Sequence[OferCase], progress: Progress) -> list[dict]:
    """Average and minimum of 100 samples by each sampler, relative to those of `REFERENCE`, on the same cases."""
    names = {sampler: f"{sampler.method} {sampler.steps}" for sampler in SAMPLERS}
    found = {}
    for sampler, name in names.items():
        drawn = runner.judged("idgen", cases, CANDIDATES, tick_of(progress, name, cases), sampler)
        found[sampler] = np.array([[one.median.mean(), one.median.min()] for one in drawn])
    subjects, rows = subjects_of(cases), []
    for sampler, errors in found.items():
        row = {"sampler": sampler.method, "steps": sampler.steps} | summary(errors, ("median_mm", "minimum_mm"), cases)
        for k, name in enumerate(("ratio", "minimum_ratio")):
            pair = _paired(errors[:, k], found[REFERENCE][:, k])
            row |= columns(name, ratio_of(*pair, subjects), subjects)
        rows.append(row)
    return rows


def ranking(runner: OferRunner, cases: Sequence[OferCase], progress: Progress) -> OferTable:
    """How well IdRank orders IdGen's identities by their true `median_mm`, against a random order and against how near
    each is to the mean of all. runner: with a ranker."""
    drawn = runner.judged("idgen", cases, CANDIDATES, tick_of(progress, "idgen", cases))
    random = np.random.default_rng(runner.seed)
    values = {
        "idrank": [rank_measures(one.score, one.median) for one in drawn],
        "mean residual": [rank_measures(one.closeness, one.median) for one in drawn],
        "chance": [chance(random, one.median) for one in drawn],
    }
    rows, each = [], []
    for method, found in values.items():
        rows.append({"method": method, "occluder": "overall"} | summary(np.stack(found), tuple(RANK_MEASURES), cases))
        each += _each({"method": method}, tuple(RANK_MEASURES), cases, found)
    return OferTable(rows, [], [], each)


def _each(labels: dict, names: Sequence[str], cases: Sequence[OferCase], values: Iterable[np.ndarray]) -> list[dict]:
    """The numbers (K,) of every case as rows."""
    return [
        labels | {"case": case.key} | dict(zip(names, map(none_of, one), strict=True))
        for case, one in zip(cases, values, strict=True)
    ]


def counted(judged: Judged, which: str) -> np.ndarray:
    """(3,) median, mean and std, mm, of what counts: the `average` over identities, the `ranked` first, the one of the
    lowest median (`minimum`), or the mean of all identities (`of mean`). NaN where an identity is not finite."""
    errors = judged.errors
    if which == "of mean":
        return judged.of_mean
    if which == "average" or not np.isfinite(errors).all():
        return errors.mean(axis=0)
    return errors[np.argmin(judged.median) if which == "minimum" else first_of(judged.score)]


def first_of(scores: np.ndarray) -> int:
    """The place of the highest score; of equal ones the first, and what is not a number comes last."""
    return int(np.argsort(-scores, kind="stable")[0])


def top_is_among(scores: np.ndarray, errors: np.ndarray, share: float) -> float:
    """1 if fewer than a share of all candidates are better than the one of the highest score, else 0; by chance the
    share."""
    return float((errors < errors[first_of(scores)]).mean() < share)


def rank_measures(scores: np.ndarray, errors: np.ndarray) -> np.ndarray:
    """(K,) each of `RANK_MEASURES` of one case; NaN where an error is not finite."""
    finite = np.isfinite(errors).all()
    return np.array([measure(scores, errors) if finite else np.nan for measure in RANK_MEASURES.values()])


def chance(random: np.random.Generator, errors: np.ndarray) -> np.ndarray:
    """The same of a random order, the mean of some."""
    orders = (random.permutation(len(errors)).astype(float) for _ in range(RANDOM_ORDERS))
    return np.mean([rank_measures(scores, errors) for scores in orders], axis=0)


def comparisons(medians: dict[str, np.ndarray], cases: Sequence[OferCase]) -> list[dict]:
    """`COMPARISONS` of methods' `median_mm` (N,), over the cases where both are finite."""
    subjects, rows = subjects_of(cases), []
    for method, reference, kind, wanted, is_met in COMPARISONS:
        pair = _paired(medians[method], medians[reference])
        found = (ratio_of if kind == "ratio" else difference_of)(*pair, subjects)
        row = {"method": method, "reference": reference, "kind": kind} | columns("value", found, subjects)
        rows.append(row | {"wanted": wanted, "met": bool(is_met(found[0], found[2]))})
    return rows


def summary(
    values: np.ndarray, names: Sequence[str], cases: Sequence[OferCase], which: np.ndarray | slice = ALL
) -> dict:
    """The numbers of a row: means of values (N, K) over the cases `which` (N,) bool."""
    values = values[which]
    row = {"cases": len(values), "failed": int((~np.isfinite(values)).any(axis=1).sum())}
    return row | mean_columns(dict(zip(names, values.T, strict=True)), names, subjects_of(cases)[which])


def _paired(values: np.ndarray, reference: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    known = np.isfinite(values) & np.isfinite(reference)
    return np.where(known, values, np.nan), np.where(known, reference, np.nan)


def sheets(name: str, table: OferTable) -> list[Sheet]:
    """All tables as text. name: identity, samples or ranking."""
    if name == "ranking":
        # As rows, or the table would be wider than a terminal.
        cells = [[measure, *(_interval(measure)[1](row) for row in table.rows)] for measure in RANK_MEASURES]
        return [Sheet(TITLES[name], ["measure", *(row["method"] for row in table.rows)], cells)]
    if name == "samples":
        shown = counts("cases"), _interval("median_mm", "IdGen"), _interval("random_median_mm", "random")
        made = [sheet(TITLES[name], table.rows, "n", *shown)]
    else:
        covered: Column = "landmarks covered", lambda row: row["occluder"]
        shown = [_interval(measure) for measure in MEASURES]
        methods: Column = "methods", lambda r: f"{r['method']} {'/' if r['kind'] == 'ratio' else '-'} {r['reference']}"
        met: Column = "met", lambda row: "yes" if row["met"] else "no"
        made = [
            sheet(TITLES[name], table.rows, "method", covered, counts("cases"), *shown),
            sheet(TITLES["comparisons"], table.comparisons, methods, _interval("value"), "wanted", met),
        ]
    names = {"median_mm": "average", "ratio": "ratio", "minimum_mm": "minimum", "minimum_ratio": "ratio"}
    shown = [_interval(measure, heading) for measure, heading in names.items()]
    return [*made, sheet(TITLES["samplers"], table.samplers, "sampler", "steps", counts("cases"), *shown)]


def _interval(name: str, heading: str | None = None) -> Column:
    # Differences may be negative, and a dash would then read as another minus.
    return interval(name, heading=heading, between=" to ")
