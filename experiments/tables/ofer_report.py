"""OFER's tables of identities for the terminal and for Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from experiments.tables.ofer_table import CANDIDATES, MEASURES, RANDOM_ORDERS, RANK_MEASURES, OferTable
from experiments.tables.report import Sheet, count_text, interval_text

TITLES = {
    "identity": f"Errors of {CANDIDATES} identities, frontal vertices after a similarity, mm (95 % interval)",
    "samples": "The best of n identities: median_mm (95 % interval)",
    "ranking": f"{CANDIDATES} of IdGen's identities by their true median_mm (95 % interval); chance: the mean of "
    f"{RANDOM_ORDERS} random orders; best_fifth: the first is among the best 20 %",
}


def sheets(name: str, table: OferTable) -> list[Sheet]:
    """All tables as text."""
    made = {"identity": _identity, "samples": _samples, "ranking": _ranking}[name](table)
    return [*made, *([_samplers(table.samplers)] if table.samplers else [])]


def introduction(name: str, table: OferTable, split: str, seed: int) -> str:
    """What the tables are of."""
    count = max((row["cases"] for row in table.rows), default=0)
    return (
        f"Table `{name}`: {count} new people, in no split of the open scans, with expressions of the {split} scans, "
        f"seed {seed}; their landmarks alone are seen. 95 % intervals over people."
    )


def _identity(table: OferTable) -> list[Sheet]:
    cells = [
        [row["method"], row["occluder"], count_text(row, "cases"), *(_text(row, n) for n in MEASURES)]
        for row in table.rows
    ]
    rows = [
        [f"{row['method']} {'/' if row['kind'] == 'ratio' else '-'} {row['reference']}",
         _text(row, "value"), row["wanted"], "yes" if row["met"] else "no"]
        for row in table.comparisons
    ]  # fmt: skip
    compared = "Of the means of median_mm (95 % interval)", ["methods", "value", "wanted", "met"], rows
    return [(TITLES["identity"], ["method", "landmarks covered", "cases", *MEASURES], cells), compared]


def _samples(table: OferTable) -> list[Sheet]:
    names = ("median_mm", "random_median_mm")
    cells = [[str(row["n"]), count_text(row, "cases"), *(_text(row, name) for name in names)] for row in table.rows]
    return [(TITLES["samples"], ["n", "cases", "IdGen", "random"], cells)]


def _samplers(rows: Sequence[dict]) -> Sheet:
    names = ("median_mm", "ratio", "minimum_mm", "minimum_ratio")
    cells = [
        [row["sampler"], str(row["steps"]), count_text(row, "cases"), *(_text(row, name) for name in names)]
        for row in rows
    ]
    title = f"{CANDIDATES} identities by the sampler, and the ratio to all 1000 steps (wanted of 20: 0.95 to 1.05)"
    return title, ["sampler", "steps", "cases", "average", "ratio", "minimum", "ratio"], cells


def _ranking(table: OferTable) -> list[Sheet]:
    # As rows, or the table would be wider than a terminal.
    cells = [[name, *(_text(row, name) for row in table.rows)] for name in RANK_MEASURES]
    return [(TITLES["ranking"], ["measure", *(row["method"] for row in table.rows)], cells)]


def _text(row: dict, name: str) -> str:
    # Differences may be negative, and a dash would then read as another minus.
    return interval_text(row, name, between=" to ")
