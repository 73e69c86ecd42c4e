"""The benchmark on disk: an index, and a folder for each frame, which appears only when it is complete.

OUTPUT/index.json                                          settings, and the frames in order when all are made
OUTPUT/<subject>-<expression>/photo.png, occluded.png      256 x 256
OUTPUT/<subject>-<expression>/mask.png                     white = occluder
OUTPUT/<subject>-<expression>/case.npz                     vertices, front, unoccluded, landmarks, camera
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from experiments.cache import read_arrays, write_arrays
from experiments.datasets.observations import evenly_spaced_indices
from experiments.datasets.occluded_frames.pictures import FrameImages
from experiments.datasets.occluded_frames.sequences import SequenceFrame
from experiments.datasets.open_faces.photos import encode_png
from experiments.datasets.open_faces.scenes import make_camera
from flamejax.camera import PerspectiveCamera
from flamejax.files import new_folder, write_text
from flamejax.io.images import ImageError, load_image, load_mask

INDEX = "index.json"
ARRAYS = ("vertices", "front", "unoccluded", "landmarks", "focal", "centre", "T_camera_world")


@dataclass(frozen=True)
class OccludedFrame:
    """One frame of the benchmark; numpy, V vertices, S = 256."""

    name: str
    subject: str
    expression: str
    occluder: str
    """hand, face-mask or object."""
    photo: np.ndarray
    """(S, S, 3) float32 in [0, 1]."""
    occluded: np.ndarray
    """(S, S, 3) float32 in [0, 1]."""
    mask: np.ndarray
    """(S, S) float32, 1 = occluder."""
    vertices: np.ndarray
    """(V, 3) float32 metres, head frame: ground truth."""
    front: np.ndarray
    """(V,) bool: facial vertices that are visible in the clean photo; V_front in OFER."""
    unoccluded: np.ndarray
    """(V,) bool: those that are visible in the occluded photo too; V_unocc in OFER."""
    landmarks: np.ndarray
    """(68, 2) exact, pixels, visible or not."""
    camera: PerspectiveCamera
    """World is the head frame."""


def is_made(folder: Path, frame: SequenceFrame) -> bool:
    """Returns whether the frame's folder is there, complete."""
    return (folder / frame.name / "case.npz").is_file()


def write_frame(folder: Path, frame: SequenceFrame, images: FrameImages) -> None:
    """Write the folder of a frame.

    Raises:
      OSError: it cannot be written.
    """
    arrays = {
        "vertices": frame.vertices, "front": images.front, "unoccluded": images.unoccluded,
        "landmarks": images.landmarks, "occluder": np.array(images.occluder),
    }  # fmt: skip
    arrays |= {name: np.asarray(getattr(images.camera, name)) for name in ("focal", "centre", "T_camera_world")}
    with new_folder(folder / frame.name) as temporary:
        for name in ("photo", "occluded", "mask"):
            (temporary / f"{name}.png").write_bytes(encode_png(getattr(images, name)).tobytes())
        write_arrays(temporary / "case.npz", arrays)


def begin(folder: Path, settings: Mapping[str, Any]) -> None:
    """Make the benchmark's folder, or continue one that was started with the same settings.

    Raises:
      ValueError: it contains another benchmark, or other files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / INDEX).exists():
        previous = _read_index(folder)["settings"]
        if previous != dict(settings):
            changed = ", ".join(n for n in sorted({*previous, *settings}) if previous.get(n) != settings.get(n))
            raise ValueError(f"{folder}: was begun with other settings ({changed}). Choose another folder.")
    elif any(folder.iterdir()):
        raise ValueError(f"{folder}: is not empty, and holds no benchmark of this kind. Choose another folder.")
    _write_index(folder, settings, None)


def finish(folder: Path, settings: Mapping[str, Any], frames: list[SequenceFrame]) -> None:
    """Write the index of all frames, in order. Raises: ValueError, a frame is damaged."""
    rows = []
    for frame in frames:
        arrays = _load_arrays(folder, frame.name)
        counts = {"front": int(arrays["front"].sum()), "unoccluded": int(arrays["unoccluded"].sum())}
        names = {"name": frame.name, "subject": frame.subject, "expression": frame.expression}
        rows.append(names | {"occluder": str(arrays["occluder"])} | counts)
    _write_index(folder, settings, rows)


def read_frames(folder: Path, limit: int | None = None) -> Iterator[OccludedFrame]:
    """Yield the frames of a benchmark in the index's order; `limit` of them, evenly spaced.

    Raises:
      ValueError: no benchmark or an unfinished one (raised at the call), or a damaged frame.
    """
    rows = _read_index(Path(folder))["frames"]
    if rows is None:
        raise ValueError(f"{folder}: is not finished. Run the command that made it again; it continues there.")
    return (_read_frame(Path(folder), rows[k]) for k in evenly_spaced_indices(len(rows), limit))


def benchmark_head(folder: Path) -> tuple[str, str]:
    """Returns the name and geometry hash of a benchmark's head model. Raises: ValueError, no benchmark."""
    settings = _read_index(Path(folder))["settings"]
    return settings["head"], settings["head_hash"]


def _read_frame(folder: Path, row: dict[str, Any]) -> OccludedFrame:
    arrays, frame_folder = _load_arrays(folder, row["name"]), folder / row["name"]
    try:
        photo, occluded = (load_image(frame_folder / f"{name}.png") for name in ("photo", "occluded"))
        mask = load_mask(frame_folder / "mask.png")
    except (ImageError, OSError) as error:
        raise ValueError(f"{frame_folder}: a damaged case ({error}). Delete its folder and make it again.") from error
    return OccludedFrame(
        row["name"], row["subject"], row["expression"], row["occluder"], photo, occluded, mask,
        arrays["vertices"], arrays["front"], arrays["unoccluded"], arrays["landmarks"],
        make_camera(float(arrays["focal"]), arrays["centre"], arrays["T_camera_world"]),
    )  # fmt: skip


def _load_arrays(folder: Path, name: str) -> dict[str, np.ndarray]:
    arrays = read_arrays(folder / name / "case.npz")
    if arrays is None or not {*ARRAYS, "occluder"} <= arrays.keys():
        raise ValueError(f"{folder / name}: a damaged case. Delete its folder and make it again.")
    return arrays


def _read_index(folder: Path) -> dict[str, Any]:
    try:
        index = json.loads((folder / INDEX).read_text())
        return {"settings": index["settings"], "frames": index["frames"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{folder}: holds no readable {INDEX} of occluded frames ({error}).") from error


def _write_index(folder: Path, settings: Mapping[str, Any], frames: list[dict[str, Any]] | None) -> None:
    write_text(folder / INDEX, json.dumps({"settings": dict(settings), "frames": frames}, indent=1) + "\n")
