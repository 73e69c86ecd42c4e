"""Results that are read equal what was fitted; foreign, changed and damaged folders are refused by name."""

import dataclasses
import json
import shutil
from functools import partial

import jax
import numpy as np
import pytest
from PIL import Image

from experiments.results import load_fit_model, load_observation
from fitting import observe_photo, prepare
from flamejax.io import ResultError, load_results
from flamejax.io.results import LOCAL_COUNTS, read_metrics, read_result
from tests.experiments.fakes import HEAD, IDENTITY, reconstruct, write_photo
from tests.experiments.results import KnownTools, one, write_networks

pytestmark = pytest.mark.usefixtures("small_head")


class Masking(KnownTools):
    """Returns dense landmarks, and masks with the pixels of the photo, so that resampling loses nothing."""

    def observe(self, image, **options):
        rng = np.random.default_rng(4)
        dense = rng.uniform(1, 60, (468, 2)).astype(np.float32), rng.uniform(0.3, 1, 468).astype(np.float32)
        observed = super().observe(image, **options)
        return [dataclasses.replace(o, dense_landmarks=dense[0], dense_confidence=dense[1]) for o in observed]

    def mask(self, head, observation):
        rng = np.random.default_rng(3)
        blocks = [np.kron(rng.integers(0, 2, (32, 32)), np.ones((2, 2))).astype(np.float32) for _ in range(2)]
        hidden, face = (np.broadcast_to(each, observation.face_mask.shape) for each in blocks)
        return super().mask(head, dataclasses.replace(observation, occlusion_mask=hidden, face_mask=face))


class Real(KnownTools):
    """Observes photos as the command does, from given landmarks."""

    observe = staticmethod(partial(observe_photo, detector=lambda image: None))

    def fit(self, head, observation):
        self.given.append(observation)
        return super().fit(head, observation)


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    return write_networks(tmp_path_factory.mktemp("networks"))


@pytest.fixture
def result(tmp_path, networks):
    """A result with hypotheses and local models: its folder, and the tools that made it."""
    photo = write_photo(tmp_path / "in" / "a.png")
    pixels = np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8)
    Image.fromarray(pixels).save(photo)
    fake = Masking(*networks)
    options = {"local": str(networks[0]), "mesh_vae": networks[1], "method": "complete", "num_samples": 3}
    assert reconstruct(tmp_path / "in", tmp_path / "out", fake, **options) == 0
    return tmp_path / "out" / "a", fake


def read(folder, fake):
    """Read a result, its observation, and the reason if that is missing."""
    saved = read_result(folder, fake.model, IDENTITY)
    return saved, *load_observation(saved)


def assert_equal(actual, expected, tolerance=0.0):
    for name, value in vars(expected).items():
        if dataclasses.is_dataclass(value):
            assert_equal(getattr(actual, name), value, tolerance)
        elif value is not None and not isinstance(value, dict):
            np.testing.assert_allclose(getattr(actual, name), value, atol=tolerance, rtol=0, err_msg=name)
        else:
            assert (getattr(actual, name) is None) == (value is None), name


def test_result_equals_the_fit(result):
    folder, fake = result
    saved, seen, missing = read(folder, fake)
    fit = one(fake.fits[0])
    assert_equal(saved.fit, fit, 1e-6)
    assert fake.model.local_coefficients(saved.fit.params).shape == (6,)
    assert saved.fit.losses.keys() == fit.losses.keys()
    assert saved.fit.losses["total"] == 1 and np.isnan(saved.fit.losses["nme"]) and saved.fit.code == 0
    np.testing.assert_allclose(fake.model.vertices(saved.fit.params), fit.vertices, atol=1e-6)
    drawn = one(fake.drawn[0])
    assert_equal(saved.hypotheses, drawn, 1e-6)
    assert saved.hypotheses.latents.shape == drawn.latents.shape and missing == ""
    # The fit that was read is accepted everywhere; here the sampler runs with it.
    jax.block_until_ready(fake._draw(3, saved.fit, seen, jax.random.key(0)))


def test_load_results_needs_only_the_folder(result, networks, tmp_path, monkeypatch):
    """Neither the photo, nor the local models, nor the head's file are needed."""
    folder, fake = result
    copied = tmp_path / "elsewhere" / "out"
    shutil.copytree(folder.parent, copied)
    for gone in (tmp_path / "in", tmp_path / "out"):
        shutil.rmtree(gone)
    for name in ("flamejax.load_head", "flamejax.head.load_head"):
        monkeypatch.setattr(name, None)
    monkeypatch.chdir(copied.parent)
    for path in ("out", copied, copied / "a", str(copied / "a")):
        (saved,) = load_results(path)
        assert_equal(saved.fit, one(fake.fits[0]), 1e-6)
        assert_equal(saved.hypotheses, one(fake.drawn[0]), 1e-6)
    assert saved.name == "a" and saved.metrics["name"] == "a" and saved.folder == copied / "a"
    files = (saved.mesh, saved.overlay, saved.occlusion_mask, saved.face_mask, *saved.hypothesis_meshes)
    assert len(files) == 4 + 3 and all(file.is_file() for file in files)
    crop = json.loads((saved.folder / "camera.json").read_text())["crop_transform"]
    in_photo = saved.full_camera.project(saved.fit.vertices)[..., :2]
    in_crop = saved.fit.camera.project(saved.fit.vertices)[..., :2]
    np.testing.assert_allclose(crop["scale"] * np.asarray(in_photo) + np.array(crop["offset"]), in_crop, atol=1e-3)
    np.testing.assert_allclose(fake.model.vertices(saved.fit.params), saved.fit.vertices, atol=1e-6)
    (checked,) = load_results(copied, model=fake.model)
    assert_equal(checked.fit, saved.fit)
    with pytest.raises(ResultError, match="fitted with local models"):
        load_results(copied, model=prepare(HEAD))


