"""The tables `diversity`, `hyperparameters` and `moving-occlusion`: from options to a report with pictures."""

from __future__ import annotations

from pathlib import Path

import flamejax
from experiments.datasets.open_faces import load_scans
from experiments.evaluate.cases import cases_for
from experiments.evaluate.config import EvaluateConfig
from experiments.tables import charts, diversity_table, pictures
from experiments.tables.diverse_cases import Case
from experiments.tables.diverse_runs import Runner, Settings
from experiments.tables.moving_occlusion import PLACES
from experiments.tables.realism import learn
from experiments.tables.report import Report
from experiments.tables.runs import Progress
from flamejax.head import HeadModel
from models.pretrained import load_mesh_vae
from sampling import DIVERSIFY_PRESETS


def run(config: EvaluateConfig, progress: Progress) -> Report:
    """Make one of the tables. Raises as `experiments.evaluate.command.main` catches."""
    head = flamejax.load_head()
    runner = runner_of(config, head)
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
        f"Table `{config.table}`: {count} photos {source_of(config, config.photos)}, "
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


def runner_of(config: EvaluateConfig, head: HeadModel) -> Runner:
    """What fits photos and draws hypotheses with the options' settings."""
    algorithm = DIVERSIFY_PRESETS[config.diversify_preset]
    settings = Settings(algorithm, config.num_samples, config.preset, config.seed)
    return Runner(head, load_mesh_vae(head, config.weights), settings)


def source_of(config: EvaluateConfig, folder: Path | None) -> str:
    """Where photos are from, in words. folder: instead of the open scans'."""
    scans = f"of the open scans' {config.split} split, {config.landmarks} landmarks"
    return scans if folder is None else f"of {folder}"
