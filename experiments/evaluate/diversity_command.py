"""The tables `diversity`, `hyperparameters` and `moving-occlusion`: from options to tables, files and pictures."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from rich.console import Console

import flamejax
from experiments.datasets.observations import spread_out
from experiments.evaluate.command import EvaluateConfig, limit_of, write_rows
from experiments.progress import progress_bars
from experiments.runtime import data_folder
from experiments.tables import diversity_figure, diversity_report, diversity_table, report
from experiments.tables.diverse_cases import Case, balanced, case_of, clean_case_of, folder_cases
from experiments.tables.diverse_runs import Runner, Settings
from experiments.tables.diversity_table import DiversityTable, Progress
from experiments.tables.head_realism import Realism, learn
from experiments.tables.moving_occlusion import PLACES, frontality, with_patch
from fitting.detector import LiteRTDetector
from flamejax.head import HeadModel
from flamejax.io.files import write_text
from sampling import DIVERSIFY_PRESETS

FRONTAL_OF = 3
"""For the moving patch so many times the photos are looked at, and the most frontal of them are taken: a patch on a
cheek that is turned away hides nothing."""


def run(config: EvaluateConfig, console: Console) -> int:
    """Make one of the tables. Returns the exit status; raises as `experiments.evaluate.command.main` catches."""
    from experiments.datasets.open_faces import load_scans
    from models.pretrained import load_mesh_vae

    head = flamejax.load_head()
    settings = Settings(
        DIVERSIFY_PRESETS[config.diversify_preset], config.num_samples, config.preset, config.seed
    )  # fmt: skip
    runner = Runner(head, load_mesh_vae(head, config.weights), settings)
    with progress_bars() as progress:
        cases, failures = cases_for(config, head, progress)
        if not cases:
            raise ValueError("no photo with a face that could be observed" + "".join(f"; {each}" for each in failures))
        progress("training scans", 1, 0)
        realism = learn(load_scans("train"), load_scans("validation"))
        progress("training scans", 1, 1)
        table, shown = _table(config, runner, cases, realism, progress)
    for line in failures:
        console.print(f"left out: {line}", markup=False)
    made = diversity_report.sheets(config.table, table)
    for each in report.tables(made):
        console.print(each)
    write_rows(config, dataclasses.asdict(table))
    if config.markdown:
        source = f"of the open scans' {config.split} split, {config.landmarks} landmarks"
        source = source if config.photos is None else f"of {config.photos}"
        source += f", fits of preset `{config.preset}`"
        text = diversity_report.introduction(
            config.table, table, source, config.num_samples, config.diversify_preset, config.seed
        )
        write_text(config.markdown, report.as_markdown(text, made))
    if config.figure:
        _figures(config, runner, table, shown)
    return 0


def cases_for(config: EvaluateConfig, head: HeadModel, progress: Progress) -> tuple[list[Case], list[str]]:
    """The photos of a table, those for the moving patch with the patch at every place; and a line for every photo that
    is left out."""
    limit = limit_of(config)
    if config.photos is not None:
        cases, failures = folder_cases(
            head, config.photos, limit, data_folder() / "evaluate",
            lambda total, count: progress("observing", total, count), LiteRTDetector,
        )  # fmt: skip
        if config.table == "moving-occlusion":
            cases = [with_patch(case, None, place) for place in PLACES for case in cases]
        return cases, failures
    return _moving(config, limit) if config.table == "moving-occlusion" else scan_cases(config, limit)


def scan_cases(config: EvaluateConfig, limit: int | None, occluded: bool = True) -> tuple[list[Case], list[str]]:
    """Photos of the open scans, occluded or clean, balanced by occluder; and a line for every one that is left out."""
    from experiments.datasets.open_faces import load_photos
    from experiments.datasets.open_faces.photos import kind_of
    from experiments.datasets.open_faces.store import scan_list

    pairs = scan_list(_data(config), config.split)
    places = balanced([s for s, _ in pairs], [kind_of(*pair) for pair in pairs], limit)
    detector = LiteRTDetector() if config.landmarks == "detected" else None
    cases, failures = [], []
    for photo in load_photos(config.split, _data(config), indices=places):
        case = (case_of if occluded else clean_case_of)(photo, config.landmarks, detector)
        if case is None:
            failures.append(f"{photo.key}: no face was found.")
        else:
            cases.append(case)
    return cases, failures


def _moving(config: EvaluateConfig, limit: int | None) -> tuple[list[Case], list[str]]:
    from experiments.datasets.open_faces import data_source, load_photos

    count = len(data_source(config.split, _data(config)))
    places = spread_out(count, None if limit is None else FRONTAL_OF * limit)
    detector = LiteRTDetector() if config.landmarks == "detected" else None
    pairs, failures = [], []
    for photo in load_photos(config.split, _data(config), indices=list(places)):
        case = clean_case_of(photo, config.landmarks, detector)
        if case is None:
            failures.append(f"{photo.key}: no face was found.")
        else:
            pairs.append((case, photo))
    pairs = sorted(pairs, key=lambda pair: -frontality(pair[0]))[:limit]
    return [with_patch(case, photo, place) for place in PLACES for case, photo in pairs], failures


def _data(config: EvaluateConfig):  # noqa: ANN202
    """The config of the open scans in which the split is."""
    return "test" if config.split == "test" else "full"


def _table(
    config: EvaluateConfig, runner: Runner, cases: Sequence[Case], realism: Realism, progress: Progress
) -> tuple[DiversityTable, list[Case]]:
    """The table, and the cases that a picture shows."""
    from experiments.datasets.open_faces import load_scans

    if config.table == "hyperparameters":
        return diversity_table.hyperparameters(runner, cases, realism, progress), []
    if config.table == "moving-occlusion":
        moved = {place: [case for case in cases if case.occluder == place] for place in PLACES}
        # Of the first photo, the most frontal one, at every place.
        return diversity_table.moving_occlusion(runner, moved, realism, progress), [each[0] for each in moved.values()]
    table = diversity_table.diversity(runner, cases, realism, load_scans("test"), progress)
    return table, [cases[k] for k in diversity_figure.one_of_each([case.occluder for case in cases])]


def _figures(config: EvaluateConfig, runner: Runner, table: DiversityTable, shown: Sequence[Case]) -> None:
    path = config.figure
    assert path is not None
    if config.table == "hyperparameters":
        diversity_figure.heat_maps(table.rows, path)
        return
    pictured = diversity_table.pictured(runner, shown)
    diversity_figure.hypotheses_figure(runner.head, pictured, path)
    if config.table == "diversity":
        strip = path.with_stem(path.stem + "-interpolation")
        diversity_figure.interpolation_figure(runner.head, runner.vae, pictured, strip)
