"""Shape completion (Diverse3DFace, section 4.2): the Mesh-VAE maps the visible vertices of a fit to complete heads."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from fitting.fit_model import FitModel
from flamejax._checks import check_shapes
from flamejax.head import HeadModel, head_frame, root_joint, rotation_matrix
from flamejax.types import Fit, Hypotheses, Observation, sorted_best_first
from models.mesh_vae import MeshVAE, Posterior

EVIDENCE_SIGMA = 1e-3
"""Metres: standard deviation of a fit's visible coordinates about the truth, as assumed in scores."""
DECODE_BATCH = 16
"""Number of a face's samples that are decoded at a time."""
EYEBALLS = ("left_eyeball", "right_eyeball")


def complete(vae: MeshVAE, model: FitModel, fit: Fit, key: Array, *, num_samples: int = 16) -> Hypotheses:
    """Sample complete heads from the Mesh-VAE's posterior given the visible vertices of fits.

    The fit's vertices are transformed to the head frame (global rotation undone, root joint at the origin), and those
    that the photo shows are encoded. Samples are decoded and transformed back. All vertices of a sample come from the
    Mesh-VAE; the visible ones agree with the fit to fractions of a millimetre.

    Args:
      vae: a trained Mesh-VAE of the head.
      model: the fitted model, `prepare(head, local)`.
      fit: the fit of one face, or of a batch (*b,).
      key: a key, or a key for each face (*b,).
      num_samples: M.

    Returns:
      `num_samples` heads for each face, sorted by `score`.

    Raises:
      ValueError: the Mesh-VAE has another mesh, the fit another `model`, the key another batch, or num_samples is
        below 1.
    """
    check_inputs(vae, model, fit, num_samples)
    return _complete(vae, model, fit, keys_for_batch(key, fit.vertices.shape[:-2]), num_samples)


@functools.partial(jax.jit, static_argnums=4)
def _complete(vae: MeshVAE, model: FitModel, fit: Fit, keys: Array, num_samples: int) -> Hypotheses:
    batch = fit.vertices.shape[:-2]
    vertices, rotation, root = vmap_leading(batch, functools.partial(to_head_frame, model), fit)
    visible = visible_vertices(model.head, fit)
    posterior = vae.encode(vertices, visible)
    latents = vmap_leading(batch, functools.partial(_sample_latents, num_samples), posterior, keys)
    # Decode in parts, so that the intermediate results fit into an accelerator's memory.
    parts = jnp.split(latents, list(range(DECODE_BATCH, num_samples, DECODE_BATCH)), axis=-3)
    decoded = jnp.concatenate([vae.decode(part) for part in parts], axis=-3)
    scores = vmap_leading(batch, score, latents, decoded, vertices, visible)
    heads = Hypotheses(vmap_leading(batch, to_world, decoded, rotation, root), None, latents, scores)
    return vmap_leading(batch, sorted_best_first, heads)


def keys_for_batch(key: Array, batch: tuple[int, ...]) -> Array:
    """Return a key for each face (*b,), from one key or as many. Raises ValueError for another batch shape."""
    key = key if jnp.issubdtype(key.dtype, jax.dtypes.prng_key) else jax.random.wrap_key_data(key)
    if key.shape not in ((), batch):
        raise ValueError(f"one key, or one for each of the fits {batch}, not {key.shape}.")
    return key if key.shape == batch else jax.random.split(key, batch)


def check_inputs(
    vae: MeshVAE | None, model: FitModel, fit: Fit, num_samples: int, observation: Observation | None = None
) -> None:
    """Check the inputs of samplers. Raises ValueError, as `complete`."""
    check_count_and_fit(num_samples, fit, observation)
    check_model(model, fit)
    if vae is not None and fit.vertices.shape[-2] != vae.num_vertices:
        raise ValueError(f"a fit of {fit.vertices.shape[-2]} vertices, but a Mesh-VAE of {vae.num_vertices}.")


