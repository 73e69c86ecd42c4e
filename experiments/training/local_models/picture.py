"""Scans beside their 3D fits, with colour-coded errors."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from experiments.datasets.scans import Scans
from experiments.training.clay import clay
from fitting.scan_fit import fit_scans
from flamejax.head import HeadModel

SIDE, CAPTION = 300, 20
MOST_MM = 1.5
"""Error at the end of the colour scale."""
STOPS = np.array([[0.19, 0.35, 0.75], [0.35, 0.75, 0.85], [0.95, 0.93, 0.45], [0.93, 0.45, 0.2], [0.55, 0.05, 0.1]])


def sheet(head: HeadModel, heads: dict[str, HeadModel], scans: Scans) -> Image.Image:
    """Two rows per scan: the scan and its fits by each of `heads` as clay, and the fits' errors as colours."""
    fits = {name: fit_scans(model, scans.vertices) for name, model in heads.items()}
    width, block = SIDE * (1 + len(heads)), 2 * SIDE
    picture = Image.new("RGB", (width, CAPTION + block * len(scans)), "white")
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(13)
    draw.text((4, 2), "scan", fill="black", font=font)
    for column, (name, found) in enumerate(fits.items(), start=1):
        draw.text((column * SIDE + 4, 2), name, fill="black", font=font)
        error = 1e3 * np.linalg.norm(np.asarray(found.vertices) - scans.vertices, axis=-1)
        for row in range(len(scans)):
            top = CAPTION + row * block
            points = np.asarray(found.vertices[row])
            picture.paste(_shown(head, points), (column * SIDE, top))
            picture.paste(_shown(head, points, _colours(error[row] / MOST_MM)), (column * SIDE, top + SIDE))
    for row in range(len(scans)):
        picture.paste(_shown(head, scans.vertices[row]), (0, CAPTION + row * block))
        _scale(draw, CAPTION + row * block + SIDE, font)
    return picture


def _shown(head: HeadModel, points: np.ndarray, colours: np.ndarray | None = None) -> Image.Image:
    # The mean head's size gives the scale; the scan's own centre the place.
    height = float(np.ptp(np.asarray(head.v_template)[:, 1]))
    return clay(head.faces, points, np.mean(points, axis=0), height, SIDE, colours=colours)


def _colours(share: np.ndarray) -> np.ndarray:
    """(...,) in [0, 1], clipped -> (..., 3): blue, yellow, red."""
    at = np.clip(share, 0, 1) * (len(STOPS) - 1)
    below = np.minimum(at.astype(int), len(STOPS) - 2)
    part = (at - below)[..., None]
    return STOPS[below] * (1 - part) + STOPS[below + 1] * part


def _scale(draw: ImageDraw.ImageDraw, top: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> None:
    for i in range(200):
        colour = tuple(int(255 * c) for c in _colours(np.asarray(i / 199)))
        draw.rectangle((40, top + 50 + 199 - i, 60, top + 51 + 199 - i), fill=colour)
    for share in (0.0, 0.5, 1.0):
        draw.text((66, top + 42 + 199 * (1 - share)), f"{share * MOST_MM:g} mm", fill="black", font=font)
