"""OFER (sections 3.2 to 3.4): identities are sampled by diffusion, the one that IdRank scores best for the photo is
selected, and expressions are sampled for it. Only the placement of the heads on the photo is optimised at test time."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from fitting.landmark_fit import landmark_targets
from fitting.sharding import sharded_map, sharded_program
from flamejax.head import HeadModel, HeadParams
from flamejax.types import Fit, Hypotheses, Observation, sorted_best_first
from models.encoders.conditioned import Conditioned, load_image_encoders
from models.generator import Generator
from models.ofer_weights import encoder_names, load_generator, load_rank
from models.rank import FrontalFace, IdRank, frontal_face
from sampling._complete import check_count_and_fit, keys_for_batch
from sampling.config import OferConfig
from sampling.diffusion import draw_coefficients
from sampling.placement import apply_placement, fit_placement, landmark_points, landmark_view


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class OferNetworks:
    """The three trained networks of a head, and the ranker's view of the head. Image encoders of the same name must
    have the same frozen layers in all networks, which `load_networks` ensures."""

    idgen: Generator
    expgen: Generator
    idrank: IdRank
    face: FrontalFace


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class OferSamples:
    """Samples of OFER's networks for one photo."""

    betas: Array
    """(N, S) candidates, best first."""
    rank_score: Array
    """(N,) descending."""
    expression: Array
    """(M, E)"""
    jaw: Array
    """(M, 3) axis-angle, radians."""


def load_networks(
    head: HeadModel, idgen: Any = None, expgen: Any = None, idrank: Any = None,
    encoders: Mapping[Any, Any] | None = None,
) -> OferNetworks:  # fmt: skip
    """Load the trained networks of a head, from given files or those that ship.

    Args:
      idgen, expgen, idrank: files; by default those that ship.
      encoders: image encoders, or their files, by the names `arcface` and `farl`, for networks that take photos.

    Raises:
      FileNotFoundError, HeadFileError: as `models.load_generator`. ValueError: as `models.frontal_face`.
    """
    files = {"IdGen": idgen, "ExpGen": expgen, "IdRank": idrank}
    names = {name for network, file in files.items() for name in encoder_names(head, network, file)}
    shared = load_image_encoders(names, encoders)  # once for all networks
    return OferNetworks(
        load_generator(head, "identity", idgen, shared),
        load_generator(head, "expression", expgen, shared),
        load_rank(head, idrank, shared),
        frontal_face(head),
    )


def ofer(
    networks: OferNetworks,
    head: HeadModel,
    fit: Fit,
    observation: Observation,
    key: Array,
    *,
    num_samples: int = 15,
    config: OferConfig | None = None,
    devices: tuple[jax.Device, ...] | None = None,
) -> Hypotheses:
    """Sample heads for a photo, of one identity and several expressions.

    Args:
      networks: `load_networks(head)`.
      head: the head they were trained for.
      fit: the fit of one face, or of a batch (*b,), whose pose, camera, gaze and size place the heads.
      observation: the fitted observation, batch axes (*b,).
      key: a key, or a key for each face (*b,).
      num_samples: M.
      config: by default `OferConfig()`.
      devices: the photos are distributed over these devices; by default over all.

    Returns:
      M heads for each face with `params` and `size`, sorted by `score`: minus the robust cost of the visible landmarks,
      nats.

    Raises:
      ValueError: num_samples is below 1, the networks are of another head, or fit, observation and key do not agree.
    """
    config = config or OferConfig()
    batch, keys = check_inputs(networks, head, fit, observation, key, num_samples)
    program = functools.partial(_program, config, num_samples)
    return sharded_map(program, (networks, head), (fit, observation, keys), batch, devices)


def check_inputs(
    networks: OferNetworks, head: HeadModel, fit: Fit, observation: Observation, key: Array, num_samples: int
) -> tuple[tuple[int, ...], Array]:
    """Check inputs, and return the batch axes and a key for each face. Raises ValueError, as `ofer`."""
    check_count_and_fit(num_samples, fit, observation)
    sizes = networks.idgen.config.unet.size, networks.expgen.config.unet.size
    if sizes != (head.num_betas, head.num_expression + 3) or fit.vertices.shape[-2] != head.num_vertices:
        raise ValueError(
            f"networks of {sizes[0]} + {sizes[1]} coefficients and fits of {fit.vertices.shape[-2]} vertices, but a "
            f"head of {head.num_betas} + {head.num_expression} + 3 and {head.num_vertices}."
        )
    batch = fit.vertices.shape[:-2]
    return batch, keys_for_batch(key, batch)


def sample_coefficients(
    networks: OferNetworks, observation: Observation, key: Array, num_samples: int, config: OferConfig
) -> OferSamples:
    """Sample ranked identities, and expressions, for one photo; pure and traceable."""
    targets = landmark_targets(observation, config.fit)
    visible = (targets.weights > 0).astype(targets.points.dtype)
    # An image encoder that several networks share runs once.
    features: dict[str, Array] = {}
    for network in (networks.idgen, networks.expgen, networks.idrank):
        if not set(network.config.encoders) - {"landmark"} <= features.keys():
            features |= network.features(observation.image, observation.landmarks, visible)

    def context(network: Conditioned) -> Array:
        return network.context_of_features(features, observation.landmarks, visible)

    identity_key, expression_key = jax.random.split(key)
    betas = draw_coefficients(networks.idgen, context(networks.idgen), identity_key, config.candidates, config.sampler)
    scores = networks.idrank.score_betas(networks.face, betas, context(networks.idrank))
    # NaN sorts last; ties keep their order.
    order = jnp.argsort(-jnp.nan_to_num(scores, nan=-jnp.inf), stable=True)
    motion = draw_coefficients(networks.expgen, context(networks.expgen), expression_key, num_samples, config.sampler)
    return OferSamples(betas[order], scores[order], motion[:, :-3], motion[:, -3:])


def head_params(fit: Fit, betas: Array, expression: Array, jaw: Array) -> HeadParams:
    """Return the parameters (M,) of sampled coefficients, with a fit's neck pose and gaze."""
    count = len(betas)

    def shared(value: Array) -> Array:
        return jnp.broadcast_to(value, (count, 3))

    params = fit.params
    return HeadParams(
        betas, expression, shared(params.global_orient), shared(params.neck_pose), jaw, shared(params.leye_pose),
        shared(params.reye_pose), jnp.zeros((count, 3)),
    )  # fmt: skip


@functools.lru_cache(maxsize=16)
def _program(config: OferConfig, count: int, devices: tuple[jax.Device, ...]) -> Any:
    def process_photo(
        networks: OferNetworks, head: HeadModel, fit: Fit, observation: Observation, key: Array
    ) -> Hypotheses:
        samples = sample_coefficients(networks, observation, key, count, config)
        betas = jnp.broadcast_to(samples.betas[:1], (count, head.num_betas))
        params = head_params(fit, betas, samples.expression, samples.jaw)
        view = landmark_view(head, fit, observation, config.fit)
        placement, cost = fit_placement(view, fit, observation.image.shape[-2], landmark_points(view, params))
        params, verts = apply_placement(head, params, placement)
        return sorted_best_first(Hypotheses(verts, params, None, -cost, placement.size))

    def run(replicated: Any, photos: tuple[Fit, Observation, Array]) -> Hypotheses:
        networks, head = replicated
        return jax.vmap(functools.partial(process_photo, networks, head))(*photos)

    return sharded_program(run, devices)
