"""Functions shared by the commands that write results of photos and the commands that read them."""

from __future__ import annotations

import hashlib
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

import flamejax
from experiments.command_line import UsageError
from fitting._observe import NUM_DENSE, crop_image, crop_observation
from fitting.fit_model import FitModel, prepare
from fitting.inputs import InputError, load_landmarks
from fitting.local_files import load_local_model, local_model_path, shipped_local_model
from flamejax.camera import CropTransform
from flamejax.files import is_file, open_regular
from flamejax.head import HeadFileError, HeadModel, head_digest, open_head_path
from flamejax.io.images import ImageError, load_image, load_mask
from flamejax.io.results import HeadIdentity, Result, ResultError, damaged_file_error, read_record
from flamejax.types import Observation

SPREAD_COLOUR = np.array([0.9, 0.25, 0.05], np.float32)
"""Colour of the vertices where hypotheses differ most."""
HIDDEN_COLOUR = (130, 60, 220)
"""RGB colour of hidden pixels."""
KNOWN_PACKAGES = {"experiments", "fitting", "flamejax", "models", "sampling", *sys.stdlib_module_names}
"""Packages whose lines `error_text` does not name."""


def load_head(path: Path | None) -> tuple[HeadModel, HeadIdentity]:
    """Load the head model of --head, by default the open head, and its identity. Raises: UsageError."""
    try:
        head = flamejax.load_head(path)
    except (HeadFileError, OSError) as error:
        raise UsageError(f"head model: {error}") from error
    return head, HeadIdentity(head.name, head.version, head.licence, head_digest(path or open_head_path()))


def short_digest(path: Path, digits: int = 16) -> str | None:
    """Returns the first digits of a file's SHA-256; None if it cannot be read."""
    try:
        return file_digest(path)[:digits]
    except OSError:
        return None


