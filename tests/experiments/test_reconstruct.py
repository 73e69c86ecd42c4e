"""`reconstruct` from photos to result folders, with fakes for detection, fit and rendering."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import trimesh
from PIL import Image
from rich.console import Console

import flamejax
from experiments.reconstruct import UsageError, command, main, reconstruct_config
from experiments.reconstruct.config import FitOptions, InputOptions
from experiments.reconstruct.settings import load_local, local_digest
from experiments.reconstruct.tools import observe_tool
from fitting.local_files import local_model_path
from flamejax.files import TEMPORARY_PREFIX
from flamejax.io.results import RESULT_FILES
from tests.experiments.fakes import HEAD, FakeTools, bad_photos, reconstruct, results, rows, write_photo

pytestmark = pytest.mark.usefixtures("small_head")


def test_every_documented_file_is_written(photos, tmp_path):
    assert reconstruct(photos, tmp_path / "out") == 0
    out = tmp_path / "out"
    assert results(out) == [f"p{i}" for i in range(5)]
    for name in results(out):
        assert sorted(p.name for p in (out / name).iterdir()) == sorted(RESULT_FILES)
    top = {p.name for p in out.iterdir() if not p.name.startswith("p")}
    lists = {"index.html", "contact_sheet.png", "summary.jsonl", "failures.jsonl", "run.json", "thumbnails"}
    assert top == lists
    assert [row["name"] for row in rows(out / "summary.jsonl")] == results(out)
    assert rows(out / "failures.jsonl") == []
    run = json.loads((out / "run.json").read_text())
    assert run["status"] == "finished" and run["heads"] == 5 and run["head"]["name"] == "random"


def test_params_load_without_pickle_and_give_the_vertices(photos, tmp_path):
    reconstruct(photos, tmp_path / "out")
    with np.load(tmp_path / "out/p0/params.npz", allow_pickle=False) as saved:
        values = {name: saved[name] for name in saved.files}
    assert str(values["head_name"]) == "random" and int(values["format_version"]) == 1 and bool(values["exact"])
    fields = list(vars(flamejax.HeadParams.zeros(HEAD)))
    params = flamejax.HeadParams(**{name: values[name] for name in fields})
    np.testing.assert_allclose(flamejax.vertices(HEAD, params), values["vertices"], atol=1e-6)
    assert values["landmarks_3d"].shape == (68, 3)


def test_cameras_of_crop_and_full_photo_agree(photos, tmp_path):
    reconstruct(photos, tmp_path / "out")
    camera = json.loads((tmp_path / "out/p0/camera.json").read_text())
    point = np.array([0.03, -0.05])
    crop, full, transform = camera["crop"], camera["full_image"], camera["crop_transform"]
    in_crop = crop["scale"] * point * (1, -1) + crop["translation"]
    in_full = full["scale"] * point * (1, -1) + full["translation"]
    np.testing.assert_allclose(transform["scale"] * in_full + transform["offset"], in_crop)
    assert full["size"] == [64, 48] and crop["size"] == [64, 64]


def test_written_landmarks_can_be_given_back(photos, tmp_path):
    reconstruct(photos, tmp_path / "out")
    given = tmp_path / "landmarks"
    given.mkdir()
    (given / "p0.json").write_text((tmp_path / "out/p0/landmarks.json").read_text())
    fake = FakeTools()
    reconstruct(photos / "p0.png", tmp_path / "again", fake, landmarks=given)
    crop = np.linspace(1, 63, 136).reshape(68, 2)
    np.testing.assert_allclose(fake.observed[0]["landmarks"][:, :2], crop / 2 + (4, 2), atol=2e-3)
    np.testing.assert_allclose(fake.observed[0]["landmarks"][:, 2], np.linspace(0, 1, 68), atol=2e-3)


def test_meshes_read_back_with_the_heads_topology(photos, tmp_path):
    reconstruct(photos, tmp_path / "out")
    for file in ("mesh.obj", "mesh.glb"):
        mesh = trimesh.load(tmp_path / "out/p0" / file, force="mesh", process=False)
        assert len(mesh.faces) == len(HEAD.faces)
        vertices = np.load(tmp_path / "out/p0/params.npz")["vertices"]
        np.testing.assert_allclose(mesh.vertices[mesh.faces], vertices[np.asarray(HEAD.faces)], atol=1e-6)


def test_overlay_has_the_photos_size_and_shows_the_head_where_the_camera_says(photos, tmp_path):
    reconstruct(photos, tmp_path / "out")
    with Image.open(tmp_path / "out/p0/overlay.png") as overlay, Image.open(photos / "p0.png") as photo:
        changed = np.abs(np.asarray(overlay, int) - np.asarray(photo, int)).max(axis=-1) > 8
    assert changed.shape == (48, 64)
    camera = json.loads((tmp_path / "out/p0/camera.json").read_text())["full_image"]
    middle = np.load(tmp_path / "out/p0/params.npz")["vertices"].mean(axis=0)[:2]
    x, y = camera["scale"] * middle * (1, -1) + camera["translation"]
    ys, xs = np.nonzero(changed)
    np.testing.assert_allclose([xs.mean() + 0.5, ys.mean() + 0.5], [x, y], atol=1.0)


def test_overlay_of_a_huge_photo_is_limited_and_says_so(tmp_path):
    write_photo(tmp_path / "big.png", size=(5000, 300))
    reconstruct(tmp_path / "big.png", tmp_path / "out")
    camera = json.loads((tmp_path / "out/big/camera.json").read_text())
    with Image.open(tmp_path / "out/big/overlay.png") as overlay:
        assert list(overlay.size) == camera["overlay"]["size"] == [2048, 123]
    assert camera["overlay"]["scale"] == pytest.approx(2048 / 5000)
    assert camera["full_image"]["size"] == [5000, 300]


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1", "CMYK", "I;16", "LA"])
def test_image_modes_are_accepted(tmp_path, mode):
    suffix = {"CMYK": "jpg"}.get(mode, "png")
    write_photo(tmp_path / f"a.{suffix}", mode=mode)
    fake = FakeTools()
    assert reconstruct(tmp_path / f"a.{suffix}", tmp_path / "out", fake) == 0
    assert fake.observed[0]["shape"] == (48, 64, 3)


def test_bad_photos_are_listed_and_the_others_are_reconstructed(photos, tmp_path):
    bad_photos(photos)
    assert reconstruct(photos, tmp_path / "out") == 0
    assert results(tmp_path / "out") == [f"p{i}" for i in range(5)]
    failures = {Path(row["photo"]).name: row for row in rows(tmp_path / "out/failures.jsonl")}
    assert {name: row["stage"] for name, row in failures.items()} == {
        "faceless.png": "observe",
        "empty.jpg": "load",
        "text.jpg": "load",
        "truncated.jpg": "load",
        "tiny.png": "load",
        "huge.png": "load",
    }
    assert all(row["reason"] for row in failures.values())
    page = (tmp_path / "out/index.html").read_text()
    assert all(name in page for name in [*failures, *results(tmp_path / "out")])


def test_status_is_1_when_every_photo_fails(tmp_path):
    assert reconstruct(bad_photos(tmp_path / "in"), tmp_path / "out") == 1
    assert len(rows(tmp_path / "out/failures.jsonl")) == 6
    assert rows(tmp_path / "out/summary.jsonl") == []
    assert (tmp_path / "out/index.html").is_file()


def test_photos_with_a_failed_fit_are_listed(photos, tmp_path):
    with Image.open(photos / "p2.png") as image:
        colour = float(np.asarray(image).mean()) / 255
    assert reconstruct(photos, tmp_path / "out", FakeTools(bad_code=colour)) == 0
    (failure,) = rows(tmp_path / "out/failures.jsonl")
    assert Path(failure["photo"]).name == "p2.png" and failure["stage"] == "fit" and "landmarks" in failure["reason"]


def test_an_exception_in_the_fit_fails_its_batch_only(photos, tmp_path):
    class Breaking(FakeTools):
        def fit(self, head, observation):
            if len(self.batches) == 1:
                self.batches.append(0)
                raise RuntimeError("out of memory")
            return super().fit(head, observation)

    assert reconstruct(photos, tmp_path / "out", Breaking()) == 0
    failures = rows(tmp_path / "out/failures.jsonl")
    assert len(failures) == 2 and all(f["reason"].startswith("RuntimeError: out of memory (") for f in failures)
    assert len(results(tmp_path / "out")) == 3


def test_an_exception_while_writing_leaves_no_half_folder(photos, tmp_path):
    class Breaking(FakeTools):
        def render(self, *args, **options):
            with self.lock:
                self.calls = getattr(self, "calls", 0) + 1
                if self.calls == 2:
                    raise OSError("no space left on device")
            return super().render(*args, **options)

    assert reconstruct(photos, tmp_path / "out", Breaking()) == 0
    (failure,) = rows(tmp_path / "out/failures.jsonl")
    assert failure["stage"] == "write" and "no space left" in failure["reason"]
    assert len(results(tmp_path / "out")) == 4
    assert not list((tmp_path / "out").rglob(f"{TEMPORARY_PREFIX}*"))


def test_batches_have_one_shape_and_padding_gives_no_results(photos, tmp_path):
    fake = FakeTools()
    reconstruct(photos, tmp_path / "out", fake, batch_size=3)
    assert fake.batches == [3, 3]
    assert len(results(tmp_path / "out")) == 5


def test_automatic_batches_are_not_larger_than_needed(photos, tmp_path):
    fake = FakeTools()
    reconstruct(photos / "p0.png", tmp_path / "out", fake, batch_size="auto")
    assert fake.batches == [1]


def test_all_faces_get_a_folder_each(photos, tmp_path):
    write_photo(photos / "p0_face1.png")
    assert reconstruct(photos, tmp_path / "out", FakeTools(faces=2), all_faces=True) == 0
    assert len(results(tmp_path / "out")) == 12
    names = {(Path(r["photo"]).name, r["face"]): r["name"] for r in rows(tmp_path / "out/summary.jsonl")}
    assert names["p1.png", 1] == "p1_face1"
    assert names["p0_face1.png", 0] == "p0_face1" and names["p0.png", 1] == "p0_face1_2"


def test_landmarks_masks_and_boxes_reach_the_observer(photos, tmp_path):
    masks, boxes = tmp_path / "masks", tmp_path / "boxes.json"
    masks.mkdir()
    Image.new("L", (64, 48), 255).save(masks / "p1.png")
    boxes.write_text(json.dumps({"p0": [1, 2, 30, 40]}))
    fake = FakeTools()
    reconstruct(photos, tmp_path / "out", fake, masks=str(masks), face_masks=masks, boxes=boxes, batch_size=8)
    given = [set(call) - {"shape", "all_faces"} for call in fake.observed]
    assert sorted(given, key=len) == [set(), set(), set(), {"box"}, {"occlusion_mask", "face_mask"}]


def test_files_of_an_ambiguous_stem_are_refused(tmp_path):
    write_photo(tmp_path / "in/a.png")
    write_photo(tmp_path / "in/a.jpg")
    boxes = tmp_path / "boxes.json"
    boxes.write_text(json.dumps({"a": [1, 2, 30, 40], "a_png": [1, 2, 30, 40]}))
    assert reconstruct(tmp_path / "in", tmp_path / "out", boxes=boxes) == 0
    (failure,) = rows(tmp_path / "out/failures.jsonl")
    assert failure["photo"].endswith("a.jpg") and "'a_jpg'" in failure["reason"]
    assert results(tmp_path / "out") == ["a_png"]


def test_malformed_landmarks_fail_their_photo_only(photos, tmp_path):
    (tmp_path / "lmk").mkdir()
    np.save(tmp_path / "lmk/p3.npy", np.zeros((5, 2)))
    assert reconstruct(photos, tmp_path / "out", landmarks=tmp_path / "lmk") == 0
    (failure,) = rows(tmp_path / "out/failures.jsonl")
    assert failure["photo"].endswith("p3.png") and "68 rows" in failure["reason"]


def test_reserved_and_unusual_names_get_results(tmp_path):
    for name in ("thumbnails.png", "a & <b>.png", "ünï [1].png", "run.json.png", "#hash%20.png", "x" * 200 + ".png"):
        write_photo(tmp_path / "in" / name)
    assert reconstruct(tmp_path / "in", tmp_path / "out") == 0
    assert len(results(tmp_path / "out")) == 6
    page = (tmp_path / "out/index.html").read_text()
    assert "<b>.png" not in page and "a%20%26%20_b_/mesh.glb" in page


DETECTOR = """
import numpy as np
from fitting import Detection, FaceLandmarks

