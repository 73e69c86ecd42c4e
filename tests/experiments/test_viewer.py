"""The viewer's page without a browser: it loads nothing else, and its arrays are those of the heads."""

import dataclasses
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from experiments.view.viewer_page import MIDPOINT_HEADS, viewer_page
from experiments.view.viewer_page.page import FOLDER, SCRIPTS
from experiments.view.viewer_page.scene import quantise
from tests.experiments.fakes import FakeTools, reconstruct, write_photo
from tests.viewer.scenes import heads_in, make_scene, unpacked

pytestmark = pytest.mark.usefixtures("small_head")


class Links(HTMLParser):
    """All URLs that a page refers to."""

    def __init__(self, page: str):
        super().__init__()
        self.urls: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.urls += [value for name, value in attributes if name in ("src", "href", "srcset", "action", "data")]


def test_page_loads_nothing_from_elsewhere():
    page = viewer_page(make_scene())
    assert not re.search(r"\b(https?|wss?|ftp):", page) and "//cdn" not in page
    assert Links(page).urls == ["data:,"]
    code = "".join((FOLDER / name).read_text() for name in SCRIPTS)
    for word in ("fetch(", "XMLHttpRequest", "WebSocket", "import(", "sendBeacon", "EventSource", "Worker("):
        assert word not in code
    assert not re.search(r"@import|url\(", (FOLDER / "viewer.css").read_text())
    assert "default-src 'none'" in page and "{{" not in page
    assert {path.name for path in FOLDER.iterdir()} == {*SCRIPTS, "page.html", "viewer.css"}


def test_titles_are_escaped():
    scene = dataclasses.replace(make_scene(), title="</script><script>alert(1)</script>{{arrays}}<!--")
    page = viewer_page(scene)
    assert "<script>alert" not in page and "<!--" not in page
    header, _ = unpacked(page)
    assert header["title"] == scene.title
    assert '<h1 id="title">&lt;/script&gt;' in page


def test_heads_are_unpacked_to_a_hundredth_of_a_millimetre():
    scene = make_scene()
    header, arrays = unpacked(viewer_page(scene))
    heads = heads_in(header, arrays)
    away = np.linalg.norm(heads - np.concatenate([scene.fit.vertices[None], scene.heads]), axis=-1)
    assert away.max() < 1e-5 and header["step"] < 7e-6
    first, second = np.triu_indices(4, 1)
    steps = np.array(header["bendSteps"])
    bends = arrays["bends"].reshape(-1, *scene.fit.vertices.shape) * steps[steps > 0][:, None, None]
    middles = (heads[1:][first] + heads[1:][second]) / 2
    middles[steps > 0] += bends
    assert np.linalg.norm(middles - scene.midpoints, axis=-1).max() < 1e-5
    assert header["scores"] == pytest.approx(scene.scores.tolist())
    np.testing.assert_array_equal(arrays["seen"] != 0, scene.visible)
    np.testing.assert_allclose(arrays["spread"], scene.spread, rtol=1e-6)


def test_heads_a_metre_apart_are_unpacked():
    """Their differences from the fit wrap around at 2^16."""
    scene = make_scene()
    far = dataclasses.replace(scene, heads=scene.heads + np.float32(0.9), midpoints=None)
    heads = heads_in(*unpacked(viewer_page(far)))
    np.testing.assert_allclose(heads[1:], far.heads, atol=2e-5)
    flat, centre, step = quantise(np.zeros((1, 4, 3)))
    assert (centre + step * flat == 0).all()


def test_triangles_and_texture_coordinates_are_unpacked():
    scene = make_scene()
    _, arrays = unpacked(viewer_page(scene))
    np.testing.assert_array_equal(arrays["faces"].reshape(-1, 3), scene.fit.faces)
    corners, vertex, uv = arrays["corners"].reshape(-1, 3), arrays["vertex"], arrays["uv"].reshape(-1, 2)
    np.testing.assert_array_equal(vertex[corners], scene.fit.faces)
    np.testing.assert_allclose(uv[corners], scene.fit.uv[scene.fit.uv_faces], atol=1e-7)
    assert arrays["faces"].dtype == np.uint16


def test_sixteen_heads_make_a_small_page():
    scene = make_scene(16)
    assert len(scene.midpoints) == 120
    assert len(viewer_page(scene)) < 8e6


