"""Beyond both papers: heads drawn from OFER's diffusion models, weighed by what the photo shows, picked by a
determinantal point process as Diverse3DFace's, so that they differ where it shows nothing, and brought onto what it
does show."""

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
from flamejax.head import HeadModel, HeadParams, head_at, vertices
from flamejax.types import Fit, Hypotheses, Observation, sorted_best_first
from sampling._complete import eyeball_vertices
from sampling._ofer import OferNetworks, check_inputs, draw_hypotheses, head_params
from sampling.config import OferDppConfig
from sampling.dpp import kernel, pairwise_distances, sample_k_dpp, similarity
from sampling.photo_match import PhotoTerm, photo_term, photometric, seen_triangles
from sampling.placement import landmark_view, place, placed, seen_points

WORST = 5.0
INDEPENDENT = 60.0
"""Observations that all visible vertices together count as."""
HIDDEN_STRIDE, VISIBLE_STRIDE = 4, 8
"""Every so manieth vertex stands for its neighbours: in distances, and in what heads are brought onto."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Move:
    """What refining changes of a head, in prior deviations (`DEVIATIONS`)."""

    betas: Array
    expression: Array
    jaw: Array
    orient: Array
    transl: Array


DEVIATIONS = {"betas": 1.0, "expression": 1.0, "jaw": 0.1, "orient": 0.05, "transl": 0.01}


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
    """Heads of several identities and expressions, plausible as the diffusion models have them, diverse where the photo
    shows nothing and faithful where it shows something.

    A pool of heads is drawn and placed. The evidence, the robust cost of visible landmarks and of colours, says which
    are kept. Each of these is moved so that its visible vertices are those of the fit, at which Algorithm 1's losses
    are least, by as little as possible: as a draw of a normal distribution is conditioned on what is seen, which leaves
    the differences elsewhere. Then a k-DPP picks, with the kernel q_i S_ij q_j: q from what that move and what is left
    of the misfit cost, S from distances of hidden vertices (Eq. 8). Score: minus that cost.

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
        # One photo after the other: a pool of heads is much memory already.
        return jax.lax.map(lambda photo: one_photo(networks, head, photo[0], photo[1], photo[2], count, config), photos)

    return sharded_program(run, devices)


def one_photo(
    networks: OferNetworks, head: HeadModel, fit: Fit, observation: Observation, key: Array, count: int,
    config: OferDppConfig,
) -> Hypotheses:  # fmt: skip
    """`ofer_dpp` of one photo: pure, traceable."""
    draw_key, pick_key = jax.random.split(key)
    drawn = draw_hypotheses(networks, observation, draw_key, config.pool, config.ofer)
    who = jnp.arange(config.pool) % min(config.identities, config.ofer.candidates)
    params = head_params(fit, drawn.betas[who], drawn.expression, drawn.jaw)
    view, side = landmark_view(head, fit, observation, config.ofer.fit), observation.image.shape[-2]
    placement, cost = place(view, fit, side, seen_points(view, params), one_size=False)
    params, verts = placed(head, params, placement)
    photo = photo_term(head, fit, observation, config.render_size)
    energy = cost + _colours(head, photo, verts, config)
    kept = jnp.argsort(jnp.nan_to_num(energy, nan=jnp.inf), stable=True)[: max(config.kept, 2 * count)]
    params, size = jax.tree.map(lambda leaf: leaf[kept], (params, placement.size))
    refined, misfit = jax.vmap(lambda one, s: refine(head, one, s, fit, config))(params, size)
    verts = size[:, None, None] * vertices(head, refined)
    hidden = ~fit.vertex_visibility & ~eyeball_vertices(head)
    chosen = pick(pick_key, verts, hidden, misfit, count, config)
    found = Hypotheses(verts, refined, None, -misfit, size)
    return sorted_best_first(jax.tree.map(lambda leaf: leaf[chosen], found))


def pick(key: Array, verts: Array, hidden: Array, energy: Array, count: int, config: OferDppConfig) -> Array:
    """A k-DPP's draw of heads.

    Args:
      verts: (P, V, 3). hidden: (V,) bool. energy: (P,) nats; not a number: never picked while others are left.

    Returns:
      (count,) int32 places.
    """
    sound = jnp.isfinite(energy) & jnp.all(jnp.isfinite(verts), axis=(-2, -1))
    # What is not finite would make all distances so.
    shapes = jnp.where(hidden[None, :, None] & sound[:, None, None], verts, 0)[:, ::HIDDEN_STRIDE]
    cost = jnp.where(sound, energy, jnp.inf) / (2 * config.temperature)
    # A k-DPP cannot tell qualities apart that are lost beside the best: none falls lower than this.
    quality = jnp.where(sound, jnp.exp(-jnp.minimum(cost - jnp.min(cost), WORST)), 0.0)
    return sample_k_dpp(key, kernel(quality, similarity(pairwise_distances(shapes), config.k)), count)


def refine(
    head: HeadModel, params: HeadParams, size: Array, fit: Fit, config: OferDppConfig
) -> tuple[HeadParams, Array]:
    """One head's parameters () moved so that its visible vertices, times `size`, are those of the fit; and what the
    move and the misfit cost, nats (robust)."""
    index, weight = _visible_sample(head, fit)
    few, target = dataclasses.replace(head_at(head, index), dense=None), fit.vertices[index]
    jaw = jnp.zeros_like(params.jaw_pose)
    start = Move(jnp.zeros_like(params.betas), jnp.zeros_like(params.expression), jaw, jaw, jaw)
    flat, unravel = ravel_pytree(start)

    def residuals(x: Array) -> tuple[Array, Array]:
        away = size * vertices(few, moved(params, unravel(x))) - target
        return away * (weight / config.sigma)[:, None], x

    found = least_squares(residuals, flat, config.refine_steps)[0] if config.refine_steps else flat
    away, prior = residuals(found)
    # So many vertices are not as many observations: their errors hang together.
    cost = huber_energy(away) * INDEPENDENT / jnp.maximum(jnp.sum(weight), 1) + 0.5 * jnp.sum(prior**2)
    return moved(params, unravel(found)), cost


def moved(params: HeadParams, move: Move) -> HeadParams:
    """Parameters after a move."""
    return dataclasses.replace(
        params,
        betas=params.betas + DEVIATIONS["betas"] * move.betas,
        expression=params.expression + DEVIATIONS["expression"] * move.expression,
        jaw_pose=params.jaw_pose + DEVIATIONS["jaw"] * move.jaw,
        global_orient=params.global_orient + DEVIATIONS["orient"] * move.orient,
        transl=params.transl + DEVIATIONS["transl"] * move.transl,
    )


def _visible_sample(head: HeadModel, fit: Fit) -> tuple[Array, Array]:
    """Places of vertices that stand for all, and 1 for those that the photo shows, 0 for others and eyeballs."""
    index = np.arange(0, head.num_vertices, VISIBLE_STRIDE)
    seen = fit.vertex_visibility.astype(bool) & ~eyeball_vertices(head)
    return jnp.asarray(index), seen[index].astype(jnp.float32)


def _colours(head: HeadModel, photo: PhotoTerm, verts: Array, config: OferDppConfig) -> Array:
    """(P,) what the colours of heads (P, V, 3) cost, nats; one head after the other."""

    def one(vertices: Array) -> Array:
        seen = seen_triangles(head, photo, vertices)
        return config.photometric_weight * photometric(head, photo, vertices, seen, config.photometric_scale)

    return jax.lax.map(one, verts, batch_size=16)
