"""The landmarks, masks and boxes that the user gives: which photos have some, their content, and their digests."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from experiments.command_line import flag
from experiments.photos import PhotoFile
from experiments.reconstruct.config import InputOptions
from experiments.results import UsageError, short_digest
from fitting.inputs import LANDMARK_SUFFIXES, MASK_SUFFIXES, InputError, find_landmarks, find_mask, load_boxes

Given = TypeVar("Given")


@dataclass(frozen=True)
class InputKind:
    """What one option gives for a photo."""

    option: str
    """Name of the option among `InputOptions`."""
    argument: str
    """Keyword argument of `observe_photo`."""
    noun: str
    otherwise: str
    """What is done for a photo for which the option gives nothing."""
    suffixes: tuple[str, ...] = ()
    """Suffixes of its files; none for an entry of a JSON file."""


KINDS = (
    InputKind("landmarks", "landmarks", "landmarks", "they are detected", LANDMARK_SUFFIXES),
    InputKind("masks", "occlusion_mask", "an occlusion mask", "it is estimated, as by --masks auto", MASK_SUFFIXES),
    InputKind("face_masks", "face_mask", "a face mask", "it is as without --face-masks", MASK_SUFFIXES),
    InputKind("boxes", "box", "a box", "the face is detected"),
)


class GivenInputs:
    """Looks up what the user gave for a photo.

    Args:
        options: their folders must exist (`ReconstructConfig.check_inputs`).

    Raises:
        UsageError: the file of boxes is malformed.
    """

    def __init__(self, options: InputOptions):
        self.options = options
        self.sources: dict[str, Path | None] = {
            "landmarks": options.landmarks,
            "masks": options.mask_folder,
            "face_masks": options.face_masks,
            "boxes": options.boxes,
        }
        try:
            self.boxes = {} if options.boxes is None else load_boxes(options.boxes)
        except InputError as error:
            raise UsageError(f"--boxes: {error}") from error

    def load(self, photo: PhotoFile, size: tuple[int, int]) -> dict[str, np.ndarray]:
        """Return the keyword arguments of `observe_photo` that are given for a photo of (height, width).

        Raises:
            InputError: a file is malformed, or its name could belong to several photos.
        """
        arguments: dict[str, np.ndarray] = {}
        for kind in KINDS:
            source = self.sources[kind.option]
            find: Callable[[str], np.ndarray | None] = self.boxes.get
            if source is None:
                continue
            if kind.option == "landmarks":
                find = partial(find_landmarks, source)
            elif kind.option != "boxes":
                find = partial(find_mask, source, size=size)
            value = _find_first(find, photo, flag(kind.option))
            if value is not None:
                arguments[kind.argument] = value
        return arguments

    def record(self, photo: PhotoFile) -> dict[str, Any]:
        """Return what each option gives for a photo: the first digits of a file's SHA-256, a box, or None.

        Without a file, the mask is 'auto' or 'none'. --resume compares these records.
        """
        record = {kind.option: self._find_source(kind, photo) for kind in KINDS}
        if record["masks"] is None:
            record["masks"] = "none" if self.options.masks == "none" else "auto"
        return record

    def check(self, photos: Sequence[PhotoFile]) -> list[str]:
        """Return a line for each option in use that gives nothing for some of the photos, which have names.

        Raises:
            UsageError: an option gives nothing for any of the photos.
        """
        lines = []
        for kind in KINDS:
            source = self.sources[kind.option]
            if source is None:
                continue
            count = sum(self._find_source(kind, photo) is not None for photo in photos)
            name = photos[0].name
            if not count and kind.suffixes:
                expected = f"{name}{kind.suffixes[0]} (or {', '.join(kind.suffixes[1:])})"
                raise UsageError(f"{flag(kind.option)} {source}: no file is named after a photo, such as {expected}.")
            if not count:
                raise UsageError(f"{flag(kind.option)} {source}: no entry is named after a photo, such as {name!r}.")
            if count < len(photos):
                lines.append(
                    f"{count} of {len(photos)} photos {'has' if count == 1 else 'have'} {kind.noun} in {source}. "
                    f"For the other {len(photos) - count}, {kind.otherwise}."
                )
        return lines

    def _find_source(self, kind: InputKind, photo: PhotoFile) -> Any:
        """Return the digest of a photo's file or its box as a list; None if there is none."""
        # Also the stem that several photos share: `load` refuses it for each of them.
        stems = [*photo.input_stems(), photo.path.stem]
        if kind.option == "boxes":
            return next((self.boxes[stem].tolist() for stem in stems if stem in self.boxes), None)
        folder = self.sources[kind.option]
        if folder is None:
            return None
        paths = (folder / f"{stem}{suffix}" for stem in stems for suffix in kind.suffixes)
        return next((short_digest(path) for path in paths if path.is_file()), None)


def _find_first(find: Callable[[str], Given | None], photo: PhotoFile, flag: str) -> Given | None:
    """Return the first result of `find` for the photo's names that is not None; None if there is none.

    Raises:
        InputError: there is one only for the plain stem, which several photos share.
    """
    for stem in photo.input_stems():
        if (given := find(stem)) is not None:
            return given
    if photo.shares_stem and find(photo.path.stem) is not None:
        stem = photo.path.stem
        raise InputError(f"{flag}: several photos are called {stem!r}; use {photo.name!r} for {photo.path.name}.")
    return None
