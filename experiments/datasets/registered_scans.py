"""Read folders of registered scans: DIR/<subject>/<expression>/*.ply|obj|npy|npz, as CoMA and D3DFACS have them.

Folders may be of any depth: the first is the subject, those between it and the file are the expression. All files
must have the head model's vertices in its order.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import trimesh

from flamejax.head import HeadFileError
from flamejax.head.formats import read_npy, read_npz_members, read_obj_vertices
from flamejax.units import UNITS, Unit

SUFFIXES = (".ply", ".obj", ".npy", ".npz")
SPLITS = ("train", "validation", "test")
HEAD_SIZE = 0.1, 1.0
"""Smallest and largest plausible extent of a scan, metres; others are in another unit."""


@dataclass(frozen=True)
class RegisteredScans:
    """N scans of a split with V vertices each, and the files that could not be read."""

    vertices: np.ndarray
    """(N, V, 3) float32 metres, in the files' frame."""
    subject: np.ndarray
    """(N,) names of the subjects."""
    expression: np.ndarray
    """(N,) names of the expressions."""
    skipped: tuple[str, ...]
    """One line for each skipped file, with the reason."""


def find_scans(folder: Path, every: int = 1) -> list[Path]:
    """List mesh files, sorted, every `every`-th of each folder (neighbouring frames of a sequence are similar).

    Raises:
      ValueError: there are none, or they are not in folders of subjects.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder of scans.")
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    if not paths:
        raise ValueError(f"{folder}: holds no scans ({', '.join(SUFFIXES)}).")
    loose = [path for path in paths if path.parent == folder]
    if loose:
        raise ValueError(
            f"{loose[0]}: lies in no subject's folder. Scans are expected as {folder}/<subject>/<expression>/*.ply, "
            "since subjects must not be both trained and tested on."
        )
    by_folder: dict[Path, list[Path]] = {}
    for path in paths:
        by_folder.setdefault(path.parent, []).append(path)
    return [path for files in by_folder.values() for path in files[::every]]


def assign_splits(subjects: list[str]) -> dict[str, str]:
    """Assign subjects to splits, 80:10:10 by a hash of their names, so that the same names are always split alike.

    With three or more subjects, no split is empty.
    """
    order = sorted(set(subjects), key=lambda name: hashlib.sha256(name.encode(errors="surrogateescape")).hexdigest())
    tenth = max(1, round(0.1 * len(order))) if len(order) >= 3 else 0
    return {name: ("test" if i < tenth else "validation" if i < 2 * tenth else "train") for i, name in enumerate(order)}


def read_scans(
    folder: Path, split: str, count: int, *, unit: Unit = "m", every: int = 1,
    advance: Callable[[int, int], None] = lambda done, total: None,
) -> RegisteredScans:  # fmt: skip
    """Read the scans of a split.

    Args:
      split: one of `SPLITS`.
      count: the head's number of vertices; files with another number are skipped.
      unit: unit of the files. It is not guessed, but one that gives heads of an impossible size is refused.
      every: read every n-th file of a folder.
      advance: called with the number of files read so far and the total.

    Raises:
      ValueError: there are no scans, the split is unknown, no file can be read, or the unit is wrong.
    """
    if split not in SPLITS:
        raise ValueError(f"no split {split!r}; there are: {', '.join(SPLITS)}.")
    paths = find_scans(folder, every)
    path_parts = [path.relative_to(folder).parts for path in paths]
    splits = assign_splits([parts[0] for parts in path_parts])
    chosen = [(path, parts) for path, parts in zip(paths, path_parts, strict=True) if splits[parts[0]] == split]
    scans, subjects, expressions, skipped = [], [], [], []
    for i, (path, parts) in enumerate(chosen):
        try:
            scans.append(read_vertices(path, count) * UNITS[unit])
        except (HeadFileError, OSError) as error:
            skipped.append(str(error))
        else:
            subjects.append(parts[0])
            expressions.append("/".join(parts[1:-1]))
        advance(i + 1, len(chosen))
    if chosen and not scans:
        raise ValueError(f"none of the {len(chosen)} scans of {split} can be used. The first: {skipped[0]}")
    vertices = np.asarray(scans, np.float32).reshape(-1, count, 3)
    if len(vertices):
        _check_size(vertices, unit)
    return RegisteredScans(vertices, np.array(subjects), np.array(expressions), tuple(skipped))


def read_vertices(path: Path, count: int) -> np.ndarray:
    """Read the vertices of a mesh file, (count, 3), in the file's units.

    Raises:
      HeadFileError: it cannot be read, has another number of vertices, or is not finite.
    """
    suffix = path.suffix.lower()
    if suffix == ".obj":
        return _check_vertices(path, read_obj_vertices(path, _count_vertices(path)), count)
    if suffix == ".npy":
        return _check_vertices(path, read_npy(path), count)
    if suffix == ".npz":
        arrays = read_npz_members(path, ("vertices",))
        if "vertices" not in arrays:
            raise HeadFileError(f"{path}: has no array 'vertices'.")
        return _check_vertices(path, arrays["vertices"], count)
    try:
        mesh = trimesh.load(path, process=False, file_type="ply")
        vertices = np.asarray(getattr(mesh, "vertices", ()), np.float64)
    except Exception as error:  # trimesh raises any exception of its parsers
        raise HeadFileError(f"{path}: no readable PLY mesh ({str(error)[:200]}).") from error
    return _check_vertices(path, vertices, count)


def _check_size(vertices: np.ndarray, unit: Unit) -> None:
    """Raises: ValueError, scans (N, V, 3) in metres do not have the size of heads."""
    size, (smallest, largest) = float(np.median(np.ptp(vertices, axis=1).max(axis=-1))), HEAD_SIZE
    if smallest <= size <= largest:
        return
    likely = [f"--unit {name}" for name, factor in UNITS.items() if smallest <= size / UNITS[unit] * factor <= largest]
    raise ValueError(
        f"with --unit {unit} the scans are {size:.3g} m across, but heads are {smallest} to {largest} m: give "
        f"{' or '.join(likely) or '--unit m, cm or mm, or scale the scans'}."
    )


def _count_vertices(path: Path) -> int:
    return sum(line.startswith(b"v ") for line in path.read_bytes().split(b"\n"))


def _check_vertices(path: Path, array: np.ndarray, count: int) -> np.ndarray:
    array = np.asarray(array)
    if array.dtype.kind not in "fiu" or array.ndim != 2 or array.shape[1:] != (3,):
        raise HeadFileError(f"{path}: not vertices (N, 3), but {array.dtype} {array.shape}.")
    if len(array) != count:
        raise HeadFileError(f"{path}: {len(array)} vertices, but the head has {count}: it is of another topology.")
    if not np.isfinite(array).all():
        raise HeadFileError(f"{path}: holds numbers that are not finite.")
    return array.astype(np.float64)
