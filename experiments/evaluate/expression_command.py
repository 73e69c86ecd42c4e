"""The table `expression`: from options to tables and files."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from rich.console import Console

import flamejax
from experiments.evaluate.command import EvaluateConfig, limit_of, write_rows
from experiments.evaluate.diversity_command import cases_for, scan_cases
from experiments.progress import progress_bars
from experiments.tables import report
from experiments.tables.diverse_cases import frame_cases
from experiments.tables.diverse_runs import Runner, Settings
from experiments.tables.expression_runs import ExpressionRunner
from experiments.tables.expression_table import ExpressionTable, expression
from experiments.tables.report import Sheet, count_text, interval_text
from flamejax.io.files import write_text
from models.pretrained import load_mesh_vae
from sampling import DIVERSIFY_PRESETS, load_networks

PARTS = {
    "faithful": ("cse", "cse_aligned", "visible_se", "asd_v_min", "asd_v_max"),
    "diverse and plausible": ("asd_o", "asd_o_rms", "std_s", "std_s_hidden", "ode", "ode_v", "ode_o"),
}
COVERED = 8
"""Photos for the growing cover."""
DIGITS = {"ode": 4, "ode_v": 4, "ode_o": 4, "asd_o": 3}


def run(config: EvaluateConfig, console: Console) -> int:
    """Make the table. Returns the exit status; raises as `experiments.evaluate.command.main` catches."""
    from experiments.datasets.open_faces import load_scans

    head = flamejax.load_head()
    settings = Settings(
        DIVERSIFY_PRESETS[config.diversify_preset], config.num_samples, config.preset, config.seed
    )  # fmt: skip
    networks = load_networks(head, config.idgen, config.expgen, config.idrank)
    runner = ExpressionRunner(Runner(head, load_mesh_vae(head, config.weights), settings), networks)
    with progress_bars() as progress:
        if config.frames is None:
            cases, failures = cases_for(config, head, progress)
            clean, others = scan_cases(config, len(cases[:COVERED]), occluded=False)
            failures += others
        else:
            cases, failures = frame_cases(head, config.frames, limit_of(config)), []
            clean = frame_cases(head, config.frames, len(cases[:COVERED]), occluded=False)
        if not cases:
            raise ValueError("no photo with a face that could be observed.")
        table = expression(runner, cases, clean, load_scans("train"), load_scans("test"), progress)
    for line in failures:
        console.print(f"left out: {line}", markup=False)
    made = sheets(table)
    for each in report.tables(made):
        console.print(each)
    write_rows(config, dataclasses.asdict(table))
    if config.markdown:
        source = f"of the open scans' {config.split} split, {config.landmarks} landmarks"
        source = source if config.frames is None else f"of {config.frames}"
        text = (
            f"Table `expression`: {len(cases)} photos {source}, {config.num_samples} heads each, seed {config.seed}. "
            "Front of the face, x 1000, head frame; 95 % intervals over subjects."
        )
        write_text(config.markdown, report.as_markdown(text, made))
    return 0


def sheets(table: ExpressionTable) -> list[Sheet]:
    """All tables as text."""
    made = [_part(name, table.rows) for name in PARTS]
    if table.covered:
        cells = [
            [row["method"], f"{row['share']:.2f}", count_text(row), interval_text(row, "std_s", 2)]
            for row in table.covered
        ]
        title = "Clean photos: STD-S of what the whole cover hides, as it rises from the chin (0) to the brows (1)"
        made.append((title, ["method", "share", "photos", "std_s"], cells))
    cells = [[row["heads"], f"{row['count']}", interval_text(row, "ode", 4)] for row in table.reference]
    return [*made, ("ODE of real heads", ["heads", "count", "ode"], cells)]


def _part(name: str, rows: Sequence[dict]) -> Sheet:
    names = PARTS[name]
    cells = [
        [
            row["method"],
            row["occluder"],
            count_text(row),
            *(interval_text(row, n, DIGITS.get(n, 2)) for n in names),
            "-" if row["seconds"] is None else f"{row['seconds']:.1f}",
        ]
        for row in rows
    ]
    title = f"Hypotheses: how {name}, x 1000 (95 % interval)"
    return title, ["method", "occluder", "photos", *names, "seconds"], cells
