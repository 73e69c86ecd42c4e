"""Read and check files that a user gives beside photos: landmarks, boxes and masks, looked up by the photo's stem."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import numpy as np

from flamejax.io.images import ImageError, load_mask
from flamejax.io.records import parse_json

NUM_LANDMARKS = 68
LANDMARK_SUFFIXES = (".npy", ".json", ".pts")
MASK_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff")


class InputError(ValueError):
    """A malformed input file; the message names the file and the fault."""


def load_landmarks(path: str | os.PathLike) -> np.ndarray:
    """Read 68 iBUG landmarks.

    Args:
        path: `.npy` (68, 2), or (68, 3) with a confidence; `.json` {"points": [[x, y], ...], "confidence": [...]},
            with null for a missing point and confidence optional; or `.pts`, which numbers pixels from 1, so that 0.5
            is subtracted.

    Returns:
        (68, 2) or (68, 3) float64: x, y in pixels of the full photo (pixel centres at +0.5), confidence in [0, 1];
        NaN rows are missing points.

    Raises:
        InputError: the file is missing or unreadable, its array has a wrong shape or range, or all points are missing.
    """
    path = Path(path)
    readers = {".npy": _read_npy, ".json": _read_json, ".pts": _read_pts}
    if path.suffix.lower() not in readers:
        raise InputError(f"{path}: landmarks are read from {', '.join(readers)} files.")
    points = readers[path.suffix.lower()](path)
    if points.ndim != 2 or points.shape[0] != NUM_LANDMARKS or points.shape[1] not in (2, 3):
        raise InputError(f"{path}: 68 rows of x, y or x, y, confidence are needed; the shape is {points.shape}.")
    if np.isinf(points).any():
        raise InputError(f"{path}: infinite values; mark missing points with NaN (null in JSON).")
    present = ~np.isnan(points).any(axis=1)
    if not present.any():
        raise InputError(f"{path}: every point is missing.")
    if points.shape[1] == 3 and not ((points[present, 2] >= 0) & (points[present, 2] <= 1)).all():
        raise InputError(f"{path}: confidences must lie in [0, 1].")
    return points


def find_landmarks(folder: str | os.PathLike, stem: str) -> np.ndarray | None:
    """Read `<stem>.npy`, `.json` or `.pts` of a folder by `load_landmarks`; None if there is no such file.

    Raises:
        InputError: no such folder, more than one such file, or a malformed one.
    """
    path = _find_file(folder, stem, LANDMARK_SUFFIXES)
    return None if path is None else load_landmarks(path)


def find_mask(folder: str | os.PathLike, stem: str, size: tuple[int, int]) -> np.ndarray | None:
    """Read the mask `<stem>.png` (or another image suffix) of a folder, white = 1; None if there is no such file.

    Args:
        size: (height, width) of the photo. A mask of another size but the same aspect ratio is resized (nearest).

    Returns:
        (height, width) float32 of zeros and ones.

    Raises:
        InputError: no such folder, more than one such file, not an image, or another aspect ratio.
    """
    path = _find_file(folder, stem, MASK_SUFFIXES)
    try:
        return None if path is None else load_mask(path, size)
    except ImageError as error:
        raise InputError(str(error)) from error


def load_boxes(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Read face boxes from a JSON file {stem: [x0, y0, x1, y1]} in pixels of the full photos.

    Returns:
        stem -> (4,) float64.

    Raises:
        InputError: the file is missing or not JSON, or a box is malformed (the message names the stem).
    """
    path = Path(path)
    content = _parse_json(path)
    if not isinstance(content, dict):
        raise InputError(f"{path}: a JSON object {{stem: [x0, y0, x1, y1]}} is needed.")
    boxes = {}
    for stem, values in content.items():
        box = _to_float_array(values)
        if box is None or box.shape != (4,) or not np.isfinite(box).all():
            raise InputError(
                f"{path}: the box of {stem!r:.80} must be four numbers [x0, y0, x1, y1], not {values!r:.80}."
            )
        if (box[2:] <= box[:2]).any():
            raise InputError(
                f"{path}: the box of {stem!r:.80}, {values!r:.80}, has x1 <= x0 or y1 <= y0 (it is corners, not sizes)."
            )
        boxes[stem] = box
    return boxes


