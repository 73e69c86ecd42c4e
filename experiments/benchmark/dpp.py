"""The DPP loss against a closed form in NumPy."""

from __future__ import annotations

from functools import partial

import jax
import numpy as np

from experiments.benchmark.timing import Call, Row, Setting, Timed, time_row
from sampling.dpp import diversity_loss

SETS = (16, 100)
VERTICES, LATENTS = 3000, 512
"""Hidden vertices of a head in a photo, and the shipped Mesh-VAE's latents."""
K, N_SIGMA = 0.5, 3.0


def rows(setting: Setting) -> list[Row]:
    """Loss and gradient with respect to the shapes, by the number of heads."""
    found = []
    for count in SETS:
        keys = jax.random.split(setting.key)
        sets = 1e-3 * jax.random.normal(keys[0], (count, VERTICES, 3)), jax.random.normal(keys[1], (count, LATENTS))
        loss = partial(diversity_loss, k=K, n_sigma=N_SIGMA)
        ours = Timed(loss, *sets), Timed(jax.value_and_grad(loss), *sets)
        form = partial(closed_form, np.asarray(sets[0]), np.asarray(sets[1]))
        theirs = Call(partial(form, gradient=False)), Call(form)
        name = f"DPP loss, {count} heads, {VERTICES} vertices"
        found.append(time_row(name, 1, ours, theirs, "closed form in NumPy", setting.limit))
    return found


def closed_form(shapes: np.ndarray, latents: np.ndarray, gradient: bool = True) -> tuple[float, np.ndarray | None]:
    """Loss and gradient (None if not wanted) of `diversity_loss` as NumPy has them, in its arguments' precision."""
    x = shapes.reshape(len(shapes), -1)
    x = x - x.mean(axis=0)
    gram = x @ x.T
    norms = np.diagonal(gram)
    distances = np.sqrt(np.maximum(norms[:, None] + norms[None] - 2 * gram, 0))
    np.fill_diagonal(distances, 0)
    scale = K / np.median(distances[np.triu_indices(len(x), 1)])
    radius = np.sqrt(latents.shape[1] + N_SIGMA * np.sqrt(2 * latents.shape[1]))
    quality = np.exp(-np.maximum(np.linalg.norm(latents, axis=1) - radius, 0))
    kernel = quality[:, None] * np.exp(-scale * distances) * quality
    inverse = np.linalg.inv(kernel + np.eye(len(x), dtype=x.dtype))
    loss = float(np.trace(inverse)) - len(x)
    if not gradient:
        return loss, None
    pull = (inverse @ inverse) * kernel * scale / np.where(distances > 0, distances, 1)
    np.fill_diagonal(pull, 0)
    return loss, (2 * (pull.sum(axis=1)[:, None] * x - pull @ x)).reshape(shapes.shape)
