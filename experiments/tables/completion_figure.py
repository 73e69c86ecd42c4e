"""Pictures of the table `completion`: heads, what was hidden, what each method made of it; and a grid of samples."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from experiments.tables.completion import Pictured
from experiments.tables.head_pictures import GREY, WRONG, marked, picture, save_sheet
from flamejax.head import HeadModel

HEADS = 4
GRID = (6, 8)
"""Heads and samples of each."""
MOST = 3.0
"""Error in mm that is shown in full colour."""


def figure(head: HeadModel, pictured: Pictured, path: Path) -> None:
    """A column of two pictures for each head: the head, and what was hidden or how far off a completion is. A PNG."""
    cases = pictured.cases
    places = _spread(len(cases), HEADS)
    sheet = []
    line = [picture(head, cases.heads[k], c) for k in places for c in (GREY, marked(cases.visible[k]))]
    sheet.append(("truth;\nhidden part", line))
    for method, found in pictured.found.items():
        line = []
        for k in places:
            made = found[k] if found.ndim == 3 else found
            error = 1e3 * np.linalg.norm(made - cases.heads[k], axis=-1)
            wrong = GREY + np.clip(error / MOST, 0, 1)[:, None] * (WRONG - GREY)
            line += [picture(head, made, GREY), picture(head, made, wrong)]
        sheet.append((method, line))
    save_sheet(sheet, path, f"red: hidden above; below, error from 0 (grey) to {MOST:g} mm and more (red)")


def sample_grid(head: HeadModel, pictured: Pictured, path: Path) -> None:
    """Each row: a head with its hidden part in red, then draws given the visible part. A PNG."""
    method = "mesh_vae" if "mesh_vae" in pictured.samples else "pca"
    drawn, cases = pictured.samples[method], pictured.sampled
    sheet = []
    for k in _spread(len(cases), GRID[0]):
        line = [picture(head, cases.heads[k], marked(cases.visible[k]))]
        line += [picture(head, sample, GREY) for sample in drawn[k, : GRID[1]]]
        sheet.append((f"{method}\n{cases.kind[k]}", line))
    save_sheet(sheet, path, f"first column: the head, hidden part in red; then draws of {method}")


def _spread(count: int, wanted: int) -> list[int]:
    """Places spread over all, of both kinds of masks (which alternate) in turn."""
    pairs = np.linspace(0, count // 2 - 1, min(wanted, count // 2)).round().astype(int)
    return [int(2 * pair + number % 2) for number, pair in enumerate(pairs)]
