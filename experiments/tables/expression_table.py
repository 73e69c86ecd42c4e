"""OFER's Tables 3 to 5 on photos of the open scans: Diverse3DFace, OFER, and both together.

All is measured over the front of the face (`models.rank.frontal_vertices`), as in CO-545, x 1000, in the head frame:
all methods' heads are brought there by the pose of the fit that they share. Formulas: docs/method/sample-metrics.md.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.cache import array_digest, read_tree, write_tree
from experiments.datasets.open_faces import Scans
from experiments.tables.diverse_cases import Case, Parts
from experiments.tables.diverse_runs import LOCAL, OURS, Found, Runner
from experiments.tables.diversity_table import summary, values_of
from experiments.tables.moving_occlusion import SHARES, behind, cover_of, covered_case
from experiments.tables.report import Sheet, counts, interval, number, sheet
from experiments.tables.runs import Progress, Tick, head_id, no_tick, run_folder, tick_of
from experiments.tables.statistics import columns, groups, mean_of, subjects_of
from experiments.training.mesh_vae.heads import MIRROR, mirror_map
from fitting.fit_model import FitModel
from flamejax.head import HeadModel
from flamejax.metrics import (
    Distribution,
    aligned,
    asd,
    asd_extremes,
    cse,
    harmonic_diversity,
    learn_distribution,
    out_of_distribution,
    sample_error,
    shape_deviation,
)
from flamejax.types import Fit, Hypotheses, Observation
from models.rank import frontal_vertices
from models.weight_files import digest_of_weights
from sampling import OferConfig
from sampling._ofer import OferNetworks, ofer
from sampling._ofer_dpp import OferDppConfig, ofer_dpp

ROOMS = ("flamejax/metrics", "experiments/training/mesh_vae/heads.py", "experiments/tables/expression_table.py")
"""Code that decides what the training scans say of vertices."""
METHODS = ("diverse", "ofer", "ofer+dpp")
FAITHFUL = ("cse", "cse_aligned", "visible_se", "asd_v_min", "asd_v_max")
DIVERSE = ("asd_o", "asd_o_rms", "std_s", "std_s_hidden", "ode", "ode_v", "ode_o")
MEASURES = (*FAITHFUL, *DIVERSE)
DIGITS = {"ode": 4, "ode_v": 4, "ode_o": 4, "asd_o": 3}
"""Of printed numbers, where it is not two."""


@dataclass(frozen=True)
class ExpressionTable:
    """The rows, as printed and as written; what could not be measured is None."""

    rows: list[dict]
    """`method`, `occluder`, `photos`, how many `failed` (numbers that are none), each of `MEASURES` with a 95 %
    interval (subjects drawn with replacement), and the median `seconds`."""
    covered: list[dict]
    """`method`, `share`, `photos`, `failed` (a fit failed under some cover): STD-S of the vertices that the largest
    cover hides, as the cover grows."""
    reference: list[dict]
    """ODE of real heads that nobody trained on."""


class ExpressionRunner:
    """Draws hypotheses for fits of the global and local models; those of Algorithm 2 are `runner`'s."""

    def __init__(
        self, runner: Runner, networks: OferNetworks, ofer_config: OferConfig | None = None,
        dpp_config: OferDppConfig | None = None,
    ):  # fmt: skip
        self.runner, self.networks = runner, networks
        self.configs: dict[str, Any] = {"ofer": ofer_config or OferConfig(), "ofer+dpp": dpp_config or OferDppConfig()}
        parts = (networks.idgen, networks.expgen, networks.idrank)
        self._weights = functools.cache(lambda: [digest_of_weights(part) for part in parts])

    def hypotheses(self, method: str, cases: Sequence[Case], tick: Tick = no_tick) -> list[Found]:
        """Hypotheses of each case by a method of `METHODS`, made or taken from an earlier run."""
        if method == "diverse":
            return self.runner.hypotheses(OURS, cases, tick)
        draw: Any = ofer if method == "ofer" else ofer_dpp
        options = {"num_samples": self.runner.settings.num_samples, "config": self.configs[method]}

        def drawn(model: FitModel, fit: Fit, observation: Observation, key: jax.Array) -> Hypotheses:
            return draw(self.networks, self.runner.head, fit, observation, key, **options)

        settings = method, self.configs[method], self._weights()
        return self.runner.drawn(LOCAL, drawn, settings, cases, tick)


def expression(
    runner: ExpressionRunner, cases: Sequence[Case], clean: Sequence[Case], train: Scans, held_out: Scans,
    progress: Progress,
) -> ExpressionTable:  # fmt: skip
    """Every method on every photo. clean: photos without occluders, for the growing cover."""
    head = runner.runner.head
    front, known = frontal_vertices(head), distribution(head, train, runner.runner.folder)
    parts = runner.runner.parts(cases, tick_of(progress, "fits", cases))
    rows = []
    for method in METHODS:
        found = runner.hypotheses(method, cases, tick_of(progress, method, cases))
        each = [measures(one, case, part, front, known) for one, case, part in zip(found, cases, parts, strict=True)]
        for occluder, which in groups([case.occluder for case in cases]):
            row = {"method": method, "occluder": occluder}
            rows.append(row | summary(values_of(each), MEASURES, cases, which))
    covered = growing_cover(runner, clean, front, known, progress)
    return ExpressionTable(rows, covered, reference(known, held_out, front))


