"""Reading of the JSON files of results, which may be damaged or hostile: sizes, nesting and types are checked."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flamejax.files import TEMPORARY_PREFIX, is_file, is_folder, open_regular

FORMAT_VERSION = 1
RESULT_FILES = (
    "params.npz",
    "camera.json",
    "landmarks.json",
    "overlay.png",
    "occlusion_mask.png",
    "face_mask.png",
    "mesh.obj",
    "mesh.mtl",
    "mesh.png",
    "mesh.glb",
    "metrics.json",
)
HYPOTHESES = "hypotheses"
"""Subfolder of a face's hypotheses 00, 01, ..., best first."""
THUMBNAILS = "thumbnails"
"""Subfolder of an output folder."""
LISTS = ("index.html", "contact_sheet.png", "summary.jsonl", "failures.jsonl", "run.json")
"""Files of an output folder about all photos."""
MAX_HYPOTHESES = 10_000
MAX_FACES = 10_000
"""Faces of one photo."""
MAX_RECORD_BYTES = 8 * 2**20
MAX_DEPTH = 32
"""Levels of nested lists and objects in a record."""


class ResultError(ValueError):
    """A folder that cannot be read as a result; the message names the file and says what to do."""


def read_record(path: Path) -> dict[str, Any]:
    """Read a JSON object. Its numbers are finite and fit 64 bits. Raises ResultError if it is missing or damaged."""
    try:
        with open_regular(path) as file:
            data = file.read(MAX_RECORD_BYTES + 1)
        if len(data) > MAX_RECORD_BYTES:
            raise ValueError(f"larger than {MAX_RECORD_BYTES // 2**20} MB")
        record = parse_json(data.decode())
    except FileNotFoundError as error:
        raise ResultError(f"{path}: no such file. {remedy(path)}") from error
    except (OSError, ValueError, MemoryError) as error:
        raise ResultError(f"{path}: cannot be read ({error}). {remedy(path)}") from error
    if not isinstance(record, dict):
        raise ResultError(f"{path}: not a JSON object. {remedy(path)}")
    return record


def parse_json(text: str, check_numbers: bool = True) -> Any:
    """Parse JSON. check_numbers: refuse numbers that are not finite or beyond 64 bits.

    Raises:
        ValueError: it is malformed or nested too deeply, a number has thousands of digits or is refused.
    """
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except json.JSONDecodeError:
        raise
    except ValueError:  # Python converts no integer of more than 4,300 digits
        raise ValueError("a number is too large") from None
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        if check_numbers and any(isinstance(each, float) and not math.isfinite(each) for each in level):
            raise ValueError("a number is not finite")
        if check_numbers and any(isinstance(each, int) and abs(each) >= 2**63 for each in level):
            raise ValueError("a number is too large")
        lists = [each.values() if isinstance(each, dict) else each for each in level if isinstance(each, dict | list)]
        level = [each for values in lists for each in values]
        if not level:
            return value
    raise ValueError("nested too deeply")


def read_metrics(folder: Path) -> dict[str, Any]:
    """Read a face's metrics.json, with checked entries. Its `name` is the folder's.

    Raises:
        ResultError: it is missing, damaged or of another format version.
    """
    path = folder / "metrics.json"
    if not is_file(path):
        raise ResultError(f"{folder}: no result of flamejax reconstruct (it has no metrics.json). Name one, OUT/PHOTO.")
    metrics = read_record(path)
    if metrics.get("format_version") != FORMAT_VERSION:
        version = repr(metrics.get("format_version"))[:40]
        raise ResultError(f"{path}: format {version}, but this flamejax reads {FORMAT_VERSION}. {remedy(folder)}")
    missing = [name for name in REQUIRED_METRICS if name not in metrics]
    if missing:
        raise ResultError(f"{path}: entries are missing ({', '.join(missing)}). {remedy(folder)}")
    for name, is_valid in (REQUIRED_METRICS | OPTIONAL_METRICS).items():
        if name in metrics and not is_valid(metrics[name]):
            raise damaged_file_error(path, f"{name} is {repr(metrics[name])[:40]}")
    if metrics["face"] >= metrics["num_faces"]:
        raise damaged_file_error(path, f"face {metrics['face']} of {metrics['num_faces']}")
    # Paths are made of the folder's name, never of a name in a file.
    return metrics | {"name": folder.name}


