"""OFER's Tables 3 to 5 on photos of the open scans: Diverse3DFace, OFER, and both together.

Everything is measured over the front of the face (`models.rank.frontal_vertices`), as in CO-545, x 1000, in the head
frame, which is given by the pose of the fit that all methods share. Formulas: docs/method/sample-metrics.md.
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
from experiments.tables.diverse_cases import Case, VisibilityMasks
from experiments.tables.diverse_runs import LOCAL, OURS, DrawnHypotheses, Runner
from experiments.tables.diversity_table import summary, values_of
from experiments.tables.moving_occlusion import SHARES, cover_mask, covered_case, vertices_behind
from experiments.tables.report import Sheet, counts, interval, number, sheet
from experiments.tables.runs import Progress, Tick, head_id, no_tick, progress_tick, run_folder
from experiments.tables.statistics import columns, groups, mean_of, subjects_of
from experiments.training.mesh_vae.heads import mirror_heads, mirror_map
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

CODE_PATHS = ("flamejax/metrics", "experiments/training/mesh_vae/heads.py", "experiments/tables/expression_table.py")
"""Code that the distribution of the training scans depends on."""
METHODS = ("diverse", "ofer", "ofer+dpp")
FAITHFUL = ("cse", "cse_aligned", "visible_se", "asd_v_min", "asd_v_max")
DIVERSE = ("asd_o", "asd_o_rms", "std_s", "std_s_hidden", "ode", "ode_v", "ode_o")
MEASURES = (*FAITHFUL, *DIVERSE)
DIGITS = {"ode": 4, "ode_v": 4, "ode_o": 4, "asd_o": 3}
"""Digits of printed numbers, if not two."""


@dataclass(frozen=True)
class ExpressionTable:
    """The rows, as printed and as written; None for values that could not be measured."""

    rows: list[dict]
    """`method`, `occluder`, `photos`, the number that `failed` (not finite), each of `MEASURES` with a 95 % interval
    (subjects drawn with replacement), and the median `seconds`."""
    covered: list[dict]
    """`method`, `share`, `photos`, `failed` (a fit failed under some cover), and STD-S of the vertices that the largest
    cover hides, for each share of the cover."""
    reference: list[dict]
    """ODE of held-out real heads."""


class ExpressionRunner:
    """Draws hypotheses for fits of the global and local models; `runner` draws those of Algorithm 2."""

    def __init__(
        self, runner: Runner, networks: OferNetworks, ofer_config: OferConfig | None = None,
        dpp_config: OferDppConfig | None = None,
    ):  # fmt: skip
        self.runner, self.networks = runner, networks
        self.configs: dict[str, Any] = {"ofer": ofer_config or OferConfig(), "ofer+dpp": dpp_config or OferDppConfig()}
        trained = (networks.idgen, networks.expgen, networks.idrank)
        self._weights = functools.cache(lambda: [digest_of_weights(network) for network in trained])

    def hypotheses(self, method: str, cases: Sequence[Case], tick: Tick = no_tick) -> list[DrawnHypotheses]:
        """Returns hypotheses of each case by a method of `METHODS`, computed or cached."""
        if method == "diverse":
            return self.runner.hypotheses(OURS, cases, tick)
        sampler: Any = ofer if method == "ofer" else ofer_dpp
        options = {"num_samples": self.runner.settings.num_samples, "config": self.configs[method]}

        def draw(model: FitModel, fit: Fit, observation: Observation, key: jax.Array) -> Hypotheses:
            return sampler(self.networks, self.runner.head, fit, observation, key, **options)

        settings = method, self.configs[method], self._weights()
        return self.runner.draw_hypotheses(LOCAL, draw, settings, cases, tick)


def expression(
    runner: ExpressionRunner, cases: Sequence[Case], clean: Sequence[Case], train: Scans, held_out: Scans,
    progress: Progress,
) -> ExpressionTable:  # fmt: skip
    """Measure every method on every photo. clean: photos without occluders, for the growing cover."""
    head = runner.runner.head
    front, training = frontal_vertices(head), training_distribution(head, train, runner.runner.folder)
    masks = runner.runner.visibility_masks(cases, progress_tick(progress, "fits", cases))
    rows = []
    for method in METHODS:
        drawn = runner.hypotheses(method, cases, progress_tick(progress, method, cases))
        photos = [measure(*photo, front, training) for photo in zip(drawn, cases, masks, strict=True)]
        for occluder, which in groups([case.occluder for case in cases]):
            row = {"method": method, "occluder": occluder}
            rows.append(row | summary(values_of(photos), MEASURES, cases, which))
    covered = growing_cover(runner, clean, front, training, progress)
    return ExpressionTable(rows, covered, reference_rows(training, held_out, front))


def training_distribution(head: HeadModel, train: Scans, folder: Path | None = None) -> Distribution:
    """Returns the distribution of each vertex over the training scans and their mirror images, cached in `folder`, by
    default the data folder's `evaluate`."""
    path = run_folder(folder, "distribution", CODE_PATHS, array_digest(train.vertices), head_id(head)) / "kept.npz"
    cached = read_tree(path, Distribution)
    if cached is not None:
        return cached
    heads, mirror = train.vertices, mirror_map(head)
    if mirror is not None:
        heads = np.concatenate([heads, mirror_heads(heads, mirror)])
    result = learn_distribution(heads)
    write_tree(path, result)
    return result


