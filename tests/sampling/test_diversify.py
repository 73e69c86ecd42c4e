"""Algorithm 2: what is seen stays, what is hidden spreads; knobs, baselines, batches, gradients.

Nearly all tests run one program, `RUN` with four heads of one photo: k, n_sigma, visibility and masks are data.
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
from sampling.descent import Problem, descend, set_loss
from sampling.dpp import shell_radius
from sampling.hidden_directions import hidden_directions
from sampling.photo_match import photo_term, photometric, photometric_pull, seen_triangles
from tests.sampling.faces import KEY, make_fit, observed, small_head, small_model, small_vae, taken, without_colours

RUN = DiversifyConfig(iterations=24, render_size=32, directions=3)
COUNT = 4
DIRECTIONS = jax.jit(hidden_directions, static_argnums=3)


def run(fit, photo, config=RUN, vae=True, key=KEY, count=COUNT):
    vae = small_vae(halves=True) if vae else None
    return diversify(vae, small_model(), fit, photo, key, num_samples=count, config=config)


def spreads(heads, fit):
    """RMS distance from the mean head, metres: of visible and of hidden vertices."""
    away = np.asarray(heads) - np.asarray(heads).mean(axis=-3, keepdims=True)
    size = np.sqrt((away**2).sum(-1).mean(axis=0))
    seen = np.asarray(visible_vertices(small_head(), fit))
    return float(np.sqrt((size[seen] ** 2).mean())), float(np.sqrt((size[~seen] ** 2).mean()))


@pytest.fixture(scope="module")
def drawn(halves, model, fit):
    """Plain draws: where the heads of `run` start."""
    return complete(halves, model, fit, KEY, num_samples=COUNT)


@pytest.fixture(scope="module")
def grey(photo):
    """The photo without its colours: the program runs as if they had no weight."""
    return without_colours(photo)


@pytest.fixture(scope="module")
def posterior(halves, model, head, fit):
    vertices, _, _ = to_head_frame(model, fit)
    return halves.encode(vertices, visible_vertices(head, fit))


def test_hidden_vertices_spread_and_visible_ones_stay(fit, grey, drawn):
    moved = run(fit, grey)
    before, after = spreads(drawn.vertices, fit), spreads(moved.vertices, fit)
    assert after[1] > 1.3 * before[1], "farther apart where nothing is seen"
    assert after[0] < before[0] + 2e-5, "and as near as before where the photo shows the head"
    assert after[1] > 20 * after[0]
    chex.assert_tree_all_finite((moved.vertices, moved.latents, moved.score))
    assert (np.diff(moved.score) <= 0).all()


def test_more_sigmas_are_more_diverse_and_keep_to_their_shell(halves, head, fit, grey, posterior):
    found = [run(fit, grey, dataclasses.replace(RUN, n_sigma=n)) for n in (1.0, 3.0, 5.0)]
    hidden = [spreads(each.vertices, fit)[1] for each in found]
    assert hidden[0] < hidden[1] < hidden[2]
    rows, _ = DIRECTIONS(halves, posterior, ~visible_vertices(head, fit), 3, KEY)
    for each, n_sigma in zip(found, (1.0, 3.0, 5.0), strict=True):
        along = np.asarray(jax.vmap(posterior.whitened)(each.latents) @ rows.T) / RUN.width
        assert np.linalg.norm(along, axis=-1).max() < 1.15 * float(shell_radius(3, n_sigma)) + 0.1


def test_the_colours_count(fit, photo, grey):
    """A fit that is a little beside its photo: with colours heads move otherwise than without."""
    beside = dataclasses.replace(fit, vertices=fit.vertices + jnp.asarray([[0.002, 0.0, 0.0]]))
    with_colours, without = run(beside, photo), run(beside, grey)
    assert 1e-6 < float(jnp.abs(with_colours.vertices - without.vertices).max())


def test_k_n_sigma_and_photos_do_not_compile_again(fit, photo):
    program = _program(dataclasses.replace(RUN, k=0.0, n_sigma=0.0), COUNT, True, (jax.devices()[0],))
    run(fit, photo)
    before = program._cache_size()
    run(fit, photo, dataclasses.replace(RUN, k=2.0, n_sigma=1.0))
    run(make_fit(seed=5), photo)
    assert program._cache_size() == before


def test_no_iterations_are_plain_draws(fit, photo, drawn):
    chex.assert_trees_all_equal(run(fit, photo, dataclasses.replace(RUN, iterations=0)), drawn)


def test_batches_are_their_photos_one_by_one(head):
    fit, keys = make_fit((3,)), jax.random.split(KEY, 3)
    photo = observed(fit)
    together = run(fit, photo, key=keys)
    chex.assert_shape(together.vertices, (3, COUNT, head.num_vertices, 3))
    for i in range(3):
        alone = run(taken(fit, i), taken(photo, i), key=keys[i])
        np.testing.assert_allclose(together.vertices[i], alone.vertices, atol=2e-5)
    first = run(*taken((fit, photo), np.s_[:1]), key=keys[:1])
    chex.assert_shape(first.vertices, (1, *alone.vertices.shape))


def test_the_paper_preset_moves_latents_themselves(fit, grey, drawn):
    paper = dataclasses.replace(DIVERSIFY_PRESETS["paper"], iterations=20, render_size=32, learning_rate=0.1)
    assert paper.space == "latents" and DIVERSIFY_PRESETS["paper"].iterations == 300
    before, after = (spreads(each.vertices, fit) for each in (drawn, run(fit, grey, paper)))
    assert after[1] > 1.1 * before[1] and after[1] > 5 * after[0]


@pytest.mark.parametrize("seed", [1, 2])
def test_single_stage_spreads_everything(head, seed):
    fit = make_fit(seed=seed)
    photo = observed(fit)
    found = run(fit, photo, vae=False)
    assert found.latents is None and found.params is not None
    chex.assert_shape(found.params.betas, (COUNT, head.num_betas))
    chex.assert_tree_all_finite((found.vertices, found.score))
    np.testing.assert_allclose(found.vertices, flamejax.vertices(head, found.params), atol=1e-5)
    seen, hidden = spreads(found.vertices, fit)
    assert 1e-5 < hidden < 8 * seen, "nothing holds the visible part but the photo"
    assert (np.diff(found.score) <= 0).all()
    # With k = 0 all heads are as alike as any, and nothing drives them apart.
    assert spreads(run(fit, photo, dataclasses.replace(RUN, k=0.0), vae=False).vertices, fit)[1] < hidden


def test_directions_are_the_principal_components_of_hidden_movement(halves, head, fit, posterior):
    visible, size = visible_vertices(head, fit), posterior.mean.size
    rows, energy = DIRECTIONS(halves, posterior, ~visible, 3, KEY)
    np.testing.assert_allclose(rows @ rows.T, np.eye(3), atol=1e-4)
    mask = np.asarray(~visible)
    decode = jax.jit(lambda w: halves.decode(posterior.mean + posterior.deviation(w)))
    jacobian = np.asarray(jax.jacfwd(decode)(jnp.zeros(size)))[mask].reshape(-1, size).astype(np.float64)
    values = np.linalg.eigvalsh(jacobian.T @ jacobian)[::-1][:3] / (3 * mask.sum())
    np.testing.assert_allclose(energy, values, rtol=0.02)


def test_whitening_goes_there_and_back_and_draws_are_white(posterior):
    white = jax.random.normal(KEY, (5, posterior.mean.size))

    @jax.jit
    def there_and_back(found: Posterior) -> jax.Array:
        return jax.vmap(lambda w: found.whitened(found.mean + found.deviation(w)))(white)

    np.testing.assert_allclose(there_and_back(posterior), white, atol=2e-3)
    plain = Posterior(posterior.mean, posterior.log_variance + 1.0)
    np.testing.assert_allclose(there_and_back(plain), white, atol=1e-4)
    drawn = jax.jit(jax.vmap(lambda key: posterior.whitened(posterior.sample(key))))(jax.random.split(KEY, 4000))
    np.testing.assert_allclose(np.cov(np.asarray(drawn).T), np.eye(white.shape[-1]), atol=0.12)


def test_the_photo_pulls_a_wrong_head_towards_the_right_one(head, fit, photo, grey):
    wrong = fit.vertices + jnp.asarray([[0.004, 0.0, 0.0]])

    @jax.jit
    def costs(term, heads):
        each = jax.vmap(lambda verts: photometric(head, term, verts, seen_triangles(head, term, verts), 0.15))
        return each(heads), photometric_pull(head, term, heads, 0.15)

    term = photo_term(head, fit, photo, 32)
    cost, pull = costs(term, jnp.stack([fit.vertices, wrong, wrong]))
    assert cost[0] < cost[1]
    chex.assert_tree_all_finite(pull)
    step = 1e-4 * pull[1] / jnp.max(jnp.abs(pull[1]))
    cost, _ = costs(term, jnp.stack([wrong - step, wrong, wrong + step]))
    assert cost[0] < cost[1] < cost[2]
    np.testing.assert_array_equal(costs(photo_term(head, fit, grey, 32), jnp.stack([wrong] * 3))[1], 0)


def test_colours_have_right_gradients_at_fixed_visibility(head, fit, photo):
    plain = dataclasses.replace(
        head, albedo_mean=jnp.full_like(head.albedo_mean, 0.5), albedo_basis=jnp.full_like(head.albedo_basis, 0.05)
    )
    term = photo_term(plain, fit, photo, 32)
    term = dataclasses.replace(term, image=jax.random.uniform(KEY, term.image.shape))
    seen = seen_triangles(plain, term, fit.vertices)
    rows = jax.random.normal(KEY, (4, head.num_vertices, 3))

    @jax.jit
    def cost(weights):
        return photometric(plain, term, fit.vertices + 1e-3 * jnp.tensordot(weights, rows, axes=1), seen, 0.15)

    check_grads(cost, (jnp.zeros(4),), 1, ("fwd", "rev"), eps=3e-3, rtol=0.05, atol=1e-4)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Toy:
    """A face of five points, three of them hidden."""

    hidden: jax.Array


TOY = Problem(
    heads=lambda face, x: jnp.sin(x).reshape(4, 5, 3),
    loss=lambda face, heads, x: 10 * jnp.sum(heads[:, 2::2] ** 2),
    plausible=lambda face, x: x,
    bounded=True,
)  # fmt: skip
FACE, KNOBS = Toy(jnp.asarray([True, True, False, True, False])), jnp.asarray([0.5, 1.0])


def test_the_set_loss_has_right_gradients():
    start = 1.4 * jax.random.normal(KEY, (4, 15))
    heads = TOY.heads(FACE, start)
    loss = jax.jit(lambda x: set_loss(TOY, FACE, heads, x, KNOBS))
    # The median counts as a constant, so differences must not move it: shapes stay, plausibility moves.
    check_grads(loss, (start,), 1, ("fwd", "rev"), eps=3e-3, rtol=0.03)
    np.testing.assert_allclose(set_loss(TOY, FACE, heads, start, KNOBS), loss(start), rtol=1e-5)


def test_settled_heads_are_left_alone():
    """With a threshold that everything is below, one round is made and no more."""
    faces = jax.tree.map(lambda leaf: jnp.stack([leaf] * 2), FACE)
    start = 0.3 * jax.random.normal(KEY, (2, 4, 15))

    def moved(**changes):
        config = dataclasses.replace(RUN, photometric_weight=0.0, iterations=8, **changes)
        return descend(None, TOY, faces, start, KNOBS, config)

    never, at_once = (jax.jit(lambda s=s: moved(settled=s))() for s in (0.0, 1.0))
    # Adam's first steps are as long as the rate: one round of four, and no more.
    assert 0 < float(jnp.abs(at_once - start).max()) <= 4.1 * RUN.learning_rate
    assert float(jnp.abs(never - start).max()) > float(jnp.abs(at_once - start).max())


def test_what_cannot_be_used_is_refused(fit, photo):
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
    found = run(fit, photo, count=1)
    chex.assert_tree_all_finite((found.vertices, found.score))


def test_nothing_hidden_and_nothing_seen_are_finite(head, fit, photo):
    for visible in (True, False):
        other = dataclasses.replace(fit, vertex_visibility=jnp.full(head.num_vertices, visible))
        chex.assert_tree_all_finite(run(other, photo).vertices)
