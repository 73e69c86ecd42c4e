"""The viewer's page: template, style and scripts, which lie beside this file, and one scene, in one file."""

from __future__ import annotations

import html
import json
from pathlib import Path

from experiments.view.viewer_page.scene import Scene, pack

FOLDER = Path(__file__).parent / "web"
SCRIPTS = ("unpack.js", "shape.js", "shaders.js", "renderer.js", "camera.js", "input.js", "panel.js", "main.js")
"""In this order they are one script."""


def viewer_page(scene: Scene) -> str:
    """HTML that needs nothing from elsewhere: no request leaves it, which its own content policy sees to.

    Raises:
        ValueError: the scene cannot be shown (see `pack`).
    """
    header, arrays = pack(scene)
    scripts = "\n".join((FOLDER / name).read_text(encoding="utf-8") for name in SCRIPTS)
    parts = {
        "title": html.escape(scene.title),
        "style": (FOLDER / "viewer.css").read_text(encoding="utf-8"),
        # Within a script element only "<" could end or hide anything.
        "scene": json.dumps(header, allow_nan=False).replace("<", "\\u003c"),
        "arrays": arrays,
        "script": scripts,
    }
    page = (FOLDER / "page.html").read_text(encoding="utf-8")
    # Split rather than replaced one after the other: what was put in is not searched again.
    pieces = page.split("{{")
    filled = [pieces[0]]
    for piece in pieces[1:]:
        name, rest = piece.split("}}", 1)
        filled += [parts[name], rest]
    return "".join(filled)
