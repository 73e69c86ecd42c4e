"""Pictures of a fitted head: over the photo, by itself, and turned."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image, ImageDraw

from experiments import clay
from experiments.results import HIDDEN_COLOUR, SPREAD_COLOUR
from flamejax.camera import OrthographicCamera, framing
from flamejax.types import Fit, Observation

RENDER_SIDE = 512
"""Pixels; the same for all photos, so that rendering compiles once."""
MARGIN = 0.3
"""Width of the rendered margin around the crop, in crop sides: hair and neck lie outside the face's crop."""
OPACITY = 0.7
"""Of the head over the photo."""
TURN = np.deg2rad(50.0)
"""Radians: the angle of turned heads."""
BACKDROP = np.array([0.93, 0.93, 0.94], np.float32)
CLAY = np.float32(0.75)
FULL_SPREAD = 3e-3
"""Spread, metres, from which vertices have SPREAD_COLOUR."""
MAX_HEADS, COLUMNS, CLAY_SIDE = 16, 6, 256
"""The sheet of hypotheses: largest number of heads, pictures per row, and pixels per picture."""


@dataclass(frozen=True)
class HeadRenders:
    """A head rendered over its crop with a margin, and the same turned about the vertical."""

    front: np.ndarray
    """(RENDER_SIDE, RENDER_SIDE, 4) uint8 RGBA, straight alpha."""
    turned: np.ndarray
    """(RENDER_SIDE, RENDER_SIDE, 4) uint8 RGBA."""


def render_view(render: Callable[..., jax.Array], fit: Fit, texture: np.ndarray, crop_side: int) -> HeadRenders:
    """Render a fitted head (no batch axes) in its crop's camera.

    render: `render(verts (2, V, 3), camera, texture=(Ht, Wt, 3), light=, size=) -> (2, H, W, 4)`, RGBA in [0, 1].
    crop_side: pixels.
    """
    zoom = RENDER_SIDE / (crop_side * (1.0 + 2.0 * MARGIN))
    scale = zoom * float(fit.camera.scale)
    translation = zoom * (np.asarray(fit.camera.translation) + MARGIN * crop_side)
    poses = np.stack([np.asarray(fit.vertices), turn(np.asarray(fit.vertices))]).astype(np.float32)
    turned_camera = framing(poses[1], (RENDER_SIDE, RENDER_SIDE), max_scale=scale)
    camera = OrthographicCamera(
        jnp.stack([jnp.float32(scale), turned_camera.scale]),
        jnp.stack([jnp.asarray(translation, jnp.float32), turned_camera.translation]),
    )
    light, size = jnp.asarray(fit.light), (RENDER_SIDE, RENDER_SIDE)
    images = np.asarray(render(jnp.asarray(poses), camera, texture=jnp.asarray(texture), light=light, size=size))
    front, turned = np.round(np.clip(np.nan_to_num(images), 0.0, 1.0) * 255.0).astype(np.uint8)
    return HeadRenders(front, turned)


def turn(vertices: np.ndarray) -> np.ndarray:
    """Turn vertices (V, 3) by TURN about the vertical through their mean, towards the right of the picture."""
    middle = vertices.mean(axis=0)
    cosine, sine = np.cos(TURN), np.sin(TURN)
    about_y = np.array([[cosine, 0.0, sine], [0.0, 1.0, 0.0], [-sine, 0.0, cosine]])
    return (vertices - middle) @ about_y.T + middle


def overlay(
    photo: np.ndarray, renders: HeadRenders, crop_scale: float, crop_offset: np.ndarray, crop_side: int
) -> np.ndarray:
    """Draw the head over the photo, both (h, w, 3) uint8, by resampling the crop's render.

    crop_scale, crop_offset: crop pixels = scale * pixels of `photo` + offset; offset (2,).
    """
    height, width = photo.shape[:2]
    zoom = RENDER_SIDE / (crop_side * (1.0 + 2.0 * MARGIN))
    # Render pixels = factor * photo pixels + shift. Only photo pixels that lie entirely under the render are drawn.
    factor = zoom * crop_scale
    shift = zoom * (np.asarray(crop_offset, np.float64) + MARGIN * crop_side)
    low = np.maximum(np.ceil(-shift / factor), 0).astype(int)
    high = np.minimum(np.floor((RENDER_SIDE - shift) / factor), (width, height)).astype(int)
    if (high <= low).any():
        return photo
    result = Image.fromarray(photo)
    box = np.clip(np.concatenate([factor * low + shift, factor * high + shift]), 0, RENDER_SIDE)
    warped = Image.fromarray(renders.front).resize(tuple(high - low), Image.Resampling.BICUBIC, box=tuple(box.tolist()))
    alpha = warped.getchannel("A").point(lambda a: round(a * OPACITY))
    result.paste(warped.convert("RGB"), (int(low[0]), int(low[1])), alpha)
    return np.asarray(result)


