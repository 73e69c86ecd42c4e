"""Finds the input photos and names the folders of their results."""

from __future__ import annotations

import functools
import hashlib
import itertools
import os
import re
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from glob import glob, has_magic
from pathlib import Path

# HEIC needs a plug-in that may be missing; it is listed so that the user sees a reason for the failure.
IMAGE_SUFFIXES = frozenset(
    ("." + kind)
    for kind in "jpg jpeg jpe jfif png webp bmp tif tiff gif ppm pgm pnm jp2 avif heic heif".split()  # noqa: SIM905
)
OUTPUT_REASON = "it is an output of flamejax reconstruct, not a photo."
MAX_NAME_BYTES = 160  # leaves room for "_face12" and a suffix in the 255 bytes of a file name


@dataclass(frozen=True)
class PhotoFile:
    """One input photo file."""

    path: Path
    """The path as the user gave it."""
    folder: Path = Path()
    """Its folder relative to the folder that was searched; for a file or glob, its own folder."""
    name: str = ""
    """Name of its results' folder in the output folder."""
    shares_stem: bool = False
    """Whether another photo has the same stem, so that the stem does not identify the photo."""

    def input_stems(self) -> list[str]:
        """Names under which its landmarks, masks or box may be given, best first."""
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


def find_photos(arguments: Sequence[str], exclude: Path) -> tuple[list[PhotoFile], list[Failure]]:
    """Expand files, folders (recursively, by suffix) and globs, in the given order, sorted within each.

    Args:
        arguments: the paths that the user gave. A file is accepted with any suffix.
        exclude: the output folder, which is skipped when it is inside a searched folder.

    Returns:
        Photos without names, each file once, and a failure for each argument that matches no photo.
    """
    photos: dict[Path, PhotoFile] = {}
    failures = []
    for argument in arguments:
        matches, problems = _expand(argument, real_path(exclude))
        failures += problems
        for photo in matches:
            photos.setdefault(real_path(photo.path), photo)
    return list(photos.values()), failures


def _expand(argument: str, excluded: Path) -> tuple[list[PhotoFile], list[Failure]]:
    """Return the photos of one argument; if there are none, at least one failure."""
    path = expand_user(argument)
    problems: list[Failure] = []
    if os.path.isdir(path):  # noqa: PTH112 (`Path.is_dir` raises for names that are too long)
        if is_output(path):
            return [], [Failure(argument, "find", f"{OUTPUT_REASON} Give the folder of the photos.")]
        images, problems = _images_below(path, excluded)
        matches = [PhotoFile(image, image.parent.relative_to(path)) for image in images]
        reason = "no image files in this folder."
    elif os.path.lexists(path) or not has_magic(argument):
        if is_output_file(path):
            return [], [Failure(argument, "find", f"{OUTPUT_REASON} Give the photo itself.")]
        return [PhotoFile(path, path.parent)], []  # A missing file fails at loading, like any broken one.
    else:
        paths = sorted(Path(p) for p in glob(str(path), recursive=True) if not os.path.isdir(p))  # noqa: PTH112, PTH207
        photos = _without_outputs(paths, _searched_folder(path), excluded)
        matches = [PhotoFile(p, p.parent) for p in photos]
        reason = "all matching files are outputs of flamejax reconstruct." if paths else "no file matches."
    return matches, problems if matches or problems else [Failure(argument, "find", reason)]


def expand_user(path: str | os.PathLike) -> Path:
    """Return a path with ~ or ~NAME expanded; unchanged if there is no such home folder (pathlib would raise)."""
    return Path(os.path.expanduser(path))  # noqa: PTH111


def name_photos(photos: Sequence[PhotoFile], reserved: Collection[str] = ()) -> list[PhotoFile]:
    """Give each photo a unique folder name: its stem, unless another photo has the same stem.

    Photos that share a stem (ignoring case, as some file systems do) get the suffix, `portrait_png`. If that is not
    enough, they get the folder too, `holiday_portrait_png`. Names that are still shared, or `reserved`, get a number.
    The same photos in the same order get the same names.
    """
    stems = [safe_name(p.path.stem) for p in photos]
    with_suffix = [
        safe_name(f"{p.path.stem}_{p.path.suffix[1:].lower()}" if p.path.suffix else p.path.stem) for p in photos
    ]
    with_folder = [
        safe_name("_".join([*_folder_parts(p.folder), name])) for p, name in zip(photos, with_suffix, strict=True)
    ]
    names = stems
    for longer in (with_suffix, with_folder):
        shared = Counter(name.casefold() for name in names)
        names = [n if shared[n.casefold()] == 1 else m for n, m in zip(names, longer, strict=True)]
    used = {name.casefold() for name in reserved}
    stem_counts = Counter(stem.casefold() for stem in stems)
    named = []
    for photo, stem, name in zip(photos, stems, names, strict=True):
        unique = unused_name(name, used)
        used.add(unique.casefold())
        named.append(replace(photo, name=unique, shares_stem=stem_counts[stem.casefold()] > 1))
    return named


