"""All pages in a headless Chromium, with hostile texts wherever a file or a name is shown: no script runs."""

import dataclasses
import json
import shutil
import time

import pytest

from experiments.photos import Failure
from experiments.reconstruct import sheet
from experiments.view.explorer import Explorer, ViewError
from experiments.view.viewer_page import viewer_page
from tests.experiments.conftest import made, small_head  # noqa: F401
from tests.experiments.fakes import HEAD, IDENTITY
from tests.viewer import browser
from tests.viewer.payloads import FOLDER_NAMES, PAYLOADS
from tests.viewer.scenes import make_scene

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(browser.why_not() is not None, reason=str(browser.why_not())),
]
ACTIVE = "script, iframe, object, embed, img, svg, details, style, base, meta, link, a"
"""Elements that a payload may add."""


@pytest.fixture(scope="module")
def driver():
    with browser.browser() as driver:
        yield driver


def count_elements(driver) -> dict[str, int]:
    """Return the number of elements of each kind in ACTIVE, and of those with a payload's attribute."""
    kinds = [*ACTIVE.split(", "), "[onfocus]", "[onerror]", "[onload]", "[ontoggle]", "[srcdoc]"]
    script = "return Object.fromEntries(arguments[0].map((kind) => [kind, document.querySelectorAll(kind).length]))"
    return driver.execute_script(script, kinds)


def page_text(driver) -> str:
    return driver.execute_script("return document.body.textContent")


def until_shown(driver, text: str, title: str) -> None:
    """Wait until the page shows a text. Raises: AssertionError, a script ran, or the text is not shown."""
    end = time.monotonic() + 10
    while text not in page_text(driver):
        assert driver.title == title, f"a script ran: {text}"
        assert time.monotonic() < end, f"not shown as it is: {text}"
        time.sleep(0.05)


def test_no_script_runs_in_the_view_page(driver, made, small_head, tmp_path, monkeypatch):  # noqa: F811
    pytest.importorskip("viser")
    from experiments.view.app import App

    metrics = json.loads((made[0] / "a" / "metrics.json").read_text())
    for name, text in [("0 plain", "gone"), *((f"face{i:02d}", text) for i, text in enumerate(PAYLOADS))]:
        shutil.copytree(made[0] / "a", tmp_path / name)
        hostile = {"photo_path": f"{text}.jpg", "photo": f"{text}.jpg"}
        (tmp_path / name / "metrics.json").write_text(json.dumps(metrics | hostile))
    for name in FOLDER_NAMES:
        shutil.copytree(made[0] / "a", tmp_path / name)
    app = App(Explorer(tmp_path, HEAD, IDENTITY, mesh_vae=made[1][1]))
    try:
        driver.get(app.url)
        app.photo.value = "0 plain"
        until_shown(driver, "gone.jpg", driver.title)
        title, before = driver.title, count_elements(driver)
        for i, text in enumerate(PAYLOADS):
            app.photo.value = f"face{i:02d}"
            until_shown(driver, f"the photo {text}.jpg no longer exists", title)
        for name in FOLDER_NAMES:
            (tmp_path / name / "params.npz").write_bytes(b"")  # the note then names the folder
            app.photo.value = name
            until_shown(driver, f"{name} cannot be shown.", title)
        for text in PAYLOADS:
            monkeypatch.setattr(app.explorer, "draw", lambda face, settings, text=text: fail(text))
            app.draw.value = True
            until_shown(driver, f"Nothing was drawn: {text}", title)
        assert driver.title == title and count_elements(driver) == before
        driver.execute_script("document.querySelector('input[role=combobox], input.mantine-Select-input').click()")
        until_shown(driver, FOLDER_NAMES[-1], title)
        time.sleep(0.5)  # events of added elements come later
        after = count_elements(driver)
        assert driver.title == title and [after[kind] for kind in ("iframe", "img", "script", "[onerror]")] == [
            before[kind] for kind in ("iframe", "img", "script", "[onerror]")
        ]
    finally:
        app.stop()


def fail(text: str) -> None:
    raise ViewError(text)


def test_no_script_runs_in_the_index(driver, made, tmp_path):  # noqa: F811
    metrics = json.loads((made[0] / "a" / "metrics.json").read_text())
    fields = ("photo", "visible_landmarks", "landmark_nme", "hypotheses", "num_faces")
    results = {f"{i:02d}": metrics | dict.fromkeys(fields, text) for i, text in enumerate(PAYLOADS)}
    results |= dict.fromkeys(FOLDER_NAMES, metrics)
    (tmp_path / "thumbnails").mkdir()
    for name in results:
        shutil.copy(made[0] / "thumbnails" / "a.jpg", tmp_path / "thumbnails" / f"{name}.jpg")
    sheet.write_index(tmp_path, results, [Failure(text, text, text) for text in PAYLOADS], " ".join(PAYLOADS))
    driver.get((tmp_path / "index.html").as_uri())
    text = page_text(driver)
    time.sleep(0.5)
    assert driver.title == f"{len(results)} heads"
    counts = count_elements(driver)
    assert (counts["img"], counts["script"], counts["iframe"], counts["svg"]) == (len(results), 0, 0, 0)
    assert not any(counts[kind] for kind in ("[onfocus]", "[onerror]", "[onload]", "[ontoggle]", "[srcdoc]", "base"))
    for payload in PAYLOADS:
        assert text.count(payload) >= 5  # the landmarks, the note and three cells
    loaded = "return [...document.images].filter((e) => (e.loading = 'eager', e.complete && e.naturalWidth)).length"
    end = time.monotonic() + 10
    while driver.execute_script(loaded) < len(results):  # also in folders with such names, and under the policy
        assert time.monotonic() < end
        time.sleep(0.05)


def test_no_script_runs_in_the_viewer_page(driver, tmp_path):
    path = tmp_path / "index.html"
    scene = dataclasses.replace(make_scene(midpoints=False), title="plain")
    path.write_text(viewer_page(scene), encoding="utf-8")
    driver.get(path.as_uri())
    before = count_elements(driver)
    scene = dataclasses.replace(scene, title=" | ".join(PAYLOADS))
    path.write_text(viewer_page(scene), encoding="utf-8")
    driver.get(path.as_uri())
    assert driver.execute_script("return document.getElementById('title').textContent") == scene.title
    time.sleep(0.5)
    assert driver.title.endswith("heads that agree with the photo") and count_elements(driver) == before
