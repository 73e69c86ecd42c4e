"""Docstrings on the site: shapes such as (*b, V, 3) become code, so that Markdown does not read their stars."""

from __future__ import annotations

import re

import griffe

BATCHED = r"\(\*[a-z]+(?:, ?[^()`]+)*,?\)"
DIMENSION = r"(?:[A-Z0-9][A-Za-z0-9]?(?: ?[-+*/] ?[A-Z0-9][A-Za-z0-9]?)*)"
SHAPE = re.compile(rf"(?<![`\w])(?:{BATCHED}|\({DIMENSION}(?:, ?{DIMENSION})*,?\))(?!`)")


def mark_shapes(text: str) -> str:
    """Return the text with each shape as a code span; existing code spans stay as they are."""
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(part if part.startswith("`") else SHAPE.sub(r"`\g<0>`", part) for part in parts)


class Shapes(griffe.Extension):
    """Marks the shapes in every docstring."""

    def on_instance(self, *, obj: griffe.Object, **_: object) -> None:
        if obj.docstring:
            obj.docstring.value = mark_shapes(obj.docstring.value)
