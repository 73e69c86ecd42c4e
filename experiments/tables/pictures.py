"""Pictures of the tables: completions and samples, hypotheses (Figs. 3 and 8), interpolations between two (Fig. 9)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from experiments.clay import GREY, ClayView, clay_pictures, save_rows
from experiments.tables import completion, diversity_table
from flamejax.head import HeadModel
from flamejax.metrics import self_distances
from models.mesh_vae import MeshVAE

SIDE = 176
"""Side of a picture, pixels."""
HIDDEN_COLOUR, ERROR_COLOUR = np.array([0.86, 0.45, 0.38]), np.array([0.75, 0.0, 0.05])
FACE = ClayView(scale=5.4, middle=(0.0, 0.085, 0.09))
HEADS = 4
GRID = (6, 8)
"""Numbers of heads and of samples of each."""
MAX_ERROR, MAX_SPREAD = 3.0, 4.0
"""Millimetres in full colour: errors of completions, and spread or distance of hypotheses."""
HYPOTHESES = 6
"""Number of hypotheses of a photo, as in Fig. 3."""
STEPS = 7
"""Number of heads of an interpolation, both ends included."""
ROWS = 6
KINDS = ("glasses", "face-mask", "hand", "object")


def visibility_colours(visible: np.ndarray) -> np.ndarray:
    """Returns colours (V, 3): grey for visible vertices, red for hidden ones."""
    return np.where(visible[:, None], GREY, HIDDEN_COLOUR)


def length_colours(metres: np.ndarray, max_mm: float) -> np.ndarray:
    """Returns colours (V, 3) of lengths (V,), from grey (0) to red."""
    return GREY + np.clip(1e3 * metres / max_mm, 0, 1)[:, None] * (ERROR_COLOUR - GREY)


def _clay_row(
    head: HeadModel, shown: Sequence[tuple[np.ndarray, np.ndarray | None]], view: ClayView | None = None
) -> list[np.ndarray]:
    """Returns pictures of heads (V, 3), each with its colours (V, 3), or grey."""
    heads, colours = np.stack([h for h, _ in shown]), [GREY if c is None else c for _, c in shown]
    vertex_colours = np.stack([np.broadcast_to(colour, heads.shape[1:]) for colour in colours])
    return list(clay_pictures(head.faces, heads, vertex_colours, SIDE, view))


def completions_figure(head: HeadModel, pictured: completion.CompletionPictures, path: Path) -> None:
    """Write a picture with two columns per head: the head, and its hidden part or the errors of a completion."""
    cases = pictured.cases
    indices = _spread_indices(len(cases), HEADS)
    truth = [(cases.heads[k], colours) for k in indices for colours in (None, visibility_colours(cases.visible[k]))]
    sheet = [("truth;\nhidden part", _clay_row(head, truth))]
    for method, completed in pictured.completed.items():
        shown: list[tuple[np.ndarray, np.ndarray | None]] = []
        for k in indices:
            verts = completed[k] if completed.ndim == 3 else completed
            error = np.linalg.norm(verts - cases.heads[k], axis=-1)
            shown += [(verts, None), (verts, length_colours(error, MAX_ERROR))]
        sheet.append((method, _clay_row(head, shown)))
    save_rows(sheet, path, f"red: hidden above; below, error from 0 (grey) to {MAX_ERROR:g} mm and more (red)")


def samples_figure(head: HeadModel, pictured: completion.CompletionPictures, path: Path) -> None:
    """Write a picture with a row per head: the head with its hidden part in red, then samples of the whole head."""
    method = "mesh_vae" if "mesh_vae" in pictured.samples else "pca"
    drawn, cases = pictured.samples[method], pictured.sampled
    sheet = []
    for k in _spread_indices(len(cases), GRID[0]):
        samples = [(sample, None) for sample in drawn[k, : GRID[1]]]
        shown = [(cases.heads[k], visibility_colours(cases.visible[k])), *samples]
        sheet.append((f"{method}\n{cases.kind[k]}", _clay_row(head, shown)))
    save_rows(sheet, path, f"first column: the head, hidden part in red; then samples of {method}")


def _spread_indices(count: int, wanted: int) -> list[int]:
    """Returns evenly spaced indices, alternately of both kinds of masks, which alternate in the cases."""
    pairs = np.linspace(0, count // 2 - 1, min(wanted, count // 2)).round().astype(int)
    return [int(2 * pair + number % 2) for number, pair in enumerate(pairs)]


def first_of_each_occluder(kinds: Sequence[str]) -> list[int]:
    """Returns the index of the first photo of each occluder; the first `ROWS` photos if occluders are unknown."""
    indices = [kinds.index(kind) for kind in KINDS if kind in kinds]
    return indices or list(range(min(len(kinds), ROWS)))


def hypotheses_figure(head: HeadModel, pictured: Sequence[diversity_table.HypothesesPicture], path: Path) -> None:
    """Write a picture with a row per photo: photo, fit, spread of the hypotheses, six hypotheses, and any true head."""
    sheet, most = [], max((min(len(photo.drawn.heads), HYPOTHESES) for photo in pictured), default=0)
    for photo in pictured:
        heads = photo.drawn.heads
        indices = np.unique(np.linspace(0, len(heads) - 1, HYPOTHESES).round().astype(int))
        spread = np.sqrt(np.var(heads.astype(np.float64), axis=0).sum(axis=-1))
        fits = [(photo.fit, visibility_colours(photo.masks.visible)), (photo.fit, length_colours(spread, MAX_SPREAD))]
        truth = [] if photo.case.truth is None else [photo.case.truth]
        others = [(verts, None) for verts in (*heads[indices], *truth)]
        sheet.append((_name(photo), [_image(photo), *_clay_row(head, [*fits, *others], FACE)]))
    last = "; the truth" if any(photo.case.truth is not None for photo in pictured) else ""
    note = f"photo; fit, red where it is hidden; spread of the hypotheses, red from {MAX_SPREAD:g} mm; "
    save_rows(sheet, path, note + f"{most} hypotheses, best first{last}")


def interpolation_figure(
    head: HeadModel, vae: MeshVAE, pictured: Sequence[diversity_table.HypothesesPicture], path: Path
) -> None:
    """Write interpolations in latent space between the two hypotheses that differ most on hidden vertices (Fig. 9)."""
    decode = jax.jit(lambda first, second: vae.interpolate(first, second, STEPS))
    sheet = []
    for photo in pictured:
        drawn, masks = photo.drawn, photo.masks
        if drawn.latents is None or len(drawn.heads) < 2:
            continue
        first, second = _farthest_pair(drawn.heads, masks.under if masks.under.any() else masks.occluded)
        latents = jnp.asarray(drawn.latents)
        heads = np.asarray(decode(latents[first], latents[second]))
        distance = np.linalg.norm(heads[-1] - heads[0], axis=-1)
        shown = [*((verts, None) for verts in heads), (heads[0], length_colours(distance, MAX_SPREAD))]
        sheet.append((_name(photo), [_image(photo), *_clay_row(head, shown, FACE)]))
    if sheet:
        save_rows(sheet, path, f"photo; between two hypotheses; their distance, red from {MAX_SPREAD:g} mm")


def _image(photo: diversity_table.HypothesesPicture) -> np.ndarray:
    pixels = np.rint(255 * np.clip(np.asarray(photo.case.observation.image), 0, 1)).astype(np.uint8)
    return np.asarray(Image.fromarray(pixels).resize((SIDE, SIDE), Image.Resampling.LANCZOS))


def _farthest_pair(heads: np.ndarray, mask: np.ndarray) -> tuple[int, int]:
    """Returns the indices of the two heads (M, V, 3) that are farthest apart over masked vertices."""
    distances = self_distances(heads, mask)
    first, second = np.unravel_index(int(np.argmax(distances)), distances.shape)
    return int(first), int(second)


def _name(photo: diversity_table.HypothesesPicture) -> str:
    return photo.case.key[:16] if photo.case.occluder == "photo" else photo.case.occluder
