"""The frames: the middle one of each sequence of a folder, or all scans of a split of the open faces."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console

from experiments.datasets import open_faces
from experiments.datasets.open_faces.subjects import Config
from experiments.datasets.placed_scans import place
from experiments.datasets.registered_scans import UNITS, Unit, find_scans, read_vertices
from flamejax.head import HeadFileError, HeadModel

NEUTRAL = "neutral"
"""Sequences whose expression's name contains this are left out: "excluding neutral expressions"."""
PHOTOS = (".png", ".jpg", ".jpeg", ".bmp")


@dataclass(frozen=True)
class Frame:
    """One head that is to be photographed; numpy."""

    subject: str
    expression: str
    person: int
    """Number by which the subject's skin is drawn."""
    vertices: np.ndarray
    """(V, 3) float32 metres, head frame."""
    rotations: np.ndarray
    """(5, 3) axis-angle of its joints, radians; the root's is zero."""

    @property
    def name(self) -> str:
        return f"{self.subject}-{self.expression}"


def open_frames(split: str, config: Config) -> list[Frame]:
    """Every scan of a split of the open faces; each is a sequence of one frame, and none is neutral.

    Raises:
      As `open_faces.load_scans`.
    """
    found = open_faces.load_scans(split, config)
    frames = []
    parts = zip(found.keys, found.subject, found.vertices, found.joint_rotations, strict=True)
    for key, person, vertices, rotations in parts:
        subject, expression = key.split("-", 1)
        frames.append(Frame(subject, expression, int(person), vertices, rotations))
    return frames


@dataclass(frozen=True)
class Sequences:
    """What a folder holds."""

    frames: list[Frame]
    notes: list[str]
    """A line for everything that was left out or not used."""


def middle_files(folder: Path) -> tuple[list[Path], list[str]]:
    """The n//2-th of the n sorted mesh files of each sequence DIR/<subject>/<expression>/; a sequence is a folder.

    Returns:
      The files, and notes: neutral sequences, and photos beside scans, which are not used.

    Raises:
      ValueError: as `find_scans`; or all sequences are neutral.
    """
    sequences: dict[Path, list[Path]] = {}
    for path in find_scans(folder):
        sequences.setdefault(path.parent, []).append(path)
    chosen, notes, photos = [], [], 0
    for place_of, paths in sequences.items():
        if NEUTRAL in _expression(folder, paths[0]).lower():
            notes.append(f"{place_of}: left out, neutral.")
            continue
        middle = paths[len(paths) // 2]
        photos += any(middle.with_suffix(suffix).exists() for suffix in PHOTOS)
        chosen.append(middle)
    if photos:
        notes.append(
            f"{photos} of the frames have a photo beside the mesh. Photos of one's own are not supported (their "
            "cameras are not known here): all frames are rendered."
        )
    if not chosen:
        raise ValueError(f"{folder}: all of its {len(sequences)} sequences are neutral.")
    return chosen, notes


def folder_frames(head: HeadModel, folder: Path, files: list[Path], unit: Unit, console: Console) -> Sequences:
    """Read files of `middle_files` and move them into the head frame, by fits of the head.

    Raises:
      ValueError: none can be read or fitted, or two sequences have one name.
    """
    read, kept, notes = [], [], []
    for path in files:
        try:
            read.append((read_vertices(path, head.num_vertices) * UNITS[unit]).astype(np.float32))
            kept.append(path)
        except (HeadFileError, OSError) as error:
            notes.append(f"left out: {error}")
    if not kept:
        raise ValueError(f"none of the {len(files)} middle frames can be read. The first: {notes[0]}")
    subjects = np.array([path.relative_to(folder).parts[0] for path in kept])
    placed, sound = place(head, np.stack(read), "placing the frames", console)
    notes += [f"left out: {kept[k]}: the head model does not fit it." for k in np.flatnonzero(~sound)]
    frames = []
    for k, vertices, rotations in zip(np.flatnonzero(sound), placed.vertices, placed.rotations, strict=True):
        subject = str(subjects[k])
        frames.append(Frame(subject, _expression(folder, kept[k]), zlib.crc32(subject.encode()), vertices, rotations))
    names = [frame.name for frame in frames]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{folder}: two sequences would both be named {twice}.")
    return Sequences(frames, notes)


def _expression(folder: Path, path: Path) -> str:
    """What lies between subject and file; scans that lie in the subject's folder itself are one sequence."""
    return "-".join(path.relative_to(folder).parts[1:-1]) or "sequence"
