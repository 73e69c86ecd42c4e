"""Algorithm 2: diversity of hidden and visible parts, k and n_sigma, baselines, batches, gradients.

Almost all tests run one program, `RUN` with four heads of one photo, because k, n_sigma and masks are its arguments.
"""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

import flamejax
from models import Posterior
from sampling import DIVERSIFY_PRESETS, DiversifyConfig, complete, diversify
from sampling._complete import to_head_frame, visible_vertices
from sampling._diversify import _program
from sampling.descent import DescentProblem, descend, dpp_term
from sampling.dpp import shell_radius
from sampling.hidden_directions import hidden_directions
from sampling.photo_match import photo_term, photometric_gradient, photometric_loss, visible_face_index
from tests.sampling.faces import KEY, make_fit, observed, select, small_head, small_model, small_vae, without_colours

RUN = DiversifyConfig(iterations=24, render_size=32, directions=3)
COUNT = 4
DIRECTIONS = jax.jit(hidden_directions, static_argnums=3)


def run(fit, photo, config=RUN, vae=True, key=KEY, count=COUNT):
    vae = small_vae(halves=True) if vae else None
    return diversify(vae, small_model(), fit, photo, key, num_samples=count, config=config)


def spreads(heads, fit):
    """Return the RMS distances from the mean head, metres, of visible and of hidden vertices."""
    deviations = np.asarray(heads) - np.asarray(heads).mean(axis=-3, keepdims=True)
    size = np.sqrt((deviations**2).sum(-1).mean(axis=0))
    visible = np.asarray(visible_vertices(small_head(), fit))
    return float(np.sqrt((size[visible] ** 2).mean())), float(np.sqrt((size[~visible] ** 2).mean()))


@pytest.fixture(scope="module")
def samples(halves, model, fit):
    """Plain samples, from which `run` starts."""
    return complete(halves, model, fit, KEY, num_samples=COUNT)


@pytest.fixture(scope="module")
def masked_photo(photo):
    """The photo with its colours masked, so that only landmarks have an effect."""
    return without_colours(photo)


@pytest.fixture(scope="module")
def posterior(halves, model, head, fit):
    vertices, _, _ = to_head_frame(model, fit)
    return halves.encode(vertices, visible_vertices(head, fit))


def test_only_hidden_vertices_become_more_diverse(fit, masked_photo, samples):
    result = run(fit, masked_photo)
    before, after = spreads(samples.vertices, fit), spreads(result.vertices, fit)
    assert after[1] > 1.3 * before[1], "more diverse where the head is hidden"
    assert after[0] < before[0] + 2e-5, "not more diverse where the photo shows the head"
    assert after[1] > 20 * after[0]
    chex.assert_tree_all_finite((result.vertices, result.latents, result.score))
    assert (np.diff(result.score) <= 0).all()


def test_larger_n_sigma_is_more_diverse_within_its_shell(halves, head, fit, masked_photo, posterior):
    results = [run(fit, masked_photo, dataclasses.replace(RUN, n_sigma=n)) for n in (1.0, 3.0, 5.0)]
    hidden = [spreads(result.vertices, fit)[1] for result in results]
    assert hidden[0] < hidden[1] < hidden[2]
    rows, _ = DIRECTIONS(halves, posterior, ~visible_vertices(head, fit), 3, KEY)
    for result, n_sigma in zip(results, (1.0, 3.0, 5.0), strict=True):
        coordinates = np.asarray(jax.vmap(posterior.whiten)(result.latents) @ rows.T) / RUN.width
        assert np.linalg.norm(coordinates, axis=-1).max() < 1.15 * float(shell_radius(3, n_sigma)) + 0.1


def test_colours_have_an_effect(fit, photo, masked_photo):
    """For a fit that is misaligned with its photo, results differ with and without colours."""
    misaligned = dataclasses.replace(fit, vertices=fit.vertices + jnp.asarray([[0.002, 0.0, 0.0]]))
    with_colours, without = run(misaligned, photo), run(misaligned, masked_photo)
    assert 1e-6 < float(jnp.abs(with_colours.vertices - without.vertices).max())


def test_k_n_sigma_and_photos_do_not_compile_again(fit, photo):
    program = _program(dataclasses.replace(RUN, k=0.0, n_sigma=0.0), COUNT, True, (jax.devices()[0],))
    run(fit, photo)
    before = program._cache_size()
    run(fit, photo, dataclasses.replace(RUN, k=2.0, n_sigma=1.0))
    run(make_fit(seed=5), photo)
    assert program._cache_size() == before


def test_no_iterations_return_plain_samples(fit, photo, samples):
    chex.assert_trees_all_equal(run(fit, photo, dataclasses.replace(RUN, iterations=0)), samples)


