"""The files of a face's hypotheses: hypotheses/00, 01, ..., best first, and a picture of them."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from experiments.reconstruct.results import FORMAT_VERSION, FittedFace, HeadIdentity, spread_of
from experiments.reconstruct.viewing import scene_of
from experiments.reconstruct.views import on_backdrop, turn
from experiments.view.viewer_page import viewer_page
from flamejax.camera import OrthographicCamera, framing
from flamejax.geometry import normalize, vertex_normals
from flamejax.head import HeadModel
from flamejax.io.files import write_text
from flamejax.io.meshes import TexturedMesh, write_glb
from flamejax.rendering import Fragments, interpolate, rasterize
from flamejax.types import Hypotheses

HYPOTHESES, SHEET = "hypotheses", "sheet.jpg"
VIEWER = "index.html"
"""Beside them, in the face's folder: the page on which they are looked at."""
SIDE, COLUMNS, CAPTION = 256, 6, 16
SHOWN = 16
"""At most so many heads are in the picture."""
CLAY, HOT = np.float32(0.75), np.array([0.9, 0.25, 0.05], np.float32)
LAMP = (0.3, 0.45, 0.85)
FULL_SPREAD = 3e-3
"""Metres of spread that are shown as the brightest colour."""


def hypothesis_files(count: int) -> list[str]:
    """What a result with so many hypotheses has, below its folder."""
    each = [f"{HYPOTHESES}/{place:02d}/{file}" for place in range(count) for file in ("params.npz", "mesh.glb")]
    return [*each, f"{HYPOTHESES}/{SHEET}", VIEWER] if count else []


def write_hypotheses(folder: Path, fitted: FittedFace, head: HeadModel, identity: HeadIdentity) -> None:
    """Write `hypothesis_files` into a result's folder. Raises: OSError, the disk refuses."""
    found = fitted.hypotheses
    if found is None:
        return
    for place, vertices in enumerate(found.vertices):
        inner = folder / HYPOTHESES / f"{place:02d}"
        inner.mkdir(parents=True)
        (inner / "params.npz").write_bytes(_params(found, place, identity))
        mesh = TexturedMesh(
            np.asarray(vertices, np.float64),
            np.asarray(head.faces),
            np.asarray(head.uv, np.float64),
            np.asarray(head.uv_faces),
            fitted.texture,
        )
        write_glb(inner / "mesh.glb", mesh)
    sheet(fitted.vertices, np.asarray(found.vertices), head).save(folder / HYPOTHESES / SHEET, quality=88)
    write_text(folder / VIEWER, viewer_page(scene_of(fitted, head)))


def sheet(fit: np.ndarray, heads: np.ndarray, head: HeadModel) -> Image.Image:
    """Heads (M, V, 3) turned to the side, as clay: first the fit (V, 3), then where the heads differ, then they."""
    drawn = np.concatenate([fit[None], fit[None], heads[:SHOWN]])
    colours = np.full(drawn.shape, CLAY, np.float32)
    warmth = np.clip(spread_of(heads.astype(np.float64)) / FULL_SPREAD, 0, 1)[:, None]
    colours[1] = (1 - warmth) * CLAY + warmth * HOT
    turned = np.stack([turn(vertices) for vertices in drawn]).astype(np.float32)
    camera = jax.tree.map(lambda leaf: jnp.stack([leaf] * len(drawn)), framing(turned[0], (SIDE, SIDE)))
    images = np.asarray(_shaded(head.faces, jnp.asarray(turned), camera, jnp.asarray(colours)))
    pictures = np.round(np.clip(np.nan_to_num(images), 0, 1) * 255).astype(np.uint8)
    names = ["fit", f"how far apart, to {1e3 * FULL_SPREAD:.0f} mm"]
    names += [f"{place:02d}" for place in range(len(drawn) - 2)]
    if len(heads) > SHOWN:
        names[0] += f"; then the first {SHOWN} of {len(heads)}"
    return _grid([on_backdrop(picture) for picture in pictures], names)


@jax.jit
def _shaded(faces: jax.Array, vertices: jax.Array, camera: OrthographicCamera, colours: jax.Array) -> jax.Array:
    """(N, SIDE, SIDE, 4) of heads (N, V, 3) with a colour for each vertex (N, V, 3)."""
    fragments = rasterize(camera.project(vertices), faces, (SIDE, SIDE), cull=True)

    def one(points: jax.Array, colour: jax.Array, fragment: Fragments) -> jax.Array:
        normals = normalize(interpolate(vertex_normals(points, faces), faces, fragment))
        lamp = jnp.clip(normals @ normalize(jnp.asarray(LAMP)), 0, 1)[..., None]
        alpha = (fragment.face_index >= 0).astype(points.dtype)[..., None]
        return jnp.concatenate([interpolate(colour, faces, fragment) * (0.35 + 0.75 * lamp) * alpha, alpha], axis=-1)

    return jax.vmap(one)(vertices, colours, fragments)


def _grid(pictures: list[np.ndarray], names: list[str]) -> Image.Image:
    rows = -(-len(pictures) // COLUMNS)
    whole = Image.new("RGB", (COLUMNS * SIDE, rows * (SIDE + CAPTION)), "white")
    draw, font = ImageDraw.Draw(whole), ImageFont.load_default(12)
    for place, (picture, name) in enumerate(zip(pictures, names, strict=True)):
        x, y = place % COLUMNS * SIDE, place // COLUMNS * (SIDE + CAPTION)
        draw.text((x + 4, y + 1), name, fill="black", font=font)
        whole.paste(Image.fromarray(picture), (x, y + CAPTION))
    return whole


def _params(found: Hypotheses, place: int, identity: HeadIdentity) -> bytes:
    """An .npz without objects."""
    arrays: dict[str, Any] = {
        "format_version": np.int32(FORMAT_VERSION),
        "head_name": np.str_(identity.name),
        "head_version": np.str_(identity.version),
        "head_sha256": np.str_(identity.sha256),
        "vertices": np.asarray(found.vertices[place], np.float32),
        "score": np.float32(found.score[place]),
    }
    if found.latents is not None:
        arrays["latents"] = np.asarray(found.latents[place], np.float32)
    if found.params is not None:
        for field in dataclasses.fields(found.params):
            arrays[field.name] = np.asarray(getattr(found.params, field.name)[place], np.float32)
        # The vertices are the parameters' times this: a photo does not show size, and they lie before the fit's camera.
        arrays["size"] = np.float32(1.0 if found.size is None else found.size[place])
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()
