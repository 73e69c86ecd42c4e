"""Everything at once from landmarks and colours, by Adam at periodically refreshed visibility (Eqs. 11-12)."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import optax
from jax import Array

from fitting._least_squares import huber_energy
from fitting.appearance import estimate_light, light_prior_residuals, skin_triangles, surface
from fitting.config import FitConfig
from fitting.fit_model import FitModel
from fitting.landmark_fit import (
    Geometry,
    Targets,
    closure_residuals,
    landmark_residuals,
    prior_residuals,
    smoothing_residuals,
)
from flamejax.head import HeadModel, vertices
from flamejax.rendering import ambient_light, rasterize, shade
from flamejax.types import Observation

STEP_SIZES = {
    "orient": 2e-3,
    "log_scale": 1e-3,
    "translation": 5e-4,
    "jaw": 4e-3,
    "betas": 2e-2,
    "expression": 2e-2,
    "eyes": 1e-2,
    "texture": 5e-2,
    "light": 2e-2,
}
"""Adam's step sizes, in the unknowns' own units."""
TERMS = ("landmark", "closure", "photometric", "regularisation", "smoothing")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Unknowns:
    """All unknowns of one photo: texture (C,), light (9, 3)."""

    geometry: Geometry
    texture: Array
    light: Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Evidence:
    """What one photo shows, at the resolution the photometric term compares: image (R, R, 3), and allowed (R, R), 1 =
    face and not hidden: M_f (1 - M_o) of Eq. 12."""

    image: Array
    allowed: Array
    targets: Targets


def visible_faces(head: HeadModel, geometry: Geometry, size: int) -> Array:
    """(size, size) int32: the triangle each pixel sees, -1 where empty."""
    screen = geometry.camera(size).project(vertices(head, geometry.params()))
    return rasterize(screen, head.faces, (size, size), perspective=False, cull=True).face_index


def shown_surface(head: HeadModel, unknowns: Unknowns, face_index: Array, size: int) -> tuple[Array, Array]:
    """Albedo and normals (size, size, 3) of one photo's head, seen at fixed visibility (size, size)."""
    verts = vertices(head, unknowns.geometry.params())
    screen = unknowns.geometry.camera(size).project(verts)
    return surface(head, verts, screen, face_index, unknowns.texture)


def photometric_energy(difference: Array, weights: Array, scale: float) -> Array:
    """Mean robust colour difference. difference (R, R, 3), weights (R, R) -> ().

    The paper's l1 norm (Eq. 12) near zero; beyond `scale` it levels off (Geman & McClure 1987), since what hides the
    face is not masked perfectly.
    """
    length = jnp.sqrt(jnp.sum(difference**2, axis=-1) + 1e-6)
    return jnp.sum(weights * length / (1.0 + length / scale)) / (jnp.sum(weights) + 1.0)


def energies(
    model: FitModel, unknowns: Unknowns, face_index: Array, skin: Array, evidence: Evidence, config: FitConfig
) -> dict[str, Array]:
    """The terms of Eq. 11 for one photo at fixed visibility; their sum is what is minimised."""
    head, geometry = model.head, unknowns.geometry
    albedo, normals = shown_surface(head, unknowns, face_index, config.render_size)
    difference = evidence.image - albedo * shade(normals, unknowns.light)
    weights = pixel_weights(face_index, skin, evidence.allowed)
    residuals = landmark_residuals(head, geometry, evidence.targets, config)
    prior = jnp.sum(prior_residuals(head, geometry) ** 2) + jnp.sum(unknowns.texture**2)
    prior += jnp.sum(light_prior_residuals(unknowns.light) ** 2)
    return {
        "landmark": huber_energy(residuals),
        "closure": huber_energy(closure_residuals(head, geometry, evidence.targets, config)),
        "photometric": config.photometric_weight * photometric_energy(difference, weights, config.photometric_scale),
        "regularisation": 0.5 * prior,
        "smoothing": 0.5 * jnp.sum(smoothing_residuals(model, geometry, config) ** 2),
    }


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Best:
    """The best iterate so far of each photo, and its energy's terms (B,) at its own visibility."""

    unknowns: Unknowns
    terms: dict[str, Array]


