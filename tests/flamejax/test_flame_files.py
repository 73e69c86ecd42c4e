"""Tests of reading FLAME's files: all formats, defaults for missing files, and errors."""

import dataclasses
import pickle

import numpy as np
import pytest
import trimesh

import flamejax
from flamejax.head import REGION_NAMES, HeadFileError, HeadParams, check_landmarks, landmark_head
from flamejax.head.formats import read_head, write_head
from models.encoders.landmark import reference_landmarks
from tests import flame_format
from tests.flame_format import SMALL, SMALL_FLAME
from tests.flame_format import load_small as load
from tests.heads import random_params


@pytest.fixture
def folder(tmp_path):
    """A small model with DECA's landmarks beside it."""
    flame_format.write_folder(tmp_path / "FLAME2020")
    return tmp_path / "FLAME2020"


@pytest.mark.parametrize("protocol", [0, 2])
@pytest.mark.parametrize("chumpy", [True, False])
def test_a_model_with_only_landmarks_loads(folder, protocol, chumpy):
    model = flame_format.synthetic_flame(0, **SMALL)
    flame_format.write_model(folder / "generic_model.pkl", model, protocol, chumpy)
    head = load(folder / "generic_model.pkl")
    np.testing.assert_array_equal(head.v_template, model["v_template"].astype(np.float32))
    # FLAME: (vertex, axis, entry); flamejax: (entry, vertex and axis).
    np.testing.assert_array_equal(
        head.posedirs.reshape(36, -1, 3), np.moveaxis(model["posedirs"], -1, 0).astype(np.float32)
    )
    assert (head.num_betas, head.num_expression, set(head.regions)) == (4, 3, set(REGION_NAMES))
    assert (head.name, head.licence[:5]) == ("FLAME", "FLAME")
    assert head.version.startswith("2020 generic ")
    assert np.ptp(head.albedo_mean) == 0 and head.albedo_basis.shape[0] == 1
    assert flamejax.landmarks(head, random_params(head, batch=(2,))).shape == (2, 68, 3)


@pytest.mark.parametrize("axes", [(1, 0, 2), (2, 0, 1)])
def test_a_model_pickled_by_numpy_2_3_with_other_memory_orders_loads(folder, axes):
    model = flame_format.synthetic_flame(0, **SMALL)
    model["shapedirs"] = np.ascontiguousarray(model["shapedirs"].transpose(axes)).transpose(np.argsort(axes))
    (folder / "generic_model.pkl").write_bytes(pickle.dumps(model, 5))
    np.testing.assert_allclose(load(folder / "generic_model.pkl").shapedirs, model["shapedirs"], rtol=0, atol=1e-7)


@pytest.mark.parametrize(
    ("name", "version"),
    [
        ("FLAME2017/male_model.pkl", "2017 male"),
        ("FLAME2019/generic_model.pkl", "2019 generic"),
        ("x/female_model.pkl", "unknown release female"),
        ("FLAME2023/flame2023.pkl", "2023 generic"),
        ("FLAME2023/flame2023_no_jaw.pkl", "2023 without jaw generic"),
        ("a/flame2023_Open.pkl", "2023 open generic"),
    ],
)
def test_release_and_sex_come_from_file_names(tmp_path, name, version):
    path = tmp_path / name
    flame_format.write_folder(path.parent, name=path.name)
    head = load(path)
    assert head.version.startswith(version)
    assert ("CC-BY" in head.licence) == ("Open" in name)
    other = flame_format.write_folder(tmp_path / "other", seed=1, name=path.name)
    assert load(other).version != head.version, "two shape spaces must not share an identity"


