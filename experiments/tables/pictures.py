"""Pictures of the tables: completed heads and samples, hypotheses (Figs. 3 and 8) and the way between two (Fig. 9)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from experiments.clay import GREY, View, clay_pictures, save_rows
from experiments.tables import completion, diversity_table
from flamejax.head import HeadModel
from flamejax.metrics import self_distances
from models.mesh_vae import MeshVAE

SIDE = 176
"""Pixels of a picture."""
HIDDEN, WRONG = np.array([0.86, 0.45, 0.38]), np.array([0.75, 0.0, 0.05])
FACE = View(scale=5.4, middle=(0.0, 0.085, 0.09))
HEADS = 4
GRID = (6, 8)
"""Heads and samples of each."""
MOST_ERROR, MOST_SPREAD = 3.0, 4.0
"""Millimetres that are shown in full colour: errors of completions, and spread or distance of hypotheses."""
SHOWN = 6
"""Hypotheses of a photo, as in Fig. 3."""
STEPS = 7
"""Heads of a strip, both ends included."""
ROWS = 6
KINDS = ("glasses", "face-mask", "hand", "object")


def marked(visible: np.ndarray) -> np.ndarray:
    """(V, 3) colours: grey, and what is hidden in red."""
    return np.where(visible[:, None], GREY, HIDDEN)


def heat(metres: np.ndarray, most_mm: float) -> np.ndarray:
    """(V, 3) colours of lengths (V,): from grey to red."""
    return GREY + np.clip(1e3 * metres / most_mm, 0, 1)[:, None] * (WRONG - GREY)


def _line(
    head: HeadModel, shown: Sequence[tuple[np.ndarray, np.ndarray | None]], view: View | None = None
) -> list[np.ndarray]:
    """Pictures of heads (V, 3), each with its colours (V, 3), or grey."""
    heads, colours = np.stack([h for h, _ in shown]), [GREY if c is None else c for _, c in shown]
    painted = np.stack([np.broadcast_to(colour, heads.shape[1:]) for colour in colours])
    return list(clay_pictures(head.faces, heads, painted, SIDE, view))


def completions_figure(head: HeadModel, pictured: completion.Pictured, path: Path) -> None:
    """A column of two pictures for each head: the head, and what was hidden or how far off a completion is. A PNG."""
    cases = pictured.cases
    places = _spread(len(cases), HEADS)
    truth = [(cases.heads[k], colours) for k in places for colours in (None, marked(cases.visible[k]))]
    sheet = [("truth;\nhidden part", _line(head, truth))]
    for method, found in pictured.found.items():
        shown: list[tuple[np.ndarray, np.ndarray | None]] = []
        for k in places:
            made = found[k] if found.ndim == 3 else found
            error = np.linalg.norm(made - cases.heads[k], axis=-1)
            shown += [(made, None), (made, heat(error, MOST_ERROR))]
        sheet.append((method, _line(head, shown)))
    save_rows(sheet, path, f"red: hidden above; below, error from 0 (grey) to {MOST_ERROR:g} mm and more (red)")


def samples_figure(head: HeadModel, pictured: completion.Pictured, path: Path) -> None:
    """Each row: a head with its hidden part in red, then draws given the visible part. A PNG."""
    method = "mesh_vae" if "mesh_vae" in pictured.samples else "pca"
    drawn, cases = pictured.samples[method], pictured.sampled
    sheet = []
    for k in _spread(len(cases), GRID[0]):
        shown = [(cases.heads[k], marked(cases.visible[k])), *((sample, None) for sample in drawn[k, : GRID[1]])]
        sheet.append((f"{method}\n{cases.kind[k]}", _line(head, shown)))
    save_rows(sheet, path, f"first column: the head, hidden part in red; then draws of {method}")


def _spread(count: int, wanted: int) -> list[int]:
    """Places spread over all, of both kinds of masks (which alternate) in turn."""
    pairs = np.linspace(0, count // 2 - 1, min(wanted, count // 2)).round().astype(int)
    return [int(2 * pair + number % 2) for number, pair in enumerate(pairs)]


def one_of_each(kinds: Sequence[str]) -> list[int]:
    """Places of the first photo of each occluder; the first `ROWS` photos where nobody knows their occluders."""
    found = [kinds.index(kind) for kind in KINDS if kind in kinds]
    return found or list(range(min(len(kinds), ROWS)))


def hypotheses_figure(head: HeadModel, pictured: Sequence[diversity_table.Pictured], path: Path) -> None:
    """Photo, fit, where hypotheses differ, six hypotheses, and the truth where there is one."""
    sheet, most = [], max((min(len(one.found.heads), SHOWN) for one in pictured), default=0)
    for one in pictured:
        heads = one.found.heads
        places = np.unique(np.linspace(0, len(heads) - 1, SHOWN).round().astype(int))
        spread = np.sqrt(np.var(heads.astype(np.float64), axis=0).sum(axis=-1))
        shown = [(one.fit, marked(one.parts.visible)), (one.fit, heat(spread, MOST_SPREAD))]
        known = [*heads[places], *([] if one.case.truth is None else [one.case.truth])]
        sheet.append((_name(one), [_photo(one), *_line(head, [*shown, *((each, None) for each in known)], FACE)]))
    last = "; the truth" if any(one.case.truth is not None for one in pictured) else ""
    note = f"photo; fit, red where the photo shows nothing; spread of the hypotheses, red from {MOST_SPREAD:g} mm; "
    save_rows(sheet, path, note + f"{most} hypotheses, best first{last}")


def interpolation_figure(
    head: HeadModel, vae: MeshVAE, pictured: Sequence[diversity_table.Pictured], path: Path
) -> None:
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
        shown = [*((each, None) for each in heads), (heads[0], heat(apart, MOST_SPREAD))]
        sheet.append((_name(one), [_photo(one), *_line(head, shown, FACE)]))
    if sheet:
        save_rows(sheet, path, f"photo; between two hypotheses; how far these are apart, red from {MOST_SPREAD:g} mm")


def _photo(one: diversity_table.Pictured) -> np.ndarray:
    pixels = np.rint(255 * np.clip(np.asarray(one.case.observation.image), 0, 1)).astype(np.uint8)
    return np.asarray(Image.fromarray(pixels).resize((SIDE, SIDE), Image.Resampling.LANCZOS))


def _farthest(heads: np.ndarray, chosen: np.ndarray) -> tuple[int, int]:
    """The pair of heads (M, V, 3) that is farthest apart over chosen vertices."""
    apart = self_distances(heads, chosen)
    first, second = np.unravel_index(int(np.argmax(apart)), apart.shape)
    return int(first), int(second)


def _name(one: diversity_table.Pictured) -> str:
    return one.case.key[:16] if one.case.occluder == "photo" else one.case.occluder
