"""Pictures of the table `completion`: heads, what was hidden, what each method made of it; and a grid of samples."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from PIL import Image, ImageDraw

from experiments.evaluate.completion import Pictured
from flamejax.camera import OrthographicCamera
from flamejax.geometry import normalize, vertex_normals
from flamejax.head import HeadModel, rotation_matrix
from flamejax.render.interpolate import interpolate
from flamejax.render.rasterize import rasterize

SIDE = 176
HEADS = 4
GRID = (6, 8)
"""Heads and samples of each."""
YAW = 0.4
GREY, HIDDEN, WRONG = np.array([[0.78, 0.78, 0.78], [0.86, 0.45, 0.38], [0.75, 0.0, 0.05]])
MOST = 3.0
"""Error in mm that is shown in full colour."""
LABEL = 110


def figure(head: HeadModel, pictured: Pictured, path: Path) -> None:
    """A column of two pictures for each head: the head, and what was hidden or how far off a completion is. A PNG."""
    cases = pictured.cases
    places = _spread(len(cases), HEADS)
    sheet = []
    line = [_picture(head, cases.heads[k], c) for k in places for c in (GREY, _marked(cases.visible[k]))]
    sheet.append(("truth;\nhidden part", line))
    for method, found in pictured.found.items():
        line = []
        for k in places:
            made = found[k] if found.ndim == 3 else found
            error = 1e3 * np.linalg.norm(made - cases.heads[k], axis=-1)
            wrong = GREY + np.clip(error / MOST, 0, 1)[:, None] * (WRONG - GREY)
            line += [_picture(head, made, GREY), _picture(head, made, wrong)]
        sheet.append((method, line))
    _save(sheet, path, f"red: hidden above; below, error from 0 (grey) to {MOST:g} mm and more (red)")


def sample_grid(head: HeadModel, pictured: Pictured, path: Path) -> None:
    """Each row: a head with its hidden part in red, then draws given the visible part. A PNG."""
    method = "mesh_vae" if "mesh_vae" in pictured.samples else "pca"
    drawn, cases = pictured.samples[method], pictured.sampled
    sheet = []
    for k in _spread(len(cases), GRID[0]):
        line = [_picture(head, cases.heads[k], _marked(cases.visible[k]))]
        line += [_picture(head, sample, GREY) for sample in drawn[k, : GRID[1]]]
        sheet.append((f"{method}\n{cases.kind[k]}", line))
    _save(sheet, path, f"first column: the head, hidden part in red; then draws of {method}")


def _spread(count: int, wanted: int) -> list[int]:
    """Places spread over all, of both kinds of masks (which alternate) in turn."""
    pairs = np.linspace(0, count // 2 - 1, min(wanted, count // 2)).round().astype(int)
    return [int(2 * pair + number % 2) for number, pair in enumerate(pairs)]


def _marked(visible: np.ndarray) -> np.ndarray:
    return np.where(visible[:, None], GREY, HIDDEN)


def _picture(head: HeadModel, verts: np.ndarray, colours: np.ndarray) -> np.ndarray:
    turn = np.asarray(rotation_matrix(jnp.asarray([0.0, YAW, 0.0])), np.float64)
    moved = (np.asarray(verts, np.float64) - [0, 0.12, 0.06]) @ turn.T
    colours = np.broadcast_to(colours, moved.shape)
    shown = _rendered(head, jnp.asarray(moved, jnp.float32), jnp.asarray(colours, jnp.float32))
    return np.rint(255 * np.clip(np.asarray(shown), 0, 1)).astype(np.uint8)


@jax.jit
def _rendered(head: HeadModel, verts: Array, colours: Array) -> Array:
    """(SIDE, SIDE, 3) of colours at vertices, a lamp from above on the left, white behind."""
    camera = OrthographicCamera(jnp.asarray(4.0 * SIDE), jnp.asarray([0.5 * SIDE, 0.58 * SIDE]))
    fragments = rasterize(camera.project(verts), head.faces, (SIDE, SIDE), perspective=False, cull=True)
    both = jnp.concatenate([vertex_normals(verts, head.faces), colours], axis=-1)
    found = interpolate(both, head.faces, fragments)
    lamp = normalize(jnp.asarray([0.7, 0.5, 0.6]))
    bright = 0.3 + 0.8 * jnp.maximum(jnp.sum(normalize(found[..., :3]) * lamp[None, None], axis=-1, keepdims=True), 0)
    return jnp.where(fragments.face_index[..., None] >= 0, found[..., 3:] * bright, 1.0)


def _save(sheet: list[tuple[str, list[np.ndarray]]], path: Path, note: str) -> None:
    width, height = LABEL + SIDE * max(len(line) for _, line in sheet), SIDE * len(sheet) + 24
    image = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(image)
    for row, (name, line) in enumerate(sheet):
        draw.text((6, SIDE * row + SIDE // 2), name, fill="black")
        for column, cell in enumerate(line):
            image.paste(Image.fromarray(cell), (LABEL + SIDE * column, SIDE * row))
    draw.text((6, height - 18), note, fill="black")
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)