def test_a_model_without_jaw_joint_gets_one_without_effect(folder):
    model = flame_format.synthetic_flame(0, **SMALL)
    joints = [0, 1, 3, 4]
    weights = model["weights"][:, joints]
    flat = np.delete(model["posedirs"], range(9, 18), 2)
    model |= {"weights": weights / weights.sum(1, keepdims=True), "posedirs": flat}
    model["kintree_table"] = np.array([[-1, 0, 1, 1], [0, 1, 2, 3]])
    model["J_regressor"] = model["J_regressor"][joints]
    flame_format.write_model(folder / "flame2023_no_jaw.pkl", model)
    head = load(folder / "flame2023_no_jaw.pkl")
    params = random_params(head)
    still = dataclasses.replace(params, jaw_pose=params.jaw_pose * 0)
    np.testing.assert_array_equal(flamejax.vertices(head, params), flamejax.vertices(head, still))
    np.testing.assert_array_equal(head.posedirs[18:].reshape(18, -1, 3), np.moveaxis(flat[..., 9:], -1, 0).astype("f4"))


def test_both_landmark_formats_give_the_same_landmarks(folder):
    head = load(folder / "generic_model.pkl")
    (folder / "landmark_embedding.npy").unlink()
    flame_format.write_landmarks(folder, flame_format.synthetic_landmarks(0, SMALL["triangles"]), both=False)
    other = load(folder / "generic_model.pkl")
    for name, value in vars(head.landmark_embedding).items():
        np.testing.assert_array_equal(value, getattr(other.landmark_embedding, name))


def test_only_what_needs_landmarks_raises_without_them(folder, tmp_path):
    complete = load(folder / "generic_model.pkl")
    (folder / "landmark_embedding.npy").unlink()
    head = load(folder / "generic_model.pkl")
    params = random_params(head, batch=(2,))
    np.testing.assert_array_equal(flamejax.vertices(head, params), flamejax.vertices(complete, params))
    head.save(tmp_path / "head.npz")
    write_head(tmp_path / "converted.npz", read_head(folder / "generic_model.pkl", SMALL_FLAME))
    for same in (head, flamejax.load_head(tmp_path / "head.npz"), flamejax.load_head(tmp_path / "converted.npz")):
        np.testing.assert_array_equal(flamejax.vertices(same, params), flamejax.vertices(complete, params))
        for function in (lambda h: flamejax.landmarks(h, params), landmark_head, check_landmarks, reference_landmarks):
            with pytest.raises(ValueError, match=r"FLAME 2020 .*landmark_embedding\.npy \(https://github.com/yfeng95/DECA"):
                function(same)
    check_landmarks(complete)


def test_half_a_pair_of_landmark_files_is_mentioned(folder):
    (folder / "landmark_embedding.npy").unlink()
    flame_format.write_landmarks(folder, flame_format.synthetic_landmarks(0, SMALL["triangles"]), both=False)
    (folder / "flame_dynamic_embedding.npy").unlink()
    with pytest.warns(UserWarning, match=r"has no landmarks: it needs flame_dynamic_embedding\.npy") as record:
        head = flamejax.load_head(folder / "generic_model.pkl", flame=SMALL_FLAME)  # directly: its caller is named
    assert not head.landmark_embedding.face.size
    assert record[0].filename == __file__
    with pytest.raises(HeadFileError, match=r"it needs flame_dynamic_embedding\.npy"):
        load(folder / "generic_model.pkl", static_landmarks=folder / "flame_static_embedding.pkl")


def test_regions_without_landmarks(folder):
    (folder / "landmark_embedding.npy").unlink()
    head, raw = load(folder / "generic_model.pkl"), flame_format.synthetic_flame(0, **SMALL)
    assert set(head.regions) == set(REGION_NAMES) and head.regions["face"].all() and not head.regions["lips"].any()
    np.testing.assert_array_equal(head.regions["left_eyeball"], raw["weights"][:, 3] > 0.5)
    masks = flame_format.write_masks(folder, 50)
    head = load(folder / "generic_model.pkl")
    for name in REGION_NAMES:
        np.testing.assert_array_equal(np.flatnonzero(head.regions[name]), masks[name])


def test_companions_may_have_other_paths(folder, tmp_path):
    (folder / "landmark_embedding.npy").rename(tmp_path / "points.npy")
    assert load(folder / "generic_model.pkl", landmarks=tmp_path / "points.npy").num_vertices == 50


