"""Tests of writing meshes, which trimesh reads back."""

import json
import struct
import warnings

import jax.numpy as jnp
import numpy as np
import pytest
import trimesh
from PIL import Image

from flamejax.io import meshes


@pytest.fixture
def cube() -> meshes.TexturedMesh:
    """A cube whose six sides have separate texture squares: every vertex lies on a UV seam."""
    box = trimesh.creation.box(extents=(0.2, 0.3, 0.1))
    order = np.lexsort(np.round(box.face_normals).T)  # the two triangles of a side follow each other
    quads = box.faces[order].reshape(6, 2, 3)
    uv, uv_faces = [], np.zeros_like(box.faces)
    for side, quad in enumerate(quads):
        corners = np.unique(quad)
        for row in range(2):
            for column in range(3):
                index = int(np.flatnonzero(corners == quad[row, column])[0])
                uv_faces[order[2 * side + row], column] = 4 * side + index
        for index in range(4):
            uv.append(((side + 0.1 + 0.8 * (index % 2)) / 6, 0.1 + 0.6 * (index // 2)))
    texture = np.zeros((12, 60, 3), np.float32)
    for side in range(6):
        texture[:, 10 * side : 10 * side + 10] = (side / 5, 1 - side / 5, 0.5)
    return meshes.TexturedMesh(np.asarray(box.vertices), np.asarray(box.faces), np.array(uv), uv_faces, texture)


def corner_uv(mesh: meshes.TexturedMesh) -> np.ndarray:
    return mesh.uv[mesh.uv_faces]


def read_obj(path) -> dict[str, np.ndarray]:
    """The raw numbers of an OBJ, read independently of the writer."""
    rows: dict[str, list] = {"v": [], "vt": [], "vn": [], "f": []}
    for line in path.read_text().splitlines():
        kind, *values = line.split()
        if kind == "f":
            rows["f"].append([[int(i) for i in corner.split("/")] for corner in values])
        elif kind in rows:
            rows[kind].append([float(value) for value in values])
    return {kind: np.array(values) for kind, values in rows.items()}


def glb_accessors(data: bytes) -> dict[str, np.ndarray]:
    """Attributes of the only primitive as stored, without any reader's conventions."""
    length = struct.unpack_from("<I", data, 12)[0]
    tree = json.loads(data[20 : 20 + length])
    binary = data[20 + length + 8 :]
    (primitive,) = tree["meshes"][0]["primitives"]
    widths = {"SCALAR": 1, "VEC2": 2, "VEC3": 3}
    types = {5126: np.float32, 5125: np.uint32, 5123: np.uint16}
    out = {}
    for name, index in {**primitive["attributes"], "indices": primitive["indices"]}.items():
        accessor = tree["accessors"][index]
        view = tree["bufferViews"][accessor["bufferView"]]
        start = view.get("byteOffset", 0) + accessor.get("byteOffset", 0)
        count = accessor["count"] * widths[accessor["type"]]
        values = np.frombuffer(binary, types[accessor["componentType"]], count, start)
        out[name] = values.reshape(accessor["count"], -1)
    return out


def test_obj_keeps_vertices_and_separate_texture_indices(cube, tmp_path):
    meshes.write_obj(tmp_path / "mesh.obj", cube)
    raw = read_obj(tmp_path / "mesh.obj")
    np.testing.assert_allclose(raw["v"], cube.vertices, atol=1e-7)
    np.testing.assert_allclose(raw["vt"], cube.uv, atol=1e-7)
    np.testing.assert_array_equal(raw["f"][..., 0] - 1, cube.faces)
    np.testing.assert_array_equal(raw["f"][..., 1] - 1, cube.uv_faces)
    np.testing.assert_allclose(np.linalg.norm(raw["vn"], axis=1), 1, atol=1e-4)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mesh.mtl", "mesh.obj", "mesh.png"]
    with Image.open(tmp_path / "mesh.png") as png:
        np.testing.assert_allclose(np.asarray(png) / 255, cube.texture, atol=1 / 255)


@pytest.mark.parametrize("suffix", ["obj", "glb"])
def test_trimesh_reads_back_written_meshes(cube, tmp_path, suffix):
    path = tmp_path / f"mesh.{suffix}"
    (meshes.write_obj if suffix == "obj" else meshes.write_glb)(path, cube)
    back = trimesh.load(path, force="mesh", process=False)
    assert len(back.faces) == len(cube.faces)
    np.testing.assert_allclose(back.vertices[back.faces], cube.vertices[cube.faces], atol=1e-6)
    np.testing.assert_allclose(np.asarray(back.visual.uv)[back.faces], corner_uv(cube), atol=1e-6)
    texture = back.visual.material.image if suffix == "obj" else back.visual.material.baseColorTexture
    np.testing.assert_allclose(np.asarray(texture.convert("RGB")) / 255, cube.texture, atol=1 / 255)


def test_glb_splits_seams_flips_v_and_shares_normals(cube, tmp_path):
    meshes.write_glb(tmp_path / "mesh.glb", cube)
    stored = glb_accessors((tmp_path / "mesh.glb").read_bytes())
    assert len(stored["POSITION"]) == 24  # 8 corners, 3 sides each
    faces = stored["indices"].reshape(-1, 3)
    uv = stored["TEXCOORD_0"][faces]
    np.testing.assert_allclose(uv[..., 0], corner_uv(cube)[..., 0], atol=1e-6)
    np.testing.assert_allclose(uv[..., 1], 1 - corner_uv(cube)[..., 1], atol=1e-6)
    for corner in cube.vertices:  # No shading seam: the copies of a vertex have the same normal.
        normals = stored["NORMAL"][np.abs(stored["POSITION"] - corner).max(axis=1) < 1e-6]
        assert len(normals) == 3
        np.testing.assert_allclose(normals, normals[:1].repeat(3, axis=0), atol=1e-6)


def stored_normals(path) -> tuple[np.ndarray, np.ndarray]:
    """Positions and normals as stored in the file: a reader would compute missing ones."""
    if path.suffix == ".obj":
        raw = read_obj(path)
        assert (raw["f"][..., 2] == raw["f"][..., 0]).all()
        return raw["v"], raw["vn"]
    if path.suffix == ".glb":
        stored = glb_accessors(path.read_bytes())
        return stored["POSITION"], stored["NORMAL"]
    raw = trimesh.load(path, process=False).metadata["_ply_raw"]["vertex"]["data"]
    return (np.stack([raw[name].ravel() for name in names], 1) for names in ("xyz", ("nx", "ny", "nz")))


@pytest.mark.parametrize("suffix", ["obj", "glb", "ply"])
def test_normals_are_unit_and_point_outwards(cube, tmp_path, suffix):
    path = tmp_path / f"mesh.{suffix}"
    {"obj": meshes.write_obj, "glb": meshes.write_glb, "ply": meshes.write_ply}[suffix](path, cube)
    points, normals = stored_normals(path)
    np.testing.assert_allclose(np.linalg.norm(normals, axis=1), 1, atol=1e-4)
    assert (np.sign(normals) == np.sign(points)).all()  # the cube's centre is the origin
    back = trimesh.load(path, force="mesh", process=False)
    assert back.volume > 0  # the triangles' own orientation, by which viewers cull


def test_unsplit_vertices_stay_single(cube):
    plain = meshes.TexturedMesh(cube.vertices, cube.faces, np.random.default_rng(0).random((8, 2)), cube.faces)
    source, uv_source, faces = meshes.split_seams(plain)
    np.testing.assert_array_equal(source, np.arange(8))
    np.testing.assert_array_equal(uv_source, source)
    np.testing.assert_array_equal(faces, cube.faces)


def test_ply_has_vertices_and_colours(cube, tmp_path):
    meshes.write_ply(tmp_path / "mesh.ply", cube)
    back = trimesh.load(tmp_path / "mesh.ply", process=False)
    np.testing.assert_allclose(back.vertices, cube.vertices, atol=1e-6)
    np.testing.assert_array_equal(back.faces, cube.faces)
    side_colours = (cube.texture[0, ::10] * 255).round()
    for colour in back.visual.vertex_colors[:, :3]:
        assert np.abs(side_colours - colour).max(axis=1).min() <= 1


@pytest.mark.parametrize("write", [meshes.write_obj, meshes.write_glb, meshes.write_ply])
def test_meshes_without_texture_are_written(cube, tmp_path, write):
    suffix = write.__name__.removeprefix("write_")
    write(tmp_path / f"mesh.{suffix}", meshes.TexturedMesh(cube.vertices, cube.faces))
    back = trimesh.load(tmp_path / f"mesh.{suffix}", force="mesh", process=False)
    np.testing.assert_allclose(back.vertices[back.faces], cube.vertices[cube.faces], atol=1e-6)
    assert [p.name for p in tmp_path.iterdir()] == [f"mesh.{suffix}"]


def test_obj_names_its_material_without_spaces(cube, tmp_path):
    meshes.write_obj(tmp_path / "my head.obj", cube)
    assert "mtllib my_head.mtl" in (tmp_path / "my head.obj").read_text()
    assert trimesh.load(tmp_path / "my head.obj", process=False).visual.uv is not None


def test_a_failed_write_leaves_the_old_files_and_no_leftovers(cube, tmp_path, monkeypatch):
    meshes.write_obj(tmp_path / "mesh.obj", cube)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    smaller = meshes.TexturedMesh(cube.vertices * 0.5, cube.faces, cube.uv, cube.uv_faces, 1 - cube.texture)

    def disk_full(path, data):
        if data.startswith(b"# metres"):  # the OBJ, written last
            raise OSError("no space left on device")
        return original(path, data)

    original = type(tmp_path).write_bytes
    monkeypatch.setattr(type(tmp_path), "write_bytes", disk_full)
    with pytest.raises(OSError, match="no space"):
        meshes.write_obj(tmp_path / "mesh.obj", smaller)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vertices": np.full((8, 3), np.nan)}, "NaN"),
        ({"vertices": np.zeros((8, 2))}, r"\(V, 3\)"),
        ({"faces": np.full((12, 3), 8)}, "8 entries"),
        ({"uv": None}, "together"),
        ({"uv": None, "uv_faces": None}, "texture needs uv"),
        ({"uv_faces": np.zeros((1, 3), int)}, "1 uv_faces"),
    ],
)
def test_invalid_meshes_raise(cube, change, message):
    with pytest.raises(ValueError, match=message):
        meshes.TexturedMesh(**{**vars(cube), **change})


def test_jax_arrays_are_written_like_numpy_arrays(cube, tmp_path):
    """Without JAX's warnings about 64-bit integers, which would fail the test."""
    arrays = {name: None if value is None else jnp.asarray(value, jnp.float32 if value.dtype.kind == "f" else jnp.int32)
              for name, value in vars(cube).items()}  # fmt: skip
    mesh = meshes.TexturedMesh(**arrays)
    for suffix, write in (("obj", meshes.write_obj), ("ply", meshes.write_ply), ("glb", meshes.write_glb)):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            write(tmp_path / f"a.{suffix}", mesh)
    np.testing.assert_allclose(read_obj(tmp_path / "a.obj")["v"], cube.vertices, atol=1e-6)
