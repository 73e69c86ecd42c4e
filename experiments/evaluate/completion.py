"""The table `completion`: from options to a report."""

from __future__ import annotations

from pathlib import Path

import flamejax
from experiments.datasets.open_faces import load_scans
from experiments.evaluate.config import EvaluateConfig
from experiments.tables import completion, pictures
from experiments.tables.report import Report
from experiments.tables.runs import Progress
from experiments.training.mesh_vae.heads import augmentation
from models.pretrained import load_mesh_vae


def run(config: EvaluateConfig, progress: Progress) -> Report:
    """Make the table. Raises as `experiments.evaluate.command.main` catches."""
    head = flamejax.load_head()
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
