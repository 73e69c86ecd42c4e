"""A tensorflow-datasets builder of the photos and meshes: ArrayRecord files, written and read without TensorFlow."""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from experiments.datasets.open_faces import store
from experiments.datasets.open_faces.expressions import EXPRESSIONS
from experiments.datasets.open_faces.photos import occluder_kind
from experiments.datasets.open_faces.scenes import SIZE
from experiments.datasets.open_faces.subjects import CONFIGS, SPLITS, VERSION, ConfigName, subjects
from experiments.progress import progress_counter

IMAGES = ("image", "occluded")
MASKS = ("occlusion_mask", "face_mask", "face_mask_occluded")
VISIBLE = ("vertices_visible", "landmarks_visible", "dense_visible")
NUMBERS: dict[str, tuple[int, ...]] = {
    "landmarks": (68, 2), "dense_landmarks": (468, 2), "focal": (), "centre": (2,), "T_camera_world": (4, 4),
    "light": (9, 3), "lamp_direction": (3,), "lamp_colour": (3,), "texture": (24,), "joint_rotations": (5, 3),
}  # fmt: skip
VERTICES = 5544
DESCRIPTION = "Registered heads of 300 made-up people x 12 expressions, with photos, occluders and masks. CC0 sources."


class OpenFaces(tfds.core.GeneratorBasedBuilder):
    """Packs the files of `store`: one example per scan, in the order of `store.scan_list`."""

    VERSION = tfds.core.Version(VERSION)
    BUILDER_CONFIGS = [  # noqa: RUF012
        tfds.core.BuilderConfig(name=name, description=f"{DESCRIPTION} Part: {name}.") for name in CONFIGS
    ]
    on_example: Callable[[], object] = staticmethod(lambda: None)
    """Called after each example, for progress."""

    def _info(self) -> tfds.core.DatasetInfo:
        counts = {"vertices_visible": VERTICES, "landmarks_visible": 68, "dense_visible": 468}
        features: dict[str, Any] = {
            "key": tfds.features.Text(),
            "subject": tfds.features.Scalar(np.int32),
            "expression": tfds.features.ClassLabel(names=EXPRESSIONS),
            "occluder": tfds.features.Text(),
            "vertices": tfds.features.Tensor(shape=(VERTICES, 3), dtype=np.float32),
            "unposed": tfds.features.Tensor(shape=(VERTICES, 3), dtype=np.float32),
        }
        features |= {n: tfds.features.Image(shape=(SIZE, SIZE, 3), encoding_format="png") for n in IMAGES}
        features |= {n: tfds.features.Image(shape=(SIZE, SIZE, 1), encoding_format="png") for n in MASKS}
        features |= {n: tfds.features.Tensor(shape=shape, dtype=np.float32) for n, shape in NUMBERS.items()}
        for name, count in counts.items():
            for state in ("", "_occluded"):
                features[name + state] = tfds.features.Tensor(shape=(count,), dtype=np.uint8)
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(features), description=DESCRIPTION, disable_shuffling=True
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[int, dict[str, Any]]]]:
        config = self.builder_config.name
        return {split: self._generate_examples(split) for split in SPLITS if subjects(config, split)}

    def _generate_examples(self, split: str) -> Iterator[tuple[int, dict[str, Any]]]:
        for k, (subject, expression) in enumerate(store.scan_list(self.builder_config.name, split)):
            yield k, _example(subject, expression)
            type(self).on_example()


def _example(subject: int, expression: int) -> dict[str, Any]:
    scans = store.read_scans(store.scans_path(subject))
    photo: dict[str, Any] = store.read_photo(store.photo_path(subject, expression))
    photo |= {n: io.BytesIO(photo[n].tobytes()) for n in (*IMAGES, *MASKS)}
    photo |= {n + state: photo[n + state].astype(np.uint8) for n in VISIBLE for state in ("", "_occluded")}
    return photo | {
        "key": store.key(subject, expression),
        "subject": subject,
        "expression": expression,
        "occluder": occluder_kind(subject, expression),
        "vertices": np.array(scans.vertices[expression]),
        "unposed": np.array(scans.unposed[expression]),
        "joint_rotations": np.array(scans.joint_rotations[expression]),
    }


def builder(config: ConfigName) -> OpenFaces:
    """Returns the builder of a config; its files are below `store.folder()`."""
    logging.getLogger("absl").addFilter(_is_relevant)
    return OpenFaces(config=config, data_dir=folder(), file_format="array_record")


def _is_relevant(record: logging.LogRecord) -> bool:
    """Returns False for the hint that OpenCV is faster than Pillow, which every process would print."""
    return "OpenCV" not in record.getMessage()


def folder() -> Path:
    return store.folder() / "tfds"


def is_packed(config: ConfigName) -> bool:
    """Returns whether all files of a config are there; tensorflow-datasets renames their folder at the end."""
    return (folder() / "open_faces" / config / VERSION / "dataset_info.json").exists()


def pack(config: ConfigName) -> None:
    """Write the ArrayRecord files of a config, with a progress bar; all scans and photos must exist."""
    tfds.disable_progress_bar()
    count = sum(len(store.scan_list(config, split)) for split in SPLITS)
    with progress_counter(f"open faces '{config}': packing", count) as advance:
        OpenFaces.on_example = staticmethod(advance)
        try:
            with contextlib.redirect_stdout(io.StringIO()):  # hides its messages about downloads
                builder(config).download_and_prepare()
        finally:
            OpenFaces.on_example = staticmethod(lambda: None)
