"""Tables for the terminal and for Markdown, and the histogram of Fig. 6."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from rich.table import Table

from experiments.tables.fitting_table import METHODS, FittingTable

COLOURS = {"mean": (150, 150, 150), "global": (214, 124, 46), "global+local": (46, 108, 190)}
INTERVAL = "{:.3f} ({:.3f}-{:.3f})"

Sheet = tuple[str, list[str], list[list[str]]]
"""Title, column names, rows."""


def sheets(table: FittingTable) -> list[Sheet]:
    """All tables as text."""
    made = [_errors(table), _ratios(table), _robustness(table), _masks(table)]
    return [sheet for sheet in made if sheet[2]]


def tables(made: Sequence[Sheet]) -> list[Table]:
    """For rich."""
    out = []
    for title, columns, rows in made:
        shown = Table(title=title)
        for k, name in enumerate(columns):
            shown.add_column(name, justify="left" if k < 2 and not name.startswith("rms") else "right")
        for row in rows:
            shown.add_row(*row)
        out.append(shown)
    return out


def markdown(table: FittingTable, preset: str, landmarks: str, photos: int) -> str:
    """The tables as Markdown."""
    return as_markdown(f"{photos} photos of the open scans, preset `{preset}`, {landmarks} landmarks.", sheets(table))


def as_markdown(introduction: str, made: Sequence[Sheet]) -> str:
    """Tables as Markdown."""
    parts = [introduction]
    for title, columns, rows in made:
        head = "| " + " | ".join(columns) + " |\n|" + "---|" * len(columns)
        parts.append(f"**{title}**\n\n{head}\n" + "\n".join("| " + " | ".join(row) + " |" for row in rows))
    return "\n\n".join(parts) + "\n"


def as_csv(rows: Sequence[dict]) -> str:
    """Rows under one heading; what could not be measured is empty."""
    if not rows:
        return ""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(dict.fromkeys(name for row in rows for name in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def _errors(table: FittingTable) -> Sheet:
    names = ("rms_all", "rms_visible", "rms_all_aligned", "rms_visible_aligned")
    rows = []
    for row in table.rows:
        cells = [row["method"], row["occluder"], str(row["photos"]), str(row["failed"])]
        for name in names:
            floor = row[f"floor_{name}"]
            cells.append(f"{row[name]:.2f}" + ("" if floor is None else f" (floor {floor:.2f})"))
        rows.append(cells)
    title = "Per-vertex RMS x 1000 m; floor: the model's 3D fit to the true head"
    return title, ["method", "occluder", "photos", "failed", *names], rows


def _ratios(table: FittingTable) -> Sheet:
    names = ("rms_all", "rms_visible", "rms_all_aligned", "rms_visible_aligned")
    rows = [
        [row["occluder"]]
        + [f"{INTERVAL.format(row[n], row[n + '_low'], row[n + '_high'])}; {row['floor_' + n]:.2f}" for n in names]
        for row in table.ratios
    ]
    return "global+local / global (95 % interval); of the floors", ["occluder", *names], rows


def _robustness(table: FittingTable) -> Sheet:
    names = ("rms_visible", "rms_visible_aligned")
    rows = []
    for row in table.robustness:
        cells = [row["occluder"], row["masks"]]
        for name in names:
            cells.append(INTERVAL.format(row[name], row[name + "_low"], row[name + "_high"]))
            cells.append(f"{row[name + '_clean']:.2f}")
        rows.append(cells)
    columns = ["occluder", "masks", "rms_visible", "clean", "rms_visible_aligned", "clean"]
    return "Error on visible vertices, occluded / clean photo (95 % interval)", columns, rows


def _masks(table: FittingTable) -> Sheet:
    rows = [
        [row["occluder"], str(row["photos"]), f"{row['iou']:.3f}", f"{row['false_on_clean']:.3f}"]
        for row in table.masks
    ]
    return "Automatic masks within the face", ["occluder", "photos", "IoU", "called hidden on clean faces"], rows


def interval_text(row: dict, name: str, digits: int = 3, between: str = "-") -> str:
    """A number with its interval, such as 1.02 (0.98-1.05); "-" for one that could not be measured."""
    if row[name] is None:
        return "-"
    value = f"{row[name]:.{digits}f}"
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    return value if low is None or high is None else f"{value} ({low:.{digits}f}{between}{high:.{digits}f})"


def count_text(row: dict, name: str = "photos") -> str:
    """How many, and how many of these failed."""
    return f"{row[name]}" + (f" ({row['failed']} failed)" if row["failed"] else "")


def histogram(table: FittingTable, path: Path) -> None:
    """Fig. 6 of Diverse3DFace: how the errors of the fits are spread over the photos. A PNG."""
    width, height, left, bottom = 720, 400, 60, 50
    errors = {method: np.asarray(table.histogram[method]) for method in METHODS}
    most = max(float(np.nanmax(values)) for values in errors.values())
    edges = np.linspace(0.0, np.ceil(most), 25)
    counts = {method: np.histogram(values, edges)[0] for method, values in errors.items()}
    top = max(int(c.max()) for c in counts.values())
    image = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(image, "RGBA")
    step = (width - left - 20) / (len(edges) - 1)
    for k, (method, bars) in enumerate(counts.items()):
        for i, count in enumerate(bars):
            x = left + i * step
            y = height - bottom - (height - bottom - 30) * count / top
            draw.rectangle((x + 1, y, x + step - 1, height - bottom), fill=(*COLOURS[method], 120))
        draw.rectangle((width - 190, 20 + 22 * k, width - 176, 34 + 22 * k), fill=(*COLOURS[method], 200))
        draw.text((width - 170, 20 + 22 * k), f"{method}: mean {np.nanmean(errors[method]):.2f}", fill="black")
    draw.line((left, height - bottom, width - 20, height - bottom), fill="black")
    for tick in np.linspace(edges[0], edges[-1], 6):
        x = left + (width - left - 20) * tick / edges[-1]
        draw.text((x - 8, height - bottom + 6), f"{tick:.1f}", fill="black")
    draw.text((left, height - 22), "rms_all: per-vertex RMS x 1000 m", fill="black")
    draw.text((8, 20), f"photos\n(top {top})", fill="black")
    image.save(path)