class Mine:
    def detect(self, image, *, all_faces=False):
        return [Detection(np.array([10.0, 12.0, 50.0, 44.0]), 1.0)]

    def landmarks(self, image, face):
        points = np.linspace(face.box[:2] + 1, face.box[2:] - 1, 68)
        return FaceLandmarks(points, np.full(68, 0.75), 1.0, face.box)

class Failing(Mine):
    def landmarks(self, image, face):
        raise RuntimeError("no weights")
"""


def test_a_custom_detector_is_used_and_recorded(photos, tmp_path, monkeypatch):
    """It detects the faces, and --resume redoes results of another detector."""
    (tmp_path / "command_faces.py").write_text(DETECTOR)
    monkeypatch.syspath_prepend(tmp_path)

    class RealDetector(FakeTools):
        def tools(self, config=None, head=HEAD):
            return dataclasses.replace(super().tools(config, head), observe=observe_tool(config.input))

    assert reconstruct(photos, tmp_path / "out", RealDetector(), detector="command_faces:Mine") == 0
    landmarks = json.loads((tmp_path / "out/p0/landmarks.json").read_text())
    np.testing.assert_allclose(landmarks["points"], np.linspace([11, 13], [49, 43], 68), atol=2e-3)
    assert set(landmarks["confidence"]) == {0.75}
    settings = json.loads((tmp_path / "out/run.json").read_text())["settings"]
    assert settings["detector"] == "command_faces:Mine"
    fake = FakeTools()
    assert reconstruct(photos, tmp_path / "out", fake, detector="command_faces:Mine", resume=True) == 0
    assert not fake.observed
    assert reconstruct(photos, tmp_path / "out", fake, resume=True) == 0
    assert len(fake.observed) == 5
    metrics = json.loads((tmp_path / "out/p0/metrics.json").read_text())
    assert "detector" not in metrics["settings"]  # as in results of before the option, by the shipped detector
    assert reconstruct(photos, tmp_path / "failed", RealDetector(), detector="command_faces:Failing") == 1
    reasons = {failure["reason"] for failure in rows(tmp_path / "failed/failures.jsonl")}
    assert reasons == {f"RuntimeError: no weights ({tmp_path.name}/command_faces.py:15)"}
    for spec in ("command_faces:Yours", "no.such.module:Mine", "Mine", "pathlib:Path"):
        with pytest.raises(UsageError, match="--detector: "):
            observe_tool(InputOptions(detector=spec))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"resume": True, "overwrite": True}, "one of the two"),
        ({"batch_size": 0}, "--batch-size is between 1"),
        ({"size": 8}, "between 64"),
        ({"masks": "nowhere"}, "--masks nowhere: no such folder"),
        ({"preset": "paper", "iterations": 8}, "goes with --preset fast"),
        ({"boxes": Path("nowhere.json")}, "no such file"),
        ({"head": Path("nowhere.npz")}, "no such file"),
    ],
)
def test_wrong_options_are_refused(photos, tmp_path, options, message):
    with pytest.raises(UsageError, match=message):
        config = reconstruct_config((str(photos),), tmp_path / "out", **options)
        command.run(config, Console(quiet=True), FakeTools().tools)
    assert not (tmp_path / "out").exists()


def test_missing_photos_and_wrong_outputs_are_refused(photos, tmp_path):
    with pytest.raises(UsageError, match=r"no photos found.*no file matches"):
        reconstruct(tmp_path / "*.gif", tmp_path / "out")
    with pytest.raises(UsageError, match="also a folder of photos"):
        reconstruct(photos, photos)
    with pytest.raises(UsageError, match="File exists"):
        reconstruct(photos, photos / "p0.png")


def test_main_returns_2_for_usage_errors(capsys):
    assert main(["gone.png", "--output", "x", "--resume", "--overwrite"]) == 2
    assert "one of the two" in capsys.readouterr().err


def test_computed_masks_reach_the_fit_and_are_written(photos, tmp_path):
    class Masking(FakeTools):
        def mask(self, head, observation):
            hidden = np.zeros_like(observation.occlusion_mask)
            hidden[:, 20:40, 20:40] = 1.0
            return dataclasses.replace(observation, occlusion_mask=hidden)

        def fit(self, head, observation):
            self.hidden = float(observation.occlusion_mask[0].mean())
            return super().fit(head, observation)

    fake = Masking()
    assert reconstruct(photos, tmp_path / "out", fake) == 0
    assert fake.hidden == pytest.approx(400 / 64**2)
    with Image.open(tmp_path / "out" / "p1" / "occlusion_mask.png") as png:
        mask = np.asarray(png)
    points = json.loads((tmp_path / "out" / "p1" / "landmarks.json").read_text())
    crop = 2 * (np.array([p or [-1, -1] for p in points["points"]], float) - [4, 2])
    under = ((crop >= 20) & (crop < 40)).all(axis=1)
    assert under.any() and (np.array(points["confidence"])[under] == 0).all()
    metrics = json.loads((tmp_path / "out" / "p1" / "metrics.json").read_text())
    assert metrics["visible_landmarks"] == sum(c > 0.2 for c in points["confidence"])
    # The fake crop is 2 pixels a photo pixel, from (4, 2) of the photo on.
    assert mask.shape == (48, 64) and set(np.unique(mask)) == {0, 255}
    rows, columns = np.nonzero(mask)
    np.testing.assert_allclose([columns.min(), columns.max(), rows.min(), rows.max()], [14, 23, 12, 21])


def test_a_given_mask_is_written_unchanged_and_can_be_given_again(photos, tmp_path):
    write_photo(photos / "big.png", size=(5000, 300))
    (tmp_path / "masks").mkdir()
    for name, size in {"p0": (64, 48), "big": (5000, 300)}.items():
        mask = np.random.default_rng(0).integers(0, 2, size[::-1], np.uint8) * 255
        mask[:, : size[0] // 2] = 255
        Image.fromarray(mask).save(tmp_path / "masks" / f"{name}.png")

    class Soft(FakeTools):
        def observe(self, image, **options):
            # Crops of a mask have soft edges; what is written has none.
            soft = np.linspace(0, 1, 64 * 64, dtype=np.float32).reshape(64, 64)
            return [dataclasses.replace(o, occlusion_mask=soft) for o in super().observe(image, **options)]

    assert reconstruct(photos, tmp_path / "out", Soft(), masks=str(tmp_path / "masks")) == 0
    written = {name: tmp_path / "out" / name / "occlusion_mask.png" for name in results(tmp_path / "out")}
    pixels = {name: np.asarray(Image.open(path)) for name, path in written.items()}
    assert all(set(np.unique(mask)) <= {0, 255} for mask in pixels.values())
    np.testing.assert_array_equal(pixels["p0"], np.asarray(Image.open(tmp_path / "masks" / "p0.png")))
    with Image.open(tmp_path / "out/big/overlay.png") as overlay:
        assert pixels["big"].shape == overlay.size[::-1]
    assert pixels["big"][:, :1000].all() and not pixels["big"][:, 1030:].all()
    again = tmp_path / "again"
    again.mkdir()
    for name, path in written.items():
        (again / f"{name}.png").write_bytes(path.read_bytes())
    assert reconstruct(photos, tmp_path / "out2", masks=str(again)) == 0
    for name, path in written.items():
        assert (tmp_path / "out2" / name / "occlusion_mask.png").read_bytes() == path.read_bytes()


def test_help_names_every_file_of_a_result(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    text = capsys.readouterr().out
    assert [name for name in RESULT_FILES if name not in text] == []


def test_local_models_are_chosen_by_option():
    head = flamejax.load_head()
    assert load_local(FitOptions(), head).head_name == head.name
    assert load_local(FitOptions(local="none"), head) is None
    assert load_local(FitOptions(), HEAD) is None  # none are shipped for it
    with pytest.raises(UsageError, match=r"--local.*made for the head 'flamejax-open-head"):
        load_local(FitOptions(local=str(local_model_path())), HEAD)
    other = dataclasses.replace(head, version="0")
    assert load_local(FitOptions(), other) is None  # the same name is not enough
    digest = local_digest(FitOptions())
    assert digest.startswith("auto ") and len(digest) == 21
    with pytest.raises(UsageError, match="no such local model"):
        load_local(FitOptions(local="nowhere.npz"), head)