def _find_file(folder: str | os.PathLike, stem: str, suffixes: tuple[str, ...]) -> Path | None:
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder.")
    paths = [folder / (stem + suffix) for suffix in suffixes if (folder / (stem + suffix)).is_file()]
    if len(paths) > 1:
        raise InputError(f"{folder}: {' and '.join(p.name for p in paths)} both exist; keep one of them.")
    return paths[0] if paths else None


def _read_npy(path: Path) -> np.ndarray:
    try:
        # allow_pickle=False: loading a pickled array can run any code.
        points = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file.") from None
    except Exception as error:  # numpy raises many exception types on damaged files
        raise InputError(f"{path}: not a NumPy array file of plain numbers ({error}).") from error
    if not isinstance(points, np.ndarray) or points.dtype.kind not in "fiu":
        raise InputError(f"{path}: one array of real numbers is needed (np.save), not an archive or other types.")
    return points.astype(np.float64)


def _read_json(path: Path) -> np.ndarray:
    content = _parse_json(path)
    if not isinstance(content, dict) or "points" not in content:
        raise InputError(f'{path}: an object {{"points": [[x, y], ...], "confidence": [...]}} is needed.')
    rows = content["points"]
    if isinstance(rows, list):
        rows = [[None, None] if row is None else row for row in rows]
    points = _to_float_array(rows)
    if points is None:
        raise InputError(f'{path}: "points" must be 68 pairs [x, y] of numbers (null for a missing point).')
    if content.get("confidence") is None:
        return points
    confidence = _to_float_array(content["confidence"])
    if confidence is None or confidence.shape != points.shape[:1] or points.shape[1:] != (2,):
        raise InputError(f'{path}: "confidence" must be one number for each of the {len(points)} pairs in "points".')
    return np.concatenate([points, confidence[:, None]], axis=1)


def _read_pts(path: Path) -> np.ndarray:
    """Read the 300-W text format: `version: 1`, `n_points: 68`, then one `x y` per line between braces."""
    text = _read_text(path)
    body = re.search(r"\{([^{}]*)\}", text)
    if body is None:
        raise InputError(f"{path}: a .pts file holds its points between {{ and }}.")
    try:
        rows = [[float(value) for value in line.split()] for line in body.group(1).splitlines() if line.strip()]
        points = np.array(rows, np.float64)
    except ValueError:
        raise InputError(f"{path}: a line between the braces is not two numbers x y.") from None
    declared = re.search(r"n_points\s*:\s*(\d+)", text)
    if declared and declared.group(1).lstrip("0") != str(len(rows)):  # as text: it may have thousands of digits
        raise InputError(f"{path}: n_points says {declared.group(1):.20} but there are {len(rows)} points.")
    if points.ndim != 2 or points.shape[1] != 2:
        raise InputError(f"{path}: every line between the braces must be two numbers x y.")
    return points - 0.5  # pixel number i, counted from 1, has its centre at i - 0.5


def _parse_json(path: Path) -> object:
    try:
        return parse_json(_read_text(path), check_numbers=False)  # NaN marks a missing point
    except ValueError as error:
        raise InputError(f"{path}: not valid JSON ({error}).") from error


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise InputError(f"{path}: no such file.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a readable text file ({error}).") from error


def _to_float_array(values: object) -> np.ndarray | None:
    """Convert nested lists of numbers and nulls to a float64 array with NaN for null; None for anything else."""

    def is_numeric(value: object) -> bool:
        if isinstance(value, list):
            return all(is_numeric(v) for v in value)
        return value is None or (isinstance(value, (int, float)) and not isinstance(value, bool))

    if not isinstance(values, list) or not is_numeric(values):
        return None
    try:
        return np.array(values, np.float64)
    except (ValueError, TypeError, OverflowError):  # ragged lists, integers beyond float64
        return None


def confidence_outside_mask(points: Any, confidence: Any, mask: Any) -> Any:
    """Return the confidences (N,) of points (N, 2), crop pixels, set to 0 under a mask (S, S), 1 = hidden. NumPy only.
    """
    column, row = np.clip(np.floor(np.nan_to_num(points)).astype(int), 0, len(mask) - 1).T
    return np.where(np.asarray(mask)[row, column] < 0.5, confidence, 0.0)
