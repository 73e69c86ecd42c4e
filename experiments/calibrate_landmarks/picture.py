"""Draw the calibrated landmarks on the mean head."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from PIL import Image, ImageDraw

from flamejax.camera import OrthographicCamera
from flamejax.head import DenseLandmarks, HeadModel, HeadParams, calibrated, dense_landmarks, landmarks, vertices
from flamejax.rendering import render

YAWS = (-35.0, 0.0, 35.0)
SIZE = 720
DOT_RADIUS = 2.5
FIXED, SLIDING, OWN, CALIBRATED = (40, 200, 90), (250, 150, 30), (240, 60, 60), (70, 160, 255)


def draw(head: HeadModel, dense: DenseLandmarks, path: Path) -> None:
    """Write a PNG of the landmarks at three yaws.

    The upper row shows the 468 dense points (green; orange if sliding), the lower row the 68 landmarks (the head's own
    in red, the calibrated ones in blue).
    """
    yaw = jnp.deg2rad(jnp.asarray(YAWS))
    orient = jnp.stack([jnp.zeros(3), yaw, jnp.zeros(3)], axis=-1)
    params = dataclasses.replace(HeadParams.zeros(head, (3,)), global_orient=orient)
    own_points, calibrated_points = (landmarks(model, params) for model in (head, calibrated(head, dense)))
    low, high = own_points.min(axis=1), own_points.max(axis=1)
    scale = 0.75 * SIZE / (high - low)[:, :2].max(axis=-1)
    centre = 0.5 * (low + high)[:, :2] * jnp.asarray([[1.0, -1.0]])
    camera = OrthographicCamera(scale, 0.5 * SIZE - scale[:, None] * centre)
    images = np.asarray(render(head, vertices(head, params), camera, size=(SIZE, SIZE), antialias=False))
    pixels = (255 * np.clip(images[..., :3] + 0.9 * (1 - images[..., 3:]), 0, 1)).astype(np.uint8)
    upper, lower = ([Image.fromarray(p) for p in pixels] for _ in range(2))
    sliding = np.asarray(dense.sliding)
    for i, points in enumerate(np.asarray(camera.project(dense_landmarks(head, dense, params)))):
        _draw_dots(upper[i], points[~sliding], FIXED)
        _draw_dots(upper[i], points[sliding], SLIDING)
    for colour, points in ((OWN, own_points), (CALIBRATED, calibrated_points)):
        for i, projected in enumerate(np.asarray(camera.project(points))):
            _draw_dots(lower[i], projected, colour)
    rows = [np.concatenate([np.asarray(image) for image in row], axis=1) for row in (upper, lower)]
    Image.fromarray(np.concatenate(rows)).save(path)


def _draw_dots(image: Image.Image, points: np.ndarray, colour: tuple[int, int, int]) -> None:
    pen = ImageDraw.Draw(image)
    for x, y in points[:, :2]:
        pen.ellipse((x - DOT_RADIUS, y - DOT_RADIUS, x + DOT_RADIUS, y + DOT_RADIUS), fill=colour)
