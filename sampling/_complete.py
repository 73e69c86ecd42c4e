"""Shape completion (Diverse3DFace, section 4.2): what of a fit the photo shows goes into the Mesh-VAE, and whole heads
come out."""

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
"""Metres: standard deviation of a visible coordinate of a fit about the truth, in scores."""
AT_ONCE = 16
"""Draws of a face that are decoded at once."""
EYEBALLS = ("left_eyeball", "right_eyeball")


def complete(vae: MeshVAE, model: FitModel, fit: Fit, key: Array, *, num_samples: int = 16) -> Hypotheses:
    """Draw whole heads from what the Mesh-VAE makes of the visible vertices of fits.

    The fit's vertices are brought into the head frame (global rotation undone, root joint at the origin), those that
    the photo does not show are taken away, the rest is encoded, and draws are decoded and brought back. So all of a
    draw is the Mesh-VAE's; where the photo shows the head, it is the fit again but for fractions of a millimetre.

    Args:
      vae: a trained Mesh-VAE of the head.
      model: what was fitted, `prepare(head, local)`.
      fit: of one face, or of a batch (*b,).
      key: a key, or a key for each face (*b,).
      num_samples: M.

    Returns:
      `num_samples` heads a face, sorted by `score`.

    Raises:
      ValueError: the Mesh-VAE is of another mesh, the fit of another `model`, the key of another batch, or num_samples
        is below 1.
    """
    check_inputs(vae, model, fit, num_samples)
    return _complete(vae, model, fit, keys_of(key, fit.vertices.shape[:-2]), num_samples)


@functools.partial(jax.jit, static_argnums=4)
def _complete(vae: MeshVAE, model: FitModel, fit: Fit, keys: Array, num_samples: int) -> Hypotheses:
    batch = fit.vertices.shape[:-2]
    vertices, rotation, root = vmap_leading(batch, functools.partial(to_head_frame, model), fit)
    visible = visible_vertices(model.head, fit)
    posterior = vae.encode(vertices, visible)
    latents = vmap_leading(batch, functools.partial(_draws, num_samples), posterior, keys)
    # In parts: as many heads at once as fit into an accelerator's memory.
    parts = jnp.split(latents, list(range(AT_ONCE, num_samples, AT_ONCE)), axis=-3)
    decoded = jnp.concatenate([vae.decode(part) for part in parts], axis=-3)
    found = vmap_leading(batch, score, latents, decoded, vertices, visible)
    heads = Hypotheses(vmap_leading(batch, to_world, decoded, rotation, root), None, latents, found)
    return vmap_leading(batch, sorted_best_first, heads)


def keys_of(key: Array, batch: tuple[int, ...]) -> Array:
    """A key for each face (*b,), from one or as many. Raises: ValueError, they are of another batch."""
    key = key if jnp.issubdtype(key.dtype, jax.dtypes.prng_key) else jax.random.wrap_key_data(key)
    if key.shape not in ((), batch):
        raise ValueError(f"one key, or one for each of the fits {batch}, not {key.shape}.")
    return key if key.shape == batch else jax.random.split(key, batch)


def check_inputs(
    vae: MeshVAE | None, model: FitModel, fit: Fit, num_samples: int, observation: Observation | None = None
) -> None:
    """Raises: ValueError, as `complete`."""
    check_count_and_fit(num_samples, fit, observation)
    check_model(model, fit)
    if vae is not None and fit.vertices.shape[-2] != vae.num_vertices:
        raise ValueError(f"a fit of {fit.vertices.shape[-2]} vertices, but a Mesh-VAE of {vae.num_vertices}.")


def check_count_and_fit(num_samples: int, fit: Fit, observation: Observation | None = None) -> None:
    """Raises: ValueError, num_samples is below 1, or the leaves of the fit or the observation are of other batches."""
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
    """Raises: ValueError, the fit's coefficients are not of this model."""
    wanted = model.head.num_betas, model.head.num_expression
    found = fit.params.betas.shape[-1], fit.params.expression.shape[-1]
    if found != wanted:
        raise ValueError(
            f"the fit has {found[0]} + {found[1]} coefficients, the model {wanted[0]} + {wanted[1]}: give the "
            "model that was fitted, `fitting.prepare(head, local)`."
        )


def visible_vertices(head: HeadModel, fit: Fit) -> Array:
    """(*b, V) bool: the vertices of a fit that a Mesh-VAE gets to see: what the photo shows, and the eyeballs, which a
    fit places by the lids."""
    eyes = jnp.broadcast_to(eyeball_vertices(head), fit.vertex_visibility.shape)
    return fit.vertex_visibility.astype(bool) | eyes


def eyeball_vertices(head: HeadModel) -> Array:
    """(V,) bool; none of a head without region masks."""
    found = jnp.zeros(head.num_vertices, bool)
    for name in EYEBALLS:
        found = found | head.regions.get(name, found)
    return found


def to_head_frame(model: FitModel, fit: Fit) -> tuple[Array, Array, Array]:
    """One fit's vertices (V, 3) in the head frame; and the rotation (3, 3) and root joint (3,) that lead back."""
    params = fit.params
    root = root_joint(model.head, params) + params.transl
    return head_frame(fit.vertices, root, params.global_orient), rotation_matrix(params.global_orient), root


def to_world(vertices: Array, rotation: Array, root: Array) -> Array:
    """Back: (M, V, 3) in the head frame -> world."""
    return jnp.matmul(vertices, rotation.T, precision="highest") + root[None, None]


def score(latents: Array, decoded: Array, vertices: Array, visible: Array) -> Array:
    """Log density of one face's heads and what is visible of it, up to a constant: (M,).

    -|d|^2 / (2 sigma^2) summed over visible coordinates with their distance d from the fit, and -|z|^2 / 2. Errors of
    neighbours hang together, so all vertices count as so many observations as there are latents.

    Args:
      latents: (M, L, C). decoded: (M, V, 3) their heads. vertices: (V, 3) of the fit, same frame. visible: (V,).
    """
    away = jnp.where(visible[None, :, None], (decoded - vertices[None]) / EVIDENCE_SIGMA, 0)
    evidence = jnp.sum(away**2, axis=(-2, -1)) / (2 * visible.shape[0])
    size = latents.shape[-2] * latents.shape[-1]
    return -size * evidence - jnp.sum(latents**2, axis=(-2, -1)) / 2


def vmap_leading(batch: tuple[int, ...], function: Callable[..., Any], *args: Any) -> Any:
    """`function` mapped over the leading axes `batch` of its arguments."""
    for _ in batch:
        function = jax.vmap(function)
    return function(*args)


def _draws(count: int, posterior: Posterior, key: Array) -> Array:
    return jax.vmap(posterior.sample)(jax.random.split(key, count))
