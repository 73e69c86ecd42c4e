"""The benchmark on disk: a folder for each frame, written whole or not at all, and an index.

OUTPUT/index.json                                          settings, and the frames in order once all are made
OUTPUT/<subject>-<expression>/photo.png, occluded.png      256 x 256
OUTPUT/<subject>-<expression>/mask.png                     white = the occluder
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
from experiments.datasets.observations import spread_out
from experiments.datasets.occluded_frames.pictures import Picture
from experiments.datasets.occluded_frames.sequences import Frame
from experiments.datasets.open_faces.photos import png
from experiments.datasets.open_faces.scenes import camera_of
from flamejax.camera import PerspectiveCamera
from flamejax.files import new_folder, write_text
from flamejax.io.images import ImageError, load_image, load_mask

INDEX = "index.json"
ARRAYS = ("vertices", "front", "unoccluded", "landmarks", "focal", "centre", "T_camera_world")


@dataclass(frozen=True)
class OccludedFrame:
    """One case of the benchmark; numpy, V vertices, S = 256."""

    name: str
    subject: str
    expression: str
    occluder: str
    """hand, face-mask or object."""
    photo: np.ndarray
    """(S, S, 3) float32 in [0, 1], as the next."""
    occluded: np.ndarray
    mask: np.ndarray
    """(S, S) float32, 1 = the occluder."""
    vertices: np.ndarray
    """(V, 3) float32 metres, head frame: the truth."""
    front: np.ndarray
    """(V,) bool: facial vertices that the clean photo shows; V_front in OFER."""
    unoccluded: np.ndarray
    """(V,) bool: of these the ones that the occluded photo shows; V_unocc in OFER."""
    landmarks: np.ndarray
    """(68, 2) exact, pixels, in front or not."""
    camera: PerspectiveCamera
    """World is the head frame."""


def is_made(folder: Path, frame: Frame) -> bool:
    """Whether a frame lies there, whole."""
    return (folder / frame.name / "case.npz").is_file()


def write_frame(folder: Path, frame: Frame, picture: Picture) -> None:
    """Write a frame's folder.

    Raises:
      OSError: it cannot be written.
    """
    arrays = {
        "vertices": frame.vertices, "front": picture.front, "unoccluded": picture.unoccluded,
        "landmarks": picture.landmarks, "occluder": np.array(picture.occluder),
    }  # fmt: skip
    arrays |= {name: np.asarray(getattr(picture.camera, name)) for name in ("focal", "centre", "T_camera_world")}
    with new_folder(folder / frame.name) as made:
        for name in ("photo", "occluded", "mask"):
            (made / f"{name}.png").write_bytes(png(getattr(picture, name)).tobytes())
        write_arrays(made / "case.npz", arrays)


def begin(folder: Path, settings: Mapping[str, Any]) -> None:
    """Make the benchmark's folder, or go on with one that was begun by the same settings.

    Raises:
      ValueError: it holds another benchmark, or something else.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / INDEX).exists():
        begun = _index(folder)["settings"]
        if begun != dict(settings):
            changed = ", ".join(n for n in sorted({*begun, *settings}) if begun.get(n) != settings.get(n))
            raise ValueError(f"{folder}: was begun with other settings ({changed}). Choose another folder.")
    elif any(folder.iterdir()):
        raise ValueError(f"{folder}: is not empty, and holds no benchmark of this kind. Choose another folder.")
    _write_index(folder, settings, None)


def finish(folder: Path, settings: Mapping[str, Any], frames: list[Frame]) -> None:
    """Write the index of all frames, in order. Raises: ValueError, a frame is damaged."""
    rows = []
    for frame in frames:
        arrays = _case(folder, frame.name)
        counts = {"front": int(arrays["front"].sum()), "unoccluded": int(arrays["unoccluded"].sum())}
        names = {"name": frame.name, "subject": frame.subject, "expression": frame.expression}
        rows.append(names | {"occluder": str(arrays["occluder"])} | counts)
    _write_index(folder, settings, rows)


def read_frames(folder: Path, limit: int | None = None) -> Iterator[OccludedFrame]:
    """The cases of a benchmark, one after the other, in the index's order; `limit` of them, evenly spaced.

    Raises:
      ValueError: no benchmark, one that is not finished (at once), or a damaged case.
    """
    rows = _index(Path(folder))["frames"]
    if rows is None:
        raise ValueError(f"{folder}: is not finished. Run the command that made it again; it goes on where it was.")
    return (_read_frame(Path(folder), rows[k]) for k in spread_out(len(rows), limit))


def head_of(folder: Path) -> tuple[str, str]:
    """Name and geometry hash of the head that a benchmark's frames are of. Raises: ValueError, no benchmark."""
    settings = _index(Path(folder))["settings"]
    return settings["head"], settings["head_hash"]


def _read_frame(folder: Path, row: dict[str, Any]) -> OccludedFrame:
    arrays, place = _case(folder, row["name"]), folder / row["name"]
    try:
        photo, occluded = (load_image(place / f"{name}.png") for name in ("photo", "occluded"))
        mask = load_mask(place / "mask.png")
    except (ImageError, OSError) as error:
        raise ValueError(f"{place}: a damaged case ({error}). Delete its folder and make it again.") from error
    return OccludedFrame(
        row["name"], row["subject"], row["expression"], row["occluder"], photo, occluded, mask,
        arrays["vertices"], arrays["front"], arrays["unoccluded"], arrays["landmarks"],
        camera_of(float(arrays["focal"]), arrays["centre"], arrays["T_camera_world"]),
    )  # fmt: skip


def _case(folder: Path, name: str) -> dict[str, np.ndarray]:
    arrays = read_arrays(folder / name / "case.npz")
    if arrays is None or not {*ARRAYS, "occluder"} <= arrays.keys():
        raise ValueError(f"{folder / name}: a damaged case. Delete its folder and make it again.")
    return arrays


def _index(folder: Path) -> dict[str, Any]:
    try:
        found = json.loads((folder / INDEX).read_text())
        return {"settings": found["settings"], "frames": found["frames"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{folder}: holds no readable {INDEX} of occluded frames ({error}).") from error


def _write_index(folder: Path, settings: Mapping[str, Any], frames: list[dict[str, Any]] | None) -> None:
    write_text(folder / INDEX, json.dumps({"settings": dict(settings), "frames": frames}, indent=1) + "\n")
