"""Contact sheets of random photos (clean, occluded, masks) and of scans without texture."""

from __future__ import annotations

from pathlib import Path

import jax.numpy as jnp
import numpy as np
from PIL import Image

from experiments.datasets.open_faces import details, store
from experiments.datasets.open_faces.read import ScanPhoto, data_source, example_to_photo, load_scans
from experiments.datasets.open_faces.subjects import SPLITS, ConfigName, load_sources, subjects
from experiments.datasets.renders import lamp_light
from flamejax.camera import OrthographicCamera
from flamejax.geometry import normalize
from flamejax.head import load_head, rotation_matrix
from flamejax.rendering import ambient_light, composite, render

GREEN, RED, BLUE = np.array([[0.2, 1.0, 0.3], [1.0, 0.25, 0.2], [0.25, 0.45, 1.0]])


def preview(
    path: Path, config: ConfigName, count: int = 24, seed: int = 0, columns: int = 4, masks: bool = True
) -> None:
    """Write a sheet of random photos, each without and with its occluder, and its masks.

    The occluder's mask is blue and the face's green; landmarks are white if visible in the occluded photo, else red.
    """
    rng = np.random.default_rng(seed)
    splits = [split for split in reversed(SPLITS) if subjects(config, split)]
    sources = [data_source(split, config) for split in splits]
    starts = np.cumsum([0] + [len(s) for s in sources])
    chosen = rng.choice(starts[-1], min(count, int(starts[-1])), replace=False)
    cells = []
    for number in chosen:
        source = int(np.searchsorted(starts, number, "right")) - 1
        photo = example_to_photo(sources[source][int(number - starts[source])])
        cells.append(np.concatenate([photo.image, photo.occluded] + ([_draw_masks(photo)] if masks else []), axis=1))
    cells += [np.zeros_like(cells[0])] * (-len(cells) % columns)
    rows = [np.concatenate(cells[k : k + columns], axis=1) for k in range(0, len(cells), columns)]
    _save(path, np.concatenate(rows))


def preview_scans(path: Path, config: ConfigName, count: int = 3, size: int = 288) -> None:
    """Write renders of the first test subjects: neutral without and with details, then six expressions."""
    head, scans = load_head(), load_scans("test", config)
    field, people = details.detail_field(head), load_sources(store.sources_path()).people
    root, rows = np.asarray(head.J_regressor)[0], []
    count_each = len(store.expressions(config))
    for number in range(min(count, len(scans.subject) // count_each)):
        subject = int(scans.subject[number * count_each])
        neutral = people[subject].astype(np.float64)
        height, _ = details.detail_heights(field, details.draw_latents(subject), details.NEUTRAL)
        heads = [v - root @ v for v in (neutral, details.displace(neutral, height, field))]
        heads += list(scans.vertices[number * count_each : (number + 1) * count_each][:: max(1, count_each // 6)][:6])
        yaws = [0.45, 0.45] + [0.45 * (-1) ** k for k in range(len(heads) - 2)]
        renders = [_render_shape(head, v, yaw, size) for v, yaw in zip(heads, yaws, strict=True)]
        rows.append(np.concatenate(renders, axis=1))
    _save(path, np.concatenate(rows))


def _render_shape(head, verts: np.ndarray, yaw: float, size: int) -> np.ndarray:  # noqa: ANN001
    rotation = np.asarray(rotation_matrix(jnp.asarray([0.0, yaw, 0.0])), np.float64)
    moved = jnp.asarray((verts - [0, 0.12, 0.06]) @ rotation.T, jnp.float32)
    camera = OrthographicCamera(jnp.asarray(4.2 * size), jnp.asarray([0.5 * size, 0.55 * size]))
    lamp = lamp_light(normalize(jnp.asarray([0.8, 0.5, 0.6])))[:, None]
    light = 0.3 * ambient_light() + 0.8 * jnp.broadcast_to(lamp, (9, 3))
    grey = jnp.full((4, 4, 3), 0.8)
    image = render(head, moved, camera, texture=grey, light=light, size=(size, size), antialias=True)
    return np.asarray(composite(image, jnp.ones(3)))


def _save(path: Path, sheet: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.rint(255 * np.clip(sheet, 0, 1)).astype(np.uint8)).save(path)


def _draw_masks(photo: ScanPhoto) -> np.ndarray:
    image = np.repeat(photo.occluded.mean(-1, keepdims=True), 3, axis=-1)
    for mask, colour in ((photo.face_mask_occluded, GREEN), (photo.occlusion_mask, BLUE)):
        image = image + 0.5 * mask[..., None] * (colour - image)
    side = len(image)
    for (x, y), visible in zip(photo.landmarks, photo.landmarks_visible_occluded, strict=True):
        if 1 <= x < side - 1 and 1 <= y < side - 1:
            image[int(y) - (0 if visible else 1) : int(y) + 2, int(x) : int(x) + 2] = 1.0 if visible else RED
    return image
