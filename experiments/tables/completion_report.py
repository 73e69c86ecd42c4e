"""The table `completion` for the terminal and for Markdown."""

from __future__ import annotations

from experiments.tables.completion import NEUTRAL, CompletionTable
from experiments.tables.report import Sheet


def sheets(table: CompletionTable) -> list[Sheet]:
    """All tables as text."""
    made = [_rows(table), _ratios(table), _extra(table), _expressions(table), _details(table), _samples(table)]
    return [sheet for sheet in (*made, _spectrum(table), _moments(table)) if sheet[2]]


def introduction(scans: int, split: str, seed: int) -> str:
    """What the tables are of."""
    return (
        f"{scans} scans of the open scans' {split} split, each with a rectangle and with a patch that hides 25 to 40 % "
        f"of its vertices (seed {seed}). Per head the median distance of vertices, mm, head frame; means over heads, "
        "95 % intervals over subjects."
    )


def _interval(row: dict, name: str, digits: int = 3) -> str:
    if row.get(name) is None:
        return "-"
    value, low, high = (f"{row[name + end]:.{digits}f}" for end in ("", "_low", "_high"))
    return f"{value} ({low}-{high})"


def _rows(table: CompletionTable) -> Sheet:
    rows = [
        [r["method"], r["occluder"], str(r["scans"]), _interval(r, "visible_mm"), _interval(r, "hidden_mm")]
        for r in table.rows
    ]
    return "Completion, mm", ["method", "occluder", "scans", "visible_mm", "hidden_mm"], rows


def _ratios(table: CompletionTable) -> Sheet:
    rows = [[r["method"], r["occluder"], _interval(r, "hidden_over_pca")] for r in table.ratios]
    return "Hidden error over that of pca, same heads", ["method", "occluder", "ratio"], rows


def _extra(table: CompletionTable) -> Sheet:
    names = ("visible_mm", "hidden_mm")
    rows = [
        [str(r["components"]), f"{r['sigma_mm']:g}", str(r["scans"]), *(_interval(r, n) for n in names)]
        for r in table.extra
    ]
    return "pca with other settings", ["components", "sigma_mm", "scans", *names], rows


def _expressions(table: CompletionTable) -> Sheet:
    rows = [
        [r["method"], _interval(r, "hidden_mm_neutral"), _interval(r, "hidden_mm_other")] for r in table.expressions
    ]
    return f"hidden_mm by expression; neutral-like: {', '.join(NEUTRAL)}", ["method", "neutral-like", "others"], rows


def _details(table: CompletionTable) -> Sheet:
    rows = [
        [r["method"], r["occluder"], _interval(r, "visible_detail_mm"), _interval(r, "hidden_detail_mm")]
        for r in table.details
    ]
    title = "Details: difference of Laplacians, mm; the row of mean shows how much there is to find"
    return title, ["method", "occluder", "visible_detail_mm", "hidden_detail_mm"], rows


def _samples(table: CompletionTable) -> Sheet:
    names = ("mahalanobis", "spread_hidden_mm", "error_hidden_mm", "spread_visible_mm", "error_visible_mm")
    rows = [[r["method"], str(r["heads"]), *(_interval(r, name, 2) for name in names)] for r in table.samples]
    title = "Samples: distance per dimension in 100 training components; spread, and error of the samples' mean, RMS mm"
    return title, ["method", "heads", *names], rows


def _spectrum(table: CompletionTable) -> Sheet:
    rows = [[str(r["components"]), f"{r['train']:.6f}", f"{r['held_out']:.6f}"] for r in table.spectrum.left]
    return "Share of the variance left after K components", ["components", "train", "held_out"], rows


def _moments(table: CompletionTable) -> Sheet:
    rows = [
        [str(r["component"]), _interval(r, "skewness", 2), _interval(r, "kurtosis", 2)]
        for r in table.spectrum.coefficients[:10]
    ]
    return table.spectrum.statement, ["component", "skewness", "excess kurtosis"], rows
