"""The tables of diversity for the terminal and for Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from experiments.tables.diversity_table import DiversityTable
from experiments.tables.head_realism import COMPONENTS, MOST_DEVIATIONS
from experiments.tables.report import Sheet, count_text, interval_text

LABELS = {"diversity": ("method", "occluder"), "hyperparameters": ("k", "n_sigma"), "moving-occlusion": ("place",)}
TITLES = {
    "diversity": "Hypotheses, metres x 1000 (95 % interval); lower CSE and ASD-V, higher ASD-O are better",
    "hyperparameters": "global+local+vae+dpp by k and n_sigma, metres x 1000 (95 % interval)",
    "moving-occlusion": "global+local+vae+dpp behind a patch, metres x 1000 (95 % interval)",
}
DISTANCES = ("cse", "asd_v", "asd_o", "asd_o_under")


def sheets(name: str, table: DiversityTable) -> list[Sheet]:
    """All tables as text."""
    made = [_distances(name, table.rows), _realism(name, table.rows), _reference(table.reference)]
    return [sheet for sheet in made if sheet[2]]


def introduction(name: str, table: DiversityTable, source: str, num_samples: int, preset: str, seed: int) -> str:
    """What the tables are of."""
    count = max((row["photos"] for row in table.rows), default=0)
    return (
        f"Table `{name}`: {count} photos {source}, {num_samples} hypotheses each, preset `{preset}` of Algorithm 2, "
        f"seed {seed}. Head frame, no alignment; 95 % intervals over subjects."
    )


def _distances(name: str, rows: Sequence[dict]) -> Sheet:
    cells = []
    for row in rows:
        distances = (interval_text(row, n, 2) for n in (*DISTANCES, "ratio"))
        cells.append([*_labels(name, row), count_text(row), *distances, _plain(row["seconds"])])
    return TITLES[name], [*LABELS[name], "photos", *DISTANCES, "asd_o/asd_v", "seconds"], cells


def _realism(name: str, rows: Sequence[dict]) -> Sheet:
    names = ("inside", "vertices_inside", "mahalanobis")
    cells = [[*_labels(name, row), *(interval_text(row, n, 3) for n in names)] for row in rows]
    title = (
        f"Realism: share of hypotheses inside the training heads' {COMPONENTS} components, share of vertices within "
        f"{MOST_DEVIATIONS:g} standard deviations, mean distance"
    )
    return title, [*LABELS[name], *names], cells


def _reference(rows: Sequence[dict]) -> Sheet:
    names = ("inside", "vertices_inside", "mahalanobis")
    cells = [
        [
            *(row["heads"], str(row["count"])),
            *(interval_text(row, name, 3) for name in names),
            *(f"{row['threshold']:.3f}", interval_text(row, "rms", 2)),
        ]
        for row in rows
    ]
    title = "The same of real heads and of fits; inside: distance at most the threshold; rms: from the truth"
    return title, ["heads", "count", *names, "threshold", "rms"], cells


def _labels(name: str, row: dict) -> list[str]:
    return [row[n] if isinstance(row[n], str) else f"{row[n]:g}" for n in LABELS[name]]


def _plain(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"
