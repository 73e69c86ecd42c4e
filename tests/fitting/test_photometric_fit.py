"""The terms that compare colours: gradients, robustness, and the light behind a render."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jax.test_util import check_grads

from fitting.appearance import estimate_light, skin_triangles
from fitting.photometric_fit import Evidence, Unknowns, energies, photometric_energy, visible_faces
from flamejax.geometry import normalize
from flamejax.rendering import ambient_light, shade
from tests.fitting.scenes import SMALL, random_geometry, random_targets


def test_energies_have_right_gradients_at_fixed_visibility(model):
    head, rng = model.head, np.random.default_rng(2)
    geometry = random_geometry(head)
    # One colour all over: a texture's gradient jumps from texel to texel (it has a test of its own).
    plain = dataclasses.replace(
        head, albedo_mean=jnp.full_like(head.albedo_mean, 0.5), albedo_basis=jnp.full_like(head.albedo_basis, 0.05)
    )
    unknowns = Unknowns(geometry, jnp.asarray(rng.normal(size=3), jnp.float32), ambient_light() * 0.8)
    evidence = Evidence(
        jnp.asarray(rng.uniform(size=(32, 32, 3)), jnp.float32), jnp.ones((32, 32)), random_targets(3, 1.0)
    )
    face_index = visible_faces(head, geometry, 32)
    assert (face_index >= 0).mean() > 0.2
    skin = skin_triangles(head)

    @jax.jit
    def terms(unknowns):
        found = energies(dataclasses.replace(model, head=plain), unknowns, face_index, skin, evidence, SMALL)
        return [found[name] for name in ("photometric", "regularisation", "smoothing")]

    check_grads(terms, (unknowns,), 1, ("fwd", "rev"), eps=3e-3, rtol=0.05, atol=0.05)


def test_the_robust_colour_loss_levels_off_and_counts_only_weighted_pixels():
    weights = jnp.ones((4, 4)).at[0].set(0.0)
    small = photometric_energy(jnp.full((4, 4, 3), 0.01), weights, 0.15)
    large = photometric_energy(jnp.full((4, 4, 3), 0.4), weights, 0.15)
    larger = photometric_energy(jnp.full((4, 4, 3), 0.8), weights, 0.15)
    assert 0 < small < large < larger < 0.15
    assert larger - large < 0.3 * (large - small)
    hidden = jnp.full((4, 4, 3), 0.01).at[0].set(5.0)
    np.testing.assert_allclose(photometric_energy(hidden, weights, 0.15), small, rtol=1e-5)


def test_light_is_recovered_from_its_own_render_in_spite_of_outliers():
    rng = np.random.default_rng(0)
    normals = rng.normal(size=(40, 40, 3))
    normals[..., 2] = np.abs(normals[..., 2]) + 0.3  # what a camera sees faces it
    normals = normalize(jnp.asarray(normals, jnp.float32))
    light = ambient_light() * 0.7 + jnp.asarray(rng.normal(size=(9, 3)) * 0.1, jnp.float32)
    albedo = jnp.asarray(rng.uniform(0.3, 0.7, (40, 40, 3)), jnp.float32)
    image = albedo * shade(normals, light)
    spoiled = image.at[:8].set(1.0)
    found = estimate_light(spoiled, albedo, normals, jnp.ones((40, 40)), 0.05)
    shown = shade(normals, found) - shade(normals, light)
    assert np.abs(shown).mean() < 0.04
    nothing = estimate_light(image, albedo, normals, jnp.zeros((40, 40)), 0.05)
    np.testing.assert_allclose(nothing, ambient_light(), atol=1e-3)