def test_masks_texture_and_template_are_read(folder):
    masks = flame_format.write_masks(folder, 50)
    texture = flame_format.write_texture(folder, 16, 6, SMALL["triangles"])
    head = load(folder / "generic_model.pkl", texture_components=4)
    for name in REGION_NAMES:
        np.testing.assert_array_equal(np.flatnonzero(head.regions[name]), masks[name])
    np.testing.assert_array_equal(head.uv, texture["vt"].astype(np.float32))
    np.testing.assert_array_equal(head.uv_faces, texture["ft"])
    # The file is BGR in 0..255; the albedo is RGB in 0..1, quantized to 8 bits.
    np.testing.assert_allclose(head.albedo_mean, texture["mean"][..., ::-1] / 255, atol=0.51 / 255)
    basis = np.moveaxis(texture["tex_dir"][..., ::-1, :4], -1, 0) / 255
    np.testing.assert_allclose(head.albedo_basis, basis, atol=np.abs(basis).max() / 127)
    half = load(folder / "generic_model.pkl", texture_size=8)
    expected = texture["mean"].reshape(8, 2, 8, 2, 3).mean((1, 3))[..., ::-1] / 255
    np.testing.assert_allclose(half.albedo_mean, expected, atol=0.51 / 255)

    faces = np.asarray(head.faces)
    uv = flame_format.write_template(folder, flame_format.synthetic_flame(0, **SMALL))
    lines = (folder / "head_template.obj").read_text().split("\n")
    with_template = load(folder / "generic_model.pkl")
    np.testing.assert_allclose(with_template.uv, uv, atol=1e-6)
    np.testing.assert_array_equal(with_template.uv_faces, faces)
    # Another order of triangles, and of corners within them, is the same template.
    polygons = [" ".join(line.split()[1:][1:] + line.split()[1:][:1]) for line in lines[100:]]
    (folder / "head_template.obj").write_text("\n".join([*lines[:100], *(f"f {p}" for p in polygons[::-1])]))
    np.testing.assert_array_equal(load(folder / "generic_model.pkl").uv_faces, faces)
    (folder / "head_template.obj").write_text("\n".join(lines[:-1]))
    with pytest.raises(HeadFileError, match="not those of the model"):
        load(folder / "generic_model.pkl")


def test_an_npz_equals_the_pickle(folder):
    raw = flame_format.synthetic_flame(0, **SMALL)
    np.savez(folder / "flame2023.npz", **raw)  # the sparse regressor becomes an object array
    head, from_pickle = load(folder / "flame2023.npz"), load(folder / "generic_model.pkl")
    np.testing.assert_array_equal(head.J_regressor, from_pickle.J_regressor)
    np.testing.assert_array_equal(head.shapedirs, from_pickle.shapedirs)


def test_writing_and_reading_preserves_all_arrays(folder, tmp_path):
    flame_format.write_texture(folder, 16, 6, SMALL["triangles"])
    arrays = read_head(folder / "generic_model.pkl", SMALL_FLAME)
    write_head(tmp_path / "mine.npz", arrays)
    head, again = load(folder / "generic_model.pkl"), flamejax.load_head(tmp_path / "mine.npz")
    assert (head.name, head.version, head.licence, head.num_betas) == (
        again.name, again.version, again.licence, again.num_betas,
    )  # fmt: skip
    for name in ("v_template", "shapedirs", "posedirs", "lbs_weights", "uv", "albedo_mean", "albedo_basis"):
        np.testing.assert_array_equal(getattr(head, name), getattr(again, name))
    np.testing.assert_array_equal(head.regions["scalp"], again.regions["scalp"])


def nan(array):
    return np.where(np.arange(array.size).reshape(array.shape) == 7, np.nan, array)