def test_batches_equal_single_photos(head):
    fit, keys = make_fit((3,)), jax.random.split(KEY, 3)
    photo = observed(fit)
    batch = run(fit, photo, key=keys)
    chex.assert_shape(batch.vertices, (3, COUNT, head.num_vertices, 3))
    for i in range(3):
        single = run(select(fit, i), select(photo, i), key=keys[i])
        np.testing.assert_allclose(batch.vertices[i], single.vertices, atol=2e-5)
    first = run(*select((fit, photo), np.s_[:1]), key=keys[:1])
    chex.assert_shape(first.vertices, (1, *single.vertices.shape))


def test_the_paper_preset_optimises_latents(fit, masked_photo, samples):
    paper = dataclasses.replace(DIVERSIFY_PRESETS["paper"], iterations=20, render_size=32, learning_rate=0.1)
    assert paper.space == "latents" and DIVERSIFY_PRESETS["paper"].iterations == 300
    before, after = (spreads(hypotheses.vertices, fit) for hypotheses in (samples, run(fit, masked_photo, paper)))
    assert after[1] > 1.1 * before[1] and after[1] > 5 * after[0]


@pytest.mark.parametrize("seed", [1, 2])
def test_single_stage_also_diversifies_visible_vertices(head, seed):
    fit = make_fit(seed=seed)
    photo = observed(fit)
    result = run(fit, photo, vae=False)
    assert result.latents is None and result.params is not None
    chex.assert_shape(result.params.betas, (COUNT, head.num_betas))
    chex.assert_tree_all_finite((result.vertices, result.score))
    np.testing.assert_allclose(result.vertices, flamejax.vertices(head, result.params), atol=1e-5)
    visible, hidden = spreads(result.vertices, fit)
    assert 1e-5 < hidden < 8 * visible, "only the photo constrains the visible part"
    assert (np.diff(result.score) <= 0).all()
    # With k = 0 all pairs of heads are equally similar, and the DPP does not drive them apart.
    assert spreads(run(fit, photo, dataclasses.replace(RUN, k=0.0), vae=False).vertices, fit)[1] < hidden


def test_directions_are_the_principal_components_of_hidden_movement(halves, head, fit, posterior):
    visible, size = visible_vertices(head, fit), posterior.mean.size
    rows, energy = DIRECTIONS(halves, posterior, ~visible, 3, KEY)
    np.testing.assert_allclose(rows @ rows.T, np.eye(3), atol=1e-4)
    mask = np.asarray(~visible)
    decode = jax.jit(lambda w: halves.decode(posterior.mean + posterior.unwhiten(w)))
    jacobian = np.asarray(jax.jacfwd(decode)(jnp.zeros(size)))[mask].reshape(-1, size).astype(np.float64)
    values = np.linalg.eigvalsh(jacobian.T @ jacobian)[::-1][:3] / (3 * mask.sum())
    np.testing.assert_allclose(energy, values, rtol=0.02)


def test_whiten_inverts_unwhiten_and_whitens_samples(posterior):
    white = jax.random.normal(KEY, (5, posterior.mean.size))

    @jax.jit
    def round_trip(posterior: Posterior) -> jax.Array:
        return jax.vmap(lambda w: posterior.whiten(posterior.mean + posterior.unwhiten(w)))(white)

    np.testing.assert_allclose(round_trip(posterior), white, atol=2e-3)
    independent = Posterior(posterior.mean, posterior.log_variance + 1.0)
    np.testing.assert_allclose(round_trip(independent), white, atol=1e-4)
    whitened = jax.jit(jax.vmap(lambda key: posterior.whiten(posterior.sample(key))))(jax.random.split(KEY, 4000))
    np.testing.assert_allclose(np.cov(np.asarray(whitened).T), np.eye(white.shape[-1]), atol=0.12)


def test_photometric_gradient_points_away_from_the_true_head(head, fit, photo, masked_photo):
    wrong = fit.vertices + jnp.asarray([[0.004, 0.0, 0.0]])

    @jax.jit
    def losses_and_gradients(term, heads):
        def loss(verts):
            return photometric_loss(head, term, verts, visible_face_index(head, term, verts), 0.15)

        return jax.vmap(loss)(heads), photometric_gradient(head, term, heads, 0.15)

    term = photo_term(head, fit, photo, 32)
    losses, gradients = losses_and_gradients(term, jnp.stack([fit.vertices, wrong, wrong]))
    assert losses[0] < losses[1]
    chex.assert_tree_all_finite(gradients)
    step = 1e-4 * gradients[1] / jnp.max(jnp.abs(gradients[1]))
    losses, _ = losses_and_gradients(term, jnp.stack([wrong - step, wrong, wrong + step]))
    assert losses[0] < losses[1] < losses[2]
    masked_term = photo_term(head, fit, masked_photo, 32)
    np.testing.assert_array_equal(losses_and_gradients(masked_term, jnp.stack([wrong] * 3))[1], 0)


