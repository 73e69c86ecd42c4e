"""Output folders that are not empty are refused, resumed or overwritten."""

import json
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from experiments.reconstruct import UsageError, command
from flamejax.io.results import HeadIdentity
from tests.experiments.fakes import HEAD, FakeTools, bad_photos, reconstruct, results, rows, stamps, write_photo

pytestmark = pytest.mark.usefixtures("small_head")


def test_a_folder_that_is_not_empty_is_refused(photos, tmp_path):
    reconstruct(photos, tmp_path / "out")
    before = stamps(tmp_path / "out")
    with pytest.raises(UsageError, match=r"not empty.*--resume.*--overwrite"):
        reconstruct(photos, tmp_path / "out")
    assert stamps(tmp_path / "out") == before


def test_resume_does_what_is_missing_and_nothing_else(photos, tmp_path):
    out = tmp_path / "out"
    reconstruct(photos, out)
    before = stamps(out)
    (out / "p1/mesh.glb").unlink()
    write_photo(photos / "p3.png", colour=7)  # edited since
    write_photo(photos / "new.png")
    fake = FakeTools()
    assert reconstruct(photos, out, fake, resume=True) == 0
    after = stamps(out)
    assert {name for name in after if after[name] != before.get(name)} == {"p1", "p3", "new"}
    assert len(fake.observed) == 3
    assert [row["name"] for row in rows(out / "summary.jsonl")] == results(out)
    fake = FakeTools()
    assert reconstruct(photos, out, fake, resume=True) == 0 and not fake.observed


def test_resume_with_other_settings_does_the_photos_again(photos, tmp_path):
    reconstruct(photos, tmp_path / "out")
    fake = FakeTools()
    reconstruct(photos, tmp_path / "out", fake, resume=True, iterations=8)
    assert len(fake.observed) == 5


def test_resume_redoes_photos_whose_mask_landmarks_or_box_has_changed(photos, tmp_path):
    masks, points, boxes = tmp_path / "masks", tmp_path / "points", tmp_path / "boxes.json"
    masks.mkdir()
    points.mkdir()
    for name in ("p0", "p1"):
        Image.new("L", (64, 48), 255).save(masks / f"{name}.png")
    np.save(points / "p2.npy", np.linspace(5, 40, 136).reshape(68, 2))
    boxes.write_text(json.dumps({"p3": [1, 2, 30, 40]}))
    options = {"masks": str(masks), "landmarks": points, "boxes": boxes}
    reconstruct(photos, tmp_path / "out", **options)
    assert redone(photos, tmp_path / "out", **options) == set()
    Image.new("L", (64, 48)).save(masks / "p1.png")
    assert redone(photos, tmp_path / "out", **options) == {"p1"}
    (masks / "p1.png").unlink()
    Image.new("L", (64, 48)).save(masks / "p4.png")
    np.save(points / "p2.npy", np.linspace(6, 40, 136).reshape(68, 2))
    boxes.write_text(json.dumps({"p3": [2, 2, 30, 40]}))
    assert redone(photos, tmp_path / "out", **options) == {"p1", "p2", "p3", "p4"}


def test_resume_with_a_corrected_mask_redoes_only_its_photo(photos, tmp_path):
    reconstruct(photos, tmp_path / "out")
    (tmp_path / "masks").mkdir()
    Image.new("L", (64, 48)).save(tmp_path / "masks/p1.png")
    assert redone(photos, tmp_path / "out", masks=str(tmp_path / "masks")) == {"p1"}
    (tmp_path / "masks").rename(tmp_path / "moved")
    assert redone(photos, tmp_path / "out", masks=str(tmp_path / "moved")) == set()
    assert redone(photos, tmp_path / "out", masks="none") == {f"p{i}" for i in range(5)}


def test_resume_leaves_results_of_before_inputs_were_recorded(photos, tmp_path):
    (tmp_path / "masks").mkdir()
    Image.new("L", (64, 48)).save(tmp_path / "masks/p0.png")
    reconstruct(photos, tmp_path / "out", masks=str(tmp_path / "masks"))
    for path in (tmp_path / "out").glob("*/metrics.json"):
        metrics = json.loads(path.read_text())
        del metrics["inputs"], metrics["hidden_share"]
        path.write_text(json.dumps(metrics))
    assert redone(photos, tmp_path / "out", masks=str(tmp_path / "masks")) == set()


