"""Errors on validation heads during training, and pictures of completions and samples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from PIL import Image

from experiments.clay import ClayView, clay_pictures
from experiments.datasets.scans import evenly_spaced
from experiments.datasets.vertex_masks import KINDS, MaskMaker, hidden_vertices
from models.mesh_vae import MeshVAE

MM = 1e3
SHARE = 0.25, 0.4
"""Range of the share of vertices that is hidden, as in the paper."""
CHUNK, SIDE, SAMPLES, PICTURE_HEADS = 8, 220, 4, 4


@dataclass(frozen=True)
class MeshVAEEvaluator:
    """Evaluates a Mesh-VAE on validation heads with fixed masks."""

    faces: Array
    """(F, 3)"""
    heads: np.ndarray
    """(N, V, 3) metres, head frame."""
    visible: np.ndarray
    """(N, V) bool."""

    def errors(self, model: MeshVAE) -> dict[str, float]:
        """Returns median vertex distances, mm: visible and hidden vertices of completions; all vertices of
        reconstructions of fully visible heads (`whole_mm`)."""
        return self._errors_of(lambda heads, visible: _complete(model, heads, visible))

    def baseline_errors(self, model: MeshVAE) -> dict[str, dict[str, float]]:
        """Returns the same errors of simpler completions: the mean of the training heads and, if the network has a
        linear branch, that branch without the convolutions."""
        mean = np.asarray(model.mean[...])
        errors = {"mean head": self._errors_of(lambda heads, visible: (np.broadcast_to(mean, heads.shape),) * 2)}
        if model.linear is not None:
            errors["linear branch alone"] = self._errors_of(lambda *args: _complete_linearly(model, *args))
        return errors

    def _errors_of(self, complete: Callable[[Array, Array], tuple[Any, Any]]) -> dict[str, float]:
        """Returns the errors of a function of heads and visible vertices that returns completions, and reconstructions
        of the fully visible heads."""
        visible_errors, hidden_errors, full_errors = [], [], []
        for start in range(0, len(self.heads), CHUNK):
            part = slice(start, start + CHUNK)
            truth, visible = self.heads[part], self.visible[part]
            padding = CHUNK - len(truth)
            args = (np.concatenate([a, np.repeat(a[-1:], padding, axis=0)]) for a in (truth, visible))
            completed, reconstructed = (np.asarray(a)[: len(truth)] for a in complete(*map(jnp.asarray, args)))
            error = MM * np.linalg.norm(completed - truth, axis=-1)
            visible_errors.append(error[visible])
            hidden_errors.append(error[~visible])
            full_errors.append(MM * np.linalg.norm(reconstructed - truth, axis=-1).ravel())
        names = ("visible_mm", "hidden_mm", "whole_mm")
        return {
            name: float(np.median(np.concatenate(errors)))
            for name, errors in zip(names, (visible_errors, hidden_errors, full_errors), strict=True)
        }

    def picture(self, model: MeshVAE) -> np.ndarray:
        """Returns a picture (H, W, 3) uint8, a row per head: the truth, its visible part, the completion, samples."""
        middle, faces = self.heads.mean(axis=0), np.asarray(self.faces)
        view = ClayView(1.2 / float(np.ptp(middle[:, 1])), tuple(middle.mean(axis=0)), (0.44, 0.55), yaw=0.3)
        rows = []
        for row, index in enumerate(evenly_spaced(len(self.heads), PICTURE_HEADS)):
            truth, visible = self.heads[index], self.visible[index]
            draws = _sample(model, jnp.asarray(truth), jnp.asarray(visible), jax.random.key(row))
            pictures = clay_pictures(faces, np.concatenate([truth[None], draws]), side=2 * SIDE, view=view)
            # Triangles without an area are not drawn.
            visible_faces = np.where(visible[faces].all(axis=1, keepdims=True), faces, 0)
            visible_part = clay_pictures(visible_faces, truth[None], side=2 * SIDE, view=view)[0]
            rows.append([pictures[0], visible_part, *pictures[1:]])
        # Drawn at twice the size and reduced, for smooth edges.
        return np.asarray(Image.fromarray(np.concatenate([np.concatenate(cells, axis=1) for cells in rows])).reduce(2))


def mesh_vae_evaluator(
    faces: np.ndarray, heads: np.ndarray, masks: MaskMaker, count: int, seed: int = 0
) -> MeshVAEEvaluator:  # fmt: skip
    """Returns an evaluator on `count` evenly spaced heads of (N, V, 3), masked by rectangles and patches in turn."""
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
def _complete_linearly(model: MeshVAE, heads: Array, visible: Array) -> tuple[Array, Array]:
    linear, mean, spread = model.linear, model.mean[...][None], model.spread[...]
    assert linear is not None

    def complete(visible: Array) -> Array:
        coefficients = linear.posterior(jnp.where(visible[..., None], (heads - mean) / spread, 0), visible)[0]
        return mean + spread * linear.to_vertices(coefficients)

    return complete(visible), complete(jnp.ones_like(visible))


@jax.jit
def _sample(model: MeshVAE, truth: Array, visible: Array, key: Array) -> Array:
    completed = model.complete(truth, visible)[None]
    return jnp.concatenate([completed, model.sample(truth, visible, key, SAMPLES)])