def face_name(photo: PhotoFile, face: int, reserved: Collection[str]) -> str:
    """Name the results' folder of one face: the photo's name for the largest face (0), then `NAME_face1` and so on.

    `reserved`, case-folded names of other photos, are avoided.
    """
    return photo.name if face == 0 else unused_name(f"{photo.name}_face{face}", reserved)


def unused_name(name: str, used: Collection[str]) -> str:
    """Returns `name`, or `name_2`, `name_3`, ... if its case-folded form is in use."""
    candidates: Iterator[str] = (name if i == 1 else f"{name}_{i}" for i in range(1, len(used) + 3))
    return next(c for c in candidates if c.casefold() not in used)


def safe_name(text: str) -> str:
    """Make a file name for any system: without separators, control characters, outer dots, and not too long."""
    name = text.encode("utf-8", "replace").decode()
    name = re.sub(r'[\x00-\x1f\x7f/\\:*?"<>|]', "_", name).rstrip(". ")
    if name.startswith("."):
        name = "_" + name.lstrip(".")
    if len(name.encode()) > MAX_NAME_BYTES:
        digest = hashlib.sha256(name.encode()).hexdigest()[:8]
        name = name.encode()[: MAX_NAME_BYTES - 9].decode(errors="ignore") + "_" + digest
    return name or "photo"


def _images_below(folder: Path, excluded: Path) -> tuple[list[Path], list[Failure]]:
    """List the image files in a folder and its subfolders, without hidden ones; and the folders that are unreadable."""
    images: list[Path] = []
    failures: list[Failure] = []

    def fail(error: OSError) -> None:
        failures.append(Failure(str(error.filename), "find", f"the folder cannot be read ({error.strerror})."))

    # Photos may lie inside an output folder (the demo's do): only folders below the searched one are left out.
    inside = excluded != real_path(folder)
    for root, folders, files in os.walk(folder, onerror=fail):
        below = (Path(root) / name for name in sorted(folders) if not name.startswith("."))
        folders[:] = [p.name for p in below if not (inside and real_path(p) == excluded) and not is_output(p)]
        images += [Path(root) / f for f in files if Path(f).suffix.lower() in IMAGE_SUFFIXES and not f.startswith(".")]
    return sorted(images), failures


def _searched_folder(pattern: Path) -> Path:
    """Return the longest part of a glob without wildcards."""
    return Path(*itertools.takewhile(lambda part: not has_magic(part), pattern.parts))


def _without_outputs(paths: Sequence[Path], folder: Path, excluded: Path) -> list[Path]:
    """Leave out files in output folders that are `folder` or below it; and in `excluded` if it is below it."""
    inside = excluded != real_path(folder)

    @functools.cache
    def is_left_out(parent: Path) -> bool:
        return is_output(parent) or (inside and real_path(parent) == excluded)

    def is_photo(path: Path) -> bool:
        below = itertools.takewhile(lambda parent: parent != folder, path.parents)
        return not any(is_left_out(parent) for parent in (*below, folder))

    return [path for path in paths if is_photo(path)]


def is_output(folder: Path) -> bool:
    """Return whether `flamejax reconstruct` wrote a folder: an output folder, a face's, or a subfolder of either."""
    # Only then: the import takes a second.
    if not any((each / name).exists() for each in (folder, folder.parent) for name in ("run.json", "metrics.json")):
        return False
    from flamejax.io import records

    return records.is_output(folder)


def is_output_file(path: Path) -> bool:
    """Return whether `flamejax reconstruct` wrote a file. The user's own files may lie beside it."""
    if not is_output(path.parent):
        return False
    from flamejax.io import records

    return records.is_output_file(path)


def real_path(path: Path) -> Path:
    """Return the absolute path without links. Unlike `Path.resolve`, raises nothing for a loop of links."""
    return Path(os.path.realpath(path))


def _folder_parts(folder: Path) -> list[str]:
    """Returns the folder names below the searched folder, or the last folder's name, to tell equal file names apart."""
    if folder.is_absolute() or ".." in folder.parts:
        return [folder.resolve().name]
    return [part for part in folder.parts if part != "."]