def test_photometric_loss_has_right_gradients_at_fixed_visibility(head, fit, photo):
    grey_head = dataclasses.replace(
        head, albedo_mean=jnp.full_like(head.albedo_mean, 0.5), albedo_basis=jnp.full_like(head.albedo_basis, 0.05)
    )
    term = photo_term(grey_head, fit, photo, 32)
    term = dataclasses.replace(term, image=jax.random.uniform(KEY, term.image.shape))
    visible = visible_face_index(grey_head, term, fit.vertices)
    rows = jax.random.normal(KEY, (4, head.num_vertices, 3))

    @jax.jit
    def cost(weights):
        verts = fit.vertices + 1e-3 * jnp.tensordot(weights, rows, axes=1)
        return photometric_loss(grey_head, term, verts, visible, 0.15)

    check_grads(cost, (jnp.zeros(4),), 1, ("fwd", "rev"), eps=3e-3, rtol=0.05, atol=1e-4)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ToyFace:
    """Constants of a head of five points, three of them hidden."""

    hidden: jax.Array


TOY = DescentProblem(
    heads=lambda face, x: jnp.sin(x).reshape(4, 5, 3),
    loss=lambda face, heads, x: 10 * jnp.sum(heads[:, 2::2] ** 2),
    standardize=lambda face, x: x,
    bound_each=True,
)  # fmt: skip
FACE, DPP_PARAMS = ToyFace(jnp.asarray([True, True, False, True, False])), jnp.asarray([0.5, 1.0])


def test_dpp_term_has_right_gradients():
    start = 1.4 * jax.random.normal(KEY, (4, 15))
    heads = TOY.heads(FACE, start)
    loss = jax.jit(lambda x: dpp_term(TOY, FACE, heads, x, DPP_PARAMS))
    # The loss treats the median as constant, so that finite differences must not change the shapes.
    check_grads(loss, (start,), 1, ("fwd", "rev"), eps=3e-3, rtol=0.03)
    np.testing.assert_allclose(dpp_term(TOY, FACE, heads, start, DPP_PARAMS), loss(start), rtol=1e-5)


def test_converged_heads_do_not_change():
    """With a tolerance that all heads meet, only one round is executed."""
    faces = jax.tree.map(lambda leaf: jnp.stack([leaf] * 2), FACE)
    start = 0.3 * jax.random.normal(KEY, (2, 4, 15))

    def descended(**changes):
        config = dataclasses.replace(RUN, photometric_weight=0.0, iterations=8, **changes)
        return descend(None, TOY, faces, start, DPP_PARAMS, config)

    never, at_once = (jax.jit(lambda s=s: descended(settled=s))() for s in (0.0, 1.0))
    # Adam's first steps are as long as the learning rate, and a round has four.
    assert 0 < float(jnp.abs(at_once - start).max()) <= 4.1 * RUN.learning_rate
    assert float(jnp.abs(never - start).max()) > float(jnp.abs(at_once - start).max())


def test_invalid_inputs_are_refused(fit, photo):
    with pytest.raises(ValueError, match="at least 1"):
        run(fit, photo, count=0)
    with pytest.raises(ValueError, match="one key"):
        run(fit, photo, key=jax.random.split(KEY, 2))
    with pytest.raises(ValueError, match="observations"):
        run(fit, jax.tree.map(lambda leaf: jnp.stack([leaf] * 2), photo))
    with pytest.raises(ValueError, match=r"observation.image should be"):
        run(fit, dataclasses.replace(photo, image=photo.image[..., :2]))
    fewer = dataclasses.replace(fit, vertices=fit.vertices[:-1], vertex_visibility=fit.vertex_visibility[:-1])
    with pytest.raises(ValueError, match="vertices, but a Mesh-VAE"):
        run(fewer, photo)
    for wrong in ({"iterations": 10}, {"k": -1.0}, {"width": 0.0}, {"render_size": 8}, {"directions": 0}):
        with pytest.raises(ValueError):
            DiversifyConfig(**wrong)


def test_photos_with_nan_give_finite_heads(fit, photo):
    broken = dataclasses.replace(photo, image=photo.image.at[3, 3].set(jnp.nan))
    chex.assert_tree_all_finite(run(fit, broken).vertices)


@pytest.mark.slow
def test_a_single_head_is_possible(fit, photo):  # its loss and gradient: test_dpp.py
    result = run(fit, photo, count=1)
    chex.assert_tree_all_finite((result.vertices, result.score))


def test_heads_without_hidden_or_visible_vertices_are_finite(head, fit, photo):
    for visible in (True, False):
        other = dataclasses.replace(fit, vertex_visibility=jnp.full(head.num_vertices, visible))
        chex.assert_tree_all_finite(run(other, photo).vertices)
