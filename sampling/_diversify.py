"""Diverse completion (Diverse3DFace, section 4.4 and Algorithm 2): heads that agree where the photo shows the face and
spread out, by a determinantal point process, where it does not."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange
from jax import Array

from fitting.fit_model import FitModel
from fitting.sharding import sharded_map, sharded_program
from flamejax.types import Fit, Hypotheses, Observation, sorted_best_first
from models.mesh_vae import MeshVAE
from sampling._complete import check_inputs, complete, keys_of, score, to_head_frame, to_world, visible_vertices
from sampling.config import DiversifyConfig
from sampling.descent import Problem, descend
from sampling.hidden_directions import hidden_directions
from sampling.photo_match import PhotoTerm, photo_term
from sampling.single_stage import single_stage

DIRECTIONS_KEY = 0
"""Of the subspace iteration: its result hardly depends on it."""


def diversify(
    vae: MeshVAE | None,
    model: FitModel,
    fit: Fit,
    observation: Observation,
    key: Array,
    *,
    num_samples: int = 16,
    config: DiversifyConfig | None = None,
    devices: tuple[jax.Device, ...] | None = None,
) -> Hypotheses:
    """Whole heads for what photos show of a face, made to differ where they do not show it (Algorithm 2).

    Draws of the Mesh-VAE's posterior given the fit's visible vertices are moved to lower
    lambda_1 L_S + lambda_2 L_pho + lambda_3 L_dpp (Eq. 13), with pose, camera, texture and light of the fit.

    The baselines of the paper's Table 2 are here, too: `config.iterations` = 0 is plain sampling; a fit of the global
    model alone, with its `model`, replaces the global+local one; and without a Mesh-VAE the coefficients of `model` are
    diversified in a single stage (see `single_stage`).

    Args:
      vae: a trained Mesh-VAE of the head; None for a single stage.
      model: what was fitted, `prepare(head, local)`.
      fit: of one face, or of a batch (*b,).
      observation: what was fitted to, batch axes (*b,).
      key: a key, or a key for each face (*b,).
      num_samples: M, at least 2 to differ from `complete`.
      config: `DIVERSIFY_PRESETS["fast"]` when left out. Other values of k and n_sigma do not compile again.
      devices: the photos are shared out over these; all devices when left out.

    Returns:
      `num_samples` heads a face, sorted by `score`.

    Raises:
      ValueError: as `complete`.
    """
    config = config or DiversifyConfig()
    if vae is not None and not config.iterations:
        return complete(vae, model, fit, key, num_samples=num_samples)
    check_inputs(vae, model, fit, num_samples, observation)
    batch = fit.vertices.shape[:-2]
    keys = keys_of(key, batch)
    dpp_params = jnp.asarray([config.k, config.n_sigma], jnp.float32)
    fixed = dataclasses.replace(config, k=0.0, n_sigma=0.0)
    program = functools.partial(_program, fixed, num_samples, vae is not None)
    replicated = (model, dpp_params) if vae is None else (vae, model, dpp_params)
    return sharded_map(program, replicated, (fit, observation, keys), batch, devices)


@functools.lru_cache(maxsize=16)
def _program(config: DiversifyConfig, count: int, two_stage: bool, devices: tuple[jax.Device, ...]) -> Any:
    """The jitted (replicated, photos) -> Hypotheses of photos along one leading axis, shared out over `devices`."""

    def run(replicated: Any, photos: tuple[Fit, Observation, Array]) -> Hypotheses:
        fit, observation, keys = photos
        if two_stage:
            vae, model, dpp_params = replicated
            return diversify_batch(vae, model, dpp_params, fit, observation, keys, count, config)
        model, dpp_params = replicated
        return single_stage(model, dpp_params, fit, observation, keys, count, config)

    return sharded_program(run, devices)


def diversify_batch(
    vae: MeshVAE, model: FitModel, dpp_params: Array, fit: Fit, observation: Observation, keys: Array, count: int,
    config: DiversifyConfig,
) -> Hypotheses:  # fmt: skip
    """Algorithm 2 for photos along one leading axis (B,): pure, traceable. dpp_params: (2,) k, n_sigma."""
    faces = jax.vmap(lambda f, o, k: _start(vae, model, f, o, k, count, config))(fit, observation, keys)
    problem = Problem(
        heads=functools.partial(_heads, vae, config),
        loss=functools.partial(_shape_loss, config),
        plausible=functools.partial(_plausible, config),
        bounded=config.space == "directions",
    )
    found = descend(model.head, problem, faces, faces.start, dpp_params, config)

    def finish(face: Face, variables: Array) -> Hypotheses:
        latents = _latents(config, face, variables)
        decoded = vae.decode(latents)
        heads = to_world(decoded, face.rotation, face.root)
        return sorted_best_first(Hypotheses(heads, None, latents, score(latents, decoded, face.vertices, face.visible)))

    return jax.vmap(finish)(faces, found)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Face:
    """What stays the same while the heads of one photo are moved."""

    photo: PhotoTerm
    vertices: Array
    """(V, 3) of the fit, head frame."""
    visible: Array
    """(V,) bool, eyeballs too."""
    rotation: Array
    """(3, 3)"""
    root: Array
    """(3,) these two lead from the head frame to the world, see `to_world`."""
    drawn: Array
    """(M, L, C) latents of the draws."""
    start: Array
    """(M, K) variables of the draws."""
    directions: Array
    """(K, L, C) how latents follow the variables; of `space` latents (0, L, C)."""

    @property
    def hidden(self) -> Array:
        """(V,) bool"""
        return ~self.visible


def _start(
    vae: MeshVAE, model: FitModel, fit: Fit, observation: Observation, key: Array, count: int, config: DiversifyConfig
) -> Face:
    vertices, rotation, root = to_head_frame(model, fit)
    visible = visible_vertices(model.head, fit)
    posterior = vae.encode(vertices, visible)
    drawn = jax.vmap(posterior.sample)(jax.random.split(key, count))
    if config.space == "latents":
        start, directions = rearrange(drawn, "m l c -> m (l c)"), jnp.zeros((0, *drawn.shape[1:]))
    else:
        rows, _ = hidden_directions(vae, posterior, ~visible, config.directions, jax.random.key(DIRECTIONS_KEY))
        start = jnp.matmul(jax.vmap(posterior.whitened)(drawn), rows.T, precision="highest")
        directions = jax.vmap(posterior.deviation)(rows)
    photo = photo_term(model.head, fit, observation, config.render_size)
    return Face(photo, vertices, visible, rotation, root, drawn, start, directions)


def _latents(config: DiversifyConfig, face: Face, variables: Array) -> Array:
    """(M, K) -> (M, L, C)"""
    if config.space == "latents":
        return variables.reshape(face.drawn.shape)
    return face.drawn + jnp.tensordot(variables - face.start, face.directions, axes=1, precision="highest")


def _heads(vae: MeshVAE, config: DiversifyConfig, face: Face, variables: Array) -> Array:
    """(M, V, 3) world."""
    return to_world(vae.decode(_latents(config, face, variables)), face.rotation, face.root)


def _shape_loss(config: DiversifyConfig, face: Face, heads: Array, variables: Array) -> Array:
    """lambda_1 L_S: () of heads (M, V, 3) in the world."""
    target = to_world(face.vertices[None], face.rotation, face.root)
    away = jnp.where(face.visible[None, :, None], jnp.abs(heads - target), 0)
    return config.shape_weight * jnp.sum(away) / (3 * jnp.maximum(jnp.sum(face.visible), 1))


def _plausible(config: DiversifyConfig, face: Face, variables: Array) -> Array:
    """(M, K) standard normal where heads are plausible."""
    return variables if config.space == "latents" else variables / config.width
