"""Times the DPP loss against a closed form in NumPy."""

from __future__ import annotations

from functools import partial

import jax
import numpy as np

from experiments.benchmark.timing import CompiledCall, Row, Setting, TimedCall, time_row
from sampling.dpp import diversity_loss

SETS = (16, 100)
VERTICES, LATENTS = 3000, 512
"""Numbers of hidden vertices of a head in a photo, and of the shipped Mesh-VAE's latents."""
K, N_SIGMA = 0.5, 3.0


def dpp_rows(setting: Setting) -> list[Row]:
    """Time the loss and its gradient with respect to the shapes, for each number of heads in SETS."""
    rows = []
    for count in SETS:
        keys = jax.random.split(setting.key)
        sets = 1e-3 * jax.random.normal(keys[0], (count, VERTICES, 3)), jax.random.normal(keys[1], (count, LATENTS))
        loss = partial(diversity_loss, k=K, n_sigma=N_SIGMA)
        ours = CompiledCall(loss, *sets), CompiledCall(jax.value_and_grad(loss), *sets)
        reference = partial(closed_form, np.asarray(sets[0]), np.asarray(sets[1]))
        theirs = TimedCall(partial(reference, gradient=False)), TimedCall(reference)
        name = f"DPP loss, {count} heads, {VERTICES} vertices"
        rows.append(time_row(name, 1, ours, theirs, "closed form in NumPy", setting.limit))
    return rows


def closed_form(shapes: np.ndarray, latents: np.ndarray, gradient: bool = True) -> tuple[float, np.ndarray | None]:
    """Compute `diversity_loss` and its gradient (None if not requested) in NumPy, in its arguments' precision."""
    x = shapes.reshape(len(shapes), -1)
    x = x - x.mean(axis=0)
    gram = x @ x.T
    squares = np.diagonal(gram)
    distances = np.sqrt(np.maximum(squares[:, None] + squares[None] - 2 * gram, 0))
    np.fill_diagonal(distances, 0)
    scale = K / np.median(distances[np.triu_indices(len(x), 1)])
    radius = np.sqrt(latents.shape[1] + N_SIGMA * np.sqrt(2 * latents.shape[1]))
    quality = np.exp(-np.maximum(np.linalg.norm(latents, axis=1) - radius, 0))
    kernel = quality[:, None] * np.exp(-scale * distances) * quality
    inverse = np.linalg.inv(kernel + np.eye(len(x), dtype=x.dtype))
    loss = float(np.trace(inverse)) - len(x)
    if not gradient:
        return loss, None
    weights = (inverse @ inverse) * kernel * scale / np.where(distances > 0, distances, 1)
    np.fill_diagonal(weights, 0)
    return loss, (2 * (weights.sum(axis=1)[:, None] * x - weights @ x)).reshape(shapes.shape)
