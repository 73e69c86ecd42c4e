"""Pictures of hypotheses: one row a photo (Figs. 3 and 8), strips between two of them (Fig. 9), heat maps (Table 4)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from experiments.tables.diversity_table import Pictured
from experiments.tables.head_pictures import FACE, GREY, SIDE, WRONG, marked, picture, save_sheet
from flamejax.head import HeadModel
from models.mesh_vae import MeshVAE

SHOWN = 6
"""Hypotheses of a photo, as in Fig. 3."""
STEPS = 7
"""Heads of a strip, both ends included."""
MOST = 4.0
"""Spread or distance in mm that is shown in full colour."""
ROWS = 6
ZOOM = 1.35
KINDS = ("glasses", "face-mask", "hand", "object")
CELL, MARGIN = 64, 84


def one_of_each(kinds: Sequence[str]) -> list[int]:
    """Places of the first photo of each occluder; the first `ROWS` photos where nobody knows their occluders."""
    found = [kinds.index(kind) for kind in KINDS if kind in kinds]
    return found or list(range(min(len(kinds), ROWS)))


def hypotheses_figure(head: HeadModel, pictured: Sequence[Pictured], path: Path) -> None:
    """Photo, fit, where hypotheses differ, six hypotheses, and the truth where there is one."""
    sheet, most = [], max((min(len(one.found.heads), SHOWN) for one in pictured), default=0)
    for one in pictured:
        heads = one.found.heads
        places = np.unique(np.linspace(0, len(heads) - 1, SHOWN).round().astype(int))
        spread = np.sqrt(np.var(heads.astype(np.float64), axis=0).sum(axis=-1))
        line = [_photo(one), _clay(head, one.fit, marked(one.parts.visible)), _clay(head, one.fit, _heat(spread))]
        line += [_clay(head, heads[k]) for k in places]
        if one.case.truth is not None:
            line.append(_clay(head, one.case.truth))
        sheet.append((_name(one), line))
    last = "; the truth" if any(one.case.truth is not None for one in pictured) else ""
    note = f"photo; fit, red where the photo shows nothing; spread of the hypotheses, red from {MOST:g} mm; "
    save_sheet(sheet, path, note + f"{most} hypotheses, best first{last}")


def interpolation_figure(head: HeadModel, vae: MeshVAE, pictured: Sequence[Pictured], path: Path) -> None:
    """The way in latent space between the two hypotheses that differ most where the photo shows nothing (Fig. 9)."""
    decode = jax.jit(lambda first, second: vae.interpolate(first, second, STEPS))
    sheet = []
    for one in pictured:
        if one.found.latents is None or len(one.found.heads) < 2:
            continue
        first, second = _farthest(one.found.heads, one.parts.under if one.parts.under.any() else one.parts.occluded)
        latents = jnp.asarray(one.found.latents)
        heads = np.asarray(decode(latents[first], latents[second]))
        apart = np.linalg.norm(heads[-1] - heads[0], axis=-1)
        line = [_photo(one), *(_clay(head, each) for each in heads), _clay(head, heads[0], _heat(apart))]
        sheet.append((_name(one), line))
    if sheet:
        save_sheet(sheet, path, f"photo; between two hypotheses; how far these are apart, red from {MOST:g} mm")


def heat_maps(rows: Sequence[dict], path: Path, names: Sequence[str] = ("asd_v", "asd_o")) -> None:
    """k downwards, n_sigma to the right, one map a measure with its numbers: Table 4."""
    down, right = (sorted({row[name] for row in rows}) for name in ("k", "n_sigma"))
    found = {(row["k"], row["n_sigma"]): row for row in rows}
    width, height = MARGIN + CELL * len(right) + 16, MARGIN + CELL * len(down) + 16
    image = Image.new("RGB", (width * len(names), height), "white")
    for place, name in enumerate(names):
        values = np.array([[_number(found.get((k, n), {}).get(name)) for n in right] for k in down])
        _heat_map(ImageDraw.Draw(image), place * width, f"{name.upper().replace('_', '-')} x 1000", down, right, values)
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


def _heat_map(
    draw: ImageDraw.ImageDraw, left: int, title: str, down: list[float], right: list[float], values: np.ndarray
) -> None:
    """One map with its axes, from `left` pixels on. values (len(down), len(right)), NaN where there is none."""
    font, known = ImageFont.load_default(14), values[np.isfinite(values)]
    low, high = (float(known.min()), float(known.max())) if known.size else (0.0, 0.0)
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


def _photo(one: Pictured) -> np.ndarray:
    pixels = np.rint(255 * np.clip(np.asarray(one.case.observation.image), 0, 1)).astype(np.uint8)
    return np.asarray(Image.fromarray(pixels).resize((SIDE, SIDE), Image.Resampling.LANCZOS))


def _clay(head: HeadModel, verts: np.ndarray, colours: np.ndarray = GREY) -> np.ndarray:
    return picture(head, verts, colours, ZOOM, FACE)


def _heat(metres: np.ndarray) -> np.ndarray:
    """(V, 3) colours of lengths (V,)."""
    return GREY + np.clip(1e3 * metres / MOST, 0, 1)[:, None] * (WRONG - GREY)


def _farthest(heads: np.ndarray, chosen: np.ndarray) -> tuple[int, int]:
    """The pair of heads (M, V, 3) that is farthest apart over chosen vertices."""
    flat = heads[:, chosen].reshape(len(heads), -1).astype(np.float64)
    apart = np.stack([np.sum((flat - one) ** 2, axis=-1) for one in flat])
    first, second = np.unravel_index(int(np.argmax(apart)), apart.shape)
    return int(first), int(second)


def _name(one: Pictured) -> str:
    return one.case.key[:16] if one.case.occluder == "photo" else one.case.occluder


def _number(value: float | None) -> float:
    return float("nan") if value is None else float(value)


def _blue(share: float) -> tuple[int, int, int]:
    light, dark = np.array([236, 242, 250]), np.array([24, 72, 140])
    return tuple(np.rint(light + share * (dark - light)).astype(int).tolist())
