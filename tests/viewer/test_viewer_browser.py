"""The viewer in a headless Chromium, driven as people do: clicks, drags, the wheel, keys. `make test-viewer`."""

import itertools
import time

import numpy as np
import pytest

import flamejax
from experiments.view.viewer_page import viewer_page
from tests.viewer import browser
from tests.viewer.scenes import SCALE, SIZE, SQUARE, TRANSLATION, make_photo, make_scene

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(browser.why_not() is not None, reason=str(browser.why_not())),
]
SCENE = make_scene()
HEADS = np.concatenate([SCENE.fit.vertices[None], SCENE.heads])
MODES = ("texture", "clay", "spread", "distance", "mask")
STAGE_LIGHT, STAGE_DARK = (0xE4, 0xE6, 0xEA), (0x1C, 0x20, 0x26)


@pytest.fixture(scope="module")
def driver():
    with browser.browser() as driver:
        yield driver


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    path = tmp_path_factory.mktemp("a page") / "index.html"
    path.write_text(viewer_page(SCENE), encoding="utf-8")
    return path.as_uri()


@pytest.fixture
def page(driver, url):
    """The opened page; afterwards, checks that it requested nothing else and that the console has no errors."""
    from tests.viewer.page import Page  # needs selenium

    driver.set_window_size(1280, 800)
    browser.requests(driver), browser.console_messages(driver)
    opened = Page(driver, url)
    yield opened
    sent = browser.requests(driver)
    assert url in sent
    assert [u for u in sent if u not in opened.allowed_urls and not u.startswith(("data:", "blob:"))] == []
    messages = browser.console_messages(driver)
    assert [text for text in messages if not any(word in text for word in opened.expected)] == []


def largest_vertex(values: np.ndarray, mask: np.ndarray) -> int:
    """Return the vertex in `mask` (V,) with the largest value (V,), such as the nearest to the viewer."""
    return int(np.where(mask, values, -np.inf).argmax())


def lips() -> np.ndarray:
    return np.asarray(flamejax.load_head().regions["lips"])


def test_page_opens_on_the_photo(page):
    state = page.state()
    assert (state["a"], state["t"], state["mode"], state["photo"], state["opacity"]) == (1, 0, "texture", True, 1)
    assert page.text("title") == SCENE.title == page.driver.title.split(":")[0]
    assert not page.shown("refusal") and not page.shown("legend")
    assert "Hypothesis 00" in page.text("caption") and "−3.5 nats, the best" in page.text("caption")
    assert page.count_thumbnails() == 1 + len(SCENE.heads)
    np.testing.assert_allclose(page.points(), HEADS[1], atol=1e-5)
    assert page.pressed("photo")


def test_caption_is_not_cut_where_the_side_column_scrolls(page):
    page.driver.set_window_size(1400, 600)
    page.driver.execute_script("document.getElementById('caption').textContent = 'four lines of text '.repeat(11)")
    sizes = "const e = document.getElementById('caption'); return [e.scrollHeight, e.clientHeight]"
    needed, visible = page.driver.execute_script(sizes)
    assert needed <= visible


