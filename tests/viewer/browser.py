"""A headless Chromium that draws WebGL in software, driven over the DevTools protocol by selenium."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image

FLAGS = (
    "--headless=new",
    "--use-gl=angle",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
)
PATHS = {
    "chromium": ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable"),
    "chromedriver": ("chromedriver", "chromium.chromedriver"),
}


def why_not() -> str | None:
    """Return why no browser can be driven here, or None."""
    try:
        import selenium  # noqa: F401
    except ImportError:
        return "selenium is not installed (pip install '.[dev]')"
    for program, names in PATHS.items():
        if _find(names) is None:
            return f"there is no {program} on the PATH (Debian: apt-get install chromium chromium-driver)"
    return None


@contextlib.contextmanager
def browser(width: int = 1280, height: int = 800, scale: float = 1.0) -> Iterator[Any]:
    """Start Chromium and yield its selenium driver, whose logs hold all requests and console messages."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = _find(PATHS["chromium"])
    for flag in FLAGS:
        options.add_argument(flag)
    options.add_argument(f"--window-size={width},{height}")
    options.add_argument(f"--force-device-scale-factor={scale}")
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        options.add_argument("--no-sandbox")  # root has no sandbox
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(_find(PATHS["chromedriver"])))
    try:
        driver.set_script_timeout(60)
        yield driver
    finally:
        driver.quit()


def requests(driver: Any) -> list[str]:
    """Return the URLs of all requests since the last call, shortened to 200 characters."""
    messages = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    sent = [m["params"] for m in messages if m["method"] in ("Network.requestWillBeSent", "Network.webSocketCreated")]
    return [params.get("url", params.get("request", {}).get("url", ""))[:200] for params in sent]


def console_messages(driver: Any) -> list[str]:
    """Return warnings and errors on the console since the last call, except Chromium's about software WebGL and reading
    pixels."""
    ignored = ("Multiple readback", "GPU stall due to ReadPixels", "software WebGL", "Automatic fallback to software")
    messages = [f"{entry['level']}: {entry['message']}" for entry in driver.get_log("browser")]
    return [text for text in messages if not any(words in text for words in ignored)]


def screenshot(driver: Any, path: str | os.PathLike) -> np.ndarray:
    """Save a picture of the window, and return it: (h, w, 3) uint8."""
    driver.save_screenshot(str(path))
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def _find(names: tuple[str, ...]) -> str | None:
    return next((path for name in names if (path := shutil.which(name))), None)