def read_all_metrics(folder: Path) -> tuple[dict[str, dict[str, Any]], dict[str, ResultError]]:
    """Read the metrics of all faces in an output folder.

    Returns:
        Name -> metrics of the readable faces, and name -> error of the others, both sorted by name. A folder whose
        metrics.json has no format version is the user's and in neither.
    """
    metrics, errors = {}, {}
    for face in face_folders(folder):
        try:
            if "format_version" in read_record(face / "metrics.json"):
                metrics[face.name] = read_metrics(face)
        except ResultError as error:
            errors[face.name] = error
    return metrics, errors


def face_folders(folder: Path) -> list[Path]:
    """Returns the folders in an output folder that have a metrics.json, sorted. Unfinished ones are left out."""
    folders = sorted(path.parent for path in folder.glob("*/metrics.json"))
    return [face for face in folders if not face.name.startswith(TEMPORARY_PREFIX)]


def is_output(folder: Path) -> bool:
    """Returns whether it is an output folder of `flamejax reconstruct`, a face's folder, or a subfolder of either."""
    if folder.name in (THUMBNAILS, HYPOTHESES) and _has_our_record(folder.parent):
        return True
    return _has_our_record(folder)


def is_output_file(path: Path) -> bool:
    """Returns whether `flamejax reconstruct` wrote the file; other files may lie beside those it wrote."""
    if path.name not in (*RESULT_FILES, *LISTS):
        return path.parent.name in (THUMBNAILS, HYPOTHESES) and is_output(path.parent)
    return is_output(path.parent)


def _has_our_record(folder: Path) -> bool:
    for name, key in (("run.json", "versions"), ("metrics.json", "photo_sha256")):
        if is_file(folder / name):
            try:
                record = read_record(folder / name)
            except ResultError:
                continue
            if isinstance(record.get("format_version"), int) and key in record:
                return True
    return False


def damaged_file_error(path: Path, reason: object) -> ResultError:
    """Returns the error for a damaged file of a face, with the remedy."""
    return ResultError(f"{path}: damaged ({reason}). {remedy(path)}")


def remedy(path: Path) -> str:
    """Returns the advice for a damaged file or folder of a face."""
    folder = path if is_folder(path) else path.parent
    if folder.parent.name == HYPOTHESES and is_file(folder.parents[1] / "metrics.json"):
        folder = folder.parents[1]
    return f"Delete the folder {folder} and give its photo to `flamejax reconstruct --resume` again."


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and "\0" not in value and len(value) < 100_000


def _is_number_or_none(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def _is_count(least: int, most: int) -> Callable[[Any], bool]:
    return lambda value: type(value) is int and least <= value <= most


def _is_head(value: Any) -> bool:
    """Whether it has the entries of a HeadIdentity. They are printed, so they contain no control characters."""
    if not isinstance(value, dict):
        return False
    texts = [value.get(name) for name in ("name", "version", "licence", "sha256")]
    return all(isinstance(text, str) and text.isprintable() and len(text) <= 1000 for text in texts)


def _is_losses(value: Any) -> bool:
    return isinstance(value, dict) and all(_is_number_or_none(each) for each in value.values())


def _is_digest(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) is not None


def _is_object(value: Any) -> bool:
    return isinstance(value, dict)


REQUIRED_METRICS: dict[str, Callable[[Any], bool]] = {
    "photo": _is_text,
    "photo_path": _is_text,
    "photo_sha256": _is_digest,
    "face": _is_count(0, MAX_FACES - 1),
    "num_faces": _is_count(1, MAX_FACES),
    "landmark_nme": _is_number_or_none,
    "visible_landmarks": _is_count(0, 68),
    "losses": _is_losses,
    "head": _is_head,
    "settings": _is_object,
}
"""Entry of metrics.json -> its check. Every version has written these."""
OPTIONAL_METRICS: dict[str, Callable[[Any], bool]] = {
    "method": _is_text,
    "visible_vertices": _is_number_or_none,
    "fit_seconds": _is_number_or_none,
    "hypotheses": _is_count(0, MAX_HYPOTHESES),
    "hypotheses_visible_mm": _is_number_or_none,
    "hypotheses_visible_spread_mm": _is_number_or_none,
    "hypotheses_hidden_spread_mm": _is_number_or_none,
    "inputs": _is_object,
}
"""The same for entries that are not always there."""