CASES = {
    "not finite": (lambda m: {"shapedirs": nan(m["shapedirs"])}, "'shapedirs' holds numbers that are not finite"),
    "weights not finite": (lambda m: {"weights": nan(m["weights"])}, "'weights' holds numbers that are not finite"),
    "wrong shape": (lambda m: {"posedirs": m["posedirs"][:, :, :30]}, r"'posedirs' has shape \(50, 3, 30\)"),
    "other vertices": (lambda m: {"weights": m["weights"][1:]}, r"'weights' has shape \(49, 5\)"),
    "other regressor": (lambda m: {"J_regressor": m["J_regressor"][:, 1:]}, r"'J_regressor' is a sparse matrix of"),
    "faces outside": (lambda m: {"f": m["f"] + 1}, "'f' has indices outside"),
    "faces as floats": (lambda m: {"f": m["f"].astype(float)}, "'f' is float64"),
    "a body": (lambda m: {"kintree_table": np.zeros((2, 24), int)}, "expected"),
    "other parents": (lambda m: {"kintree_table": np.array([[-1, 0, 1, 2, 1], range(5)])}, "parents are"),
    "unscaled weights": (lambda m: {"weights": m["weights"] * 2}, "do not sum to 1"),
    "nothing": (lambda m: {"posedirs": None}, "'posedirs' is missing"),
    "other components": (lambda m: {}, "Give their number: num_betas"),
}


@pytest.mark.parametrize("case", CASES)
def test_wrong_models_raise_with_the_reason(folder, case):
    change, message = CASES[case]
    model = flame_format.synthetic_flame(0, **SMALL)
    model = {name: value for name, value in {**model, **change(model)}.items() if value is not None}
    flame_format.write_model(folder / "generic_model.pkl", model, chumpy=False)
    flame = None if case == "other components" else SMALL_FLAME
    with pytest.raises(HeadFileError, match=message):
        flamejax.load_head(folder / "generic_model.pkl", flame=flame)


def test_wrong_companions_raise_with_the_reason(folder):
    path = folder / "generic_model.pkl"
    flame_format.write_landmarks(folder, flame_format.synthetic_landmarks(0, 500))
    with pytest.raises(HeadFileError, match="has indices outside of the model's 90 triangles"):
        load(path)
    np.save(folder / "landmark_embedding.npy", np.zeros(3))
    with pytest.raises(HeadFileError, match="holds no dictionary"):
        load(path)
    flame_format.write_landmarks(folder, flame_format.synthetic_landmarks(0, 90))
    (folder / "FLAME_masks.pkl").write_bytes(pickle.dumps({"lips": np.array([50])}))
    with pytest.raises(HeadFileError, match="'lips' has indices outside of the model's 50 vertices"):
        load(path)
    (folder / "FLAME_masks.pkl").unlink()
    (folder / "FLAME_texture.npz").write_bytes(b"PK")
    with pytest.raises(HeadFileError, match="not a readable"):
        load(path)


