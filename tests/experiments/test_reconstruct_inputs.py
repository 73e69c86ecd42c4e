"""`reconstruct` with masks, landmarks and boxes of the user, and its checks before anything is written or loaded."""

import dataclasses
import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from experiments.reconstruct import UsageError, command, reconstruct_config
from fitting._observe import crop_image
from tests.experiments.fakes import FakeTools, bad_photos, reconstruct, rows, stamps, write_photo

pytestmark = pytest.mark.usefixtures("small_head")


def save_mask(folder: Path, name: str, box: tuple[int, int, int, int] | None) -> Path:
    """Write a mask of 64 x 48 pixels, white in a box x0, y0, x1, y1. Returns the folder."""
    folder.mkdir(exist_ok=True)
    mask = Image.new("L", (64, 48))
    if box is not None:
        mask.paste(255, box)
    mask.save(folder / f"{name}.png")
    return folder


def run_and_read(folder, output, fake=None, **options) -> str:
    """Run the command with fake steps. Returns what it prints."""
    console = Console(record=True, quiet=False, file=io.StringIO(), soft_wrap=True, highlight=False)
    config = reconstruct_config((str(folder),), output, **{"size": 64, "batch_size": 2, "method": "fit", **options})
    command.run(config, console, (fake or FakeTools()).tools)
    return console.export_text()


class Observing(FakeTools):
    """Puts given masks into the observation, and estimates a mask of the crop's first rows."""

    def observe(self, image, **options):
        observed, given = super().observe(image, **options), options.get("occlusion_mask")
        if given is None:
            return observed
        crops = [crop_image(given.astype(np.float32), each.crop, 64) for each in observed]
        return [dataclasses.replace(o, occlusion_mask=crop) for o, crop in zip(observed, crops, strict=True)]

    def mask(self, head, observation):
        hidden = np.zeros_like(observation.occlusion_mask)
        hidden[:, :8] = 1.0
        return dataclasses.replace(observation, occlusion_mask=hidden, face_mask=0.0 * observation.face_mask)


def test_photos_without_a_given_mask_get_the_automatic_one(photos, tmp_path):
    masks = save_mask(tmp_path / "masks", "p1", (0, 0, 16, 48))
    text = run_and_read(photos, tmp_path / "out", Observing(), masks=str(masks))
    assert f"1 of 5 photos has an occlusion mask in {masks}. For the other 4, it is estimated" in text
    written = {n: np.asarray(Image.open(tmp_path / "out" / n / "occlusion_mask.png")) for n in ("p0", "p1")}
    faces = {n: np.asarray(Image.open(tmp_path / "out" / n / "face_mask.png")) for n in ("p0", "p1")}
    assert written["p0"][2:5, 5:30].all() and not written["p0"][8:].any() and not faces["p0"].any()
    assert written["p1"][:, :16].all() and not written["p1"][:, 16:].any() and faces["p1"].any()
    metrics = {n: json.loads((tmp_path / "out" / n / "metrics.json").read_text()) for n in ("p0", "p1")}
    none = {"landmarks": None, "face_masks": None, "boxes": None}
    assert metrics["p0"]["inputs"] == {"masks": "auto", **none} and len(metrics["p1"]["inputs"]["masks"]) == 16
    assert metrics["p0"]["hidden_share"] == pytest.approx(0.12, abs=0.02)


def test_options_that_match_no_photo_are_refused_before_results_are_deleted(photos, tmp_path):
    reconstruct(photos, tmp_path / "out")
    before = stamps(tmp_path / "out")
    empty, boxes = tmp_path / "empty", tmp_path / "boxes.json"
    empty.mkdir()
    boxes.write_text(json.dumps({"q": [1, 2, 30, 40]}))
    broken = tmp_path / "broken.json"
    broken.write_text("{")
    deep, digits = tmp_path / "deep.json", tmp_path / "digits.json"
    deep.write_text(f'{{"p0": {"[" * 900 + "]" * 900}}}')
    digits.write_text(f'{{"p0": [1, 2, 3, {"9" * 5000}]}}')
    for options, message in (
        ({"landmarks": empty}, r"--landmarks .*empty: no file is named after a photo, such as p0.npy"),
        ({"masks": str(empty)}, r"--masks .*p0.png"),
        ({"face_masks": empty}, r"--face-masks .*p0.png"),
        ({"boxes": boxes}, r"--boxes .*no entry is named after a photo, such as 'p0'"),
        ({"boxes": broken}, r"--boxes: .*not valid JSON"),
        ({"boxes": deep}, r"--boxes: .*nested too deeply"),
        ({"boxes": digits}, r"--boxes: .*a number is too large"),
    ):
        with pytest.raises(UsageError, match=message):
            reconstruct(photos, tmp_path / "out", overwrite=True, **options)
        with pytest.raises(UsageError, match=message):
            reconstruct(photos, tmp_path / "new", **options)
    assert stamps(tmp_path / "out") == before and not (tmp_path / "new").exists()


def test_masks_that_miss_or_cover_the_face_are_reported(tmp_path):
    for name in ("right", "beside", "over", "empty"):
        write_photo(tmp_path / "in" / f"{name}.png")
    for name, box in {"right": (20, 20, 30, 30), "beside": (50, 0, 64, 48), "over": (0, 0, 64, 48)}.items():
        save_mask(tmp_path / "masks", name, box)
    save_mask(tmp_path / "masks", "empty", None)
    text = run_and_read(tmp_path / "in", tmp_path / "out", Observing(), masks=str(tmp_path / "masks"))
    assert "hides no part of the face in beside." in text and "hides the whole face in over." in text
    shares = {row["name"]: row["hidden_share"] for row in rows(tmp_path / "out/summary.jsonl")}
    assert shares["beside"] == shares["empty"] == 0 < shares["right"] < shares["over"] == 1


def test_the_last_line_names_the_page_only_if_there_is_a_head(photos, tmp_path):
    assert "index.html" in run_and_read(photos, tmp_path / "out")
    assert "index.html" not in run_and_read(bad_photos(tmp_path / "bad"), tmp_path / "none")


def test_the_page_states_the_method_and_links_the_masks(photos, tmp_path):
    reconstruct(photos, tmp_path / "out")
    page = (tmp_path / "out/index.html").read_text()
    assert "method fit; " in page and "violet" in page
    assert all(f'href="p0/{file}"' in page for file in ("occlusion_mask.png", "face_mask.png"))


def test_wrong_calls_are_refused_without_importing_jax(photos, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine.txt").write_text("x")
    for arguments, message in (
        ([str(photos), "--output", str(tmp_path / "out")], "not empty"),
        ([str(tmp_path / "gone.png"), "--output", str(tmp_path / "new")], "no such file"),
    ):
        script = f"import sys; from experiments import reconstruct; code = reconstruct.main({arguments!r}); "
        script += "print(code, 'jax' in sys.modules)"
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
        assert done.stdout.split() == ["2", "False"] and message in done.stderr
