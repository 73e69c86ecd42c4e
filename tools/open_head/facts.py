"""Facts about a head model's file, and Markdown tables of them."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from flamejax.head import HeadModel, HeadParams, landmarks_from_vertices

CUMULATIVE_AT = (1, 5, 10, 25, 50, 100, 150)


def variance_shares(head: HeadModel) -> np.ndarray:
    """Return the share (S,) of each identity component in the variance of all S, summed over vertices."""
    components = np.asarray(head.shapedirs[..., : head.num_betas], np.float64)
    variance = (components**2).sum(axis=(0, 1))
    return variance / variance.sum()


def template_sizes_mm(head: HeadModel) -> dict[str, float]:
    """Measure the mean head, straight distances along the axes, mm."""
    verts = np.asarray(head.v_template, np.float64)
    points = np.asarray(landmarks_from_vertices(head, head.v_template, HeadParams.zeros(head)), np.float64)
    masks = {name: np.asarray(mask) for name, mask in head.regions.items()}
    eyes = [verts[masks[f"{side}_eyeball"]].mean(axis=0) for side in ("left", "right")]
    scalp = verts[masks["scalp"]]
    brow = points[[21, 22], 1].mean()
    glabella = verts[masks["face"] & (np.abs(verts[:, 0]) < 0.012) & (np.abs(verts[:, 1] - brow) < 0.008), 2].max()
    chin = points[8, 1]
    return {
        "full height, neck included": 1e3 * float(np.ptp(verts[:, 1])),
        "chin (landmark 8) to crown": 1e3 * float(verts[:, 1].max() - chin),
        "head breadth, without ears": 1e3 * float(np.ptp(scalp[:, 0])),
        "head length, between the brows to the back": 1e3 * float(glabella - scalp[:, 2].min()),
        "between the eyeballs' middles": 1e3 * float(np.linalg.norm(eyes[0] - eyes[1])),
    }


def identity_std_mm(head: HeadModel) -> float:
    """Return the RMS distance from the mean head over random people and the face's vertices, mm."""
    components = np.asarray(head.shapedirs[..., : head.num_betas], np.float64)[np.asarray(head.regions["face"])]
    return 1e3 * float(np.sqrt((components**2).sum(axis=(1, 2)).mean()))


def facts(head: HeadModel, path: Path) -> str:
    """Return the facts table of the document, Markdown."""
    data = path.read_bytes()
    albedo = head.albedo_basis.shape
    shares = variance_shares(head)
    rows: list[tuple[str, str]] = [
        ("name", f"{head.name} {head.version}"),
        ("licence", head.licence),
        ("file", f"`flamejax/head/assets/{path.name}`, {len(data) / 1e6:.2f} MB"),
        ("sha256", f"`{hashlib.sha256(data).hexdigest()}`"),
        (
            "mesh",
            f"{head.num_vertices:,} vertices, {len(head.faces):,} triangles, {len(head.uv):,} texture coordinates",
        ),
        ("joints", "root, neck, jaw, left eye, right eye"),
        ("components", f"{head.num_betas} identity + {head.num_expression} expression + {albedo[0]} albedo"),
        ("albedo", f"{albedo[2]} x {albedo[1]} texels"),
        ("regions", str(len(head.regions))),
        ("landmarks", "68: 51 fixed, 17 on a contour table of 79 yaws"),
        ("spread of the face", f"{identity_std_mm(head):.1f} mm RMS from the mean over identities"),
    ]
    rows += [(f"mean head: {name}", f"{value:.0f} mm") for name, value in template_sizes_mm(head).items()]
    lines = ["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)]
    steps = [n for n in CUMULATIVE_AT if n <= len(shares)]
    total = np.cumsum(shares)
    lines += [
        "",
        "Share of the identity variance in the first components (of the variance of all components):",
        "",
        "| components | " + " | ".join(str(n) for n in steps) + " |",
        "|---|" + "---:|" * len(steps),
        "| share, % | " + " | ".join(f"{100 * total[n - 1]:.1f}" for n in steps) + " |",
        "",
        "<details><summary>Share of each identity component, %</summary>",
        "",
        "```",
        *(_numbered(100 * shares, start) for start in range(0, len(shares), 10)),
        "```",
        "",
        "</details>",
    ]
    return "\n".join(lines)


def _numbered(values: np.ndarray, start: int) -> str:
    """Format ten values of a list, after the number of the first."""
    return f"{start + 1:4d}: " + " ".join(f"{value:6.3f}" for value in values[start : start + 10])


def read_rows(path: Path) -> list[dict[str, object]]:
    """Read the rows of a table from a JSON list of objects.

    Raises:
        ValueError: the file is not such a list, or it is empty.
    """
    rows = json.loads(path.read_text())
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) and row for row in rows):
        raise ValueError(f'{path}: a JSON list of row objects is needed, as in [{{"measure": "x", "ours": 1.5}}].')
    return rows


def markdown_table(rows: Sequence[Mapping[str, object]]) -> str:
    """Format rows as a table with the keys as column names; columns of numbers are right-aligned."""
    columns = list(dict.fromkeys(str(key) for row in rows for key in row))
    numeric = {c: all(_is_number(row.get(c)) for row in rows) for c in columns}
    lines = [
        "| " + " | ".join(_cell(column) for column in columns) + " |",
        "|" + "|".join("---:" if numeric[column] else "---" for column in columns) + "|",
    ]
    lines += ["| " + " | ".join(_cell(row.get(column)) for column in columns) + " |" for row in rows]
    return "\n".join(lines)


def _is_number(value: object) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def _cell(value: object) -> str:
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        # Four significant digits, but no fewer than the integer part has, and no exponents.
        return f"{value:.0f}" if abs(value) >= 1e4 else f"{value:.4g}"
    return " ".join(str(value).split()).replace("|", "\\|")
