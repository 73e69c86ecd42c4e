"""OFER+DPP, a combination of both papers: heads are sampled from OFER's diffusion models, weighted by the photo and
aligned to its visible vertices. A determinantal point process (as in Diverse3DFace) selects heads that differ where the
photo shows nothing."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.flatten_util import ravel_pytree

from fitting import huber_energy, least_squares
from fitting.sharding import sharded_map, sharded_program
from flamejax.head import HeadModel, HeadParams, select_vertices, vertices
from flamejax.types import Fit, Hypotheses, Observation, sorted_best_first
from sampling._complete import eyeball_vertices
from sampling._ofer import OferNetworks, check_inputs, head_params, sample_coefficients
from sampling.config import OferDppConfig
from sampling.dpp import kernel, pairwise_distances, sample_k_dpp, similarity
from sampling.photo_match import PhotoTerm, photo_term, photometric_loss, visible_face_index
from sampling.placement import apply_placement, fit_placement, landmark_points, landmark_view

MAX_COST_DIFFERENCE = 5.0
"""Largest difference of costs, as -log q, between a head and the best one in the k-DPP."""
EFFECTIVE_OBSERVATIONS = 60.0
"""Number of independent observations that all visible vertices together count as."""
HIDDEN_STRIDE, VISIBLE_STRIDE = 4, 8
"""Strides of the vertices that distances of hidden parts, and the alignment to visible parts, are computed on."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ParamsUpdate:
    """A change of a head's parameters by the refinement, in prior standard deviations (`DEVIATIONS`)."""

    betas: Array
    expression: Array
    jaw: Array
    orient: Array
    transl: Array


DEVIATIONS = {"betas": 1.0, "expression": 1.0, "jaw": 0.1, "orient": 0.05, "transl": 0.01}
"""Prior standard deviations of the changes: coefficients in standard deviations, jaw and orient in radians, transl in
metres."""


def ofer_dpp(
    networks: OferNetworks,
    head: HeadModel,
    fit: Fit,
    observation: Observation,
    key: Array,
    *,
    num_samples: int = 16,
    config: OferDppConfig | None = None,
    devices: tuple[jax.Device, ...] | None = None,
) -> Hypotheses:
    """Sample heads of several identities and expressions that match the visible part of a photo and differ elsewhere.

    A pool of heads is sampled and placed. Those with the lowest energy, the robust cost of visible landmarks and of
    colours, are shortlisted. Each of these is changed as little as possible so that its visible vertices match the fit,
    which minimises Algorithm 1's losses. This conditions a normal distribution on the visible vertices, and preserves
    the differences elsewhere. Then a k-DPP selects heads with the kernel q_i S_ij q_j: q from the cost of the change
    and of the remaining misfit, S from distances of hidden vertices (Eq. 8). Score: minus that cost.

    Args, returns, raises:
      As `sampling.ofer`; ValueError also when num_samples is above `config.pool`.
    """
    config = config or OferDppConfig()
    batch, keys = check_inputs(networks, head, fit, observation, key, num_samples)
    if num_samples > config.pool:
        raise ValueError(f"{num_samples} heads cannot be picked from a pool of {config.pool}.")
    program = functools.partial(_program, config, num_samples)
    return sharded_map(program, (networks, head), (fit, observation, keys), batch, devices)


@functools.lru_cache(maxsize=16)
def _program(config: OferDppConfig, count: int, devices: tuple[jax.Device, ...]) -> Any:
    def run(replicated: Any, photos: tuple[Fit, Observation, Array]) -> Hypotheses:
        networks, head = replicated

        def run_photo(photo: tuple[Fit, Observation, Array]) -> Hypotheses:
            fit, observation, key = photo
            return process_photo(networks, head, fit, observation, key, count, config)

        # Process photos one by one, because a pool of heads takes much memory.
        return jax.lax.map(run_photo, photos)

    return sharded_program(run, devices)


def process_photo(
    networks: OferNetworks, head: HeadModel, fit: Fit, observation: Observation, key: Array, count: int,
    config: OferDppConfig,
) -> Hypotheses:  # fmt: skip
    """Run `ofer_dpp` for one photo; pure and traceable."""
    sample_key, select_key = jax.random.split(key)
    samples = sample_coefficients(networks, observation, sample_key, config.pool, config.ofer)
    identity = jnp.arange(config.pool) % min(config.identities, config.ofer.candidates)
    params = head_params(fit, samples.betas[identity], samples.expression, samples.jaw)
    view, side = landmark_view(head, fit, observation, config.ofer.fit), observation.image.shape[-2]
    placement, cost = fit_placement(view, fit, side, landmark_points(view, params), shared_size=False)
    params, verts = apply_placement(head, params, placement)
    photo = photo_term(head, fit, observation, config.render_size)
    energy = cost + _photometric_energies(head, photo, verts, config)
    shortlist = jnp.argsort(jnp.nan_to_num(energy, nan=jnp.inf), stable=True)[: max(config.kept, 2 * count)]
    params, size = jax.tree.map(lambda leaf: leaf[shortlist], (params, placement.size))
    refined, cost = jax.vmap(lambda p, s: refine(head, p, s, fit, config))(params, size)
    verts = size[:, None, None] * vertices(head, refined)
    hidden = ~fit.vertex_visibility & ~eyeball_vertices(head)
    selected = select_diverse(select_key, verts, hidden, cost, count, config)
    hypotheses = Hypotheses(verts, refined, None, -cost, size)
    return sorted_best_first(jax.tree.map(lambda leaf: leaf[selected], hypotheses))


