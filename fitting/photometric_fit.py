"""Fit all parameters to landmarks and colours by Adam, at periodically refreshed visibility (Eqs. 11-12)."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import optax
from jax import Array

from fitting._least_squares import huber_energy
from fitting.appearance import estimate_light, light_prior_residuals, skin_triangles, surface_at_pixels
from fitting.config import FitConfig
from fitting.fit_model import FitModel
from fitting.landmark_fit import (
    GeometryParams,
    LandmarkTargets,
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
"""Adam's step sizes, in the units of the fields of `GeometryParams` and `FitParams`."""
TERMS = ("landmark", "closure", "photometric", "regularisation", "smoothing")
"""Names of the energy's terms."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class FitParams:
    """All parameters that a fit of one photo optimises: the geometry, with its texture and light."""

    geometry: GeometryParams
    texture: Array
    """(C,) albedo coefficients."""
    light: Array
    """(9, 3) spherical harmonics."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PhotoData:
    """The data that `FitParams` of one photo are fitted to, at the resolution of the photometric term."""

    image: Array
    """(R, R, 3)"""
    mask: Array
    """(R, R), 1 = face and not hidden: M_f (1 - M_o) of Eq. 12."""
    targets: LandmarkTargets
    """The landmarks."""


def visible_face_index(head: HeadModel, geometry: GeometryParams, size: int) -> Array:
    """Return the index of the triangle visible at each pixel, -1 where empty: (size, size) int32."""
    screen = geometry.camera(size).project(vertices(head, geometry.params()))
    return rasterize(screen, head.faces, (size, size), perspective=False, cull=True).face_index


def visible_surface(head: HeadModel, params: FitParams, face_index: Array, size: int) -> tuple[Array, Array]:
    """Return albedo and normals (size, size, 3) of one photo's head at fixed visibility (size, size)."""
    verts = vertices(head, params.geometry.params())
    screen = params.geometry.camera(size).project(verts)
    return surface_at_pixels(head, verts, screen, face_index, params.texture)


def photometric_energy(difference: Array, weights: Array, scale: float) -> Array:
    """Return the mean robust colour difference. difference (R, R, 3), weights (R, R) -> ().

    Near zero it is the length of the difference (Eq. 12 has its l1 norm). It levels off at `scale`, like the estimator
    of Geman & McClure (1987), since masks of occluders are imperfect.
    """
    length = jnp.sqrt(jnp.sum(difference**2, axis=-1) + 1e-6)
    return jnp.sum(weights * length / (1.0 + length / scale)) / (jnp.sum(weights) + 1.0)


def energy_terms(
    model: FitModel, params: FitParams, face_index: Array, skin: Array, photo: PhotoData, config: FitConfig
) -> dict[str, Array]:
    """Return the terms of Eq. 11 for one photo at fixed visibility; the fit minimises their sum."""
    head, geometry = model.head, params.geometry
    albedo, normals = visible_surface(head, params, face_index, config.render_size)
    difference = photo.image - albedo * shade(normals, params.light)
    weights = pixel_weights(face_index, skin, photo.mask)
    residuals = landmark_residuals(head, geometry, photo.targets, config)
    prior = jnp.sum(prior_residuals(head, geometry) ** 2) + jnp.sum(params.texture**2)
    prior += jnp.sum(light_prior_residuals(params.light) ** 2)
    return {
        "landmark": huber_energy(residuals),
        "closure": huber_energy(closure_residuals(head, geometry, photo.targets, config)),
        "photometric": config.photometric_weight * photometric_energy(difference, weights, config.photometric_scale),
        "regularisation": 0.5 * prior,
        "smoothing": 0.5 * jnp.sum(smoothing_residuals(model, geometry, config) ** 2),
    }


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class FitIterate:
    """The parameters of each photo after some step of a fit, and their energy terms (B,) at their own visibility."""

    params: FitParams
    terms: dict[str, Array]


