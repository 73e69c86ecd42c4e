"""Errors on held-out heads while training, and pictures of completions and samples."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from PIL import Image

from experiments.clay import View, clay_pictures
from experiments.datasets.scans import evenly_spaced
from experiments.datasets.vertex_masks import KINDS, MaskMaker, hidden_vertices
from models.mesh_vae import MeshVAE

MM = 1e3
SHARE = 0.25, 0.4
"""Share of the vertices that is hidden, as in the paper."""
CHUNK, SIDE, SAMPLES, PICTURED = 8, 220, 4, 4


@dataclass(frozen=True)
class MeshVAEEvaluator:
    """Held-out heads with fixed masks."""

    faces: Array
    """(F, 3)"""
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

    def picture(self, model: MeshVAE) -> np.ndarray:
        """A row per head: the truth, what is visible of it, the completion, and samples. (H, W, 3) uint8."""
        middle, faces = self.heads.mean(axis=0), np.asarray(self.faces)
        view = View(1.2 / float(np.ptp(middle[:, 1])), tuple(middle.mean(axis=0)), (0.44, 0.55), yaw=0.3)
        rows = []
        for row, place in enumerate(evenly_spaced(len(self.heads), PICTURED)):
            truth, visible = self.heads[place], self.visible[place]
            draws = _sample(model, jnp.asarray(truth), jnp.asarray(visible), jax.random.key(row))
            shown = clay_pictures(faces, np.concatenate([truth[None], draws]), side=2 * SIDE, view=view)
            # Triangles without an area are not drawn.
            seen = np.where(visible[faces].all(axis=1, keepdims=True), faces, 0)
            rows.append([shown[0], clay_pictures(seen, truth[None], side=2 * SIDE, view=view)[0], *shown[1:]])
        # Four pixels for each, so that edges are smooth.
        return np.asarray(Image.fromarray(np.concatenate([np.concatenate(cells, axis=1) for cells in rows])).reduce(2))


def judge_of(faces: np.ndarray, heads: np.ndarray, masks: MaskMaker, count: int, seed: int = 0) -> MeshVAEEvaluator:
    """`count` heads (N, V, 3), evenly spaced, rectangles and patches in turn."""
    index = evenly_spaced(len(heads), count)
    keys = jax.random.split(jax.random.key(seed), len(index))
    return MeshVAEEvaluator(jnp.asarray(faces), heads[index], ~np.asarray(_masks(masks, keys)))


@jax.jit
def _masks(masks: MaskMaker, keys: Array) -> Array:
    def mask(key: Array, kind: Array) -> Array:
        shape, share = jax.random.split(key)
        return hidden_vertices(masks, shape, jax.random.uniform(share, (), minval=SHARE[0], maxval=SHARE[1]), kind)

    return jax.vmap(mask)(keys, jnp.arange(len(keys)) % len(KINDS))


@jax.jit
def _complete(model: MeshVAE, heads: Array, visible: Array) -> tuple[Array, Array]:
    return model.complete(heads, visible), model.complete(heads, jnp.ones_like(visible))


@jax.jit
def _sample(model: MeshVAE, truth: Array, visible: Array, key: Array) -> Array:
    completed = model.complete(truth, visible)[None]
    return jnp.concatenate([completed, model.sample(truth, visible, key, SAMPLES)])
