"""The photometric terms: gradients, robustness, and estimating a render's light."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jax.test_util import check_grads

from fitting.appearance import estimate_light, skin_triangles
from fitting.photometric_fit import FitParams, PhotoData, energy_terms, photometric_energy, visible_face_index
from flamejax.geometry import normalize
from flamejax.rendering import ambient_light, shade
from tests.fitting.scenes import SMALL, random_geometry, random_targets


def test_gradients_of_the_energies_match_finite_differences_at_fixed_visibility(model):
    head, rng = model.head, np.random.default_rng(2)
    geometry = random_geometry(head)
    # A uniform colour, since a texture's gradient jumps between texels (textures have their own test).
    plain = dataclasses.replace(
        head, albedo_mean=jnp.full_like(head.albedo_mean, 0.5), albedo_basis=jnp.full_like(head.albedo_basis, 0.05)
    )
    params = FitParams(geometry, jnp.asarray(rng.normal(size=3), jnp.float32), ambient_light() * 0.8)
    photo = PhotoData(
        jnp.asarray(rng.uniform(size=(32, 32, 3)), jnp.float32), jnp.ones((32, 32)), random_targets(3, 1.0)
    )
    face_index = visible_face_index(head, geometry, 32)
    assert (face_index >= 0).mean() > 0.2
    skin = skin_triangles(head)

    @jax.jit
    def terms(params):
        energies = energy_terms(dataclasses.replace(model, head=plain), params, face_index, skin, photo, SMALL)
        return [energies[name] for name in ("photometric", "regularisation", "smoothing")]

    check_grads(terms, (params,), 1, ("fwd", "rev"), eps=3e-3, rtol=0.05, atol=0.05)


def test_the_photometric_energy_levels_off_and_ignores_pixels_of_weight_zero():
    weights = jnp.ones((4, 4)).at[0].set(0.0)
    small = photometric_energy(jnp.full((4, 4, 3), 0.01), weights, 0.15)
    large = photometric_energy(jnp.full((4, 4, 3), 0.4), weights, 0.15)
    larger = photometric_energy(jnp.full((4, 4, 3), 0.8), weights, 0.15)
    assert 0 < small < large < larger < 0.15
    assert larger - large < 0.3 * (large - small)
    hidden = jnp.full((4, 4, 3), 0.01).at[0].set(5.0)
    np.testing.assert_allclose(photometric_energy(hidden, weights, 0.15), small, rtol=1e-5)


def test_light_is_recovered_from_its_render_despite_outliers():
    rng = np.random.default_rng(0)
    normals = rng.normal(size=(40, 40, 3))
    normals[..., 2] = np.abs(normals[..., 2]) + 0.3  # visible surfaces face the camera
    normals = normalize(jnp.asarray(normals, jnp.float32))
    light = ambient_light() * 0.7 + jnp.asarray(rng.normal(size=(9, 3)) * 0.1, jnp.float32)
    albedo = jnp.asarray(rng.uniform(0.3, 0.7, (40, 40, 3)), jnp.float32)
    image = albedo * shade(normals, light)
    with_outliers = image.at[:8].set(1.0)
    estimate = estimate_light(with_outliers, albedo, normals, jnp.ones((40, 40)), 0.05)
    assert np.abs(shade(normals, estimate) - shade(normals, light)).mean() < 0.04
    without_pixels = estimate_light(image, albedo, normals, jnp.zeros((40, 40)), 0.05)
    np.testing.assert_allclose(without_pixels, ambient_light(), atol=1e-3)
