"""A contact sheet of random photos: clean, occluded, masks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from .read import Photo, data_source, photo_of
from .subjects import SPLITS, Config, subjects

GREEN, RED, BLUE = np.array([[0.2, 1.0, 0.3], [1.0, 0.25, 0.2], [0.25, 0.45, 1.0]])


def preview(path: Path, config: Config, count: int = 24, seed: int = 0, columns: int = 4, masks: bool = True) -> None:
    """Write the sheet: each photo without and with its occluder, then its masks (blue occluder, green face) with the
    landmarks that the occluded photo shows in white and those that it hides in red."""
    rng = np.random.default_rng(seed)
    splits = [split for split in reversed(SPLITS) if subjects(config, split)]
    sources = [data_source(split, config) for split in splits]
    starts = np.cumsum([0] + [len(s) for s in sources])
    chosen = rng.choice(starts[-1], min(count, int(starts[-1])), replace=False)
    cells = []
    for number in chosen:
        which = int(np.searchsorted(starts, number, "right")) - 1
        photo = photo_of(sources[which][int(number - starts[which])])
        cells.append(np.concatenate([photo.image, photo.occluded] + ([_masks(photo)] if masks else []), axis=1))
    while len(cells) % columns:
        cells.append(np.zeros_like(cells[0]))
    rows = [np.concatenate(cells[k : k + columns], axis=1) for k in range(0, len(cells), columns)]
    sheet = Image.fromarray(np.rint(255 * np.clip(np.concatenate(rows), 0, 1)).astype(np.uint8))
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)


def _masks(photo: Photo) -> np.ndarray:
    grey = np.repeat(photo.occluded.mean(-1, keepdims=True), 3, axis=-1)
    for mask, colour in ((photo.face_mask_occluded, GREEN), (photo.occlusion_mask, BLUE)):
        grey = grey + 0.5 * mask[..., None] * (colour - grey)
    side = len(grey)
    for (x, y), seen in zip(photo.landmarks, photo.landmarks_visible_occluded, strict=True):
        if 1 <= x < side - 1 and 1 <= y < side - 1:
            grey[int(y) - (0 if seen else 1) : int(y) + 2, int(x) : int(x) + 2] = 1.0 if seen else RED
    return grey
