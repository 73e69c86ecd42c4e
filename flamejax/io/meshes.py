"""Writing of textured meshes: OBJ + MTL + PNG, GLB and PLY.

A head has more texture coordinates than vertices (a vertex on a UV seam has one per side), with triangles of their own.
OBJ stores both. glTF has one index per vertex, so a seam vertex is written once per side. PLY gets the unsplit vertices
with one colour each.
"""

from __future__ import annotations

import io
import os
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import trimesh
from PIL import Image
from trimesh.visual import ColorVisuals, TextureVisuals
from trimesh.visual.material import PBRMaterial

from flamejax.files import write_bytes, write_group


@dataclass(frozen=True)
class TexturedMesh:
    """A triangle mesh with an optional texture. JAX arrays are converted to NumPy arrays."""

    vertices: np.ndarray
    """(V, 3) metres, +y up."""
    faces: np.ndarray
    """(F, 3) int, counter-clockwise seen from outside."""
    uv: np.ndarray | None = None
    """(Vt, 2) v up: image row = (1 - v) Ht."""
    uv_faces: np.ndarray | None = None
    """(F, 3) int into `uv`, aligned with `faces`."""
    texture: np.ndarray | None = None
    """(Ht, Wt, 3) display-encoded (sRGB) colours; floats in [0, 1] are clipped, or uint8."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value is not None:
                object.__setattr__(self, name, np.asarray(value))
        if self.vertices.ndim != 2 or self.vertices.shape[1] != 3:
            raise ValueError(f"vertices of shape (V, 3) are needed, not {self.vertices.shape}.")
        if not np.isfinite(self.vertices).all():
            raise ValueError("the vertices contain NaN or infinite values.")
        _check_indices("faces", self.faces, len(self.vertices))
        if (self.uv is None) != (self.uv_faces is None):
            raise ValueError("uv and uv_faces are given together or not at all.")
        if self.uv is not None and self.uv_faces is not None:
            _check_indices("uv_faces", self.uv_faces, len(self.uv))
            if self.uv_faces.shape != self.faces.shape:
                raise ValueError(f"{len(self.uv_faces)} uv_faces for {len(self.faces)} faces.")
        if self.texture is not None and self.uv is None:
            raise ValueError("a texture needs uv and uv_faces.")


def vertex_normals(mesh: TexturedMesh) -> np.ndarray:
    """Returns unit vertex normals (V, 3), averaged over adjacent triangles; both sides of a UV seam share one."""
    return np.asarray(trimesh.Trimesh(mesh.vertices, mesh.faces, process=False).vertex_normals)


def split_seams(mesh: TexturedMesh) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Index the distinct (vertex, texture coordinate) pairs of triangle corners.

    Returns:
        source: (N,) int, the vertex of each split vertex; N >= V when all are used.
        uv_source: (N,) int, its texture coordinate.
        faces: (F, 3) int into both.

    Raises:
        ValueError: the mesh has no texture coordinates.
    """
    if mesh.uv is None or mesh.uv_faces is None:
        raise ValueError("the mesh has no texture coordinates, so no seams.")
    # One integer per pair: np.unique sorts those far faster than rows.
    key = mesh.faces.astype(np.int64) * len(mesh.uv) + mesh.uv_faces
    pairs, faces = np.unique(key, return_inverse=True)
    return pairs // len(mesh.uv), pairs % len(mesh.uv), faces.reshape(mesh.faces.shape)


def write_obj(path: str | os.PathLike, mesh: TexturedMesh) -> None:
    """Write `NAME.obj` and, with a texture, `NAME.mtl` and `NAME.png` beside it. Vertices keep their order and number.

    Raises:
        OSError: the files cannot be written; none is changed then.
    """
    path = Path(path)
    # Many readers split `mtllib a b.mtl` at the space.
    stem = re.sub(r"\s+", "_", path.stem)
    contents: dict[Path, bytes] = {}
    header = ["# metres, +y up, the face looks to +z"]
    if mesh.texture is not None:
        contents[path.with_name(f"{stem}.png")] = _png(mesh.texture)
        contents[path.with_name(f"{stem}.mtl")] = _mtl(f"{stem}.png").encode()
        header += [f"mtllib {stem}.mtl", "usemtl head"]
    contents[path] = "\n".join([*header, *_obj_lines(mesh), ""]).encode()
    write_group(contents)


def write_glb(path: str | os.PathLike, mesh: TexturedMesh) -> None:
    """Write a binary glTF 2.0 with the texture inside; vertices on UV seams are duplicated (see `split_seams`).

    Raises:
        OSError: the file cannot be written.
    """
    write_bytes(path, glb_bytes(mesh))


