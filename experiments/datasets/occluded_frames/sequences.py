"""Read the frames: the middle one of each sequence of a folder, or all scans of a split of the open faces."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console

from experiments.datasets import open_faces
from experiments.datasets.open_faces.subjects import ConfigName
from experiments.datasets.placed_scans import place_in_head_frame
from experiments.datasets.registered_scans import UNITS, Unit, find_scans, read_vertices
from flamejax.head import HeadFileError, HeadModel

NEUTRAL = "neutral"
"""Sequences whose expression's name contains this are skipped: "excluding neutral expressions"."""
PHOTO_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp")


@dataclass(frozen=True)
class SequenceFrame:
    """One head of a sequence; numpy."""

    subject: str
    expression: str
    person: int
    """Seed of the subject's skin."""
    vertices: np.ndarray
    """(V, 3) float32 metres, head frame."""
    rotations: np.ndarray
    """(5, 3) axis-angle of its joints, radians; the root's is zero."""

    @property
    def name(self) -> str:
        return f"{self.subject}-{self.expression}"


def open_frames(split: str, config: ConfigName) -> list[SequenceFrame]:
    """Load every scan of a split of the open faces; each is a sequence of one frame, and none is neutral.

    Raises:
      As `open_faces.load_scans`.
    """
    scans = open_faces.load_scans(split, config)
    frames = []
    rows = zip(scans.keys, scans.subject, scans.vertices, scans.joint_rotations, strict=True)
    for key, person, vertices, rotations in rows:
        subject, expression = key.split("-", 1)
        frames.append(SequenceFrame(subject, expression, int(person), vertices, rotations))
    return frames


def middle_files(folder: Path) -> tuple[list[Path], list[str]]:
    """Select the n//2-th of the n sorted mesh files of each sequence, a folder DIR/<subject>/<expression>/.

    Returns:
      The files, and notes on neutral sequences and on photos in the folders, which are not used.

    Raises:
      ValueError: as `find_scans`; or all sequences are neutral.
    """
    sequences: dict[Path, list[Path]] = {}
    for path in find_scans(folder):
        sequences.setdefault(path.parent, []).append(path)
    chosen, notes, photos = [], [], 0
    for sequence, paths in sequences.items():
        if NEUTRAL in _expression(folder, paths[0]).lower():
            notes.append(f"{sequence}: left out, neutral.")
            continue
        middle = paths[len(paths) // 2]
        photos += any(middle.with_suffix(suffix).exists() for suffix in PHOTO_SUFFIXES)
        chosen.append(middle)
    if photos:
        notes.append(
            f"{photos} of the frames have a photo beside the mesh. Own photos are not supported (their "
            "cameras are not known here): all frames are rendered."
        )
    if not chosen:
        raise ValueError(f"{folder}: all of its {len(sequences)} sequences are neutral.")
    return chosen, notes


def folder_frames(
    head: HeadModel, folder: Path, files: list[Path], unit: Unit, console: Console
) -> tuple[list[SequenceFrame], list[str]]:
    """Read files of `middle_files` and transform them to the head frame by fits of the head.

    Returns:
      The frames, and a line for each file that was left out.

    Raises:
      ValueError: no file can be read or fitted, or two sequences have the same name.
    """
    scans, paths, notes = [], [], []
    for path in files:
        try:
            scans.append((read_vertices(path, head.num_vertices) * UNITS[unit]).astype(np.float32))
            paths.append(path)
        except (HeadFileError, OSError) as error:
            notes.append(f"left out: {error}")
    if not paths:
        raise ValueError(f"none of the {len(files)} middle frames can be read. The first: {notes[0]}")
    subjects = np.array([path.relative_to(folder).parts[0] for path in paths])
    placed, succeeded = place_in_head_frame(head, np.stack(scans), "placing the frames", console)
    notes += [f"left out: {paths[k]}: the head model does not fit it." for k in np.flatnonzero(~succeeded)]
    frames = []
    for k, vertices, rotations in zip(np.flatnonzero(succeeded), placed.vertices, placed.rotations, strict=True):
        subject = str(subjects[k])
        person = zlib.crc32(subject.encode())
        frames.append(SequenceFrame(subject, _expression(folder, paths[k]), person, vertices, rotations))
    names = [frame.name for frame in frames]
    if len(set(names)) < len(names):
        duplicate = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{folder}: two sequences would both be named {duplicate}.")
    return frames, notes


def _expression(folder: Path, path: Path) -> str:
    """Join the folder names between subject and file; scans directly in the subject's folder are one sequence."""
    return "-".join(path.relative_to(folder).parts[1:-1]) or "sequence"
