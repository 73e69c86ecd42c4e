"""Which photos there are, and what each one's results are called."""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from glob import glob, has_magic
from pathlib import Path

# HEIC needs a plug-in that not everyone has, but is searched for: a failure with a reason beats silence.
IMAGE_SUFFIXES = frozenset(
    ("." + kind)
    for kind in "jpg jpeg jpe jfif png webp bmp tif tiff gif ppm pgm pnm jp2 avif heic heif".split()  # noqa: SIM905
)
MAX_NAME_BYTES = 160  # leaves room for "_face12" and a suffix in the 255 bytes of a file name


@dataclass(frozen=True)
class Photo:
    """One input file."""

    path: Path
    """As the user named it."""
    folder: Path = Path()
    """The part of its path below the folder that was searched; for a file or glob, its own folder."""
    name: str = ""
    """Folder of its results below the output."""
    shares_stem: bool = False
    """Whether another photo has the same stem, so that the stem alone does not say which photo is meant."""

    def input_stems(self) -> list[str]:
        """Names under which its landmarks, masks or box may be given, best first: its own, or its relative path."""
        relative = "" if self.folder.is_absolute() else (self.folder / self.path.stem).as_posix()
        stems = [self.name, relative, self.path.stem]
        return list(dict.fromkeys(s for s in stems if s and not (self.shares_stem and s == self.path.stem)))


@dataclass(frozen=True)
class Failure:
    """A photo without a result."""

    photo: str
    stage: str
    """find, load, observe, fit, complete or write."""
    reason: str


def find_photos(arguments: Sequence[str], exclude: Path) -> tuple[list[Photo], list[Failure]]:
    """Expand files, folders (recursively, by suffix) and globs, in the given order, sorted within each.

    Args:
        arguments: what the user named. A named file is taken whatever its suffix.
        exclude: the output folder: not searched when it lies in a named folder.

    Returns:
        Photos without names, each file once, and a failure for each argument that gave nothing.
    """
    photos: dict[Path, Photo] = {}
    failures = []
    for argument in arguments:
        path = Path(argument).expanduser()
        if path.is_dir():
            found = [Photo(p, p.parent.relative_to(path)) for p in _images_below(path, exclude)]
            reason = "no image files in this folder."
        elif path.exists() or not has_magic(argument):
            found = [Photo(path, path.parent)]  # A missing file fails later, at loading, like any broken one.
            reason = ""
        else:
            matches = sorted(Path(p) for p in glob(str(path), recursive=True))  # noqa: PTH207
            found = [Photo(p, p.parent) for p in matches if not p.is_dir()]
            reason = "no file matches."
        if not found:
            failures.append(Failure(argument, "find", reason))
        for photo in found:
            photos.setdefault(photo.path.resolve(), photo)
    return list(photos.values()), failures


def name_photos(photos: Sequence[Photo], taken: Collection[str] = ()) -> list[Photo]:
    """Give each photo a folder name of its own: its stem, where that is not shared.

    Photos that share a stem (ignoring case, as some file systems do) get the suffix, `portrait_png`, and, where that
    is not enough, the folder, `holiday_portrait_png`. What is still shared, or `taken`, gets a number.
    The same photos in the same order give the same names.
    """
    stems = [safe_name(p.path.stem) for p in photos]
    typed = [safe_name(f"{p.path.stem}_{p.path.suffix[1:].lower()}" if p.path.suffix else p.path.stem) for p in photos]
    placed = [safe_name("_".join([*_folder_parts(p.folder), t])) for p, t in zip(photos, typed, strict=True)]
    names = stems
    for longer in (typed, placed):
        shared = Counter(name.casefold() for name in names)
        names = [n if shared[n.casefold()] == 1 else m for n, m in zip(names, longer, strict=True)]
    used = {name.casefold() for name in taken}
    stem_counts = Counter(stem.casefold() for stem in stems)
    named = []
    for photo, stem, name in zip(photos, stems, names, strict=True):
        unique = unused_name(name, used)
        used.add(unique.casefold())
        named.append(replace(photo, name=unique, shares_stem=stem_counts[stem.casefold()] > 1))
    return named


def face_name(photo: Photo, face: int, taken: Collection[str]) -> str:
    """The folder of a photo's face: the photo's name for the largest (0), `NAME_face1` for the next, and so on. None of
    `taken`, case-folded names of other photos, is met."""
    return photo.name if face == 0 else unused_name(f"{photo.name}_face{face}", taken)


def unused_name(name: str, used: Collection[str]) -> str:
    """`name`, or `name_2`, `name_3`, ... if it is among the case-folded names in use."""
    candidates: Iterator[str] = (name if i == 1 else f"{name}_{i}" for i in range(1, len(used) + 3))
    return next(c for c in candidates if c.casefold() not in used)


def safe_name(text: str) -> str:
    """A file name for every system: no separators, control characters, leading or trailing dots, and not too long."""
    name = text.encode("utf-8", "replace").decode()
    name = re.sub(r'[\x00-\x1f\x7f/\\:*?"<>|]', "_", name).rstrip(". ")
    if name.startswith("."):
        name = "_" + name.lstrip(".")
    if len(name.encode()) > MAX_NAME_BYTES:
        digest = hashlib.sha256(name.encode()).hexdigest()[:8]
        name = name.encode()[: MAX_NAME_BYTES - 9].decode(errors="ignore") + "_" + digest
    return name or "photo"


def _images_below(folder: Path, exclude: Path) -> list[Path]:
    """Image files in a folder and its subfolders, hidden ones left out."""
    excluded, found = exclude.resolve(), []
    # Photos may be kept inside an output folder (the demo does so): exclude only what lies below the searched one.
    inside = excluded != folder.resolve()
    for root, folders, files in os.walk(folder):
        folders[:] = sorted(
            f for f in folders if not f.startswith(".") and not (inside and (Path(root) / f).resolve() == excluded)
        )
        found += [Path(root) / f for f in files if Path(f).suffix.lower() in IMAGE_SUFFIXES and not f.startswith(".")]
    return sorted(found)


def _folder_parts(folder: Path) -> list[str]:
    """What tells apart photos of the same name: the path below the searched folder, or the last folder's name."""
    if folder.is_absolute() or ".." in folder.parts:
        return [folder.resolve().name]
    return [part for part in folder.parts if part != "."]
