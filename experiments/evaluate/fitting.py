"""The table `fitting`: from options to a report."""

from __future__ import annotations

import functools

import flamejax
from experiments.datasets.observations import spread_out
from experiments.datasets.open_faces import data_source, load_photos
from experiments.evaluate.config import EvaluateConfig
from experiments.tables import charts, fitting_table
from experiments.tables.fits import Fitter
from experiments.tables.report import Report
from experiments.tables.runs import Progress
from fitting.detector import LiteRTDetector


def run(config: EvaluateConfig, progress: Progress) -> Report:
    """Make the table. Raises as `experiments.evaluate.command.main` catches."""
    head = flamejax.load_head()
    places = spread_out(len(data_source(config.split, config.data)), config.most)
    photos = list(load_photos(config.split, config.data, indices=list(places)))
    wanted = fitting_table.jobs(config.preset, config.landmarks, config.seed, config.robustness)
    table = fitting_table.make(head, Fitter(head, LiteRTDetector), photos, wanted, progress)
    text = f"{len(photos)} photos of the open scans, preset `{config.preset}`, {config.landmarks} landmarks."
    draw = functools.partial(charts.histogram, table.histogram)
    return Report(table, fitting_table.sheets(table), text, draw=draw)