def fit_photometric(model: FitModel, geometry: GeometryParams, photos: PhotoData, config: FitConfig) -> FitIterate:
    """Fit light by least squares, then minimise Eq. 11 by Adam for a batch of photos.

    `geometry`, `photos` and the result have the leading axis (B,). Returns the best of the iterates at which visibility
    was rendered, separately for each photo.
    """
    head = model.head
    skin = skin_triangles(head)
    count = photos.image.shape[0]
    optimiser = _make_optimiser(model, config)

    def terms_of(params: FitParams, face_index: Array) -> dict[str, Array]:
        return jax.vmap(lambda p, f, d: energy_terms(model, p, f, skin, d, config))(params, face_index, photos)

    def step(state, face_index: Array):  # noqa: ANN001, ANN202
        params, moments = state
        gradient = jax.grad(lambda p: jnp.sum(total_energy(terms_of(p, face_index))))(params)
        updates, moments = optimiser.update(gradient, moments)
        return optax.apply_updates(params, updates), moments

    def visibility_round(state, round_index: Array):  # noqa: ANN001, ANN202
        params, moments, best = state
        face_index = jax.vmap(lambda g: visible_face_index(head, g, config.render_size))(params.geometry)
        light = jax.lax.cond(
            round_index == 0,
            lambda: jax.vmap(lambda p, f, d: _fit_light(head, p, f, skin, d, config))(params, face_index, photos),
            lambda: params.light,
        )
        params = dataclasses.replace(params, light=light)
        best = _select_better(best, FitIterate(params, terms_of(params, face_index)))
        steps = jnp.where(round_index < rounds, config.visibility_interval, 0)
        params, moments = jax.lax.fori_loop(0, steps, lambda _, inner: step(inner, face_index), (params, moments))
        return (params, moments, best), None

    rounds = config.photometric_steps // config.visibility_interval
    start = FitParams(geometry, jnp.zeros((count, head.albedo_basis.shape[0])), ambient_light((count,)))
    worst = FitIterate(start, {name: jnp.full((count,), jnp.inf) for name in TERMS})
    # The additional last round makes no step: it only evaluates the last iterate.
    (_, _, best), _ = jax.lax.scan(visibility_round, (start, optimiser.init(start), worst), jnp.arange(rounds + 1))
    return best


def _make_optimiser(model: FitModel, config: FitConfig) -> optax.GradientTransformation:
    """Return Adam with a step size per field, smaller for the eyeballs, and cosine decay."""
    betas, expression = model.step_size_factors(config.eyeball_rate)
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


def _fit_light(
    head: HeadModel, params: FitParams, face_index: Array, skin: Array, photo: PhotoData, config: FitConfig
) -> Array:
    """Estimate one photo's light (9, 3) for fixed albedo."""
    albedo, normals = visible_surface(head, params, face_index, config.render_size)
    weights = pixel_weights(face_index, skin, photo.mask)
    return estimate_light(photo.image, albedo, normals, weights, config.photometric_scale)


def downsample_photo(observation: Observation, size: int) -> tuple[Array, Array]:
    """Downsample one photo: return its image (size, size, 3) and its mask (size, size), 1 = face and not hidden.

    Partly hidden pixels show a mixture of colours, so their mask is 0.
    """
    image = jax.image.resize(observation.image, (size, size, 3), "linear", antialias=True)
    mask = observation.face_mask * (1.0 - observation.occlusion_mask)
    mask = jax.image.resize(mask, (size, size), "linear", antialias=True)
    return image, (mask > 0.99).astype(jnp.float32)


def pixel_weights(face_index: Array, skin: Array, mask: Array) -> Array:
    """(R, R): 1 at pixels of visible skin, whose colours are compared."""
    return mask * skin[jnp.maximum(face_index, 0)] * (face_index >= 0)


def total_energy(terms: dict[str, Array]) -> Array:
    """Return the sum of the terms, which the fit minimises."""
    return sum(terms.values(), start=jnp.zeros(()))


def _select_better(best: FitIterate, new: FitIterate) -> FitIterate:
    better = total_energy(new.terms) < total_energy(best.terms)  # False for NaN
    return jax.vmap(lambda b, n, o: jax.tree.map(functools.partial(jnp.where, b), n, o))(better, new, best)