def test_negligible_midpoints_are_left_out():
    scene = make_scene()
    straight = dataclasses.replace(
        scene, midpoints=scene.midpoints * 0 + (scene.heads[[0, 0, 0, 1, 1, 2]] + scene.heads[[1, 2, 3, 2, 3, 3]]) / 2
    )
    header, arrays = unpacked(viewer_page(straight))
    assert header["bendSteps"] == [0.0] * 6 and not arrays["bends"].size
    header, _ = unpacked(viewer_page(make_scene(midpoints=False)))
    assert header["bendSteps"] == []


def test_only_the_first_heads_have_midpoints():
    header, _ = unpacked(viewer_page(make_scene(MIDPOINT_HEADS + 2)))
    assert header["heads"] == MIDPOINT_HEADS + 2
    assert len(header["bendSteps"]) == MIDPOINT_HEADS * (MIDPOINT_HEADS - 1) // 2


def test_the_same_scene_gives_the_same_page():
    assert viewer_page(make_scene()) == viewer_page(make_scene())


def test_wrong_scenes_are_refused():
    scene = make_scene()
    with pytest.raises(ValueError, match="no hypotheses"):
        viewer_page(dataclasses.replace(scene, heads=scene.heads[:0], scores=scene.scores[:0]))
    with pytest.raises(ValueError, match="scores"):
        viewer_page(dataclasses.replace(scene, scores=scene.scores[:-1]))
    with pytest.raises(ValueError, match="NaN"):
        viewer_page(dataclasses.replace(scene, heads=scene.heads * np.nan))


def test_reconstruct_writes_the_page(tmp_path):
    write_photo(tmp_path / "in" / "a b.png", size=(3000, 2000))
    out = tmp_path / "out"
    fake = FakeTools(seen_beyond=0.05)
    assert reconstruct(tmp_path / "in", out, fake, method="complete", num_samples=3) == 0
    page = (out / "a b" / "index.html").read_text()
    header, arrays = unpacked(page)
    places = (".", "hypotheses/00", "hypotheses/02")
    saved = [np.load(out / "a b" / place / "params.npz")["vertices"] for place in places]
    np.testing.assert_allclose(heads_in(header, arrays)[[0, 1, 3]], saved, atol=1e-5)
    # The photo is shown in the overlay's size, and so is the camera in its pixels.
    camera = json.loads((out / "a b" / "camera.json").read_text())
    zoom = camera["overlay"]["scale"]
    assert header["photoSize"] == camera["overlay"]["size"] == [2048, 1365]
    assert header["scale"] == pytest.approx(zoom * camera["full_image"]["scale"])
    assert header["translation"] == pytest.approx([zoom * t for t in camera["full_image"]["translation"]])
    # A millimetre of bend between each two of them.
    assert header["bendSteps"] == pytest.approx([1e-3 / 127] * 3, rel=1e-2)
    assert 'href="a%20b/index.html"' in (out / "index.html").read_text()
    assert "Look at the 3 hypotheses in 3D" in (out / "index.html").read_text()


def test_plain_fits_have_no_page(tmp_path):
    write_photo(tmp_path / "in" / "a.png")
    reconstruct(tmp_path / "in", tmp_path / "out", method="fit")
    assert not (tmp_path / "out" / "a" / "index.html").exists()
    assert "in 3D" not in (tmp_path / "out" / "index.html").read_text()


def test_resume_writes_a_missing_page(tmp_path):
    write_photo(tmp_path / "in" / "a.png")
    options = {"method": "complete", "num_samples": 2}
    reconstruct(tmp_path / "in", tmp_path / "out", FakeTools(seen_beyond=0.05), **options)
    (tmp_path / "out" / "a" / "index.html").unlink()
    reconstruct(tmp_path / "in", tmp_path / "out", FakeTools(seen_beyond=0.05), resume=True, **options)
    assert (tmp_path / "out" / "a" / "index.html").is_file()


def out_of_memory(fit, hypotheses):
    raise RuntimeError("out of memory")


def not_a_number(fit, hypotheses):
    return np.full((len(fit.vertices), 1, *fit.vertices.shape[1:]), np.nan)


@pytest.mark.parametrize("midpoints", [out_of_memory, not_a_number])
def test_viewer_interpolates_linearly_where_midpoints_fail(tmp_path, midpoints):
    write_photo(tmp_path / "in" / "a.png")
    fake = FakeTools(seen_beyond=0.05)
    fake.midpoints = midpoints
    assert reconstruct(tmp_path / "in", tmp_path / "out", fake, method="complete", num_samples=2) == 0
    header, _ = unpacked((tmp_path / "out" / "a" / "index.html").read_text())
    assert header["heads"] == 2 and header["bendSteps"] == []