def refine(model: FitModel, geometry: Geometry, evidence: Evidence, config: FitConfig) -> Best:
    """Light by least squares, then Eq. 11 by Adam for a batch of photos; every photo keeps its own best iterate.

    Arguments and result have the leading axis (B,).
    """
    head = model.head
    skin = skin_triangles(head)
    count = evidence.image.shape[0]
    optimiser = _optimiser(model, config)

    def terms_of(unknowns: Unknowns, face_index: Array) -> dict[str, Array]:
        return jax.vmap(lambda u, f, e: energies(model, u, f, skin, e, config))(unknowns, face_index, evidence)

    def step(state, face_index: Array):  # noqa: ANN001, ANN202
        unknowns, moments = state
        gradient = jax.grad(lambda u: jnp.sum(total(terms_of(u, face_index))))(unknowns)
        updates, moments = optimiser.update(gradient, moments)
        return optax.apply_updates(unknowns, updates), moments

    def steps_at_one_visibility(state, round_index: Array):  # noqa: ANN001, ANN202
        unknowns, moments, best = state
        face_index = jax.vmap(lambda g: visible_faces(head, g, config.render_size))(unknowns.geometry)
        light = jax.lax.cond(
            round_index == 0,
            lambda: jax.vmap(lambda u, f, e: _light(head, u, f, skin, e, config))(unknowns, face_index, evidence),
            lambda: unknowns.light,
        )
        unknowns = dataclasses.replace(unknowns, light=light)
        best = _keep_better(best, Best(unknowns, terms_of(unknowns, face_index)))
        steps = jnp.where(round_index < rounds, config.visibility_interval, 0)
        unknowns, moments = jax.lax.fori_loop(0, steps, lambda _, inner: step(inner, face_index), (unknowns, moments))
        return (unknowns, moments, best), None

    rounds = config.photometric_steps // config.visibility_interval
    start = Unknowns(geometry, jnp.zeros((count, head.albedo_basis.shape[0])), ambient_light((count,)))
    worst = Best(start, {name: jnp.full((count,), jnp.inf) for name in TERMS})
    # One round more than there are steps for: it measures the last iterate.
    (_, _, best), _ = jax.lax.scan(
        steps_at_one_visibility, (start, optimiser.init(start), worst), jnp.arange(rounds + 1)
    )
    return best


def _optimiser(model: FitModel, config: FitConfig) -> optax.GradientTransformation:
    """Adam with a step size for each kind of unknown, slower for the eyeballs, and cosine decay."""
    betas, expression = model.step_rates(config.eyeball_rate)
    rates: dict[str, float | Array] = {
        "eyes": config.eyeball_rate,
        "betas": betas[None],
        "expression": expression[None],
    }
    sizes = {name: size * rates.get(name, 1.0) for name, size in STEP_SIZES.items()}

    def scale_each(updates: optax.Updates, _: optax.Params) -> optax.Updates:
        return jax.tree_util.tree_map_with_path(lambda path, update: sizes[path[-1].name] * update, updates)

    schedule = optax.cosine_decay_schedule(config.learning_rate, max(config.photometric_steps, 1), alpha=0.05)
    return optax.chain(
        optax.scale_by_adam(b2=0.99), optax.stateless(scale_each), optax.scale_by_learning_rate(schedule)
    )


def _light(
    head: HeadModel, unknowns: Unknowns, face_index: Array, skin: Array, evidence: Evidence, config: FitConfig
) -> Array:
    """One photo's light for the mean albedo: (9, 3)."""
    albedo, normals = shown_surface(head, unknowns, face_index, config.render_size)
    weights = pixel_weights(face_index, skin, evidence.allowed)
    return estimate_light(evidence.image, albedo, normals, weights, config.photometric_scale)


def reduced(observation: Observation, size: int) -> tuple[Array, Array]:
    """One photo at the resolution that is compared: image (size, size, 3), and (size, size) 1 = face and not hidden. A
    pixel that is partly hidden shows a mixture: it is not compared."""
    image = jax.image.resize(observation.image, (size, size, 3), "linear", antialias=True)
    allowed = observation.face_mask * (1.0 - observation.occlusion_mask)
    allowed = jax.image.resize(allowed, (size, size), "linear", antialias=True)
    return image, (allowed > 0.99).astype(jnp.float32)


def pixel_weights(face_index: Array, skin: Array, allowed: Array) -> Array:
    """(R, R): 1 where visible skin is compared."""
    return allowed * skin[jnp.maximum(face_index, 0)] * (face_index >= 0)


def total(terms: dict[str, Array]) -> Array:
    """What is minimised: the sum of the terms."""
    return sum(terms.values(), start=jnp.zeros(()))


def _keep_better(best: Best, new: Best) -> Best:
    better = total(new.terms) < total(best.terms)  # False for NaN
    return jax.vmap(lambda b, n, o: jax.tree.map(functools.partial(jnp.where, b), n, o))(better, new, best)
