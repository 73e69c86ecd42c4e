"""Reading of Wavefront OBJ meshes that may be damaged."""

import dataclasses
from pathlib import Path

import numpy as np

from flamejax.head.formats.files import HeadFileError, check_numbers
from flamejax.head.formats.npy_files import read_bytes

MAX_CORNERS = 64
"""Most corners of a polygon: more mean a damaged line."""


@dataclasses.dataclass(frozen=True)
class ObjMesh:
    """A mesh whose polygons are triangulated as fans."""

    vertices: np.ndarray
    """(V, 3) float64, in the file's units."""
    faces: np.ndarray
    """(F, 3) int32."""
    uv: np.ndarray
    """(Vt, 2) float64; empty if the file has none."""
    uv_faces: np.ndarray
    """(F, 3) int32 into `uv`; empty if the file has none."""


def read_obj(path: Path) -> ObjMesh:
    """Read vertices, texture coordinates and polygons.

    Raises:
      HeadFileError: the file is missing or no mesh, or has numbers that are not finite or indices out of range.
    """
    lines = read_bytes(path).split(b"\n")
    vertices, uv = _parse_rows(lines, b"v ", 3, path), _parse_rows(lines, b"vt ", 2, path)
    corners: list[tuple[int, int, int]] = []
    uv_corners: list[tuple[int, int, int]] = []
    try:
        for line in lines:
            if line.startswith(b"f "):
                parts = [part.split(b"/") for part in line[2:].split()]
                if not 3 <= len(parts) <= MAX_CORNERS:
                    raise ValueError(f"a polygon of {len(parts)} corners")
                ids = [int(part[0]) for part in parts]
                corners += [(ids[0], ids[i], ids[i + 1]) for i in range(1, len(ids) - 1)]
                if all(len(part) > 1 and part[1] for part in parts):
                    ids = [int(part[1]) for part in parts]
                    uv_corners += [(ids[0], ids[i], ids[i + 1]) for i in range(1, len(ids) - 1)]
        faces = _zero_based(corners, len(vertices))
        uv_faces = _zero_based(uv_corners, len(uv))
    except (ValueError, OverflowError) as error:
        raise HeadFileError(
            f"{path}: its polygons cannot be read ({str(error)[:200]}). Fetch the file again."
        ) from error
    if not len(faces):
        raise HeadFileError(f"{path}: no OBJ mesh: it has no polygons. Fetch the file again.")
    if len(uv_faces) not in (0, len(faces)):
        raise HeadFileError(f"{path}: some of its polygons lack texture coordinates. Fetch the file again.")
    return ObjMesh(vertices, faces, uv, uv_faces)


def read_obj_vertices(path: Path, count: int) -> np.ndarray:
    """Read the vertices (count, 3) of a mesh, float64; polygons are skipped.

    Raises:
      HeadFileError: the file is missing or damaged, or has another number of vertices.
    """
    data = read_bytes(path)
    # Most of the file is polygons, which come after the vertices.
    data = data[: max(data.find(b"\n", data.rfind(b"\nv ") + 1), 0) or len(data)]
    vertices = _parse_rows(data.split(b"\n"), b"v ", 3, path)
    if len(vertices) != count:
        raise HeadFileError(f"{path}: has {len(vertices)} vertices, but the neutral mesh has {count}.")
    return vertices


def _parse_rows(lines: list[bytes], start: bytes, width: int, path: Path) -> np.ndarray:
    """Parse lines that begin with `start` to (n, width). Further numbers in a line (weights, colours) are ignored."""
    rows = [line[len(start) :].split()[:width] for line in lines if line.startswith(start)]
    try:
        array = np.array([[float(number) for number in row] for row in rows], np.float64).reshape(len(rows), width)
    except ValueError as error:
        raise HeadFileError(f"{path}: has a damaged '{start.decode().strip()}' line. Fetch it again.") from error
    check_numbers(array, str(path))
    return array


def _zero_based(corners: list[tuple[int, int, int]], count: int) -> np.ndarray:
    """Convert OBJ indices, which count from 1, or from the end if negative."""
    array = np.array(corners, np.int64).reshape(-1, 3)
    array = np.where(array < 0, array + count, array - 1)
    if array.size and not (array.min() >= 0 and array.max() < count):
        raise ValueError(f"corners have indices outside of {count} points")
    return array.astype(np.int32)
