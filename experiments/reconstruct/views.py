"""Pictures of a fitted head: over the photo, alone, and turned."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image, ImageDraw

from flamejax.camera import OrthographicCamera, framing

RENDER_SIDE = 512
"""Pixels. One fixed size for all photos, so that rendering compiles once."""
MARGIN = 0.3
"""Rendered beyond each side of the crop, in crop sides: hair and neck reach out of the face's crop."""
HIDDEN_COLOUR = (130, 60, 220)
OPACITY = 0.7
TURN = np.deg2rad(50.0)
BACKDROP = np.array([0.93, 0.93, 0.94], np.float32)


@dataclass(frozen=True)
class View:
    """A head rendered over its crop and a margin round it, and once more turned about the vertical."""

    front: np.ndarray
    """(RENDER_SIDE, RENDER_SIDE, 4) uint8 RGBA, straight alpha."""
    turned: np.ndarray
    """(RENDER_SIDE, RENDER_SIDE, 4) uint8 RGBA."""


def render_view(
    render: Callable[..., jax.Array],
    vertices: np.ndarray,
    scale: float,
    translation: np.ndarray,
    texture: np.ndarray,
    light: np.ndarray,
    crop_side: int,
) -> View:
    """Render a head in its crop's camera.

    Args:
        render: (verts (2, V, 3), camera, texture=, light=, size=) -> (2, H, W, 4) RGBA in [0, 1].
        vertices: (V, 3) world metres.
        scale, translation: the crop's camera; translation (2,).
        texture: (Ht, Wt, 3). light: (9, 3).
        crop_side: pixels.
    """
    zoom = RENDER_SIDE / (crop_side * (1.0 + 2.0 * MARGIN))
    shifted = zoom * (np.asarray(translation, np.float32) + MARGIN * crop_side)
    both = np.stack([vertices, turn(vertices)]).astype(np.float32)
    beside = framing(both[1], (RENDER_SIDE, RENDER_SIDE), max_scale=zoom * scale)
    camera = OrthographicCamera(
        jnp.stack([jnp.float32(zoom * scale), beside.scale]),
        jnp.stack([jnp.asarray(shifted, jnp.float32), beside.translation]),
    )
    size = (RENDER_SIDE, RENDER_SIDE)
    images = np.asarray(
        render(jnp.asarray(both), camera, texture=jnp.asarray(texture), light=jnp.asarray(light), size=size)
    )
    front, turned = np.round(np.clip(np.nan_to_num(images), 0.0, 1.0) * 255.0).astype(np.uint8)
    return View(front, turned)


def turn(vertices: np.ndarray) -> np.ndarray:
    """(V, 3) turned about the vertical through its middle, towards the right of the picture."""
    middle = vertices.mean(axis=0)
    cosine, sine = np.cos(TURN), np.sin(TURN)
    about_y = np.array([[cosine, 0.0, sine], [0.0, 1.0, 0.0], [-sine, 0.0, cosine]])
    return (vertices - middle) @ about_y.T + middle


def overlay(photo: np.ndarray, view: View, crop_scale: float, crop_offset: np.ndarray, crop_side: int) -> np.ndarray:
    """The head over the photo: the crop's render warped back.

    Args:
        photo: (h, w, 3) uint8.
        crop_scale, crop_offset: crop pixels = scale * pixels of `photo` + offset; offset (2,).

    Returns:
        (h, w, 3) uint8.
    """
    height, width = photo.shape[:2]
    zoom = RENDER_SIDE / (crop_side * (1.0 + 2.0 * MARGIN))
    # Render pixels = factor * photo pixels + shift. Only whole photo pixels under the render are drawn.
    factor = zoom * crop_scale
    shift = zoom * (np.asarray(crop_offset, np.float64) + MARGIN * crop_side)
    low = np.maximum(np.ceil(-shift / factor), 0).astype(int)
    high = np.minimum(np.floor((RENDER_SIDE - shift) / factor), (width, height)).astype(int)
    result = Image.fromarray(photo)
    if (high <= low).any():
        return photo
    box = np.clip(np.concatenate([factor * low + shift, factor * high + shift]), 0, RENDER_SIDE)
    warped = Image.fromarray(view.front).resize(tuple(high - low), Image.Resampling.BICUBIC, box=tuple(box.tolist()))
    alpha = warped.getchannel("A").point(lambda a: round(a * OPACITY))
    result.paste(warped.convert("RGB"), (int(low[0]), int(low[1])), alpha)
    return np.asarray(result)


