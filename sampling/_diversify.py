"""Diverse completion (Diverse3DFace, section 4.4 and Algorithm 2): heads that agree where the photo shows the face, and
that a determinantal point process makes diverse where it does not."""

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
from sampling._complete import check_inputs, complete, keys_for_batch, score, to_head_frame, to_world, visible_vertices
from sampling.config import DiversifyConfig
from sampling.descent import DescentProblem, descend
from sampling.hidden_directions import hidden_directions
from sampling.photo_match import PhotoTerm, photo_term
from sampling.single_stage import single_stage

DIRECTIONS_KEY = 0
"""Seed of the subspace iteration, whose result hardly depends on it."""


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
    """Complete partly visible faces to heads that are diverse where the photo does not show them (Algorithm 2).

    Samples of the Mesh-VAE's posterior given the fit's visible vertices are optimised to minimise
    lambda_1 L_S + lambda_2 L_pho + lambda_3 L_dpp (Eq. 13), with pose, camera, texture and light of the fit.

    The baselines of the paper's Table 2 are special cases. With `config.iterations` = 0 this is plain sampling. A model
    without local models and its fit give the baselines of the global model. Without a Mesh-VAE the coefficients of
    `model` are diversified in a single stage (see `single_stage`).

    Args:
      vae: a trained Mesh-VAE of the head; None for a single stage.
      model: the fitted model, `prepare(head, local)`.
      fit: the fit of one face, or of a batch (*b,).
      observation: the fitted observation, batch axes (*b,).
      key: a key, or a key for each face (*b,).
      num_samples: M, at least 2 to differ from `complete`.
      config: by default `DIVERSIFY_PRESETS["fast"]`. Other values of k and n_sigma do not compile again.
      devices: the photos are distributed over these devices; by default over all.

    Returns:
      `num_samples` heads for each face, sorted by `score`.

    Raises:
      ValueError: as `complete`.
    """
    config = config or DiversifyConfig()
    if vae is not None and not config.iterations:
        return complete(vae, model, fit, key, num_samples=num_samples)
    check_inputs(vae, model, fit, num_samples, observation)
    batch = fit.vertices.shape[:-2]
    keys = keys_for_batch(key, batch)
    dpp_params = jnp.asarray([config.k, config.n_sigma], jnp.float32)
    fixed = dataclasses.replace(config, k=0.0, n_sigma=0.0)
    program = functools.partial(_program, fixed, num_samples, vae is not None)
    replicated = (model, dpp_params) if vae is None else (vae, model, dpp_params)
    return sharded_map(program, replicated, (fit, observation, keys), batch, devices)


@functools.lru_cache(maxsize=16)
def _program(config: DiversifyConfig, count: int, two_stage: bool, devices: tuple[jax.Device, ...]) -> Any:
    """Return a jitted function (replicated, photos) -> Hypotheses of photos along one leading axis, which are sharded
    over `devices`."""

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
    """Run Algorithm 2 for photos along one leading axis (B,); pure and traceable. dpp_params: (2,) k and n_sigma."""
    faces = jax.vmap(lambda f, o, k: _prepare_inputs(vae, model, f, o, k, count, config))(fit, observation, keys)
    problem = DescentProblem(
        heads=functools.partial(_heads, vae, config),
        loss=functools.partial(_shape_loss, config),
        standardize=functools.partial(_standardize, config),
        bound_each=config.space == "directions",
    )
    variables = descend(model.head, problem, faces, faces.start, dpp_params, config)

    def finish(face: DiversifyInputs, variables: Array) -> Hypotheses:
        latents = _latents(config, face, variables)
        decoded = vae.decode(latents)
        heads = to_world(decoded, face.rotation, face.root)
        return sorted_best_first(Hypotheses(heads, None, latents, score(latents, decoded, face.vertices, face.visible)))

    return jax.vmap(finish)(faces, variables)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class DiversifyInputs:
    """The constants of the optimisation for one photo."""

    photo: PhotoTerm
    vertices: Array
    """(V, 3) vertices of the fit, head frame."""
    visible: Array
    """(V,) bool, including the eyeballs."""
    rotation: Array
    """(3, 3) from the head frame to the world, see `to_world`."""
    root: Array
    """(3,) root joint in the world, metres."""
    initial_latents: Array
    """(M, L, C) latents of the initial samples."""
    start: Array
    """(M, K) variables of the initial samples."""
    directions: Array
    """(K, L, C) change of the latents per unit of each variable; (0, L, C) for `space` latents."""

    @property
    def hidden(self) -> Array:
        """(V,) bool, the complement of `visible`."""
        return ~self.visible


def _prepare_inputs(
    vae: MeshVAE, model: FitModel, fit: Fit, observation: Observation, key: Array, count: int, config: DiversifyConfig
) -> DiversifyInputs:
    vertices, rotation, root = to_head_frame(model, fit)
    visible = visible_vertices(model.head, fit)
    posterior = vae.encode(vertices, visible)
    latents = jax.vmap(posterior.sample)(jax.random.split(key, count))
    if config.space == "latents":
        start, directions = rearrange(latents, "m l c -> m (l c)"), jnp.zeros((0, *latents.shape[1:]))
    else:
        rows, _ = hidden_directions(vae, posterior, ~visible, config.directions, jax.random.key(DIRECTIONS_KEY))
        start = jnp.matmul(jax.vmap(posterior.whiten)(latents), rows.T, precision="highest")
        directions = jax.vmap(posterior.unwhiten)(rows)
    photo = photo_term(model.head, fit, observation, config.render_size)
    return DiversifyInputs(photo, vertices, visible, rotation, root, latents, start, directions)


def _latents(config: DiversifyConfig, face: DiversifyInputs, variables: Array) -> Array:
    """Return the latents (M, L, C) of variables (M, K)."""
    if config.space == "latents":
        return variables.reshape(face.initial_latents.shape)
    return face.initial_latents + jnp.tensordot(variables - face.start, face.directions, axes=1, precision="highest")


def _heads(vae: MeshVAE, config: DiversifyConfig, face: DiversifyInputs, variables: Array) -> Array:
    """Return the vertices (M, V, 3) of heads in the world, metres, from variables (M, K)."""
    return to_world(vae.decode(_latents(config, face, variables)), face.rotation, face.root)


def _shape_loss(config: DiversifyConfig, face: DiversifyInputs, heads: Array, variables: Array) -> Array:
    """Return lambda_1 L_S of heads (M, V, 3) in the world, metres: ()."""
    target = to_world(face.vertices[None], face.rotation, face.root)
    errors = jnp.where(face.visible[None, :, None], jnp.abs(heads - target), 0)
    return config.shape_weight * jnp.sum(errors) / (3 * jnp.maximum(jnp.sum(face.visible), 1))


def _standardize(config: DiversifyConfig, face: DiversifyInputs, variables: Array) -> Array:
    """Return variables (M, K) that are standard normal for plausible heads."""
    return variables if config.space == "latents" else variables / config.width
