"""The command on one real photo: detection, fit, rendering, files."""

import json

import numpy as np
import pytest
from PIL import Image

from experiments import demo
from experiments.reconstruct import main


@pytest.mark.slow
def test_reconstruct_fits_a_head_to_the_portrait(tmp_path):
    pytest.importorskip("ai_edge_litert")
    pytest.importorskip("skimage")
    photos, _ = demo.write_photos(tmp_path)
    out = tmp_path / "out"
    assert main([str(photos / "astronaut.png"), "--output", str(out), "--iterations", "8"]) == 0
    metrics = json.loads((out / "astronaut/metrics.json").read_text())
    # The vertices need the coefficients of the local models too.
    assert metrics["landmark_nme"] < 0.06 and not metrics["exact"]
    landmarks = json.loads((out / "astronaut/landmarks.json").read_text())
    observed, fitted = np.array(landmarks["points"]), np.array(landmarks["fitted"])
    eye_distance = np.linalg.norm(observed[36] - observed[45])
    assert np.linalg.norm(observed - fitted, axis=1)[17:].mean() / eye_distance == pytest.approx(
        metrics["landmark_nme"], abs=5e-3
    )
    # A photo of another size uses the programs compiled for the first.
    with Image.open(photos / "astronaut.png") as photo:
        photo.crop((60, 0, 400, 300)).resize((510, 450)).save(tmp_path / "other.jpg")
    assert main([str(tmp_path / "other.jpg"), "--output", str(tmp_path / "again"), "--iterations", "8"]) == 0
    first, again = (json.loads((folder / "run.json").read_text()) for folder in (out, tmp_path / "again"))
    assert again["compile_seconds"] < max(0.2, 0.01 * first["compile_seconds"])  # a busy machine is slow in both runs
    # The camera of the full photo puts the saved vertices onto the face.
    camera = json.loads((out / "astronaut/camera.json").read_text())["full_image"]
    with np.load(out / "astronaut/params.npz", allow_pickle=False) as saved:
        points = saved["landmarks_3d"][:, :2]
        assert len(saved["local"]) > 100 and str(saved["local_model"]).startswith("auto ")
    np.testing.assert_allclose(points * (1, -1) * camera["scale"] + camera["translation"], fitted, atol=2e-2)
    # The overlay changes the face but not the corner of the photo.
    with Image.open(out / "astronaut/overlay.png") as overlay, Image.open(photos / "astronaut.png") as photo:
        difference = np.abs(np.asarray(overlay, int) - np.asarray(photo, int)).max(axis=-1)
    x, y = observed[30].astype(int)
    assert difference[y - 10 : y + 10, x - 10 : x + 10].mean() > 1 and difference[-40:, -40:].max() == 0