def mask_over(
    mask: np.ndarray, crop_scale: float, crop_offset: np.ndarray, photo_size: tuple[int, int], size: tuple[int, int]
) -> np.ndarray:
    """A mask of the crop in the photo's place, without what the crop holds beyond the photo.

    Args:
        mask: (S, S) in [0, 1].
        crop_scale, crop_offset: crop pixels = scale * photo pixels + offset; offset (2,).
        photo_size: (width, height).
        size: (width, height) of the result, the whole photo at any scale.

    Returns:
        (h, w) uint8 of 0 and 255; 0 outside the crop.
    """
    side = mask.shape[0]
    places = []
    for axis in range(2):
        offset = float(crop_offset[axis])
        centres = (np.arange(size[axis]) + 0.5) * (photo_size[axis] / size[axis])
        nearest = np.floor(crop_scale * centres + offset).astype(int)
        # A crop's pixel on the photo's border may have its centre beyond the photo and be hidden for that; the photo's
        # pixels under it are shown by the next one inside.
        crop_centres = (np.arange(side) + 0.5 - offset) / crop_scale
        seen = np.flatnonzero((crop_centres >= 0) & (crop_centres <= photo_size[axis]))
        covered = (nearest >= 0) & (nearest < side)
        places.append((np.clip(nearest, *seen[[0, -1]]) if seen.size else np.zeros_like(nearest), covered))
    (columns, in_columns), (rows, in_rows) = places
    hidden = mask[np.ix_(rows, columns)] >= 0.5
    return np.where(hidden & in_rows[:, None] & in_columns[None], 255, 0).astype(np.uint8)


def tile(
    crop: np.ndarray,
    points: np.ndarray,
    confidence: np.ndarray,
    view: View,
    side: int = 200,
    hidden: np.ndarray | None = None,
) -> Image.Image:
    """One row of four pictures: the crop with its landmarks, the head over it, the head alone, the head turned.

    Args:
        hidden: (S, S) occlusion mask, shown in violet.
        crop: (S, S, 3) in [0, 1]. points: (68, 2) crop pixels. confidence: (68,), drawn from red (0) to green (1).
        side: of each picture, pixels.
    """
    crop_side = crop.shape[0]
    photo = np.round(np.clip(crop, 0.0, 1.0) * 255.0).astype(np.uint8)
    fitted = overlay(photo, view, 1.0, np.zeros(2), crop_side)
    shown = photo
    if hidden is not None:
        tint = 0.5 * np.clip(hidden, 0.0, 1.0)[..., None]
        shown = np.round((1.0 - tint) * photo + tint * np.array(HIDDEN_COLOUR)).astype(np.uint8)
    seen = Image.fromarray(shown).resize((side, side), Image.Resampling.LANCZOS)
    draw = ImageDraw.Draw(seen)
    for (x, y), sure in zip(points * (side / crop_side), confidence, strict=True):
        colour = (round(255 * (1 - sure)), round(220 * sure), 40)
        draw.ellipse((x - 1.5, y - 1.5, x + 1.5, y + 1.5), fill=colour)
    pictures = [seen, *(_small(image, side) for image in (fitted, on_backdrop(view.front), on_backdrop(view.turned)))]
    row = Image.new("RGB", (4 * side, side))
    for i, picture in enumerate(pictures):
        row.paste(picture, (i * side, 0))
    return row


def _small(image: np.ndarray, side: int) -> Image.Image:
    return Image.fromarray(image).resize((side, side), Image.Resampling.LANCZOS)


def on_backdrop(rgba: np.ndarray) -> np.ndarray:
    """RGBA uint8 -> RGB uint8 on a plain light grey."""
    values = rgba.astype(np.float32) / 255.0
    mixed = values[..., :3] * values[..., 3:] + BACKDROP * (1.0 - values[..., 3:])
    return np.round(mixed * 255.0).astype(np.uint8)
