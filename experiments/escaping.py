"""Escapes text that comes from files, names and messages, for the pages that show it.

Each page gets such text from these functions only.
"""

from __future__ import annotations

import html
import json
import os
from typing import Any
from urllib.parse import quote


def plain_text(value: object) -> str:
    """Return a value as text that can be encoded: undecodable bytes of file names (surrogates) become escapes."""
    return str(value).encode(errors="backslashreplace").decode()


def html_text(value: object) -> str:
    """Escape a value for HTML: as text, or in a quoted attribute."""
    return html.escape(plain_text(value))


def html_paragraphs(*paragraphs: str, title: str = "", style: str = "") -> str:
    """Return plain texts as paragraphs of HTML, without the empty ones. title: bold words before the first."""
    texts = [html_text(text) for text in paragraphs if text]
    if title:
        texts[:1] = [" ".join([f"<b>{html_text(title)}</b>", *texts[:1]])]
    return "".join(f'<p style="{html_text(style)}">{text}</p>' for text in texts)


def script_json(value: Any) -> str:
    """Encode a value as JSON that cannot end a script element. Raises: ValueError, a number is not finite."""
    text = json.dumps(value, allow_nan=False)  # ASCII: line separators such as U+2028 become escapes
    return text.translate({ord(character): f"\\u{ord(character):04x}" for character in "<>&"})


def relative_url(name: str, *parts: str) -> str:
    """Return the URL of a file below the page's folder; `name`, a folder of any name, is quoted."""
    return "/".join([quote(os.fsencode(name), safe=""), *parts])
