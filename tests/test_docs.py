"""Tests that the code blocks of docs/from-python.md run, in a folder with the files that they use."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import trimesh

PAGE = Path(__file__).resolve().parents[1] / "docs" / "from-python.md"
BLOCKS = dict(re.findall(r"## (.*?)\n+```python\n(.*?)```", PAGE.read_text(), re.S))

SLOW = ("Fit a photo", "Train the Mesh-VAE on arrays of your own")


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """portrait.jpg, its landmarks in points.npy, and 12 ellipsoids in faces.npy and meshes.npy."""
    from PIL import Image
    from skimage.data import astronaut

    Image.fromarray(astronaut()).save(tmp_path / "portrait.jpg")
    rng = np.random.default_rng(0)
    np.save(tmp_path / "points.npy", rng.uniform((190, 80), (280, 190), (68, 2)))
    sphere = trimesh.creation.icosphere(2, 0.1)
    np.save(tmp_path / "faces.npy", np.asarray(sphere.faces))
    np.save(tmp_path / "meshes.npy", np.asarray(sphere.vertices) * rng.uniform(0.8, 1.2, (12, 1, 3)))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_page_has_six_blocks_of_at_most_ten_lines():
    assert len(BLOCKS) == 6
    for name, block in BLOCKS.items():
        assert len([line for line in block.splitlines() if line.strip()]) <= 10, name


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in BLOCKS]
)
def test_block_runs(name, folder):
    namespace: dict = {}
    exec(BLOCKS[name], namespace)
    if name == "Fit a photo":
        vertices = namespace["model"].vertices(namespace["fit"].params)
        np.testing.assert_allclose(vertices, namespace["fit"].vertices, atol=1e-5)
        assert namespace["flame"].betas.shape[-1] == namespace["head"].num_betas
    elif name == "Render with gradients":
        assert float(abs(namespace["gradient"].betas).max()) > 0
    elif name == "A detector of your own":
        assert namespace["seen"].landmarks.shape == (1, 68, 2)
    elif name == "The rasterizer alone":
        assert float(namespace["image"][..., 3].max()) == 1 and float(namespace["depth"].min()) == pytest.approx(0.5)
    elif name == "A head model of your own":
        assert (folder / "mine.npz").is_file() and namespace["head"].num_betas == 5
    else:
        assert (folder / "run" / "metrics.jsonl").is_file()
