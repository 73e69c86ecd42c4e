"""Scans beside their 3D fits, with colour-coded errors."""

from __future__ import annotations

import io

import jax.numpy as jnp
import numpy as np
from PIL import Image, ImageDraw, ImageFont

import flamejax
from experiments.datasets.renders import lamp_light
from experiments.datasets.scans import Scans
from fitting.scan_fit import fit_scans
from flamejax.geometry import normalize
from flamejax.head import HeadModel, HeadParams
from flamejax.rendering import ambient_light, composite, interpolate, rasterize

SIDE, CAPTION = 300, 20
MOST_MM = 1.5
"""Error at the end of the colour scale."""
YAW = 0.35
STOPS = np.array([[0.19, 0.35, 0.75], [0.35, 0.75, 0.85], [0.95, 0.93, 0.45], [0.93, 0.45, 0.2], [0.55, 0.05, 0.1]])


def sheet(head: HeadModel, heads: dict[str, HeadModel], scans: Scans) -> Image.Image:
    """Two rows per scan: the scan and its fits by each of `heads` as clay, and the fits' errors as colours."""
    fits = {name: fit_scans(model, scans.vertices) for name, model in heads.items()}
    still = flamejax.vertices(head, HeadParams.zeros(head))
    width, block = SIDE * (1 + len(heads)), 2 * SIDE
    picture = Image.new("RGB", (width, CAPTION + block * len(scans)), "white")
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(13)
    draw.text((4, 2), "scan", fill="black", font=font)
    for column, (name, found) in enumerate(fits.items(), start=1):
        draw.text((column * SIDE + 4, 2), name, fill="black", font=font)
        error = 1e3 * np.linalg.norm(np.asarray(found.vertices) - scans.vertices, axis=-1)
        for row in range(len(scans)):
            top = CAPTION + row * block
            picture.paste(_clay(head, found.vertices[row], still), (column * SIDE, top))
            picture.paste(_coloured(head, found.vertices[row], error[row], still), (column * SIDE, top + SIDE))
    for row in range(len(scans)):
        picture.paste(_clay(head, jnp.asarray(scans.vertices[row]), still), (0, CAPTION + row * block))
        _scale(draw, CAPTION + row * block + SIDE, font)
    return picture


def jpeg(picture: Image.Image, quality: int = 82) -> bytes:
    """As a JPEG file's content."""
    buffer = io.BytesIO()
    picture.save(buffer, format="JPEG", quality=quality, optimize=True)
    return buffer.getvalue()


def _view(points: jnp.ndarray, still: jnp.ndarray) -> tuple[flamejax.OrthographicCamera, jnp.ndarray]:
    """A camera onto the upper head of a scan, and the scan turned a little to the side."""
    # The mean head's size gives the scale; the scan's own centre the place.
    height = float(still[:, 1].max() - still[:, 1].min())
    turn = flamejax.head.rotation_matrix(jnp.asarray([0.0, YAW, 0.0]))
    centre = points.mean(0, keepdims=True)
    scale = 1.15 * SIDE / height
    moved = (points - centre) @ turn.T
    return flamejax.OrthographicCamera(jnp.asarray(scale), jnp.asarray([0.46 * SIDE, 0.55 * SIDE])), moved


def _clay(head: HeadModel, points: jnp.ndarray, still: jnp.ndarray) -> Image.Image:
    camera, moved = _view(points, still)
    lamp = lamp_light(normalize(jnp.asarray([0.3, 0.45, 0.85])))
    light = 0.3 * ambient_light() + 0.75 * lamp[:, None]
    texture = jnp.full(head.albedo_mean.shape, 0.78)
    size = (SIDE, SIDE)
    image = flamejax.render(head, moved, camera, texture=texture, light=light, size=size, antialias=True)
    return _image(np.asarray(composite(image, jnp.ones(3))))


def _coloured(head: HeadModel, points: jnp.ndarray, error: np.ndarray, still: jnp.ndarray) -> Image.Image:
    camera, moved = _view(points, still)
    fragments = rasterize(camera.project(moved), head.faces, (SIDE, SIDE), perspective=False, cull=True)
    level = np.asarray(interpolate(jnp.asarray(error, jnp.float32)[:, None], head.faces, fragments))[..., 0]
    colours = _colours(level / MOST_MM)
    return _image(np.where(np.asarray(fragments.face_index)[..., None] >= 0, colours, 1.0))


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


def _image(values: np.ndarray) -> Image.Image:
    return Image.fromarray(np.round(255 * np.clip(values, 0, 1)).astype(np.uint8))
