"""The tables `identity`, `samples` and `ranking`: from options to tables and files."""

from __future__ import annotations

import dataclasses

from rich.console import Console

import flamejax
from experiments.evaluate.command import EvaluateConfig, limit_of, write_rows
from experiments.progress import progress_bars
from experiments.tables import ofer_report, ofer_table, report
from experiments.tables.ofer_cases import case_source, draw_cases
from experiments.tables.ofer_runs import OferRunner
from flamejax.io.files import write_text
from models.ofer_weights import load_generator, load_rank

MAKERS = {"identity": ofer_table.identity, "samples": ofer_table.samples, "ranking": ofer_table.ranking}


def run(config: EvaluateConfig, console: Console) -> int:
    """Make one of the tables. Returns the exit status; raises as `experiments.evaluate.command.main` catches."""
    from experiments.datasets.open_faces import load_new_people

    head = flamejax.load_head()
    idgen = load_generator(head, "identity", config.idgen)
    idrank = None if config.table == "samples" else load_rank(head, config.idrank)
    source = case_source(head, config.split)
    cases = draw_cases(head, source, load_new_people(config.split), limit_of(config), config.seed)
    runner = OferRunner(head, source, idgen, idrank, config.seed)
    with progress_bars() as progress:
        table = MAKERS[config.table](runner, cases, progress)
    made = ofer_report.sheets(config.table, table)
    for each in report.tables(made):
        console.print(each)
    write_rows(config, dataclasses.asdict(table))
    if config.markdown:
        text = ofer_report.introduction(config.table, table, config.split, config.seed)
        write_text(config.markdown, report.as_markdown(text, made))
    return 0