def mask_in_photo(
    mask: np.ndarray, crop_scale: float, crop_offset: np.ndarray, photo_size: tuple[int, int], size: tuple[int, int]
) -> np.ndarray:
    """Resample a mask (S, S) in [0, 1] of the crop to the photo: (h, w) uint8 of 0 and 255, 0 outside the crop.

    crop_scale, crop_offset: crop pixels = scale * photo pixels + offset; offset (2,).
    photo_size, size: (width, height) of the photo and of the result, which shows the photo at any scale.
    """
    side = mask.shape[0]
    axes = []
    for axis in range(2):
        offset = float(crop_offset[axis])
        centres = (np.arange(size[axis]) + 0.5) * (photo_size[axis] / size[axis])
        nearest = np.floor(crop_scale * centres + offset).astype(int)
        # A crop pixel on the photo's border may have its centre outside the photo and count as hidden for that reason.
        # The photo's pixels under it take the value of the next crop pixel inside.
        crop_centres = (np.arange(side) + 0.5 - offset) / crop_scale
        inside = np.flatnonzero((crop_centres >= 0) & (crop_centres <= photo_size[axis]))
        covered = (nearest >= 0) & (nearest < side)
        clipped = np.clip(nearest, *inside[[0, -1]]) if inside.size else np.zeros_like(nearest)
        axes.append((clipped, covered))
    (columns, in_columns), (rows, in_rows) = axes
    hidden = mask[np.ix_(rows, columns)] >= 0.5
    return np.where(hidden & in_rows[:, None] & in_columns[None], 255, 0).astype(np.uint8)


def tile(observation: Observation, renders: HeadRenders, side: int = 200) -> Image.Image:
    """Draw a row of four pictures of `side` pixels each.

    The crop with its landmarks (red: confidence 0, green: 1) and its occlusion mask (violet); the head over the crop;
    the head; the head turned.
    """
    crop_side = observation.image.shape[0]
    photo = np.round(np.clip(np.asarray(observation.image), 0.0, 1.0) * 255.0).astype(np.uint8)
    fitted = overlay(photo, renders, 1.0, np.zeros(2), crop_side)
    tint = 0.5 * np.clip(np.asarray(observation.occlusion_mask), 0.0, 1.0)[..., None]
    tinted = np.round((1.0 - tint) * photo + tint * np.array(HIDDEN_COLOUR)).astype(np.uint8)
    points, confidence = np.asarray(observation.landmarks), np.asarray(observation.confidence)
    crop = Image.fromarray(tinted).resize((side, side), Image.Resampling.LANCZOS)
    draw = ImageDraw.Draw(crop)
    for (x, y), score in zip(points * (side / crop_side), confidence, strict=True):
        colour = (round(255 * (1 - score)), round(220 * score), 40)
        draw.ellipse((x - 1.5, y - 1.5, x + 1.5, y + 1.5), fill=colour)
    row = Image.new("RGB", (4 * side, side))
    row.paste(crop, (0, 0))
    for i, picture in enumerate((fitted, _on_backdrop(renders.front), _on_backdrop(renders.turned)), 1):
        row.paste(Image.fromarray(picture).resize((side, side), Image.Resampling.LANCZOS), (i * side, 0))
    return row


def _on_backdrop(rgba: np.ndarray) -> np.ndarray:
    """Blend RGBA uint8 onto light grey: RGB uint8."""
    values = rgba.astype(np.float32) / 255.0
    mixed = values[..., :3] * values[..., 3:] + BACKDROP * (1.0 - values[..., 3:])
    return np.round(mixed * 255.0).astype(np.uint8)


def draw_clay_sheet(fit: np.ndarray, heads: np.ndarray, spread: np.ndarray, faces: Any) -> Image.Image:
    """Draw heads (M, V, 3) turned to the side, as clay.

    The first picture is the fit (V, 3), the second the fit coloured by the heads' spread (V,) in metres.
    """
    vertices = np.concatenate([fit[None], fit[None], heads[:MAX_HEADS]])
    colours = np.full(vertices.shape, CLAY, np.float32)
    fraction = np.clip(spread / FULL_SPREAD, 0, 1)[:, None]
    colours[1] = (1 - fraction) * CLAY + fraction * SPREAD_COLOUR
    middle = fit.mean(axis=0)
    camera = framing(turn(fit) - middle, (CLAY_SIDE, CLAY_SIDE))
    scale, translation = float(camera.scale), np.asarray(camera.translation)
    view = clay.ClayView(
        scale / CLAY_SIDE, tuple(middle), tuple(translation / CLAY_SIDE), TURN, (0.3, 0.45, 0.85), 0.35, 0.75, 0.93
    )
    names = ["fit", f"spread, orange from {1e3 * FULL_SPREAD:.0f} mm"]
    names += [f"{i:02d}" for i in range(len(vertices) - 2)]
    if len(heads) > MAX_HEADS:
        names[0] += f"; then the first {MAX_HEADS} of {len(heads)}"
    return clay.arrange_grid(list(clay.clay_pictures(faces, vertices, colours, CLAY_SIDE, view)), names, COLUMNS)