def redone(photos, output, **options) -> set[str]:
    """Resume, and return the names of the results that were made again."""
    before = stamps(output)
    assert reconstruct(photos, output, resume=True, **options) == 0
    return {name for name, stamp in stamps(output).items() if stamp != before.get(name)}


def test_resume_drops_faces_that_are_gone(photos, tmp_path):
    reconstruct(photos, tmp_path / "out", FakeTools(faces=3), all_faces=True)
    assert len(results(tmp_path / "out")) == 15
    reconstruct(photos, tmp_path / "out", FakeTools(faces=2), all_faces=True, resume=True, iterations=8)
    assert len(results(tmp_path / "out")) == 10


def test_resume_refuses_another_head(photos, tmp_path, monkeypatch):
    reconstruct(photos, tmp_path / "out")
    other = HeadIdentity("FLAME", "2020", "non-commercial", "f" * 64)
    monkeypatch.setattr(command, "load_head", lambda path: (HEAD, other))
    with pytest.raises(UsageError, match=r"'random' version 0.*'FLAME' version 2020.*not mixed"):
        reconstruct(photos, tmp_path / "out", resume=True)
    assert reconstruct(photos, tmp_path / "out", overwrite=True) == 0


def test_resume_recognises_photos_in_a_moved_folder(photos, tmp_path):
    reconstruct(photos, tmp_path / "out")
    moved = photos.rename(tmp_path / "elsewhere")
    fake = FakeTools()
    reconstruct(moved, tmp_path / "out", fake, resume=True)
    assert not fake.observed and results(tmp_path / "out") == [f"p{i}" for i in range(5)]


def test_resume_never_replaces_another_photos_result(tmp_path):
    write_photo(tmp_path / "in1/a.png", colour=50)
    write_photo(tmp_path / "in2/a.png", colour=60)
    reconstruct(tmp_path / "in1", tmp_path / "out")
    reconstruct(tmp_path / "in2", tmp_path / "out", resume=True)
    assert {r["name"]: Path(r["photo"]).parent.name for r in rows(tmp_path / "out/summary.jsonl")} == {
        "a": "in1",
        "a_2": "in2",
    }


def test_resume_keeps_failures_of_other_photos_and_clears_those_of_repaired_ones(photos, tmp_path):
    bad_photos(tmp_path / "bad")
    reconstruct(tmp_path / "bad", tmp_path / "out")
    write_photo(tmp_path / "bad/empty.jpg")
    reconstruct(tmp_path / "bad/empty.jpg", tmp_path / "out", resume=True)
    failed = sorted(Path(row["photo"]).name for row in rows(tmp_path / "out/failures.jsonl"))
    assert failed == ["faceless.png", "huge.png", "text.jpg", "tiny.png", "truncated.jpg"]


def test_overwrite_deletes_results_and_nothing_else(photos, tmp_path):
    out = tmp_path / "out"
    reconstruct(photos, out)
    (out / "notes").mkdir()
    (out / "notes/metrics.json").write_text('{"mine": 1}')
    (out / "diary.txt").write_text("dear")
    assert reconstruct(photos / "p0.png", out, overwrite=True) == 0
    assert results(out) == ["notes", "p0"] and (out / "diary.txt").read_text() == "dear"
    assert sorted(p.name for p in (out / "thumbnails").iterdir()) == ["p0.jpg"]


def test_a_foreign_folder_in_the_output_is_not_written_into(tmp_path):
    write_photo(tmp_path / "in/photos.png")
    (tmp_path / "out/photos").mkdir(parents=True)
    (tmp_path / "out/photos/mine.txt").write_text("x")
    reconstruct(tmp_path / "in", tmp_path / "out", overwrite=True)
    assert (tmp_path / "out/photos/mine.txt").exists() and results(tmp_path / "out") == ["photos_2"]


def test_an_interrupted_run_keeps_complete_results_and_resumes(photos, tmp_path):
    class Interrupted(FakeTools):
        def fit(self, head, observation):
            if len(self.batches) == 1:
                raise KeyboardInterrupt
            return super().fit(head, observation)

    assert reconstruct(photos, tmp_path / "out", Interrupted()) == 130
    assert results(tmp_path / "out") == ["p0", "p1"]
    assert json.loads((tmp_path / "out/run.json").read_text())["status"] == "interrupted"
    assert reconstruct(photos, tmp_path / "out", resume=True) == 0
    assert len(rows(tmp_path / "out/summary.jsonl")) == 5
    assert threading.active_count() < 20
