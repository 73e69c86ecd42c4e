"""A synthetic scene: the open head, four hypotheses that differ about the mouth, and a photo of plain squares."""

import base64
import functools
import gzip
import json
import re

import numpy as np

import flamejax
from experiments.view.viewer_page import ViewerScene
from flamejax.io.results_writing import head_mesh

SIZE = 480, 400
SCALE, TRANSLATION = 1000.0, (240.0, 180.0)
SQUARE = 40


@functools.cache
def make_scene(count: int = 4, midpoints: bool = True) -> ViewerScene:
    head = flamejax.load_head()
    fit = np.asarray(head.v_template, np.float32)
    fit = fit - fit.mean(axis=0)
    hidden = np.asarray(head.regions["lips"]) | (fit[:, 2] < -0.02)
    mouth = fit[np.asarray(head.regions["lips"])].mean(axis=0)
    near = np.exp(-(np.linalg.norm(fit - mouth, axis=1) ** 2) / (2 * 0.02**2))
    steps = np.linspace(0.002, 0.008, count)
    moves = np.stack([np.sin(np.arange(count) * 2.0), np.zeros(count), np.ones(count)], axis=1) * steps[:, None]
    heads = (fit + moves[:, None] * near[None, :, None]).astype(np.float32)
    first, second = np.triu_indices(min(count, 16), 1)
    bend = np.array([0.0, 5e-4, 0.0]) * near[:, None] * (1 + np.arange(len(first)))[:, None, None] / len(first)
    middles = (heads[first] + heads[second]) / 2 + bend
    texture = np.full((64, 64, 3), (0.8, 0.5, 0.3), np.float32)
    light = np.zeros((9, 3), np.float32)
    light[0] = np.sqrt(4 * np.pi)
    return ViewerScene(
        title="a <b> & c",
        fit=head_mesh(head, fit, texture),
        heads=heads,
        scores=-3.5 - 2.2 * np.arange(count),
        midpoints=middles if midpoints else None,
        visible=~hidden,
        spread=heads.std(axis=0).max(axis=-1).astype(np.float64) * np.sqrt(2),
        light=light,
        photo=make_photo(),
        scale=SCALE,
        translation=np.array(TRANSLATION),
    )


def make_photo() -> np.ndarray:
    """Return a photo of squares of SQUARE pixels, each of another colour."""
    rows, columns = (np.arange(size) // SQUARE for size in SIZE[::-1])
    colours = np.stack(np.broadcast_arrays(20 + 18 * columns[None], 20 + 22 * rows[:, None], 90), axis=-1)
    return np.clip(colours, 0, 255).astype(np.uint8)


def unpacked(page: str) -> tuple[dict, dict[str, np.ndarray]]:
    """Read the header and the arrays of a page."""
    header = json.loads(re.search(r'<script type="application/json" id="scene">(.*?)</script>', page, re.S)[1])
    text = re.search(r'<script type="text/plain" id="arrays">(.*?)</script>', page, re.S)[1]
    raw = gzip.decompress(base64.b64decode(text))
    arrays = {}
    for name, entry in header["arrays"].items():
        kind = np.dtype(entry["type"]).newbyteorder("<")
        planes = np.frombuffer(raw, np.uint8, entry["count"] * kind.itemsize, entry["offset"])
        arrays[name] = np.ascontiguousarray(planes.reshape(kind.itemsize, -1).T).view(kind)[:, 0]
    return header, arrays


def heads_in(header: dict, arrays: dict[str, np.ndarray]) -> np.ndarray:
    """Return the heads (1 + M, V, 3), metres, the fit first."""
    steps = arrays["heads"].reshape(1 + header["heads"], header["vertices"], 3).astype(np.int16)
    steps[1:] += steps[:1]
    return np.array(header["centre"]) + header["step"] * steps.astype(np.float64)