def test_early_results_need_the_model(result):
    """Early results do not store how the coefficients are combined."""
    folder, fake = result
    with np.load(folder / "params.npz") as file:
        arrays = dict(file)
    counts = [int(arrays.pop(name)) for name in LOCAL_COUNTS]
    local_shape = fake.model.head.num_betas - fake.model.global_betas
    assert counts == [fake.model.global_betas, fake.model.global_expression, local_shape]
    np.savez(folder / "params.npz", **arrays)
    (saved,) = load_results(folder, model=fake.model)
    assert_equal(saved.fit, one(fake.fits[0]), 1e-6)
    assert_equal(read(folder, fake)[0].fit, saved.fit)
    with pytest.raises(ResultError, match=r"params.npz: of an early version.*model=fitting.prepare\(head, local\)"):
        load_results(folder)


def test_load_results_reads_several_faces_none_and_skips_other_folders(tmp_path):
    write_photo(tmp_path / "in" / "a.png")
    write_photo(tmp_path / "in" / "b.png", colour=90)
    out = tmp_path / "out"
    assert reconstruct(tmp_path / "in", out, KnownTools(), local="none") == 0
    for other in ("notes", ".writing-0123"):
        (out / other).mkdir()
        (out / other / "metrics.json").write_text('{"mine": 1}')
    (out / ".writing-0123" / "metrics.json").write_text("{")
    results = load_results(out)
    assert [each.name for each in results] == ["a", "b"] and all(each.hypotheses is None for each in results)
    assert results[0].fit.params.betas.shape == (HEAD.num_betas,)
    with pytest.raises(ResultError, match=r"in: no results of flamejax reconstruct in it"):
        load_results(tmp_path / "in")
    for name in "ab":
        shutil.rmtree(out / name)
    assert load_results(out) == []  # an output of reconstruct without a fitted head
    (out / "c").mkdir()
    (out / "c" / "metrics.json").write_text("{")
    with pytest.raises(ResultError, match=r"c/metrics.json: cannot be read"):  # and is not skipped
        load_results(out)


def test_observation_has_the_crop_masks_and_landmarks_of_the_fit(result):
    folder, fake = result
    (_, observation, _), given = read(folder, fake), one(fake.given[0])
    np.testing.assert_array_equal(observation.occlusion_mask, given.occlusion_mask)
    np.testing.assert_array_equal(observation.face_mask, given.face_mask)
    assert_equal(observation.crop, given.crop)
    for name in ("landmarks", "dense_landmarks"):
        np.testing.assert_allclose(getattr(observation, name), getattr(given, name), atol=2e-3)
    # Hidden ones have no confidence, as in the fit.
    for points, confidence, given_confidence in (
        (given.landmarks, observation.confidence, given.confidence),
        (given.dense_landmarks, observation.dense_confidence, given.dense_confidence),
    ):
        column, row = np.floor(np.asarray(points)).astype(int).T
        visible = given.occlusion_mask[row, column] < 0.5
        np.testing.assert_allclose(confidence, np.where(visible, given_confidence, 0), atol=1e-6)
        assert 0 < visible.sum() < len(visible)
    assert {leaf.dtype for leaf in jax.tree.leaves(observation)} == {np.dtype(np.float32)}


def test_given_landmarks_and_masks_restore_the_same_observation(tmp_path):
    write_photo(tmp_path / "in" / "a.png")
    pixels = np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "in" / "a.png")
    (tmp_path / "masks").mkdir()
    Image.fromarray(np.where(pixels[..., 0] > 150, 255, 0).astype(np.uint8)).save(tmp_path / "masks" / "a.png")
    points = np.random.default_rng(1).uniform(12, 46, (68, 2))  # the crop reaches beyond the photo
    points[5] = np.nan
    np.save(tmp_path / "a.npy", points)
    fake = Real()
    options = {"landmarks": tmp_path, "masks": str(tmp_path / "masks")}
    assert reconstruct(tmp_path / "in", tmp_path / "out", fake, **options) == 0
    (saved, seen, _), given = read(tmp_path / "out" / "a", fake), one(fake.given[0])
    assert saved.hypotheses is None and saved.fit.params.betas.shape == (HEAD.num_betas,)
    for name in ("image", "occlusion_mask", "face_mask"):
        np.testing.assert_array_equal(getattr(seen, name), getattr(given, name))
    np.testing.assert_allclose(seen.landmarks, given.landmarks, atol=2e-3)
    assert not np.asarray(seen.landmarks[5]).any() and not np.any(seen.dense_landmarks)
    assert np.asarray(given.occlusion_mask).min() == 0 and (given.face_mask == 0).any()