def select_diverse(key: Array, verts: Array, hidden: Array, energy: Array, count: int, config: OferDppConfig) -> Array:
    """Select heads by a k-DPP.

    Args:
      verts: (P, V, 3). hidden: (V,) bool. energy: (P,) nats; heads of NaN are selected only if there are too few.

    Returns:
      Indices (count,) int32.
    """
    finite = jnp.isfinite(energy) & jnp.all(jnp.isfinite(verts), axis=(-2, -1))
    # A head that is not finite would make all distances NaN.
    shapes = jnp.where(hidden[None, :, None] & finite[:, None, None], verts, 0)[:, ::HIDDEN_STRIDE]
    cost = jnp.where(finite, energy, jnp.inf) / (2 * config.temperature)
    # Qualities far below the best would be lost in float32, so that the k-DPP could not distinguish them.
    quality = jnp.where(finite, jnp.exp(-jnp.minimum(cost - jnp.min(cost), MAX_COST_DIFFERENCE)), 0.0)
    return sample_k_dpp(key, kernel(quality, similarity(pairwise_distances(shapes), config.k)), count)


def refine(
    head: HeadModel, params: HeadParams, size: Array, fit: Fit, config: OferDppConfig
) -> tuple[HeadParams, Array]:
    """Change the parameters of one head so that its visible vertices, times `size`, match the fit. Return the
    parameters, and the cost () of the change and the remaining misfit, nats."""
    index, weight = _visible_sample(head, fit)
    sampled_head, target = dataclasses.replace(select_vertices(head, index), dense=None), fit.vertices[index]
    zero = jnp.zeros_like(params.jaw_pose)
    start = ParamsUpdate(jnp.zeros_like(params.betas), jnp.zeros_like(params.expression), zero, zero, zero)
    flat, unravel = ravel_pytree(start)

    def residuals(x: Array) -> tuple[Array, Array]:
        misfit = size * vertices(sampled_head, apply_update(params, unravel(x))) - target
        return misfit * (weight / config.sigma)[:, None], x

    update = least_squares(residuals, flat, config.refine_steps)[0] if config.refine_steps else flat
    misfit, prior = residuals(update)
    # The errors of neighbouring vertices are correlated, so that they count as fewer observations.
    misfit_cost = huber_energy(misfit) * EFFECTIVE_OBSERVATIONS / jnp.maximum(jnp.sum(weight), 1)
    return apply_update(params, unravel(update)), misfit_cost + 0.5 * jnp.sum(prior**2)


def apply_update(params: HeadParams, update: ParamsUpdate) -> HeadParams:
    """Return the parameters with an update added."""
    return dataclasses.replace(
        params,
        betas=params.betas + DEVIATIONS["betas"] * update.betas,
        expression=params.expression + DEVIATIONS["expression"] * update.expression,
        jaw_pose=params.jaw_pose + DEVIATIONS["jaw"] * update.jaw,
        global_orient=params.global_orient + DEVIATIONS["orient"] * update.orient,
        transl=params.transl + DEVIATIONS["transl"] * update.transl,
    )


def _visible_sample(head: HeadModel, fit: Fit) -> tuple[Array, Array]:
    """Return indices of a subsample of the vertices, and weights: 1 if visible and not of an eyeball, otherwise 0."""
    index = np.arange(0, head.num_vertices, VISIBLE_STRIDE)
    visible = fit.vertex_visibility.astype(bool) & ~eyeball_vertices(head)
    return jnp.asarray(index), visible[index].astype(jnp.float32)


def _photometric_energies(head: HeadModel, photo: PhotoTerm, verts: Array, config: OferDppConfig) -> Array:
    """Return the photometric energies (P,) of heads (P, V, 3), nats."""

    def energy(vertices: Array) -> Array:
        visible = visible_face_index(head, photo, vertices)
        return config.photometric_weight * photometric_loss(head, photo, vertices, visible, config.photometric_scale)

    return jax.lax.map(energy, verts, batch_size=16)
