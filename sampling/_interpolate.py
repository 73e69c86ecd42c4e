"""Interpolation between hypotheses (Diverse3DFace, appendix A.6) by decoding the midpoints of their latents."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jax import Array

from fitting.fit_model import FitModel
from flamejax.types import Fit, Hypotheses
from models.mesh_vae import MeshVAE
from sampling._complete import DECODE_BATCH, check_model, to_head_frame, to_world, vmap_leading


def midpoints(vae: MeshVAE, model: FitModel, fit: Fit, hypotheses: Hypotheses) -> Array:
    """Decode the midpoints between the latents of all pairs of hypotheses, in the fit's world and camera.

    With the two end points they interpolate to second order: with c, the midpoint minus the mean of the ends,
    v(a) = (1 - a) v_i + a v_j + 4 a (1 - a) c, which is exact at 0, 1/2 and 1.

    Args:
      vae: the Mesh-VAE of the latents.
      model: the fitted model, `prepare(head, local)`.
      fit: the fit of one face, or of a batch (*b,), that the hypotheses belong to.
      hypotheses: M for each face, with latents (*b, M, L, C).

    Returns:
      (*b, P, V, 3) world metres, P = M (M - 1) / 2 pairs in the order of `np.triu_indices(M, 1)`: (0, 1), (0, 2), ...

    Raises:
      ValueError: the hypotheses have no latents or do not match the Mesh-VAE or the fit, or the fit does not match
        `model`.
    """
    check_model(model, fit)
    batch, latents = fit.vertices.shape[:-2], hypotheses.latents
    if latents is None:
        raise ValueError("these hypotheses have no latents to interpolate.")
    if latents.shape[-2:] != tuple(vae.latent_shape):
        raise ValueError(f"latents of shape {latents.shape[-2:]}, but a Mesh-VAE of {tuple(vae.latent_shape)}.")
    if latents.shape[:-3] != batch:
        raise ValueError(f"hypotheses of {latents.shape[:-3]} faces, but fits of {batch}.")
    return _midpoints(vae, model, fit, jnp.asarray(latents))


@jax.jit
def _midpoints(vae: MeshVAE, model: FitModel, fit: Fit, latents: Array) -> Array:
    batch = latents.shape[:-3]
    first, second = np.triu_indices(latents.shape[-3], 1)
    midpoints = (latents[..., first, :, :] + latents[..., second, :, :]) / 2
    _, rotation, root = vmap_leading(batch, functools.partial(to_head_frame, model), fit)
    heads = _decode_in_parts(vae, midpoints.reshape(-1, *midpoints.shape[-2:]))
    return vmap_leading(batch, to_world, heads.reshape(*batch, len(first), *heads.shape[-2:]), rotation, root)


def _decode_in_parts(vae: MeshVAE, latents: Array) -> Array:
    """Decode (N, L, C) to (N, V, 3), DECODE_BATCH at a time, because all pairs might not fit into memory."""
    count = len(latents)
    parts = -(-count // DECODE_BATCH)
    padded = jnp.pad(latents, ((0, parts * DECODE_BATCH - count), (0, 0), (0, 0)))
    heads = jax.lax.map(vae.decode, rearrange(padded, "(part n) l c -> part n l c", n=DECODE_BATCH))
    return rearrange(heads, "part n v c -> (part n) v c")[:count]