def check_count_and_fit(num_samples: int, fit: Fit, observation: Observation | None = None) -> None:
    """Check that num_samples is at least 1 and that batches of fit and observation agree. Raises ValueError if not."""
    if num_samples < 1:
        raise ValueError(f"num_samples is at least 1, not {num_samples}.")
    *batch, count, _ = fit.vertices.shape
    check_shapes(
        **{
            "fit.vertices": (fit.vertices, (..., None, 3)),
            "fit.vertex_visibility": (fit.vertex_visibility, (*batch, count)),
        }
    )
    if observation is None:
        return
    if observation.confidence.shape[:-1] != tuple(batch):
        raise ValueError(f"fits {tuple(batch)}, but observations {observation.confidence.shape[:-1]}.")
    check_shapes(**{"observation.image": (observation.image, (*batch, None, None, 3))})


def check_model(model: FitModel, fit: Fit) -> None:
    """Check that a fit has as many coefficients as the model. Raises ValueError if not."""
    expected = model.head.num_betas, model.head.num_expression
    actual = fit.params.betas.shape[-1], fit.params.expression.shape[-1]
    if actual != expected:
        raise ValueError(
            f"the fit has {actual[0]} + {actual[1]} coefficients, the model {expected[0]} + {expected[1]}: give the "
            "model that was fitted, `fitting.prepare(head, local)`."
        )


def visible_vertices(head: HeadModel, fit: Fit) -> Array:
    """Return the vertices of a fit that the Mesh-VAE is conditioned on, (*b, V) bool: those that the photo shows, and
    the eyeballs, whose position follows from the lids."""
    eyes = jnp.broadcast_to(eyeball_vertices(head), fit.vertex_visibility.shape)
    return fit.vertex_visibility.astype(bool) | eyes


def eyeball_vertices(head: HeadModel) -> Array:
    """Return the mask (V,) bool of the eyeballs; empty for a head without region masks."""
    mask = jnp.zeros(head.num_vertices, bool)
    for name in EYEBALLS:
        mask = mask | head.regions.get(name, mask)
    return mask


def to_head_frame(model: FitModel, fit: Fit) -> tuple[Array, Array, Array]:
    """Return one fit's vertices (V, 3) in the head frame, and the rotation (3, 3) and root joint (3,) for the inverse
    transform `to_world`."""
    params = fit.params
    root = root_joint(model.head, params) + params.transl
    return head_frame(fit.vertices, root, params.global_orient), rotation_matrix(params.global_orient), root


def to_world(vertices: Array, rotation: Array, root: Array) -> Array:
    """Transform vertices (M, V, 3) from the head frame to the world; inverse of `to_head_frame`."""
    return jnp.matmul(vertices, rotation.T, precision="highest") + root[None, None]


def score(latents: Array, decoded: Array, vertices: Array, visible: Array) -> Array:
    """Return the log density of one face's heads and its visible part, up to a constant: (M,).

    It is -(L C / V) |d|^2 / (2 sigma^2) - |z|^2 / 2, with the deviations d of visible coordinates from the fit. The
    errors of neighbours are correlated, so that the V vertices have the weight of only as many as there are latents.

    Args:
      latents: (M, L, C). decoded: (M, V, 3) their heads. vertices: (V, 3) of the fit, in the same frame.
      visible: (V,).
    """
    residuals = jnp.where(visible[None, :, None], (decoded - vertices[None]) / EVIDENCE_SIGMA, 0)
    misfit = jnp.sum(residuals**2, axis=(-2, -1)) / (2 * visible.shape[0])
    size = latents.shape[-2] * latents.shape[-1]
    return -size * misfit - jnp.sum(latents**2, axis=(-2, -1)) / 2


def vmap_leading(batch: tuple[int, ...], function: Callable[..., Any], *args: Any) -> Any:
    """Map a function over the leading axes `batch` of its arguments."""
    for _ in batch:
        function = jax.vmap(function)
    return function(*args)


def _sample_latents(count: int, posterior: Posterior, key: Array) -> Array:
    return jax.vmap(posterior.sample)(jax.random.split(key, count))
