"""The table `expression`: from options to a report."""

from __future__ import annotations

import flamejax
from experiments.datasets.open_faces import load_scans
from experiments.evaluate.cases import cases_for, scan_cases
from experiments.evaluate.config import EvaluateConfig
from experiments.evaluate.diversity import runner_of, source_of
from experiments.tables.diverse_cases import frame_cases
from experiments.tables.expression_table import ExpressionRunner, expression, sheets
from experiments.tables.report import Report
from experiments.tables.runs import Progress
from sampling._ofer import load_networks

COVERED = 8
"""Photos for the growing cover."""


def run(config: EvaluateConfig, progress: Progress) -> Report:
    """Make the table. Raises as `experiments.evaluate.command.main` catches."""
    head = flamejax.load_head()
    networks = load_networks(head, config.idgen, config.expgen, config.idrank)
    runner = ExpressionRunner(runner_of(config, head), networks)
    if config.frames is None:
        cases, failures = cases_for(config, head, progress)
        clean, others = scan_cases(config, len(cases[:COVERED]), occluded=False)
        failures += others
    else:
        cases, failures = frame_cases(head, config.frames, config.most), []
        clean = frame_cases(head, config.frames, len(cases[:COVERED]), occluded=False)
    if not cases:
        raise ValueError("no photo with a face that could be observed.")
    table = expression(runner, cases, clean, load_scans("train"), load_scans("test"), progress)
    text = (
        f"Table `expression`: {len(cases)} photos {source_of(config, config.frames)}, {config.num_samples} heads each, "
        f"seed {config.seed}. Front of the face, x 1000, head frame; 95 % intervals over subjects."
    )
    return Report(table, sheets(table), text, failures)
