"""The DPP loss against a closed form in NumPy; Algorithm 2 for a photo: 16 heads, warm, and the compile time apart."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

import fitting
from experiments.benchmark.timing import SQUARE_GEMM, Call, Row, Setting, Timed, square_gemm, time_row
from experiments.datasets.renders import exact_observation, render_scenes, sample_scenes
from fitting.local_files import shipped_local_model
from flamejax.head import HeadFileError
from models.pretrained import load_mesh_vae
from sampling import DIVERSIFY_PRESETS, diversity_loss
from sampling._diversify import diversify_batch

SETS = (16, 100)
VERTICES, LATENTS = 3000, 512
"""Hidden vertices of a head in a photo, and the shipped Mesh-VAE's latents."""
K, N_SIGMA = 0.5, 3.0
SAMPLES = 16
PART = 10
"""One of so many iterations of the preset `paper` is timed."""


def rows(setting: Setting) -> list[Row]:
    """DPP losses; Algorithm 2 where the head has a Mesh-VAE."""
    found = [dpp_row(setting, count) for count in SETS]
    try:
        load_mesh_vae(setting.head)
    except (HeadFileError, OSError) as error:
        setting.say(f"Algorithm 2 is left out: {error}")
        return found
    return found + [algorithm_row(setting, preset) for preset in DIVERSIFY_PRESETS]


def dpp_row(setting: Setting, count: int) -> Row:
    """Loss and gradient with respect to the shapes, of `count` heads."""
    keys = jax.random.split(setting.key)
    shapes = 1e-3 * jax.random.normal(keys[0], (count, VERTICES, 3))
    latents = jax.random.normal(keys[1], (count, LATENTS))
    x, z = np.asarray(shapes), np.asarray(latents)

    def loss(shapes: jax.Array, latents: jax.Array) -> jax.Array:
        return diversity_loss(shapes, latents, k=K, n_sigma=N_SIGMA)

    return time_row(
        f"DPP loss, {count} heads, {VERTICES} vertices",
        1,
        Timed(loss, shapes, latents),
        Timed(jax.value_and_grad(loss), shapes, latents),
        Call(lambda: closed_form(x, z, gradient=False)),
        Call(lambda: closed_form(x, z)),
        "closed form in NumPy",
        setting.limit,
    )


def closed_form(
    shapes: np.ndarray, latents: np.ndarray, gradient: bool = True
) -> tuple[float, np.ndarray | None]:  # fmt: skip
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


def algorithm_row(setting: Setting, preset: str) -> Row:
    """Heads of one photo; of the preset `paper` a tenth of its iterations, scaled up."""
    model = fitting.prepare(setting.head, shipped_local_model(setting.head))
    images, points, _ = render_scenes(setting.head, sample_scenes(setting.head, setting.key, 1), setting.key)
    seen = exact_observation(images, points)
    fit = fitting.fit(model, seen, devices=(jax.devices()[0],))
    config, factor = DIVERSIFY_PRESETS[preset], 1
    if preset == "paper":
        config, factor = dataclasses.replace(config, iterations=config.iterations // PART), PART
    knobs, keys = jnp.asarray([config.k, config.n_sigma]), setting.key[None]

    program = functools.partial(diversify_batch, count=SAMPLES, config=config)
    timed = Timed(program, load_mesh_vae(setting.head), model, knobs, fit, seen, keys)
    reference = f"{SQUARE_GEMM}^3 GEMM"
    name = f"Algorithm 2, {SAMPLES} heads, {preset}"
    row = time_row(name, 1, timed, None, square_gemm(setting.key), None, reference, setting.few)
    return dataclasses.replace(
        row, forward_ms=factor * row.forward_ms, ratio_forward=factor * row.ratio_forward,
        seconds_per_photo=factor * row.forward_ms / 1e3, memory_mb=timed.memory_mb(),
    )  # fmt: skip
