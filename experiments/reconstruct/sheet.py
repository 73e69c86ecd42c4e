"""Writes the contact sheet of all photos, as a picture and as a web page."""

from __future__ import annotations

import io
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from experiments.escaping import html_text, plain_text, relative_url
from experiments.photos import Failure
from experiments.reconstruct.results import SHEET, VIEWER
from flamejax.files import is_file, write_bytes, write_text
from flamejax.io.records import THUMBNAILS

MAX_TILES = 200
COLUMNS = 2
MAX_TILE_SIDE = 8192
"""Pixels."""
CAPTION_HEIGHT = 22
"""Pixels."""

STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 1320px; padding: 0 1rem; }
h1 { font-size: 1.4rem; margin-bottom: .2rem; }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 560px), 1fr)); gap: 1.2rem; }
figure { margin: 0; border: 1px solid #8884; border-radius: 8px; overflow: hidden; }
figure img { display: block; width: 100%; }
figcaption { padding: .5rem .8rem; overflow-wrap: anywhere; }
figcaption a { display: inline-block; margin-right: .7rem; }
figcaption a.viewer { margin: .35rem 0 .45rem; padding: .4rem .9rem; border-radius: 6px; font-weight: 600;
  background: #2f6fdf; color: #fff; text-decoration: none; }
figcaption a.viewer:hover { background: #2459b8; }
.quiet { opacity: .7; }
table { border-collapse: collapse; } td, th { text-align: left; padding: .25rem .8rem .25rem 0; vertical-align: top; }
"""
POLICY = "default-src 'none'; img-src 'self' file:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
"""The page's content security policy: no scripts, no frames."""
LINKS = ("overlay.png", "occlusion_mask.png", "face_mask.png", "mesh.glb", "mesh.obj", "params.npz", "camera.json",
         "landmarks.json", "metrics.json")  # fmt: skip


def write_index(folder: Path, results: dict[str, dict[str, Any]], failures: Sequence[Failure], note: str) -> None:
    """Write index.html of results (name -> metrics), with one line about the run.

    The page loads nothing but the thumbnails beside it."""
    cards = "\n".join(_card(name, metrics) for name, metrics in results.items())
    page = f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<title>{len(results)} heads</title>
<style>{STYLE}</style>
</head>
<body>
<h1>{counted(len(results), "head")}{f", {counted(len(failures), 'failure')}" if failures else ""}</h1>
<p class="quiet">{html_text(note)}<br>
From left to right: the photo with its landmarks (green = confident, red = hidden or uncertain) and its occlusion mask
(violet = taken for hidden, also beyond the photo's edge), the head over the photo, the head, the head turned.</p>
<div class="grid">
{cards}
</div>
{_failure_table(failures)}
</body>
</html>
"""
    write_text(folder / "index.html", page)


def write_contact_sheet(folder: Path, names: Sequence[str]) -> None:
    """Write contact_sheet.png from the thumbnails of at most MAX_TILES results; delete it if there are none."""
    target = folder / "contact_sheet.png"
    opened = ((name, _load_thumbnail(folder / THUMBNAILS / f"{name}.jpg")) for name in names)
    thumbnails = dict(itertools.islice(((name, tile) for name, tile in opened if tile is not None), MAX_TILES))
    if not thumbnails:
        target.unlink(missing_ok=True)
        return
    shown, tiles = list(thumbnails), list(thumbnails.values())
    width, height = max(t.width for t in tiles), max(t.height for t in tiles) + CAPTION_HEIGHT
    rows = -(-len(tiles) // COLUMNS)
    columns = min(COLUMNS, len(tiles))
    note = f"the first {len(shown)} of {len(names)}" if len(shown) < len(names) else ""
    sheet = Image.new("RGB", (columns * width, rows * height + (CAPTION_HEIGHT if note else 0)), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    for i, (name, picture) in enumerate(zip(shown, tiles, strict=True)):
        x, y = i % COLUMNS * width, i // COLUMNS * height
        draw.text((x + 4, y + 3), plain_text(name), fill="black", font=font)
        sheet.paste(picture, (x, y + CAPTION_HEIGHT))
    draw.text((4, rows * height + 3), note, fill="black", font=font)
    buffer = io.BytesIO()
    sheet.save(buffer, format="PNG")
    write_bytes(target, buffer.getvalue())


def _load_thumbnail(path: Path) -> Image.Image | None:
    """Return a thumbnail; None if it is missing, damaged or too large to be one."""
    try:
        if not is_file(path):
            return None
        with Image.open(path) as picture:
            return picture.convert("RGB") if max(picture.size) <= MAX_TILE_SIDE else None
    except Exception:  # Pillow's decoders raise nearly anything on broken bytes
        return None


def write_thumbnail(folder: Path, name: str, picture: Image.Image) -> None:
    """Write a result's row of pictures for the two sheets."""
    buffer = io.BytesIO()
    picture.save(buffer, format="JPEG", quality=90)
    write_bytes(folder / THUMBNAILS / f"{name}.jpg", buffer.getvalue())


def _card(name: str, metrics: dict[str, Any]) -> str:
    """Return a result's part of the page. Values of its metrics.json may be of any type."""
    folder, files, viewer_link = relative_url(name), list(LINKS), ""
    page, photo = f"{folder}/overlay.png", str(metrics.get("photo", ""))
    settings = metrics.get("settings")
    method = metrics.get("method") or (settings.get("method") if isinstance(settings, dict) else None)
    facts = [f"method {method}"] if method else []
    facts.append(f"{metrics.get('visible_landmarks')} of 68 landmarks visible")
    if (error := _number(metrics.get("landmark_nme"))) is not None:
        facts.append(f"landmark error {100 * error:.1f} % of the distance between the outer eye corners")
    if count := int(_number(metrics.get("hypotheses")) or 0):
        facts.append(counted(count, "hypothesis", "hypotheses"))
        files.append(SHEET)
        page = f"{folder}/{VIEWER}"
        heads = counted(count, "hypothesis", "hypotheses")
        viewer_link = f'<a class="viewer" href="{page}">Look at the {heads} in 3D</a><br>\n'
    links = "".join(f'<a href="{folder}/{file}">{file}</a>' for file in files)
    return f"""<figure>
<a href="{page}"><img loading="lazy" src="{THUMBNAILS}/{folder}.jpg" alt="{html_text(name)}"></a>
<figcaption>{viewer_link}<b>{html_text(name)}</b>
<span class="quiet" title="{html_text(photo)}">{html_text(Path(photo).name)}</span><br>
{html_text("; ".join(facts))}<br>{links}</figcaption>
</figure>"""


def _number(value: object) -> float | None:
    """Return a value of metrics.json if it is a number of ordinary size."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e9
    return float(value) if is_number else None  # type: ignore[arg-type]


def _failure_table(failures: Sequence[Failure]) -> str:
    if not failures:
        return ""
    cells = ((html_text(text) for text in (f.photo, f.stage, f.reason)) for f in failures)
    rows = "\n".join(f"<tr><td>{'</td><td>'.join(row)}</td></tr>" for row in cells)
    return f"<h2>Failures</h2>\n<table>\n<tr><th>photo</th><th>stage</th><th>reason</th></tr>\n{rows}\n</table>"


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """Return a number with its noun, such as "1 head" or "2 heads"."""
    return f"{number} {noun if number == 1 else plural or noun + 's'}"
