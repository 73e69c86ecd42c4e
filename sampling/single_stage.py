"""The single-stage baselines of Diverse3DFace (Table 2): Algorithm 1's loss and the DPP's at once, over M copies of a
head model's coefficients."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax import Array

from fitting import huber_energy
from fitting.config import FitConfig
from fitting.fit_model import FitModel
from fitting.landmark_fit import (
    Geometry,
    Targets,
    closure_residuals,
    landmark_residuals,
    landmark_targets,
    prior_residuals,
    smoothing_residuals,
)
from flamejax.head import HeadParams, vertices
from flamejax.types import Fit, Hypotheses, Observation, sorted_best_first
from sampling._complete import visible_vertices
from sampling.config import DiversifyConfig
from sampling.descent import Problem, descend
from sampling.photo_match import PhotoTerm, photo_term, photometric, seen_triangles


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class FittedFace:
    """What stays the same while the copies of one photo are moved."""

    photo: PhotoTerm
    targets: Targets
    geometry: Geometry
    """Of the fit: pose and camera of all copies."""
    hidden: Array
    """(V,) bool"""


def single_stage(
    model: FitModel, dpp_params: Array, fit: Fit, observation: Observation, keys: Array, count: int, config: DiversifyConfig
) -> Hypotheses:
    """L_fitting (Eq. 11) of each of M copies of the coefficients + lambda_3 L_dpp (Eq. 10), from copies about the fit,
    with its pose, camera, texture and light. Quality is the shell of as many dimensions as there are coefficients.

    Args:
      fit, observation, keys: leading axis (B,). dpp_params: (2,) k, n_sigma.

    Returns:
      Hypotheses with `params` (global coefficients, as of a `Fit`), without latents; score: minus L_fitting.
    """
    single = config.single_stage
    config = dataclasses.replace(config, dpp_weight=single.dpp_weight, learning_rate=single.learning_rate,
                                 photometric_weight=single.fit.photometric_weight,
                                 photometric_scale=single.fit.photometric_scale)  # fmt: skip

    def start(fit: Fit, observation: Observation, key: Array) -> tuple[FittedFace, Array]:
        geometry = _geometry(model, fit, observation.image.shape[-2])
        coefficients = jnp.concatenate([geometry.betas, geometry.expression])
        noise = jax.random.normal(key, (count, len(coefficients)))
        face = FittedFace(
            photo_term(model.head, fit, observation, config.render_size),
            landmark_targets(observation, single.fit),
            geometry,
            ~visible_vertices(model.head, fit),
        )
        return face, coefficients[None] + single.spread * noise

    faces, copies = jax.vmap(start)(fit, observation, keys)
    problem = Problem(
        heads=lambda face, variables: vertices(model.head, _params(model, face, variables)),
        loss=lambda face, heads, variables: jnp.sum(_energies(model, face, variables, single.fit)),
        plausible=lambda face, variables: variables,
        bounded=False,
    )
    found = descend(model.head, problem, faces, copies, dpp_params, config)

    def finish(face: FittedFace, variables: Array) -> Hypotheses:
        params = _params(model, face, variables)
        heads = vertices(model.head, params)
        seen = jax.vmap(lambda verts: seen_triangles(model.head, face.photo, verts))(heads)
        match = functools.partial(photometric, model.head, face.photo, scale=config.photometric_scale)
        colours = jax.vmap(lambda verts, faces: match(verts, faces))(heads, seen)
        cost = _energies(model, face, variables, single.fit) + config.photometric_weight * colours
        return sorted_best_first(Hypotheses(heads, params, None, -cost))

    return jax.vmap(finish)(faces, found)


def _geometry(model: FitModel, fit: Fit, side: int) -> Geometry:
    """A fit's unknowns as they were while it was fitted."""
    params = fit.params
    return Geometry(
        params.global_orient,
        jnp.log(jnp.maximum(fit.camera.scale, 1e-6) / side),
        fit.camera.translation / side,
        params.jaw_pose,
        params.betas,
        params.expression,
        params.leye_pose[:2],
    )


def _copy(model: FitModel, face: FittedFace, coefficients: Array) -> Geometry:
    betas, expression = jnp.split(coefficients, [model.head.num_betas])
    return dataclasses.replace(face.geometry, betas=betas, expression=expression)


def _params(model: FitModel, face: FittedFace, variables: Array) -> HeadParams:
    return jax.vmap(lambda one: _copy(model, face, one).params())(variables)


def _energies(model: FitModel, face: FittedFace, variables: Array, config: FitConfig) -> Array:
    """(M,) Eq. 11 without the colours."""

    def one(coefficients: Array) -> Array:
        geometry, head = _copy(model, face, coefficients), model.head
        return (
            huber_energy(landmark_residuals(head, geometry, face.targets, config))
            + huber_energy(closure_residuals(head, geometry, face.targets, config))
            + 0.5 * jnp.sum(prior_residuals(head, geometry) ** 2)
            + 0.5 * jnp.sum(smoothing_residuals(model, geometry, config) ** 2)
        )

    return jax.vmap(one)(variables)
