"""The tables `identity`, `samples` and `ranking`: from options to a report."""

from __future__ import annotations

import flamejax
from experiments.datasets.open_faces import load_new_people
from experiments.evaluate.config import EvaluateConfig
from experiments.tables import ofer_table
from experiments.tables.ofer_cases import case_source, draw_cases
from experiments.tables.ofer_runs import OferRunner
from experiments.tables.report import Report
from experiments.tables.runs import Progress
from models.ofer_weights import load_generator, load_rank

MAKERS = {"identity": ofer_table.identity, "samples": ofer_table.samples, "ranking": ofer_table.ranking}


def run(config: EvaluateConfig, progress: Progress) -> Report:
    """Make one of the tables. Raises as `experiments.evaluate.command.main` catches."""
    head = flamejax.load_head()
    idgen = load_generator(head, "identity", config.idgen)
    idrank = None if config.table == "samples" else load_rank(head, config.idrank)
    source = case_source(head, config.split)
    cases = draw_cases(head, source, load_new_people(config.split), config.most, config.seed)
    table = MAKERS[config.table](OferRunner(head, source, idgen, idrank, config.seed), cases, progress)
    text = (
        f"Table `{config.table}`: {len(cases)} new people, in no split of the open scans, with expressions of the "
        f"{config.split} scans, seed {config.seed}; their landmarks alone are seen. 95 % intervals over people."
    )
    return Report(table, ofer_table.sheets(config.table, table), text)