def test_fit_is_read_without_the_photo_or_with_a_changed_one(result):
    folder, fake = result
    photo = folder.parents[1] / "in" / "a.png"
    write_photo(photo)
    _, seen, missing = read(folder, fake)
    assert seen is None and "has changed since" in missing and str(photo) in missing
    photo.unlink()
    saved, seen, missing = read(folder, fake)
    assert seen is None and "no longer exists" in missing
    assert_equal(saved.fit, one(fake.fits[0]), 1e-6)


def test_early_results_have_no_face_mask(result):
    folder, fake = result
    (folder / "face_mask.png").unlink()
    assert np.all(np.asarray(read(folder, fake)[1].face_mask) == 1)  # the full crop is inside the photo


def test_other_folders_and_other_heads_are_refused(result, tmp_path):
    folder, fake = result
    with pytest.raises(ResultError, match=r"in: no result of flamejax reconstruct"):
        read(tmp_path / "in", fake)
    other = dataclasses.replace(IDENTITY, sha256="0" * 64, name="other")
    with pytest.raises(ResultError, match=r"a: made with the head 'random'.*not with 'other'.*--head FILE"):
        read_result(folder, fake.model, other)
    with pytest.raises(ResultError, match=r"params.npz: fitted with local models.*--local"):
        read(folder, KnownTools())
    metrics = json.loads((folder / "metrics.json").read_text())
    (folder / "metrics.json").write_text(json.dumps(metrics | {"format_version": 9}))
    with pytest.raises(ResultError, match=r"metrics.json: format 9"):
        read_metrics(folder)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("params.npz", b"PK nothing"),
        ("params.npz", None),
        ("camera.json", b"{"),
        ("camera.json", b'{"crop": {}}'),
        ("camera.json", None),
        ("landmarks.json", b'{"points": [[1, 2]]}'),
        ("landmarks.json", b"[]"),
        ("occlusion_mask.png", b"no image"),
        ("occlusion_mask.png", None),
        ("metrics.json", b"\xff\xfe"),
        ("metrics.json", {"hypotheses": 10**9}),
        ("metrics.json", {"hypotheses": "3"}),
        ("metrics.json", {"losses": {"total": []}}),
        ("hypotheses/01/params.npz", b""),
        ("hypotheses/02/params.npz", None),
    ],
)
def test_damaged_files_are_named(result, file, content):
    folder, fake = result
    if isinstance(content, dict):
        content = json.dumps(json.loads((folder / file).read_text()) | content).encode()
    (folder / file).unlink() if content is None else (folder / file).write_bytes(content)
    with pytest.raises(ResultError) as error:
        read(folder, fake)
    assert f"{folder / file}: " in str(error.value)
    assert f"Delete the folder {folder} and" in str(error.value)


def test_inconsistent_arrays_are_refused(result):
    folder, fake = result
    with np.load(folder / "params.npz") as file:
        stored = dict(file)
    for name, value, message in (
        ("betas", stored["betas"][:2], "'betas' is float32"),
        ("light", stored["light"] * np.nan, "not finite"),
        ("local", stored["local"][:-1], "'local' is float32"),
        ("global_betas", np.int32(2), "'local' is float32"),
        ("vertices", stored["vertices"] + 0.001, r"from those of its coefficients.*--local"),
    ):
        np.savez(folder / "params.npz", **(stored | {name: value}))
        with pytest.raises(ResultError, match=message):
            read(folder, fake)
    for name in LOCAL_COUNTS:
        np.savez(folder / "params.npz", **(stored | {name: np.int32(99)}))
        with pytest.raises(ResultError, match="impossible counts"):
            load_results(folder)


def test_load_fit_model_loads_the_model_of_the_fit(result, networks, tmp_path):
    folder, fake = result
    metrics = read_metrics(folder)
    model = load_fit_model(metrics, HEAD)
    np.testing.assert_array_equal(model.head.basis, fake.model.head.basis)
    assert not load_fit_model({"settings": {"local": None}}, HEAD).has_local
    assert not load_fit_model({"settings": {"local": "auto 0123"}}, HEAD).has_local  # nothing ships for this head
    moved = tmp_path / "moved.npz"
    shutil.copy(networks[0], moved)
    assert load_fit_model(metrics, HEAD, str(moved)).has_local
    changed = metrics | {"settings": {"local": f"{moved} 0123456789abcdef"}}
    with pytest.raises(ResultError, match=r"moved.npz: not the local models that the result was fitted with"):
        load_fit_model(changed, HEAD)
    moved.unlink()
    with pytest.raises(ResultError, match=r"moved.npz: no such local model.*--local FILE"):
        load_fit_model(changed, HEAD)
