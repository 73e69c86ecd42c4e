"""The viewer's page: template, style and scripts, which lie beside this file, and one scene, in one file."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path

from experiments.view.viewer_page.scene import ViewerScene, pack

FOLDER = Path(__file__).parent / "web"
SCRIPTS = ("unpack.js", "shape.js", "shaders.js", "renderer.js", "camera.js", "input.js", "panel.js", "main.js")
"""In this order they are one script."""


def viewer_page(scene: ViewerScene) -> str:
    """HTML that needs nothing from elsewhere: no request leaves it, which its own content policy sees to. Raises as
    `pack`."""
    header, arrays = pack(scene)
    parts = {
        "title": html.escape(scene.title),
        "style": (FOLDER / "viewer.css").read_text(encoding="utf-8"),
        # Within a script element only "<" could end or hide anything.
        "scene": json.dumps(header, allow_nan=False).replace("<", "\\u003c"),
        "arrays": arrays,
        "script": "\n".join((FOLDER / name).read_text(encoding="utf-8") for name in SCRIPTS),
    }
    page = (FOLDER / "page.html").read_text(encoding="utf-8")
    # In one pass: what was put in is not searched again.
    return re.sub(r"{{(\w+)}}", lambda found: parts[found[1]], page)