def test_truncated_and_unrelated_files_raise(folder, tmp_path):
    path = folder / "generic_model.pkl"
    content = path.read_bytes()
    for length in (0, 1, 100, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(HeadFileError, match=r"generic_model\.pkl"):
            load(path)
    path.write_bytes(pickle.dumps({"weights": 1}))
    with pytest.raises(HeadFileError, match=r"not a FLAME model \(it holds: weights\)"):
        load(path)
    for name in ("head.obj", "head.txt"):
        (tmp_path / name).write_text("v 0 0 0")
        with pytest.raises(HeadFileError, match="not a format of head models"):
            load(tmp_path / name)


def test_guessed_regions_overlap_the_open_heads_regions():
    from flamejax.head import open_head_path
    from flamejax.head.regions import guess_regions

    arrays = read_head(open_head_path())
    guessed = guess_regions(arrays)
    own = dict(zip(map(str, arrays["region_names"]), arrays["region_masks"], strict=True))
    overlap = {name: (own[name] & guessed[name]).sum() / (own[name] | guessed[name]).sum() for name in REGION_NAMES}
    print({name: round(float(value), 2) for name, value in overlap.items()})
    assert overlap["left_eyeball"] == overlap["right_eyeball"] == 1
    # The open head counts the inside of the mouth as neck, and that of the eyes as no region.
    assert min(overlap.values()) > 0.4
    assert min(overlap[name] for name in ("face", "lips", "nose", "left_eye_region", "left_ear")) > 0.55


class TestParameters:
    """Conversion of parameters from and to smplx and DECA."""

    @pytest.fixture
    def head(self, folder):
        return load(folder / "generic_model.pkl")

    @pytest.mark.parametrize("batch", [(), (3,), (2, 3)])
    def test_smplx_round_trip(self, head, batch):
        params = random_params(head, batch=batch)
        smplx_params = params.to_smplx()
        count = int(np.prod(batch))
        assert {name: value.shape for name, value in smplx_params.items()} == {
            "betas": (count, 4), "expression": (count, 3), "transl": (count, 3), "global_orient": (count, 3),
            "neck_pose": (count, 3), "jaw_pose": (count, 3), "leye_pose": (count, 3), "reye_pose": (count, 3),
        }  # fmt: skip
        assert all(value.flags.writeable for value in smplx_params.values())
        back = HeadParams.from_smplx(head, smplx_params)
        for name, value in vars(params).items():
            np.testing.assert_array_equal(np.reshape(value, (count, -1)), getattr(back, name))
        same = HeadParams.from_smplx(head, vars(params))
        assert same.batch == batch

    def test_few_coefficients_are_zero_padded(self, head):
        params = HeadParams.from_smplx(head, {"betas": np.ones((2, 2)), "jaw_pose": np.full((2, 3), 0.1)})
        np.testing.assert_array_equal(params.betas, [[1, 1, 0, 0]] * 2)
        assert params.expression.shape == (2, 3) and not np.any(params.neck_pose)

    @pytest.mark.parametrize(
        "values",
        [{}, {"body_pose": np.zeros((1, 3))}, {"betas": np.zeros((1, 5))}, {"jaw_pose": np.zeros((1, 2))},
         {"betas": np.zeros((2, 4)), "jaw_pose": np.zeros((3, 3))}],
    )  # fmt: skip
    def test_invalid_values_raise(self, head, values):
        with pytest.raises(ValueError):
            HeadParams.from_smplx(head, values)

    @pytest.mark.parametrize("suffix", ["", "code"])
    def test_deca_code_is_converted(self, head, suffix):
        rng = np.random.default_rng(0)
        code = {"shape": rng.normal(size=(2, 4)), "exp": rng.normal(size=(2, 2)), "pose": rng.normal(size=(2, 6))}
        code |= {"cam": np.zeros((2, 3)), "tex": np.zeros((2, 50))}
        params = HeadParams.from_deca(head, {f"{name}{suffix}": value for name, value in code.items()})
        np.testing.assert_array_equal(params.betas, code["shape"].astype(np.float32))
        np.testing.assert_array_equal(params.expression[:, :2], code["exp"].astype(np.float32))
        np.testing.assert_array_equal(params.global_orient, code["pose"][:, :3].astype(np.float32))
        np.testing.assert_array_equal(params.jaw_pose, code["pose"][:, 3:].astype(np.float32))
        assert not np.any(params.neck_pose) and not np.any(params.leye_pose) and not np.any(params.transl)
        with pytest.raises(ValueError, match="pose has 3"):
            HeadParams.from_deca(head, {**code, "pose": np.zeros((2, 3))})
        with pytest.raises(ValueError, match="'exp'"):
            HeadParams.from_deca(head, {"shape": code["shape"], "pose": code["pose"]})


def test_decas_camera_projects_as_deca():
    rng = np.random.default_rng(0)
    cam, points = np.array([8.0, 0.02, -0.01]), rng.normal(size=(5, 3)) * 0.1
    # DECA: scale * ((x, y) + shift), in units of half the crop from its centre, then y is negated.
    plane = cam[0] * (points[:, :2] + cam[1:]) * [1, -1]
    camera = flamejax.OrthographicCamera.from_deca(cam, size=224)
    np.testing.assert_allclose(camera.project(points.astype("f4"))[:, :2], (plane + 1) * 112, atol=1e-3)


def test_cylinder_uv_has_no_triangles_across_the_seam():
    from flamejax.head.formats.flame_companions import cylinder_uv

    sphere = trimesh.creation.icosphere(3)
    layout = cylinder_uv(np.asarray(sphere.vertices), np.asarray(sphere.faces))
    corners = layout["uv"][layout["uv_faces"]]
    poles = np.abs(corners[..., 1] - 0.5).max(1) > 0.45
    assert np.ptp(corners[~poles, :, 0], axis=1).max() < 0.2