def test_the_head_lies_on_the_photo(page):
    """Photo pixels and projected vertices use the same camera."""
    nose = largest_vertex(HEADS[1][:, 2], np.ones(len(HEADS[1]), bool))
    flat = SCALE * HEADS[1][:, :2] * (1, -1) + TRANSLATION
    left, right = flat[:, 0].argmin(), flat[:, 0].argmax()
    at = {v: np.array(page.project(v)[:2]) for v in (nose, left, right)}
    factor = (at[right] - at[left])[0] / (flat[right] - flat[left])[0]
    origin = at[nose] - factor * flat[nose]
    for v in (left, right):
        np.testing.assert_allclose(at[v], factor * flat[v] + origin, atol=0.01)
    photo, checked = make_photo(), 0
    page.slide_to("opacity", "HOME")
    for y in range(SQUARE // 2, SIZE[1], SQUARE):
        for x in range(SQUARE // 2, SIZE[0], SQUARE):
            # A twentieth of a square from its border it is still this square: the scale is right as well.
            places = factor * np.array([[x, y], [x - 0.45 * SQUARE, y + 0.45 * SQUARE]]) + origin
            if (places < 2).any() or (places > np.array(page.state()["size"]) - 2).any():
                continue
            for place in places:
                np.testing.assert_allclose(page.pixel(*place), photo[y, x], atol=6)
            checked += 1
    assert checked > 20
    page.slide_to("opacity", "END")
    assert abs(np.array(page.pixel(*at[nose])) - [204, 128, 77]).max() < 8  # its texture in white light


def test_clicks_select_heads(page):
    pictures = []
    for head in (0, 2, 3, 4, 1):
        page.click_head(head)
        assert page.state()["a"] == head and page.state()["t"] == 0
        np.testing.assert_allclose(page.points(), HEADS[head], atol=1e-5)
        said = f"Hypothesis {head - 1:02d}: score −{3.5 + 2.2 * (head - 1):.1f} nats" if head else "The single fit"
        assert said in page.text("caption")
        assert page.chosen() == [head]
        page.click_mode("clay")
        pictures.append(page.canvas())
    changes = [np.abs(a.astype(int) - b).max() for a, b in itertools.pairwise(pictures)]
    assert min(changes) > 8


def test_keys_select_heads(page):
    page.keys("2")
    assert page.state()["a"] == 3
    np.testing.assert_allclose(page.points(), HEADS[3], atol=1e-5)
    page.keys("f")
    assert page.state()["a"] == 0
    page.keys("9")  # there is none
    assert page.state()["a"] == 0
    page.keys("ARROW_RIGHT")
    page.keys("ARROW_DOWN")
    assert page.state()["a"] == 2
    page.keys("ARROW_LEFT", "ARROW_LEFT", "ARROW_LEFT")
    assert page.state()["a"] == 4
    page.focus_head(4)  # the group of radio buttons has arrows of its own
    page.keys("ARROW_LEFT")
    assert page.state()["a"] == 3 and page.chosen() == [3]


def test_slider_interpolates_between_two_heads(page):
    page.choose("a", "00")
    page.choose("b", "03")
    page.click_mode("clay")
    start = page.canvas()
    page.slide_to("slide", "END")
    assert page.state()["t"] == 1
    np.testing.assert_allclose(page.points(), HEADS[4], atol=1e-5)
    end = page.canvas()
    page.drag_slider("slide", 0.5)
    t = page.state()["t"]
    assert 0.4 < t < 0.6
    bend = SCENE.midpoints[2] - (HEADS[1] + HEADS[4]) / 2
    np.testing.assert_allclose(page.points(), (1 - t) * HEADS[1] + t * HEADS[4] + 4 * t * (1 - t) * bend, atol=1e-5)
    middle = page.canvas()
    for one, other in ((start, middle), (middle, end), (start, end)):
        assert np.abs(one.astype(int) - other).max() > 8
    assert "of the way from 00 to 03" in page.text("caption") and "Mesh-VAE decodes" in page.text("way")
    page.slide_to("slide", "HOME")
    np.testing.assert_array_equal(page.canvas(), start)
    page.keys("3")
    np.testing.assert_array_equal(page.canvas(), end)


def test_midpoint_is_the_decoded_head(page):
    page.choose("b", "02")
    page.keys(*"]]]]]")
    assert page.state()["t"] == pytest.approx(0.5)
    np.testing.assert_allclose(page.points(), SCENE.midpoints[1], atol=1e-5)
    page.keys("[")
    assert page.state()["t"] == pytest.approx(0.4)
    page.choose("a", "02")  # the other way round
    page.choose("b", "00")
    page.slide_to("slide", "HOME")
    page.keys(*"]]]]]")
    np.testing.assert_allclose(page.points(), SCENE.midpoints[1], atol=1e-5)


def test_fit_and_head_are_interpolated_linearly(page):
    page.choose("a", "fit")
    page.choose("b", "01")
    page.keys("TAB", *"]]]")
    t = page.state()["t"]
    np.testing.assert_allclose(page.points(), (1 - t) * HEADS[0] + t * HEADS[2], atol=1e-5)
    assert "Straight lines" in page.text("way")


def test_play_moves_until_stopped(page):
    page.click("play")
    seen = set()
    page.until(lambda: seen.add(round(page.state()["t"], 3)) or len(seen) > 5)
    assert page.text("play") == "Stop"
    page.click("play")
    still = page.state()["t"]
    time.sleep(0.3)
    assert page.state()["t"] == still and not page.state()["playing"]


def test_each_colour_mode_shows_its_values(page):
    depth = HEADS[1][:, 2]
    hidden, seen = largest_vertex(depth, ~SCENE.visible & lips()), largest_vertex(depth, SCENE.visible)
    far, near = largest_vertex(SCENE.spread, lips()), largest_vertex(depth, HEADS[1][:, 1] > 0.07)
    pictures = {}
    for mode in MODES:
        page.click_mode(mode)
        pictures[mode] = page.canvas()
        assert page.shown("legend") == (mode in ("spread", "distance", "mask"))
        if mode == "spread":
            assert "How far apart the 4 hypotheses are" in page.text("legend") and "mm" in page.text("legend")
            hot, cold = (np.array(page.pixel(*page.project(v)[:2]), float) for v in (far, near))
            assert hot[1] < 60 and hot[0] > 2 * hot[1] and abs(cold[0] - cold[1]) < 20
        if mode == "distance":
            assert "from the fit" in page.text("legend") and "mm or more" in page.text("legend")
            one = page.pixel(*page.project(far)[:2])
            page.click_head(0)
            assert np.abs(np.subtract(one, page.pixel(*page.project(far)[:2]))).max() > 15
            page.click_head(1)
        if mode == "mask":
            assert "hidden" in page.text("legend") and "%" in page.text("legend")
            violet, green = (np.array(page.pixel(*page.project(v)[:2]), float) for v in (hidden, seen))
            assert violet[2] > 1.3 * violet[0] > 1.3 * violet[1] and green[1] > green[0]
    for k, mode in enumerate(MODES):
        for other in MODES[:k]:
            assert np.abs(pictures[mode].astype(int) - pictures[other]).max() > 20, (mode, other)
    page.keys("c")
    assert page.state()["mode"] == "texture"
    page.keys("c")
    assert page.state()["mode"] == "clay"


def test_mouse_turns_moves_and_zooms(page):
    start = page.canvas()
    page.drag((400, 400), (500, 430))
    view = page.state()["view"]
    assert view["yaw"] == pytest.approx(0.8, abs=0.02) and view["pitch"] == pytest.approx(0.24, abs=0.02)
    assert not page.pressed("photo")
    # The photo has gone, and the head is seen from its right.
    np.testing.assert_allclose(page.pixel(5, 600), STAGE_LIGHT, atol=2)
    nose = largest_vertex(HEADS[1][:, 2], np.ones(len(HEADS[1]), bool))
    x = page.project(nose)[0]
    assert x > page.state()["size"][0] / 2 + 50
    assert np.abs(page.canvas().astype(int) - start).mean() > 5
    page.drag((400, 400), (460, 380), shift=True)
    assert page.project(nose)[0] == pytest.approx(x + 60, abs=1)
    assert page.state()["view"]["yaw"] == view["yaw"]
    page.drag((400, 400), (380, 400), button="right")
    assert page.project(nose)[0] == pytest.approx(x + 40, abs=1)
    place = page.project(nose)
    page.wheel(place[:2], -240)
    assert page.state()["view"]["zoom"] > 1.3
    np.testing.assert_allclose(page.project(nose)[:2], place[:2], atol=1.5)
    page.wheel(place[:2], 480)
    assert page.state()["view"]["zoom"] < 0.9
    page.click_view("photo")
    page.until(page.at_home)
    np.testing.assert_array_equal(page.canvas(), start)


def test_keys_turn_and_zoom(page):
    page.shift_keys("ARROW_RIGHT", "ARROW_RIGHT", "ARROW_UP")
    view = page.state()["view"]
    assert view["yaw"] == pytest.approx(np.pi / 12) and view["pitch"] == pytest.approx(-np.pi / 24)
    assert page.state()["a"] == 1
    page.keys("+", "+", "-")
    assert page.state()["view"]["zoom"] == pytest.approx(1.2)
    page.keys("p")
    page.until(page.at_home)
    page.until(lambda: page.pressed("photo"))


def test_view_buttons_turn_the_head(page):
    for name, side in (("left", -1), ("right", 1)):
        page.click_view(name)
        page.until(lambda: abs(page.state()["view"]["yaw"] - side * 0.95) < 1e-6)  # noqa: B023


def test_pinch_zooms(page):
    before = page.state()["view"]
    page.pinch((300, 400), (500, 400), 60)
    after = page.state()["view"]
    assert after["zoom"] == pytest.approx(1.6, abs=0.05) and after["yaw"] == before["yaw"]


def test_opacity_blends_the_head_over_the_photo(page):
    nose = largest_vertex(HEADS[1][:, 2], np.ones(len(HEADS[1]), bool))
    place = page.project(nose)[:2]
    whole = np.array(page.pixel(*place), float)
    page.slide_to("opacity", "HOME")
    photo_pixel = np.array(page.pixel(*place), float)
    assert np.abs(whole - photo_pixel).max() > 30 and page.text("opacity-share") == "0 %"
    page.drag_slider("opacity", 0.5)
    share = page.state()["opacity"]
    assert 0.4 < share < 0.6
    np.testing.assert_allclose(page.pixel(*place), share * whole + (1 - share) * photo_pixel, atol=3)
    page.click("photo")
    np.testing.assert_allclose(page.pixel(*place), whole, atol=1)  # without a photo the head is whole
    np.testing.assert_allclose(page.pixel(3, 500), STAGE_LIGHT, atol=2)
    page.click("photo")
    assert page.state()["photo"]
    np.testing.assert_allclose(page.pixel(*place), share * whole + (1 - share) * photo_pixel, atol=3)


def test_edges_are_drawn_and_removed(page):
    page.click_mode("clay")
    plain = page.canvas().astype(int)
    page.click("wire")
    lined = page.canvas().astype(int)
    assert (plain - lined).max() > 40 and (np.abs(plain - lined).max(axis=-1) > 8).mean() > 0.05
    page.keys("w")
    np.testing.assert_array_equal(page.canvas(), plain)


def test_canvas_follows_the_window_size(page):
    wide = page.state()["size"]
    page.driver.set_window_size(1000, 700)
    page.until(lambda: page.state()["size"][0] < wide[0])
    page.until(lambda: page.canvas_pixels() == page.state()["size"])  # a frame later
    nose = largest_vertex(HEADS[1][:, 2], np.ones(len(HEADS[1]), bool))
    assert abs(np.array(page.pixel(*page.project(nose)[:2])) - [204, 128, 77]).max() < 8
    page.driver.set_window_size(600, 900)  # the panel goes below
    page.until(lambda: page.box("canvas")["bottom"] <= page.box("title")["top"])
    page.until(lambda: page.canvas_pixels() == page.state()["size"])  # a frame later
    assert page.overflow() <= 0


def test_canvas_follows_the_pixel_density(page):
    with page.metrics(900, 700, 2):
        page.until(lambda: page.canvas_pixels() == [2 * side for side in page.state()["size"]])
        nose = largest_vertex(HEADS[1][:, 2], np.ones(len(HEADS[1]), bool))
        assert abs(np.array(page.pixel(*page.project(nose)[:2])) - [204, 128, 77]).max() < 8


def test_dark_mode_changes_the_background(page):
    with page.media("prefers-color-scheme", "dark"):
        page.click_view("left")
        page.until(lambda: abs(page.state()["view"]["yaw"] + 0.95) < 1e-6)
        np.testing.assert_allclose(page.pixel(5, 600), STAGE_DARK, atol=2)
        assert page.thumbnail_corners() == {STAGE_DARK}
    page.until(lambda: page.thumbnail_corners() == {STAGE_LIGHT})
    np.testing.assert_allclose(page.points(), HEADS[1], atol=1e-5)


def test_reduced_motion_turns_at_once(page):
    with page.media("prefers-reduced-motion", "reduce"):
        page.click_view("right")
        assert page.state()["view"]["yaw"] == pytest.approx(0.95)


def test_controls_have_names(page):
    assert page.unnamed_controls() == []


def test_lost_webgl_context_is_restored(page):
    page.expected += ["CONTEXT_LOST_WEBGL"]
    before = page.canvas()
    page.lose_context()
    page.until(lambda: np.array_equal(page.canvas(), before))


def test_missing_webgl_is_reported(driver, page, url):
    with page.before_scripts("HTMLCanvasElement.prototype.getContext = () => null"):
        driver.get(url)
        page.until(lambda: page.shown("refusal"))
        assert "WebGL 2" in page.text("refusal") and "hypotheses/sheet.jpg" in page.text("refusal")


def test_damaged_arrays_are_reported(page, tmp_path):
    page.expected += ["Uncaught"]
    broken = tmp_path / "index.html"
    broken.write_text(viewer_page(SCENE).replace('id="arrays">', 'id="arrays">AAAA'), encoding="utf-8")
    page.driver.get(broken.as_uri())
    page.until(lambda: page.shown("refusal"))
    assert "cannot be shown" in page.text("refusal")
    page.allowed_urls += [broken.as_uri()]
