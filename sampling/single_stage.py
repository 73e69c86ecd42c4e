"""The single-stage baselines of Diverse3DFace (Table 2), which minimise the sum of Algorithm 1's loss and the DPP loss
over M copies of a head model's coefficients."""

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
    GeometryParams,
    LandmarkTargets,
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
from sampling.descent import DescentProblem, descend
from sampling.photo_match import PhotoTerm, photo_term, photometric_loss, visible_face_index


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SingleStageInputs:
    """The constants of the optimisation for one photo."""

    photo: PhotoTerm
    targets: LandmarkTargets
    geometry: GeometryParams
    """The fit's variables, whose pose and camera all copies share."""
    hidden: Array
    """(V,) bool, vertices that the photo does not show."""


def single_stage(
    model: FitModel, dpp_params: Array, fit: Fit, observation: Observation, keys: Array, count: int,
    config: DiversifyConfig,
) -> Hypotheses:  # fmt: skip
    """Minimise the sum of L_fitting (Eq. 11) over M copies of the coefficients + lambda_3 L_dpp (Eq. 10).

    The copies start near the fit and share its pose, camera, texture and light. Their qualities in the DPP depend on
    the norms of the coefficients (see `dpp.quality`).

    Args:
      fit, observation, keys: leading axis (B,). dpp_params: (2,) k, n_sigma.

    Returns:
      Hypotheses with `params` of `model.head`, as of a `Fit`, and without latents; score: minus L_fitting.
    """
    single = config.single_stage
    config = dataclasses.replace(config, dpp_weight=single.dpp_weight, learning_rate=single.learning_rate,
                                 photometric_weight=single.fit.photometric_weight,
                                 photometric_scale=single.fit.photometric_scale)  # fmt: skip

    def start(fit: Fit, observation: Observation, key: Array) -> tuple[SingleStageInputs, Array]:
        geometry = _geometry(model, fit, observation.image.shape[-2])
        coefficients = jnp.concatenate([geometry.betas, geometry.expression])
        noise = jax.random.normal(key, (count, len(coefficients)))
        face = SingleStageInputs(
            photo_term(model.head, fit, observation, config.render_size),
            landmark_targets(observation, single.fit),
            geometry,
            ~visible_vertices(model.head, fit),
        )
        return face, coefficients[None] + single.spread * noise

    faces, copies = jax.vmap(start)(fit, observation, keys)
    problem = DescentProblem(
        heads=lambda face, variables: vertices(model.head, _params(model, face, variables)),
        loss=lambda face, heads, variables: jnp.sum(_energies(model, face, variables, single.fit)),
        standardize=lambda face, variables: variables,
        bound_each=False,
    )
    variables = descend(model.head, problem, faces, copies, dpp_params, config)

    def finish(face: SingleStageInputs, variables: Array) -> Hypotheses:
        params = _params(model, face, variables)
        heads = vertices(model.head, params)
        visible = jax.vmap(lambda verts: visible_face_index(model.head, face.photo, verts))(heads)
        loss = functools.partial(photometric_loss, model.head, face.photo, scale=config.photometric_scale)
        photo_losses = jax.vmap(lambda verts, face_index: loss(verts, face_index))(heads, visible)
        energies = _energies(model, face, variables, single.fit) + config.photometric_weight * photo_losses
        return sorted_best_first(Hypotheses(heads, params, None, -energies))

    return jax.vmap(finish)(faces, variables)


def _geometry(model: FitModel, fit: Fit, side: int) -> GeometryParams:
    """Return the pose, camera and coefficients of a fit to a crop of `side` pixels."""
    params = fit.params
    return GeometryParams(
        params.global_orient,
        jnp.log(jnp.maximum(fit.camera.scale, 1e-6) / side),
        fit.camera.translation / side,
        params.jaw_pose,
        params.betas,
        params.expression,
        params.leye_pose[:2],
    )


def _with_coefficients(model: FitModel, face: SingleStageInputs, coefficients: Array) -> GeometryParams:
    betas, expression = jnp.split(coefficients, [model.head.num_betas])
    return dataclasses.replace(face.geometry, betas=betas, expression=expression)


def _params(model: FitModel, face: SingleStageInputs, variables: Array) -> HeadParams:
    return jax.vmap(lambda coefficients: _with_coefficients(model, face, coefficients).params())(variables)


def _energies(model: FitModel, face: SingleStageInputs, variables: Array, config: FitConfig) -> Array:
    """Return Eq. 11 without its photometric term, for variables (M, K): (M,), nats."""

    def energy(coefficients: Array) -> Array:
        geometry, head = _with_coefficients(model, face, coefficients), model.head
        return (
            huber_energy(landmark_residuals(head, geometry, face.targets, config))
            + huber_energy(closure_residuals(head, geometry, face.targets, config))
            + 0.5 * jnp.sum(prior_residuals(head, geometry) ** 2)
            + 0.5 * jnp.sum(smoothing_residuals(model, geometry, config) ** 2)
        )

    return jax.vmap(energy)(variables)
