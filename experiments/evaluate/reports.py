"""The papers' tables, each from options to a report. They raise what `experiments.evaluate.command.main` catches."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

from experiments.datasets.observations import spread_out
from experiments.datasets.open_faces import data_source, load_new_people, load_photos, load_scans
from experiments.evaluate.cases import cases_for, scan_cases
from experiments.evaluate.config import DIVERSE, OFER, EvaluateConfig, Table
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
from experiments.tables.realism import learn
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
"""Photos for the growing cover."""


def fitting_report(config: EvaluateConfig, head: HeadModel, progress: Progress) -> Report:
    """The table `fitting`."""
    places = spread_out(len(data_source(config.split, config.data)), config.most)
    photos = list(load_photos(config.split, config.data, indices=list(places)))
    wanted = fitting_table.jobs(config.preset, config.landmarks, config.seed, config.robustness)
    table = fitting_table.make(head, Fitter(head, LiteRTDetector), photos, wanted, progress)
    text = f"{len(photos)} photos of the open scans, preset `{config.preset}`, {config.landmarks} landmarks."
    draw = functools.partial(charts.histogram, table.histogram)
    return Report(table, fitting_table.sheets(table), text, draw=draw)


def completion_report(config: EvaluateConfig, head: HeadModel, progress: Progress) -> Report:
    """The table `completion`; without the Mesh-VAE where no weights ship and none are named."""
    left_out = []
    try:
        model = load_mesh_vae(head, config.weights)
    except FileNotFoundError as error:
        if config.weights is not None:
            raise
        model, left_out = None, [f"mesh_vae: {error}"]
    train, scans = load_scans("train"), load_scans(config.split)
    settings = completion.CompletionConfig(seed=config.seed)
    more = augmentation(head, train.vertices, train.joint_rotations)
    table, pictured = completion.make(head, train, scans, model, config.most, progress, settings, more=more)
    text = (
        f"{len(pictured.cases) // 2} scans of the open scans' {config.split} split, each with a rectangle and with a "
        f"patch that hides 25 to 40 % of its vertices (seed {config.seed}). Per head the median distance of vertices, "
        "mm, head frame; means over heads, 95 % intervals over subjects."
    )

    def draw(path: Path) -> None:
        pictures.completions_figure(head, pictured, path)
        pictures.samples_figure(head, pictured, path.with_stem(path.stem + "-samples"))

    return Report(table, completion.sheets(table), text, left_out, draw)


def diversity_report(config: EvaluateConfig, head: HeadModel, progress: Progress) -> Report:
    """The tables of `DIVERSE`."""
    runner = _runner(config, head)
    cases, failures = cases_for(config, head, progress)
    if not cases:
        raise ValueError("no photo with a face that could be observed" + "".join(f"; {each}" for each in failures))
    progress("training scans", 1, 0)
    realism = learn(load_scans("train"), load_scans("validation"))
    progress("training scans", 1, 1)
    shown: list[Case] = []
    if config.table == "hyperparameters":
        table = diversity_table.hyperparameters(runner, cases, realism, progress)
    elif config.table == "moving-occlusion":
        moved = {place: [case for case in cases if case.occluder == place] for place in PLACES}
        # Of the first photo, the most frontal one, at every place.
        shown = [each[0] for each in moved.values()]
        table = diversity_table.moving_occlusion(runner, moved, realism, progress)
    else:
        shown = [cases[k] for k in pictures.one_of_each([case.occluder for case in cases])]
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
        pictured = diversity_table.pictured(runner, shown)
        pictures.hypotheses_figure(head, pictured, path)
        if config.table == "diversity":
            strip = path.with_stem(path.stem + "-interpolation")
            pictures.interpolation_figure(head, runner.vae, pictured, strip)

    return Report(table, diversity_table.sheets(config.table, table), text, failures, draw)


def ofer_report(config: EvaluateConfig, head: HeadModel, progress: Progress) -> Report:
    """The tables of `OFER`."""
    idgen = load_generator(head, "identity", config.idgen)
    idrank = None if config.table == "samples" else load_rank(head, config.idrank)
    source = case_source(head, config.split)
    cases = draw_cases(head, source, load_new_people(config.split), config.most, config.seed)
    makers = {"identity": ofer_table.identity, "samples": ofer_table.samples, "ranking": ofer_table.ranking}
    table = makers[config.table](OferRunner(head, source, idgen, idrank, config.seed), cases, progress)
    text = (
        f"Table `{config.table}`: {len(cases)} new people, in no split of the open scans, with expressions of the "
        f"{config.split} scans, seed {config.seed}; their landmarks alone are seen. 95 % intervals over people."
    )
    return Report(table, ofer_table.sheets(config.table, table), text)


def expression_report(config: EvaluateConfig, head: HeadModel, progress: Progress) -> Report:
    """The table `expression`."""
    networks = load_networks(head, config.idgen, config.expgen, config.idrank)
    runner = expression_table.ExpressionRunner(_runner(config, head), networks)
    if config.frames is None:
        cases, failures = cases_for(config, head, progress)
        clean, others = scan_cases(config, len(cases[:COVERED]), occluded=False)
        failures += others
    else:
        cases, failures = frame_cases(head, config.frames, config.most), []
        clean = frame_cases(head, config.frames, len(cases[:COVERED]), occluded=False)
    if not cases:
        raise ValueError("no photo with a face that could be observed.")
    table = expression_table.expression(runner, cases, clean, load_scans("train"), load_scans("test"), progress)
    text = (
        f"Table `expression`: {len(cases)} photos {_source(config, config.frames)}, {config.num_samples} heads each, "
        f"seed {config.seed}. Front of the face, x 1000, head frame; 95 % intervals over subjects."
    )
    return Report(table, expression_table.sheets(table), text, failures)


REPORTS: dict[Table, Callable[[EvaluateConfig, HeadModel, Progress], Report]] = {
    "fitting": fitting_report,
    "completion": completion_report,
    "expression": expression_report,
    **dict.fromkeys(DIVERSE, diversity_report),
    **dict.fromkeys(OFER, ofer_report),
}


def _runner(config: EvaluateConfig, head: HeadModel) -> Runner:
    """What fits photos and draws hypotheses with the options' settings."""
    settings = Settings(DIVERSIFY_PRESETS[config.diversify_preset], config.num_samples, config.preset, config.seed)
    return Runner(head, load_mesh_vae(head, config.weights), settings)


def _source(config: EvaluateConfig, folder: Path | None) -> str:
    """Where photos are from, in words. folder: instead of the open scans'."""
    scans = f"of the open scans' {config.split} split, {config.landmarks} landmarks"
    return scans if folder is None else f"of {folder}"
