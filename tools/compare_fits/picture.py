"""Draw the comparison sheet: per photo the crop, then every variant's fitted head, as shape and with its colours."""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jax import Array
from PIL import Image, ImageDraw, ImageFont

import flamejax
from experiments.datasets.renders import lamp_light
from fitting import Fit, Observation
from flamejax.geometry import normalize
from flamejax.head import HeadModel
from flamejax.rendering import ambient_light

SIDE = 200
CAPTION = 20
NAME_LENGTH = 26
OPACITY = 0.8
CLAY = 0.78
CLAY_LAMP = (0.4, 0.5, 0.77)


def comparison_sheet(
    head: HeadModel, names: Sequence[str], observation: Observation, fits: dict[str, Fit]
) -> Image.Image:
    """Draw the comparison of all photos.

    Args:
      head: the head model of the fits.
      names: names of the B photos.
      observation: the photos, batch axis (B,).
      fits: variant -> fit, batch axis (B,).

    Returns:
      An RGB image: two rows per photo (shape above, colours below), and one column per variant after that of the photo,
      which shows the crop above and its landmarks below.
    """
    crops = np.clip(np.asarray(observation.image), 0, 1)
    overlays = {variant: _render_overlays(head, fit, crops) for variant, fit in fits.items()}
    width, block = SIDE * (1 + len(fits)), CAPTION + 2 * SIDE
    picture = Image.new("RGB", (width, CAPTION + block * len(names)), "white")
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(13)
    for column, title in enumerate(("photo", *fits)):
        draw.text((column * SIDE + 4, 2), title, fill="black", font=font)
    for i, name in enumerate(names):
        top = CAPTION + i * block
        draw.text((4, top + 2), name[:NAME_LENGTH], fill="black", font=font)
        picture.paste(_thumbnail(crops[i]), (0, top + CAPTION))
        points, confidence = np.asarray(observation.landmarks[i]), np.asarray(observation.confidence[i])
        picture.paste(_draw_landmarks(crops[i], points, confidence), (0, top + CAPTION + SIDE))
        for column, (variant, fit) in enumerate(fits.items(), start=1):
            nme = float(fit.losses["nme"][i])
            draw.text((column * SIDE + 4, top + 2), f"NME {nme:.4f}", fill="black", font=font)
            for row, images in enumerate(overlays[variant]):
                picture.paste(_thumbnail(images[i]), (column * SIDE, top + CAPTION + row * SIDE))
    return picture


def _render_overlays(head: HeadModel, fit: Fit, crops: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Render the shape in clay and the head in its fitted colours over the crops, each (B, S, S, 3)."""
    count, side = crops.shape[0], crops.shape[1]
    lamp = lamp_light(normalize(jnp.asarray(CLAY_LAMP)))
    light = jnp.broadcast_to(0.35 * ambient_light() + 0.7 * lamp[:, None], (count, 9, 3))
    clay = jnp.full(head.albedo_mean.shape, CLAY)

    def overlay(texture: Array, light: Array) -> np.ndarray:
        image = np.asarray(flamejax.render(
            head, fit.vertices, fit.camera, texture=texture, light=light, size=(side, side), antialias=False
        ))  # fmt: skip
        alpha = OPACITY * image[..., 3:]
        return np.clip(crops * (1 - alpha) + alpha * np.clip(image[..., :3], 0, 1), 0, 1)

    return overlay(clay, light), overlay(jnp.clip(head.albedo(fit.texture), 0, 1), fit.light)


def _draw_landmarks(crop: np.ndarray, points: np.ndarray, confidence: np.ndarray) -> Image.Image:
    """Draw the detector's 68 landmarks on the crop, from red (hidden) to green (confident)."""
    picture = _thumbnail(crop)
    draw = ImageDraw.Draw(picture)
    for (x, y), sure in zip(points * (SIDE / crop.shape[0]), confidence, strict=True):
        colour = (round(255 * (1 - sure)), round(220 * sure), 40)
        draw.ellipse((x - 1.5, y - 1.5, x + 1.5, y + 1.5), fill=colour)
    return picture


def _thumbnail(image: np.ndarray) -> Image.Image:
    return Image.fromarray(np.round(255 * image).astype(np.uint8)).resize((SIDE, SIDE), Image.Resampling.LANCZOS)
