"""Charts: the histogram of Diverse3DFace's Fig. 6, and the heat maps of its Table 4."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

COLOURS = {"mean": (150, 150, 150), "global": (214, 124, 46), "global+local": (46, 108, 190)}
CELL, MARGIN = 64, 84


def histogram(errors: dict[str, list[float]], path: Path) -> None:
    """Write a PNG of Fig. 6 of Diverse3DFace, the distribution of fit errors over photos. errors: by method."""
    width, height, left, bottom = 720, 400, 60, 50
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


def heat_maps(rows: Sequence[dict], path: Path, names: Sequence[str] = ("asd_v", "asd_o")) -> None:
    """Write a heat map with numbers per measure, k downwards and n_sigma to the right: Table 4."""
    down, right = (sorted({row[name] for row in rows}) for name in ("k", "n_sigma"))
    row_of = {(row["k"], row["n_sigma"]): row for row in rows}
    width, height = MARGIN + CELL * len(right) + 16, MARGIN + CELL * len(down) + 16
    image = Image.new("RGB", (width * len(names), height), "white")
    for index, name in enumerate(names):
        # NumPy turns None, a value that could not be measured, into NaN.
        values = np.array([[row_of.get((k, n), {}).get(name) for n in right] for k in down], float)
        _heat_map(ImageDraw.Draw(image), index * width, f"{name.upper().replace('_', '-')} x 1000", down, right, values)
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


def _heat_map(
    draw: ImageDraw.ImageDraw, left: int, title: str, down: list[float], right: list[float], values: np.ndarray
) -> None:
    """Draw one map with its axes, from `left` pixels on. values (len(down), len(right)), NaN for missing ones."""
    font, finite = ImageFont.load_default(14), values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    draw.text((left + 8, 10), title, fill="black", font=font)
    draw.text((left + MARGIN, 36), "n_sigma", fill="black", font=font)
    draw.text((left + 8, MARGIN - 22), "k", fill="black", font=font)
    for column, n_sigma in enumerate(right):
        draw.text((left + MARGIN + CELL * column + 22, MARGIN - 22), f"{n_sigma:g}", fill="black", font=font)
    for row, k in enumerate(down):
        y = MARGIN + CELL * row
        draw.text((left + 8, y + 24), f"{k:g}", fill="black", font=font)
        for column, value in enumerate(values[row]):
            share = (value - low) / max(high - low, 1e-12) if np.isfinite(value) else 0.0
            x = left + MARGIN + CELL * column
            draw.rectangle((x, y, x + CELL - 2, y + CELL - 2), fill=_blue(share))
            text = f"{value:.2f}" if np.isfinite(value) else "-"
            draw.text((x + 14, y + 23), text, fill="white" if share > 0.6 else "black", font=font)


def _blue(share: float) -> tuple[int, int, int]:
    light, dark = np.array([236, 242, 250]), np.array([24, 72, 140])
    return tuple(np.rint(light + share * (dark - light)).astype(int).tolist())
