"""Drives the viewer's page as a person does, and reads what it shows, by selenium and the DevTools protocol."""

from __future__ import annotations

import base64
import contextlib
import io
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from PIL import Image
from selenium.webdriver import ActionChains
from selenium.webdriver.common.actions.wheel_input import ScrollOrigin
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select


class Page:
    """An opened viewer page. Positions are CSS pixels of the canvas."""

    def __init__(self, driver: Any, url: str):
        self.driver = driver
        self.expected: list[str] = []
        """Words of console messages that are not errors."""
        self.allowed_urls: list[str] = [url]
        """URLs that may be requested."""
        driver.get(url)
        self.until(lambda: driver.execute_script("return document.body.className") != "")
        if self.driver.execute_script("return !window.viewer"):
            raise AssertionError(self.text("refusal"))

    def until(self, done: Callable[[], Any], seconds: float = 20.0) -> None:
        """Wait until `done` returns something true. Raises: AssertionError, it does not within `seconds`."""
        end = time.monotonic() + seconds
        while not done():
            if time.monotonic() > end:
                raise AssertionError(f"timed out after {seconds:g} s")
            time.sleep(0.02)

    # Reading the page.

    def state(self) -> dict[str, Any]:
        return self.driver.execute_script("return viewer.state()")

    def points(self) -> np.ndarray:
        return np.array(self.driver.execute_script("return viewer.points()")).reshape(-1, 3)

    def project(self, vertex: int) -> list[float]:
        return self.driver.execute_script("return viewer.project(arguments[0])", int(vertex))

    def pixel(self, x: float, y: float) -> list[int]:
        return self.driver.execute_script("return viewer.pixel(arguments[0], arguments[1])", float(x), float(y))

    def canvas(self) -> np.ndarray:
        """Return the canvas (h, w, 3), once all scheduled frames are drawn."""
        script = """const done = arguments[0], canvas = document.getElementById("canvas");
            requestAnimationFrame(() => requestAnimationFrame(() => {
              viewer.pixel(0, 0);
              done(canvas.toDataURL("image/png").split(",")[1]);
            }));"""
        data = base64.b64decode(self.driver.execute_async_script(script))
        return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))

    def canvas_pixels(self) -> list[int]:
        return self.driver.execute_script("const c = document.getElementById('canvas'); return [c.width, c.height]")

    def text(self, name: str) -> str:
        return self.find(name).text

    def shown(self, name: str) -> bool:
        return self.find(name).is_displayed()

    def box(self, name: str) -> dict[str, float]:
        return self.driver.execute_script("return arguments[0].getBoundingClientRect().toJSON()", self.find(name))

    def overflow(self) -> int:
        """Return by how many pixels the page is wider than the window."""
        return self.driver.execute_script("return document.documentElement.scrollWidth - innerWidth")

    def pressed(self, view: str) -> bool:
        return self.view_button(view).get_attribute("aria-pressed") == "true"

    def at_home(self) -> bool:
        """Return whether the view is that of the photo, and no longer moves."""
        return self.state()["view"] == {"yaw": 0, "pitch": 0, "zoom": 1, "panX": 0, "panY": 0}

    def chosen(self) -> list[int]:
        """Return the heads that are checked and marked as chosen."""
        radios = self.driver.find_elements(By.CSS_SELECTOR, "#heads label.chosen input:checked")
        return [int(radio.get_attribute("value")) for radio in radios]

    def count_thumbnails(self) -> int:
        """Return how many thumbnails are not blank."""
        script = """return [...document.querySelectorAll("#heads canvas")].map((canvas) => {
            const data = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
            return new Set(data.filter((_, k) => k % 4 === 0)).size;
        });"""
        return sum(count > 10 for count in self.driver.execute_script(script))

    def thumbnail_corners(self) -> set[tuple[int, ...]]:
        """Return the colours of the thumbnails' lower left corners."""
        script = """return [...document.querySelectorAll("#heads canvas")].map((canvas) =>
            [...canvas.getContext("2d").getImageData(0, canvas.height - 1, 1, 1).data].slice(0, 3));"""
        return {tuple(colour) for colour in self.driver.execute_script(script)}

    def unnamed_controls(self) -> list[str]:
        """Return the roles of controls without a name for screen readers, by the browser's accessibility tree."""
        nodes = self.driver.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
        roles = {"button", "radio", "checkbox", "slider", "combobox"}
        elements = [(n["role"]["value"], n.get("name", {}).get("value", "")) for n in nodes if not n.get("ignored")]
        assert sum(role in roles for role, _ in elements) >= 15
        return [role for role, name in elements if role in roles and not name.strip()]

    # Using the page.

    def find(self, name: str) -> Any:
        return self.driver.find_element(By.ID, name)

    def click(self, name: str) -> None:
        self.find(name).click()

    def click_head(self, head: int) -> None:
        self.driver.find_elements(By.CSS_SELECTOR, "#heads label")[head].click()

    def focus_head(self, head: int) -> None:
        self.driver.find_elements(By.CSS_SELECTOR, "#heads input")[head].send_keys("")

    def click_mode(self, mode: str) -> None:
        self.driver.find_element(By.CSS_SELECTOR, f"input[name=mode][value={mode}] + span").click()

    def view_button(self, view: str) -> Any:
        return self.driver.find_element(By.CSS_SELECTOR, f"button[data-view={view}]")

    def click_view(self, view: str) -> None:
        self.view_button(view).click()

    def choose(self, name: str, text: str) -> None:
        Select(self.find(name)).select_by_visible_text(text)

    def keys(self, *keys: str) -> None:
        """Press keys where the focus is, but not in a select, which would take them."""
        self.driver.execute_script("if (document.activeElement.matches('select')) document.activeElement.blur()")
        ActionChains(self.driver).send_keys(*(getattr(Keys, key) if len(key) > 1 else key for key in keys)).perform()

    def shift_keys(self, *keys: str) -> None:
        actions = ActionChains(self.driver).key_down(Keys.SHIFT)
        actions.send_keys(*(getattr(Keys, key) for key in keys)).key_up(Keys.SHIFT).perform()

    def slide_to(self, name: str, key: str) -> None:
        """Focus a slider and press a key."""
        self.find(name).send_keys(getattr(Keys, key))

    def drag_slider(self, name: str, share: float) -> None:
        """Drag a slider's thumb to a share of its width."""
        slider = self.find(name)
        now = float(slider.get_attribute("value")) / 100
        width = slider.size["width"] - 16  # the thumb's middle stays half its width inside
        actions = ActionChains(self.driver).move_to_element_with_offset(slider, round(width * (now - 0.5)), 0)
        actions.click_and_hold().move_by_offset(round(width * (share - now)), 0).release().perform()

    def drag(
        self, start: tuple[int, int], end: tuple[int, int], *, shift: bool = False, button: str = "left"
    ) -> None:  # fmt: skip
        """Drag on the canvas in three steps."""
        if shift:
            ActionChains(self.driver).key_down(Keys.SHIFT).perform()
        actions = ActionChains(self.driver, duration=30)
        self._to(actions, start)
        which = {"left": 0, "right": 2}[button]
        actions.w3c_actions.pointer_action.pointer_down(button=which)
        for share in (1 / 3, 2 / 3, 1.0):
            self._to(actions, tuple(round(a + share * (b - a)) for a, b in zip(start, end, strict=True)))
        actions.w3c_actions.pointer_action.pointer_up(button=which)
        actions.perform()
        if shift:
            ActionChains(self.driver).key_up(Keys.SHIFT).perform()

    def wheel(self, at: list[float], pixels: int) -> None:
        width, height = self.state()["size"]
        origin = ScrollOrigin.from_element(self.find("canvas"), round(at[0] - width / 2), round(at[1] - height / 2))
        before = self.state()["view"]["zoom"]
        ActionChains(self.driver).scroll_from_origin(origin, 0, pixels).perform()
        self.until(lambda: self.state()["view"]["zoom"] != before)

    def pinch(self, first: tuple[int, int], second: tuple[int, int], apart: int) -> None:
        """Move two fingers apart along x, each by `apart` pixels."""
        box = self.box("canvas")

        def touch(kind: str, by: float) -> None:
            positions = [(first[0] - by, first[1], 0), (second[0] + by, second[1], 1)] if kind != "touchEnd" else []
            points = [{"x": x + box["left"], "y": y + box["top"], "id": name} for x, y, name in positions]
            self.driver.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

        touch("touchStart", 0)
        for share in (0.25, 0.5, 0.75, 1.0):
            touch("touchMove", share * apart)
        touch("touchEnd", apart)

    def lose_context(self) -> None:
        """Lose the WebGL context, and restore it."""
        self.driver.execute_async_script("""const done = arguments[0];
            const gl = document.getElementById("canvas").getContext("webgl2");
            const extension = gl.getExtension("WEBGL_lose_context");
            extension.loseContext();
            setTimeout(() => { extension.restoreContext(); setTimeout(done, 100); }, 100);""")

    @contextlib.contextmanager
    def media(self, feature: str, value: str) -> Iterator[None]:
        features = [{"name": feature, "value": value}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        try:
            yield
        finally:
            self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})

    @contextlib.contextmanager
    def metrics(self, width: int, height: int, density: float) -> Iterator[None]:
        size = {"width": width, "height": height, "deviceScaleFactor": density, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        try:
            yield
        finally:
            self.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})

    @contextlib.contextmanager
    def before_scripts(self, source: str) -> Iterator[None]:
        """Run a script before those of all pages that are loaded in the block."""
        added = self.driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": source})
        try:
            yield
        finally:
            self.driver.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", added)

    def _to(self, actions: ActionChains, at: tuple[int, ...]) -> None:
        width, height = self.state()["size"]
        x, y = round(at[0] - width / 2), round(at[1] - height / 2)
        actions.w3c_actions.pointer_action.move_to(self.find("canvas"), x, y)