def file_digest(path: Path) -> str:
    """Returns the SHA-256 of a file. Raises: OSError, also for a folder, FIFO or device."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def error_text(error: BaseException) -> str:
    """Format an exception as one line for the user; it names the line of the user's own code that raised it, if any.

    For an unexpected type of exception the line may also be an installed package's.
    """
    text = " ".join(str(error).split())
    is_readable = isinstance(error, (ValueError, ImportError)) and text
    lines = [
        (Path(frame.f_code.co_filename), number)
        for frame, number in traceback.walk_tb(error.__traceback__)
        if str(frame.f_globals.get("__name__")).partition(".")[0] not in KNOWN_PACKAGES
    ]
    lines = [line for line in lines if "site-packages" not in line[0].parts] or ([] if is_readable else lines)
    if is_readable and not lines:
        return text
    text = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return f"{text} ({'/'.join(lines[-1][0].parts[-2:])}:{lines[-1][1]})" if lines else text


def face_keys(faces: Sequence[tuple[str, int]], seed: int) -> jax.Array:
    """Returns a PRNG key per face, (B,), from the seed, its photo's SHA-256 and its index in the photo.

    A face gets the same key in every batch."""
    numbers = np.array([[int(digest[:8], 16), index] for digest, index in faces], np.uint32)
    fold = jax.vmap(lambda pair: jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), pair[0]), pair[1]))
    return fold(jnp.asarray(numbers))


def vertex_spread(heads: ArrayLike) -> np.ndarray:
    """Returns (V,), the RMS distance of each vertex from its mean over heads (M, V, 3)."""
    heads = np.asarray(heads, np.float64)
    return np.sqrt(((heads - heads.mean(axis=0)) ** 2).sum(axis=-1).mean(axis=0))


def load_fit_model(metrics: dict[str, Any], head: HeadModel, local: str = "auto") -> FitModel:
    """Load the model that a result was fitted with, including its local models.

    Args:
      local: file of the local models, 'none', or 'auto' for the ones that the result's metrics name.

    Raises:
      ResultError: the local models cannot be read, or are not those of the result.
    """
    name, _, digest = str(metrics["settings"].get("local") or "none").rpartition(" ")
    chosen = local if local != "auto" else name or "none"
    path = local_model_path() if chosen == "auto" else Path(chosen)
    try:
        if chosen in ("none", "auto"):  # 'auto' gives None for a head without shipped local models
            local_model = shipped_local_model(head) if chosen == "auto" else None
        else:
            local_model = load_local_model(head, path)
    except (HeadFileError, OSError, ValueError) as error:
        raise ResultError(f"local models of the result: {error} If the file was moved, give --local FILE.") from error
    if local_model is not None and digest and short_digest(path) != digest:
        raise ResultError(
            f"{path}: not the local models that the result was fitted with ({short_digest(path)}, not {digest}). "
            "Give those as --local FILE, or reconstruct the photo again."
        )
    return prepare(head, local_model)


def find_photo(metrics: dict[str, Any]) -> Path:
    """Find the photo of a result. Raises: FileNotFoundError, it is missing or has changed."""
    existing = [path for path in (Path(metrics["photo_path"]), Path(metrics["photo"])) if is_file(path)]
    for path in existing:
        if file_digest(path) == metrics["photo_sha256"]:
            return path
    if existing:
        raise FileNotFoundError(f"the photo {existing[0]} has changed since; reconstruct it again.")
    raise FileNotFoundError(f"the photo {metrics['photo_path']} no longer exists; put it back.")


def load_observation(result: Result) -> tuple[Observation | None, str]:
    """Restore the observation that a result was fitted to, up to rounding; or None, and why the photo is unavailable.

    Masks equal those of the fit if the photo is at most 2048 pixels long. For larger photos they are accurate to a
    pixel of the smaller copy. Raises: ResultError, a file of the result is missing or damaged.
    """
    try:
        image = load_image(find_photo(result.metrics))
    except (ImageError, OSError) as error:
        return None, str(error)
    crop, size = _load_crop(result.folder / "camera.json")
    points, confidence, dense = _load_landmarks(result.folder / "landmarks.json")
    hidden = _load_mask_in_crop(result.occlusion_mask, image, crop, size)
    given = result.metrics.get("inputs")
    if "auto" in (result.metrics["settings"].get("masks"), given.get("masks") if isinstance(given, dict) else None):
        hidden = (hidden >= 0.5).astype(np.float32)  # as in the crop; a given mask is resampled to it
    face = None
    if result.face_mask.is_file():
        face = (_load_mask_in_crop(result.face_mask, image, crop, size) >= 0.5).astype(np.float32)
    return crop_observation(crop, image, size, (points, confidence), dense, hidden, face), ""


def _load_landmarks(path: Path) -> tuple[np.ndarray, np.ndarray, tuple[np.ndarray, np.ndarray] | None]:
    """Read landmarks (68, 2) in photo pixels and confidence (68,), and the same of the dense landmarks if present."""
    record = read_record(path)
    try:
        rows = load_landmarks(path)
        points, confidence = rows[:, :2], np.nan_to_num(rows[:, 2])
        if "dense_points" not in record:
            return points, confidence, None
        dense = np.array([[np.nan] * 2 if row is None else row for row in record["dense_points"]], np.float64)
        dense_confidence = np.array(record["dense_confidence"], np.float64)
    except (InputError, IndexError, KeyError, TypeError, ValueError) as error:
        raise damaged_file_error(path, error) from error
    shapes = dense.shape, dense_confidence.shape
    if shapes != ((NUM_DENSE, 2), (NUM_DENSE,)) or not np.isfinite(dense_confidence).all():
        raise damaged_file_error(path, f"it does not have {NUM_DENSE} finite dense landmarks")
    return points, confidence, (dense, dense_confidence)


def _load_mask_in_crop(path: Path, image: np.ndarray, crop: CropTransform, size: int) -> np.ndarray:
    """Load a mask of the full photo, of its size or smaller, and resample it to the crop: (S, S)."""
    try:
        mask = load_mask(path)
    except ImageError as error:
        raise damaged_file_error(path, error) from error
    scale = mask.shape[1] / image.shape[1]
    return crop_image(mask, CropTransform(crop.scale / scale, crop.offset), size)


def _load_crop(path: Path) -> tuple[CropTransform, int]:
    record = read_record(path)
    try:
        transform, size = record["crop_transform"], int(record["crop"]["size"][0])
        scale, offset = float(transform["scale"]), np.array(transform["offset"], np.float32).reshape(2)
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise damaged_file_error(path, repr(error)) from error
    if not (scale > 0 and 0 < size <= 4096 and np.isfinite(offset).all()):
        raise damaged_file_error(path, "an impossible crop")
    return CropTransform(jnp.asarray(scale, jnp.float32), jnp.asarray(offset)), size