def distribution(head: HeadModel, train: Scans, folder: Path | None = None) -> Distribution:
    """Of the training scans and their mirror images, by vertex; kept in `folder`, by default the data folder's
    `evaluate`."""
    path = run_folder(folder, "distribution", ROOMS, array_digest(train.vertices), head_id(head)) / "kept.npz"
    kept = read_tree(path, Distribution)
    if kept is not None:
        return kept
    heads, mirror = train.vertices, mirror_map(head)
    if mirror is not None:
        heads = np.concatenate([heads, (heads * MIRROR.astype(np.float32))[:, mirror]])
    found = learn_distribution(heads)
    write_tree(path, found)
    return found


def measures(found: Found, case: Case, parts: Parts, front: np.ndarray, known: Distribution) -> dict[str, float]:
    """Each of `MEASURES`, `seconds`, and whether it `failed`, of one photo."""
    heads, truth = found.heads, case.truth
    if not np.isfinite(heads).all():
        return dict.fromkeys((*MEASURES, "seconds"), math.nan) | {"failed": 1.0}
    visible, occluded = front & parts.visible, front & parts.occluded
    with_truth = dict.fromkeys(("cse", "cse_aligned", "visible_se", "asd_o"), math.nan)
    if truth is not None:
        with_truth = {
            "cse": cse(heads, truth, front),
            "cse_aligned": cse(np.stack([aligned(head, truth, front) for head in heads]), truth, front),
            "visible_se": sample_error(heads, truth, visible),
            "asd_o": harmonic_diversity(known, heads, truth, visible, occluded),
        }
    least, most = asd_extremes(heads, visible)
    return with_truth | {
        "asd_v_min": least,
        "asd_v_max": most,
        "asd_o_rms": asd(heads, occluded),
        "ode": out_of_distribution(known, heads, front),
        "ode_v": out_of_distribution(known, heads, visible),
        "ode_o": out_of_distribution(known, heads, occluded),
        "std_s": shape_deviation(known, heads, front),
        "std_s_hidden": shape_deviation(known, heads, occluded),
        "seconds": found.seconds,
        "failed": 0.0,
    }


def growing_cover(
    runner: ExpressionRunner, cases: Sequence[Case], front: np.ndarray, known: Distribution, progress: Progress
) -> list[dict]:
    """STD-S as a plain cover rises from the chin to the brows, of all vertices that are hidden in the end.

    What is hidden is the same for all covers, by the fit of the photo without one. A photo whose fit fails under some
    cover counts under none.
    """
    if not cases:
        return []
    rows = []
    fits, shown = runner.runner.fits(LOCAL, cases), runner.runner.parts(cases)
    hidden = [
        front & (parts.occluded | behind(cover_of(case, SHARES[-1]), fit))
        for case, fit, parts in zip(cases, fits, shown, strict=True)
    ]
    covered = {share: [covered_case(case, share) for case in cases] for share in SHARES}
    codes = [[int(fit.code) for fit in runner.runner.fits(LOCAL, moved)] for moved in covered.values()]
    sound = (np.array(codes) == 0).all(axis=0)
    subjects = subjects_of(cases)
    total = len(cases) * len(SHARES) * len(METHODS)
    for share, moved in covered.items():
        for method in METHODS:
            found = runner.hypotheses(method, moved, lambda n: progress("growing cover", total, n))
            spread = [shape_deviation(known, one.heads, part) for one, part in zip(found, hidden, strict=True)]
            values = np.where(sound, spread, np.nan)
            row = {"method": method, "share": share, "photos": len(cases), "failed": int((~sound).sum())}
            rows.append(row | columns("std_s", mean_of(values, subjects), subjects))
    return rows


def reference(known: Distribution, held_out: Scans, front: np.ndarray) -> list[dict]:
    """Of real heads, one at a time."""
    each = np.array([out_of_distribution(known, head[None], front) for head in held_out.vertices])
    row = {"heads": "test scans", "count": len(each)}
    return [row | columns("ode", mean_of(each, held_out.subject), held_out.subject)]


def sheets(table: ExpressionTable) -> list[Sheet]:
    """All tables as text."""
    made = []
    for part, names in (("faithful", FAITHFUL), ("diverse and plausible", DIVERSE)):
        shown = [interval(name, DIGITS.get(name, 2)) for name in names]
        title = f"Hypotheses: how {part}, x 1000 (95 % interval)"
        made.append(sheet(title, table.rows, "method", "occluder", counts(), *shown, number("seconds", 1)))
    title = "Clean photos: STD-S of what the whole cover hides, as it rises from the chin (0) to the brows (1)"
    made.append(sheet(title, table.covered, "method", number("share", 2), counts(), interval("std_s", 2)))
    return [*made, sheet("ODE of real heads", table.reference, "heads", "count", interval("ode", 4))]