def measure(
    drawn: DrawnHypotheses, case: Case, masks: VisibilityMasks, front: np.ndarray, training: Distribution
) -> dict[str, float]:  # fmt: skip
    """Returns each of `MEASURES`, `seconds` and `failed` (0 or 1) for one photo."""
    heads, truth = drawn.heads, case.truth
    if not np.isfinite(heads).all():
        return dict.fromkeys((*MEASURES, "seconds"), math.nan) | {"failed": 1.0}
    visible, occluded = front & masks.visible, front & masks.occluded
    with_truth = dict.fromkeys(("cse", "cse_aligned", "visible_se", "asd_o"), math.nan)
    if truth is not None:
        with_truth = {
            "cse": cse(heads, truth, front),
            "cse_aligned": cse(np.stack([aligned(head, truth, front) for head in heads]), truth, front),
            "visible_se": sample_error(heads, truth, visible),
            "asd_o": harmonic_diversity(training, heads, truth, visible, occluded),
        }
    least, most = asd_extremes(heads, visible)
    return with_truth | {
        "asd_v_min": least,
        "asd_v_max": most,
        "asd_o_rms": asd(heads, occluded),
        "ode": out_of_distribution(training, heads, front),
        "ode_v": out_of_distribution(training, heads, visible),
        "ode_o": out_of_distribution(training, heads, occluded),
        "std_s": shape_deviation(training, heads, front),
        "std_s_hidden": shape_deviation(training, heads, occluded),
        "seconds": drawn.seconds,
        "failed": 0.0,
    }


def growing_cover(
    runner: ExpressionRunner, cases: Sequence[Case], front: np.ndarray, training: Distribution, progress: Progress
) -> list[dict]:
    """Measure STD-S as a plain cover rises from the chin to the brows, over the vertices hidden by the largest cover.

    These are the same for all covers, by the fit of the photo without one. A photo is left out if its fit fails under
    any cover.
    """
    if not cases:
        return []
    rows = []
    fits, masks = runner.runner.fits(LOCAL, cases), runner.runner.visibility_masks(cases)
    hidden = [
        front & (mask.occluded | vertices_behind(cover_mask(case, SHARES[-1]), fit))
        for case, fit, mask in zip(cases, fits, masks, strict=True)
    ]
    covered = {share: [covered_case(case, share) for case in cases] for share in SHARES}
    codes = [[int(fit.code) for fit in runner.runner.fits(LOCAL, moved)] for moved in covered.values()]
    fitted = (np.array(codes) == 0).all(axis=0)
    subjects = subjects_of(cases)
    total = len(cases) * len(SHARES) * len(METHODS)
    for share, moved in covered.items():
        for method in METHODS:
            drawn = runner.hypotheses(method, moved, lambda n: progress("growing cover", total, n))
            spread = [shape_deviation(training, each.heads, part) for each, part in zip(drawn, hidden, strict=True)]
            values = np.where(fitted, spread, np.nan)
            row = {"method": method, "share": share, "photos": len(cases), "failed": int((~fitted).sum())}
            rows.append(row | columns("std_s", mean_of(values, subjects), subjects))
    return rows


def reference_rows(training: Distribution, held_out: Scans, front: np.ndarray) -> list[dict]:
    """Returns a row with the ODE of real heads, measured one at a time."""
    values = np.array([out_of_distribution(training, head[None], front) for head in held_out.vertices])
    row = {"heads": "test scans", "count": len(values)}
    return [row | columns("ode", mean_of(values, held_out.subject), held_out.subject)]


def sheets(table: ExpressionTable) -> list[Sheet]:
    """Returns all tables as text."""
    result = []
    for part, names in (("faithful", FAITHFUL), ("diverse and plausible", DIVERSE)):
        shown = [interval(name, DIGITS.get(name, 2)) for name in names]
        title = f"Hypotheses: how {part}, x 1000 (95 % interval)"
        result.append(sheet(title, table.rows, "method", "occluder", counts(), *shown, number("seconds", 1)))
    title = "Clean photos: STD-S of what the whole cover hides, as it rises from the chin (0) to the brows (1)"
    result.append(sheet(title, table.covered, "method", number("share", 2), counts(), interval("std_s", 2)))
    return [*result, sheet("ODE of real heads", table.reference, "heads", "count", interval("ode", 4))]
