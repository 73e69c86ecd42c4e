"""Errors on held-out heads while training, and pictures of completions and samples."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from PIL import Image

import flamejax
from experiments.datasets.renders import lamp_light
from experiments.datasets.vertex_masks import KINDS, MaskMaker, hidden_vertices
from flamejax.geometry import normalize
from flamejax.head import HeadModel
from flamejax.rendering import ambient_light, composite
from models.mesh_vae import MeshVAE

MM = 1e3
SHARE = 0.25, 0.4
"""Share of the vertices that is hidden, as in the paper."""
CHUNK, SIDE, SAMPLES = 8, 220, 4
BEHIND = 1e3
"""Metres towards the camera and past it: triangles that lie there are not drawn."""


@dataclass(frozen=True)
class Judge:
    """Held-out heads with fixed masks."""

    head: HeadModel
    heads: np.ndarray
    """(N, V, 3) metres, head frame."""
    visible: np.ndarray
    """(N, V) bool."""

    def errors(self, model: MeshVAE) -> dict[str, float]:
        """Median distances, mm: of visible and of hidden vertices of completions; of whole heads given whole."""
        seen, hidden, whole = [], [], []
        for start in range(0, len(self.heads), CHUNK):
            part = slice(start, start + CHUNK)
            truth, visible = self.heads[part], self.visible[part]
            filled = CHUNK - len(truth)
            args = (np.concatenate([a, np.repeat(a[-1:], filled, axis=0)]) for a in (truth, visible))
            completed, kept = (np.asarray(a)[: len(truth)] for a in _complete(model, *map(jnp.asarray, args)))
            error = MM * np.linalg.norm(completed - truth, axis=-1)
            seen.append(error[visible])
            hidden.append(error[~visible])
            whole.append(MM * np.linalg.norm(kept - truth, axis=-1).ravel())
        names = ("visible_mm", "hidden_mm", "whole_mm")
        return {
            name: float(np.median(np.concatenate(found)))
            for name, found in zip(names, (seen, hidden, whole), strict=True)
        }

    def picture(self, model: MeshVAE, rows: int = 4) -> Image.Image:
        """A row per head: the truth, what is visible of it, the completion, and samples."""
        rows = min(rows, len(self.heads))
        places = np.linspace(0, len(self.heads) - 1, rows).round().astype(int)
        sheet = Image.new("RGB", ((3 + SAMPLES) * SIDE, rows * SIDE), "white")
        for row, place in enumerate(places):
            truth, visible = jnp.asarray(self.heads[place]), jnp.asarray(self.visible[place])
            draws = _sample(model, truth, visible, jax.random.key(row))
            cells = [clay(self.head, truth), clay(self.head, truth, visible)]
            cells += [clay(self.head, found) for found in draws]
            for column, cell in enumerate(cells):
                sheet.paste(cell, (column * SIDE, row * SIDE))
        return sheet


def judge_of(head: HeadModel, heads: np.ndarray, masks: MaskMaker, count: int, seed: int = 0) -> Judge:
    """`count` heads, evenly spaced, rectangles and patches in turn."""
    index = np.unique(np.linspace(0, len(heads) - 1, min(count, len(heads))).round().astype(int))
    keys = jax.random.split(jax.random.key(seed), len(index))
    kinds = jnp.arange(len(index)) % len(KINDS)
    hidden = jax.jit(jax.vmap(lambda key, kind: _mask(masks, key, kind)))(keys, kinds)
    return Judge(head, heads[index], ~np.asarray(hidden))


def _mask(masks: MaskMaker, key: Array, kind: Array) -> Array:
    shape, share = jax.random.split(key)
    return hidden_vertices(masks, shape, jax.random.uniform(share, (), minval=SHARE[0], maxval=SHARE[1]), kind)


@jax.jit
def _complete(model: MeshVAE, heads: Array, visible: Array) -> tuple[Array, Array]:
    return model.complete(heads, visible), model.complete(heads, jnp.ones_like(visible))


@jax.jit
def _sample(model: MeshVAE, truth: Array, visible: Array, key: Array) -> Array:
    completed = model.complete(truth, visible)[None]
    return jnp.concatenate([completed, model.sample(truth, visible, key, SAMPLES)])


@functools.partial(jax.jit, static_argnames="side")
def _shaded(head: HeadModel, points: Array, texture: Array, side: int) -> Array:
    lamp = lamp_light(normalize(jnp.asarray([0.3, 0.45, 0.85])))
    light = 0.3 * ambient_light() + 0.75 * lamp[:, None]
    turn = flamejax.head.rotation_matrix(jnp.asarray([0.0, 0.3, 0.0]))
    moved = points @ turn.T
    height = jnp.max(head.v_template[:, 1]) - jnp.min(head.v_template[:, 1])
    centre = jnp.mean(head.v_template - head.joint_template[:1], axis=0)
    scale = 1.2 * side / height
    place = jnp.stack([0.42 * side - scale * centre[0], 0.56 * side + scale * centre[1]])
    camera = flamejax.OrthographicCamera(scale, place)
    image = flamejax.render(head, moved, camera, texture=texture, light=light, size=(side, side), antialias=True)
    return composite(image, jnp.ones(3))


def clay(head: HeadModel, points: Array, visible: Array | None = None, side: int = SIDE) -> Image.Image:
    """A head (V, 3) in the head frame as grey clay, without the triangles that hidden vertices have part in."""
    if visible is not None:
        points = points.at[:, 2].set(jnp.where(visible, points[:, 2], BEHIND))
    texture = jnp.full(head.albedo_mean.shape, 0.78)
    values = np.asarray(_shaded(head, points, texture, side))
    return Image.fromarray(np.round(255 * np.clip(values, 0, 1)).astype(np.uint8))
