"""Computes the papers' tables: each function makes a report from options.

`experiments.evaluate.command.main` catches the errors that they raise.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from experiments.datasets.observations import evenly_spaced_indices
from experiments.datasets.open_faces import data_source, load_new_people, load_photos, load_scans
from experiments.evaluate.cases import cases_for, scan_cases
from experiments.evaluate.config import (
    DIVERSE,
    OFER,
    EvaluateCompletionConfig,
    EvaluateDiversityConfig,
    EvaluateExpressionConfig,
    EvaluateFittingConfig,
    EvaluateHypothesesConfig,
    EvaluateIdentityConfig,
    EvaluateSamplesConfig,
)
from experiments.tables import (
    charts,
    completion,
    diversity_table,
    expression_table,
    fitting_table,
    ofer_table,
    pictures,
)
from experiments.tables.diverse_cases import Case, frame_cases
from experiments.tables.diverse_runs import Runner, Settings
from experiments.tables.fits import Fitter
from experiments.tables.moving_occlusion import PLACES
from experiments.tables.ofer_cases import case_source, draw_cases
from experiments.tables.ofer_runs import OferRunner
from experiments.tables.realism import learn_realism
from experiments.tables.report import Report
from experiments.tables.runs import Progress
from experiments.training.mesh_vae.heads import augmentation
from fitting.detector import LiteRTDetector
from flamejax.head import HeadModel
from models.ofer_weights import load_generator, load_rank
from models.pretrained import load_mesh_vae
from sampling import DIVERSIFY_PRESETS
from sampling._ofer import load_networks

COVERED = 8
"""Number of photos that are covered step by step."""


def fitting_report(config: EvaluateFittingConfig, head: HeadModel, progress: Progress) -> Report:
    """Compute the table `fitting`."""
    indices = evenly_spaced_indices(len(data_source(config.split, config.data)), config.max_cases)
    photos = list(load_photos(config.split, config.data, indices=list(indices)))
    jobs = fitting_table.fit_jobs(config.preset, config.landmarks, config.seed, config.robustness)
    table = fitting_table.compute_table(head, Fitter(head, LiteRTDetector), photos, jobs, progress)
    text = f"{len(photos)} photos of the open scans, preset `{config.preset}`, {config.landmarks} landmarks."
    draw = functools.partial(charts.histogram, table.histogram)
    return Report(table, fitting_table.sheets(table), text, draw=draw)


def completion_report(config: EvaluateCompletionConfig, head: HeadModel, progress: Progress) -> Report:
    """Compute the table `completion`; without the Mesh-VAE where no weights ship and none are given."""
    left_out = []
    try:
        model = load_mesh_vae(head, config.weights)
    except FileNotFoundError as error:
        if config.weights is not None:
            raise
        model, left_out = None, [f"mesh_vae: {error}"]
    train, scans = load_scans("train"), load_scans(config.split)
    settings = completion.CompletionConfig(seed=config.seed)
    extra_heads = augmentation(head, train.vertices, train.joint_rotations)
    table, pictured = completion.compute_table(
        head, train, scans, model, config.max_cases, progress, settings, extra_heads=extra_heads
    )
    text = (
        f"{len(pictured.cases) // 2} scans of the open scans' {config.split} split, each with a rectangle and with a "
        f"patch that hides 25 to 40 % of its vertices (seed {config.seed}). Per head the median distance of vertices, "
        "mm, head frame; means over heads, 95 % intervals over subjects."
    )

    def draw(path: Path) -> None:
        pictures.completions_figure(head, pictured, path)
        pictures.samples_figure(head, pictured, path.with_stem(path.stem + "-samples"))

    return Report(table, completion.sheets(table), text, left_out, draw)


def diversity_report(config: EvaluateDiversityConfig, head: HeadModel, progress: Progress) -> Report:
    """Compute one of the tables in `DIVERSE`."""
    runner = _runner(config, head)
    cases, failures = cases_for(config, head, progress)
    if not cases:
        raise ValueError("no photo with a face that could be observed" + "".join(f"; {each}" for each in failures))
    progress("training scans", 1, 0)
    realism = learn_realism(load_scans("train"), load_scans("validation"))
    progress("training scans", 1, 1)
    shown: list[Case] = []
    if config.table == "hyperparameters":
        table = diversity_table.hyperparameters(runner, cases, realism, progress)
    elif config.table == "moving-occlusion":
        moved = {place: [case for case in cases if case.occluder == place] for place in PLACES}
        # The first photo, which is the most frontal one, at every place.
        shown = [each[0] for each in moved.values()]
        table = diversity_table.moving_occlusion(runner, moved, realism, progress)
    else:
        shown = [cases[k] for k in pictures.first_of_each_occluder([case.occluder for case in cases])]
        table = diversity_table.diversity(runner, cases, realism, load_scans("test"), progress)
    count = max(row["photos"] for row in table.rows)
    text = (
        f"Table `{config.table}`: {count} photos {_source(config, config.photos)}, "
        f"fits of preset `{config.preset}`, {config.num_samples} hypotheses each, preset `{config.diversify_preset}` "
        f"of Algorithm 2, seed {config.seed}. Head frame, no alignment; 95 % intervals over subjects."
    )

    def draw(path: Path) -> None:
        if config.table == "hyperparameters":
            charts.heat_maps(table.rows, path)
            return
        pictured = diversity_table.hypotheses_pictures(runner, shown)
        pictures.hypotheses_figure(head, pictured, path)
        if config.table == "diversity":
            strip = path.with_stem(path.stem + "-interpolation")
            pictures.interpolation_figure(head, runner.vae, pictured, strip)

    return Report(table, diversity_table.sheets(config.table, table), text, failures, draw)


def ofer_report(config: EvaluateSamplesConfig, head: HeadModel, progress: Progress) -> Report:
    """Compute one of the tables in `OFER`."""
    idgen = load_generator(head, "identity", config.idgen)
    idrank = load_rank(head, config.idrank) if isinstance(config, EvaluateIdentityConfig) else None
    source = case_source(head, config.split)
    cases = draw_cases(head, source, load_new_people(config.split), config.max_cases, config.seed)
    makers = {"identity": ofer_table.identity, "samples": ofer_table.samples, "ranking": ofer_table.ranking}
    table = makers[config.table](OferRunner(head, source, idgen, idrank, config.seed), cases, progress)
    text = (
        f"Table `{config.table}`: {len(cases)} new people, in no split of the open scans, with expressions of the "
        f"{config.split} scans, seed {config.seed}; the networks see only their landmarks. 95 % intervals over people."
    )
    return Report(table, ofer_table.sheets(config.table, table), text)


def expression_report(config: EvaluateExpressionConfig, head: HeadModel, progress: Progress) -> Report:
    """Compute the table `expression`."""
    networks = load_networks(head, config.idgen, config.expgen, config.idrank)
    runner = expression_table.ExpressionRunner(_runner(config, head), networks)
    if config.frames is None:
        cases, failures = cases_for(config, head, progress)
        clean, others = scan_cases(config, len(cases[:COVERED]), occluded=False)
        failures += others
    else:
        cases, failures = frame_cases(head, config.frames, config.max_cases), []
        clean = frame_cases(head, config.frames, len(cases[:COVERED]), occluded=False)
    if not cases:
        raise ValueError("no photo with a face that could be observed.")
    table = expression_table.expression(runner, cases, clean, load_scans("train"), load_scans("test"), progress)
    text = (
        f"Table `expression`: {len(cases)} photos {_source(config, config.frames)}, {config.num_samples} heads each, "
        f"seed {config.seed}. Front of the face, x 1000, head frame; 95 % intervals over subjects."
    )
    return Report(table, expression_table.sheets(table), text, failures)


REPORTS: dict[str, Callable[[Any, HeadModel, Progress], Report]] = {
    "fitting": fitting_report,
    "completion": completion_report,
    "expression": expression_report,
    **dict.fromkeys(DIVERSE, diversity_report),
    **dict.fromkeys(OFER, ofer_report),
}


def _runner(config: EvaluateHypothesesConfig, head: HeadModel) -> Runner:
    """Return a runner that fits photos and draws hypotheses with the options' settings."""
    settings = Settings(DIVERSIFY_PRESETS[config.diversify_preset], config.num_samples, config.preset, config.seed)
    return Runner(head, load_mesh_vae(head, config.weights), settings)


def _source(config: EvaluateHypothesesConfig, folder: Path | None) -> str:
    """Describe where the photos are from. folder: of photos instead of the open scans'."""
    scans = f"of the open scans' {config.split} split, {config.landmarks} landmarks"
    return scans if folder is None else f"of {folder}"