def glb_bytes(mesh: TexturedMesh) -> bytes:
    """Encode a mesh as binary glTF 2.0, see `write_glb`."""
    normals = vertex_normals(mesh)
    if mesh.uv is None:
        converted = trimesh.Trimesh(mesh.vertices, mesh.faces, vertex_normals=normals, process=False)
    else:
        source, uv_source, faces = split_seams(mesh)
        image = None if mesh.texture is None else Image.fromarray(_to_uint8(mesh.texture))
        material = PBRMaterial(name="head", baseColorTexture=image, metallicFactor=0.0, roughnessFactor=0.7)
        converted = trimesh.Trimesh(
            mesh.vertices[source],
            faces,
            vertex_normals=normals[source],
            visual=TextureVisuals(uv=mesh.uv[uv_source], material=material),
            process=False,
        )
    return trimesh.exchange.gltf.export_glb(trimesh.Scene(converted), include_normals=True)


def write_ply(path: str | os.PathLike, mesh: TexturedMesh) -> None:
    """Write a binary PLY with normals and, with a texture, one colour per vertex. Vertices keep their order and number.

    Raises:
        OSError: the file cannot be written.
    """
    colours = vertex_colours(mesh)
    converted = trimesh.Trimesh(
        mesh.vertices,
        mesh.faces,
        vertex_normals=vertex_normals(mesh),
        visual=None if colours is None else ColorVisuals(vertex_colors=colours),
        process=False,
    )
    write_bytes(path, trimesh.exchange.ply.export_ply(converted, encoding="binary", vertex_normal=True))


def vertex_colours(mesh: TexturedMesh) -> np.ndarray | None:
    """Returns (V, 3) uint8: the texel at one UV coordinate of each vertex (black if unused). None without texture."""
    if mesh.texture is None or mesh.uv is None or mesh.uv_faces is None:
        return None
    texture = _to_uint8(mesh.texture)
    height, width = texture.shape[:2]
    column = np.clip(mesh.uv[:, 0] * width, 0, width - 1).astype(int)
    row = np.clip((1.0 - mesh.uv[:, 1]) * height, 0, height - 1).astype(int)
    colours = np.zeros((len(mesh.vertices), 3), np.uint8)
    colours[mesh.faces] = texture[row, column][mesh.uv_faces]
    return colours


def _check_indices(name: str, faces: np.ndarray, count: int) -> None:
    if faces.ndim != 2 or faces.shape[1] != 3 or faces.dtype.kind not in "iu":
        raise ValueError(f"{name} must be integers of shape (F, 3), not {faces.dtype} of shape {faces.shape}.")
    if faces.size and (faces.min() < 0 or faces.max() >= count):
        raise ValueError(f"{name} run from {faces.min()} to {faces.max()}, but there are {count} entries.")


def _obj_lines(mesh: TexturedMesh) -> list[str]:
    lines = ["v %.7f %.7f %.7f" % tuple(v) for v in mesh.vertices.tolist()]
    lines += ["vn %.5f %.5f %.5f" % tuple(n) for n in vertex_normals(mesh).tolist()]
    corner = mesh.faces + 1  # OBJ counts from one.
    if mesh.uv is None or mesh.uv_faces is None:
        return lines + ["f %d//%d %d//%d %d//%d" % tuple(c) for c in np.repeat(corner, 2, axis=1).tolist()]
    lines += ["vt %.7f %.7f" % tuple(t) for t in mesh.uv.tolist()]
    corners = np.stack([corner, mesh.uv_faces + 1, corner], axis=-1).reshape(-1, 9)
    return lines + ["f %d/%d/%d %d/%d/%d %d/%d/%d" % tuple(c) for c in corners.tolist()]


def _mtl(texture_name: str) -> str:
    return f"newmtl head\nKa 0 0 0\nKd 1 1 1\nKs 0 0 0\nillum 1\nmap_Kd {texture_name}\n"


def _png(texture: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(_to_uint8(texture)).save(buffer, format="PNG")
    return buffer.getvalue()


def _to_uint8(texture: np.ndarray) -> np.ndarray:
    """Convert a texture (Ht, Wt, 3) to uint8; floats are clipped to [0, 1], and NaN becomes 0."""
    if texture.dtype == np.uint8:
        return texture
    return np.round(np.clip(np.nan_to_num(texture.astype(np.float32)), 0.0, 1.0) * 255.0).astype(np.uint8)
