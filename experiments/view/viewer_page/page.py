"""Builds the viewer's page: one HTML file of the template, style and scripts in `web`, and one scene."""

from __future__ import annotations

import re
from pathlib import Path

from experiments.escaping import html_text, script_json
from experiments.view.viewer_page.scene import ViewerScene, pack

FOLDER = Path(__file__).parent / "web"
SCRIPTS = ("unpack.js", "shape.js", "shaders.js", "renderer.js", "camera.js", "input.js", "panel.js", "main.js")
"""Concatenated in this order."""


def viewer_page(scene: ViewerScene) -> str:
    """Return the page's HTML, whose content security policy forbids all requests. Raises: ValueError, as `pack`."""
    header, arrays = pack(scene)
    parts = {
        "title": html_text(scene.title),
        "style": (FOLDER / "viewer.css").read_text(encoding="utf-8"),
        "scene": script_json(header),
        "arrays": arrays,
        "script": "\n".join((FOLDER / name).read_text(encoding="utf-8") for name in SCRIPTS),
    }
    page = (FOLDER / "page.html").read_text(encoding="utf-8")
    # In one pass, so that inserted text is not searched again.
    return re.sub(r"{{(\w+)}}", lambda match: parts[match[1]], page)
