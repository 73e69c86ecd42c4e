"""Training of OFER's networks on examples drawn online: the examples, runs, resuming, and weights."""

import dataclasses
import json
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from experiments.training.devices import device_mesh, examples_per_device
from experiments.training.ofer import command
from experiments.training.ofer import train as training
from experiments.training.ofer.coefficients import ScanCoefficients, rest_coefficients
from experiments.training.ofer.examples import (
    draw_keyed_examples,
    draw_params,
    make_example_source,
    project,
    simulate_photos,
)
from experiments.training.ofer.settings import GeneratorTraining, RankTraining
from experiments.training.ofer.step import optimizer_of
from experiments.training.state import apply_gradient, initial_state
from flamejax.head import HeadFileError, HeadParams, landmark_head, landmarks, landmarks_from_vertices, vertices
from models.ofer_weights import load_generator, load_rank, ofer_path
from models.weight_files import flat_state
from tests.experiments.training.conftest import QUIET, Stopped
from tests.experiments.training.runs import (
    HEAD,
    STEPS,
    architecture,
    assert_same,
    generator_options,
    rank_options,
    rows,
    weights,
)
from tests.heads import random_head

COUNT = 512


def scans_of(count=5, seed=0):
    rng = np.random.default_rng(seed)
    return ScanCoefficients(
        rng.normal(size=(count, 6)), rng.normal(size=(count, 4)), 0.1 * rng.normal(size=(count, 3)), np.arange(count)
    )


@jax.jit
def draw_all(source, keys):
    """Draw heads (B,) and their examples, in separate steps and in one call."""
    first, second = (jax.vmap(lambda key, k=k: jax.random.fold_in(key, k))(keys) for k in range(2))
    params = jax.vmap(lambda key: draw_params(source, key))(first)
    return params, simulate_photos(source, params, second), draw_keyed_examples(source, keys)


@pytest.fixture(scope="module")
def source():
    return make_example_source(HEAD, scans_of())


@pytest.fixture(scope="module")
def keys():
    return jax.random.split(jax.random.key(0), COUNT)


@pytest.fixture(scope="module")
def drawn(source, keys):
    return draw_all(source, keys)


def test_landmark_head_has_the_same_landmarks():
    head, rng = random_head(subdivisions=3), np.random.default_rng(0)
    small = landmark_head(head)
    assert small.num_vertices < head.num_vertices
    params = dataclasses.replace(
        HeadParams.zeros(head, (3,)),
        betas=jnp.asarray(rng.normal(size=(3, head.num_betas)), jnp.float32),
        jaw_pose=jnp.asarray([[0.2, 0.0, 0.0]] * 3),
        global_orient=jnp.asarray([[0.1, yaw, 0.0] for yaw in (-0.6, 0.0, 0.4)]),
    )
    compute = jax.jit(lambda head, params: landmarks_from_vertices(head, vertices(head, params), params))
    np.testing.assert_allclose(compute(small, params), jax.jit(landmarks)(head, params), atol=1e-6)


def test_example_depends_only_on_its_key(source, keys, drawn):
    params, in_steps, examples = drawn
    reversed_examples = draw_all(source, keys[::-1])[2]
    for name in ("betas", "motion", "points", "visible"):
        np.testing.assert_allclose(getattr(reversed_examples, name)[::-1], getattr(examples, name), atol=1e-6)
        np.testing.assert_allclose(getattr(in_steps, name), getattr(examples, name), atol=1e-6)
    np.testing.assert_allclose(examples.target("identity"), params.betas)
    assert examples.target("expression").shape == (COUNT, HEAD.num_expression + 3)


def test_simulated_landmarks_have_the_measured_noise(source, keys):
    still = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (COUNT, *leaf.shape)), HeadParams.zeros(HEAD))
    spread = np.asarray(jax.jit(simulate_photos)(source, still, keys).points).std(axis=0).mean(axis=-1)
    project_all = jax.jit(jax.vmap(project, in_axes=(None, 0)))
    near = np.asarray(project_all(jax.jit(landmarks)(HEAD, HeadParams.zeros(HEAD)), jnp.linspace(0, 1.25, 50)))
    expected = np.sqrt(np.asarray(source.noise) ** 2 + near.var(axis=0).mean(axis=-1))
    np.testing.assert_allclose(spread, expected, rtol=0.15)
    assert source.noise[30] == pytest.approx(0.088 * 0.03)


def test_project_is_orthographic_far_away_and_magnifies_near_points():
    points = jnp.asarray(np.random.default_rng(0).normal(size=(68, 3)) * 0.05, jnp.float32)
    np.testing.assert_allclose(project(points, jnp.zeros(())), points[:, :2] * np.array([[1, -1]]), atol=1e-7)
    close = project(points, jnp.ones(()))
    depth = points[:, 2] - points[:, 2].mean()
    np.testing.assert_allclose(close[:, 0] * (1 - depth), points[:, 0], atol=1e-6)


def test_occluders_hide_some_all_or_none(drawn):
    visible = np.asarray(drawn[2].visible)
    assert set(np.unique(visible)) == {0.0, 1.0}
    share = 1 - visible.mean(axis=1)
    assert 0.1 < (share < 0.06).mean() < 0.6
    assert (share > 0.5).mean() > 0.02


def test_expressions_are_mostly_those_of_the_scans(source, drawn, keys):
    scans = np.asarray(source.expression)
    distance = np.linalg.norm(np.asarray(drawn[0].expression)[:, None] - scans[None], axis=-1).min(axis=1)
    assert 0.1 < (distance < 1e-5).mean() < 0.5  # unchanged; others are blended, scaled or from the head model
    none = jax.jit(jax.vmap(draw_params, in_axes=(None, 0)))(make_example_source(HEAD, None), keys[:50])
    assert np.isfinite(none.expression).all() and np.asarray(none.jaw_pose)[:, 0].min() >= 0


def test_rest_coefficients_recovers_coefficients():
    rng = np.random.default_rng(2)
    betas, expression = rng.normal(size=(3, 6)), rng.normal(size=(3, 4))
    params = dataclasses.replace(
        HeadParams.zeros(HEAD, (3,)),
        betas=jnp.asarray(betas, jnp.float32),
        expression=jnp.asarray(expression, jnp.float32),
    )
    rest = np.asarray(jax.jit(vertices)(HEAD, params))
    root = np.asarray(HEAD.J_regressor[0]) @ rest
    recovered = rest_coefficients(HEAD, rest - root[:, None])
    # The prior shrinks them a little, since this head has few vertices.
    np.testing.assert_allclose(recovered[0], betas, atol=0.1)
    np.testing.assert_allclose(recovered[1], expression, atol=0.1)


@pytest.mark.parametrize("kind", ["identity", pytest.param("expression", marks=pytest.mark.slow)])
def test_generator_weights_have_the_runs_config_and_provenance(data, idgen_run, tmp_path, kind):
    workdir = idgen_run
    if kind == "expression":
        workdir = tmp_path / "run"
        generator_options(data, workdir, kind).run(QUIET)
    path = workdir / ("idgen.npz" if kind == "identity" else "expgen.npz")
    model = load_generator(HEAD, kind, path)
    assert model.config.kind == kind and model.config.unconditional
    size = HEAD.num_betas if kind == "identity" else HEAD.num_expression + 3
    assert model.config.unet.widths == (size, 4)
    assert np.asarray(model.deviation[...]).min() > 0
    with np.load(path) as file:
        assert "flamejax train" in str(file["provenance_made_with"])
        assert json.loads(str(file["provenance_validation"]))["samples_mm"] > 0
    assert [row["step"] for row in rows(workdir)] == list(range(1, STEPS + 1))


def test_load_generator_refuses_other_weights(idgen_run, tmp_path):
    path, other = idgen_run / "idgen.npz", random_head(seed=1)
    with pytest.raises(HeadFileError, match="weights of"):
        load_generator(HEAD, "expression", path)
    with pytest.raises(HeadFileError, match="trained for the head"):
        load_generator(other, "identity", path)
    (tmp_path / "cut.npz").write_bytes(path.read_bytes()[:1000])
    with pytest.raises(HeadFileError):
        load_generator(HEAD, "identity", tmp_path / "cut.npz")
    with pytest.raises(FileNotFoundError, match="--config id"):
        load_generator(HEAD, "identity", tmp_path / "none.npz")


def test_resumed_run_ends_with_the_same_parameters(data, idgen_run, tmp_path, stopped_at):
    options = generator_options(data, tmp_path / "run")
    stopped_at(5)  # a step after the last checkpoint, which must be repeated
    with pytest.raises(Stopped):
        options.run(QUIET)
    stopped_at(None)
    options.run(QUIET)
    assert rows(idgen_run) == rows(options.workdir)
    assert_same(weights(idgen_run / "idgen.npz"), weights(options.workdir / "idgen.npz"))
    with pytest.raises(ValueError, match="learning_rate"):
        generator_options(data, options.workdir, learning_rate=1.0).run(QUIET)


def test_ranker_starts_from_idgens_encoders_and_its_step_returns_losses(data, idgen_run, tmp_path, monkeypatch):
    """The step is traced, not compiled."""
    arguments = {}

    def record_arguments(*args, **kwargs):
        arguments.update(kwargs, positional=args)
        raise Stopped

    monkeypatch.setattr(training, "train_network", record_arguments)
    monkeypatch.setattr(command, "RankEvaluator", lambda *args, **kwargs: None)
    options = rank_options(data, tmp_path / "rank", idgen_run / "idgen.npz")
    with pytest.raises(Stopped):
        options.run(QUIET)
    arguments["checkpoints"].close()
    assert json.loads((options.workdir / "settings.json").read_text())["idgen_digest"]
    model, make, optimizer, config = arguments["positional"]
    idgen = load_generator(HEAD, "identity", options.idgen)
    assert_same(flat_state(idgen.encoders), flat_state(model.encoders))
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)
    state = initial_state(params, optimizer, averaged=True)
    after, losses = jax.eval_shape(make(graphdef, config, device_mesh(1)), state, rest, arguments["constants"], None)
    assert jax.tree.map(jnp.shape, after) == jax.tree.map(jnp.shape, state)
    assert set(losses) == {"total", "average_mm", "ranked_mm", "minimum_mm", "gradient_norm"}


@pytest.mark.slow
def test_ranker_trains_on_candidates_of_an_idgen(data, idgen_run, tmp_path):
    options = rank_options(data, tmp_path / "rank", idgen_run / "idgen.npz")
    errors = options.run(QUIET)
    assert options.run(QUIET) == errors  # The run resumes at its end.
    with pytest.raises(ValueError, match="candidates 6 -> 5"):
        rank_options(data, options.workdir, options.idgen, candidates=5).run(QUIET)
    assert 0 < errors["minimum_mm"] <= errors["ranked_mm"] and errors["minimum_mm"] < errors["average_mm"]
    model = load_rank(HEAD, options.workdir / "idrank.npz")
    idgen = load_generator(HEAD, "identity", options.idgen)
    # Its encoder started as IdGen's and was trained further.
    before, after = (flat_state(network.encoders)["0/seen/kernel"] for network in (idgen, model))
    assert 0 < np.abs(np.asarray(before) - np.asarray(after)).max() < 0.3


def test_encoders_have_their_own_learning_rate():
    config = GeneratorTraining(steps=10, warmup=1, learning_rate=1e-2, encoder_rate=0.0, weight_decay=0.0, ema=0.5)
    params = nnx.State({"encoders": {"0": {"a": nnx.Param(jnp.ones(2))}}, "unet": {"b": nnx.Param(jnp.ones(2))}})
    optimizer = optimizer_of(config)
    state = initial_state(params, optimizer, averaged=True)
    step = jax.jit(lambda state: apply_gradient(state, jax.tree.map(jnp.ones_like, params), optimizer, config.ema))
    for _ in range(3):
        state = step(state)
    np.testing.assert_array_equal(state.params["encoders"]["0"]["a"][...], 1)
    moved = np.asarray(state.params["unet"]["b"][...])
    average = np.asarray(state.average["unet"]["b"][...])
    assert (moved < 0.995).all() and (moved < average).all() and (average < 1).all()


def test_ofer_path_names_the_shipped_networks():
    assert ofer_path("IdGen").name == "open_head_idgen.npz"


def test_examples_per_device_refuses_uneven_batches():
    mesh = SimpleNamespace(devices=np.zeros(4))
    assert examples_per_device(8, mesh) == 2
    with pytest.raises(ValueError, match="batch-size 6 cannot be shared by 4 devices"):
        examples_per_device(6, mesh)


@pytest.mark.parametrize(
    ("kind", "bad", "match"),
    [
        (GeneratorTraining, {"steps": 0}, "--steps"),
        (GeneratorTraining, {"keep": 0}, "--keep"),
        (GeneratorTraining, {"ema": 1.0}, "--ema"),
        (GeneratorTraining, {"draws": 0}, "--draws"),
        (GeneratorTraining, {"dropped": 1.0}, "--dropped"),
        (RankTraining, {"candidates": 1}, "--candidates"),
    ],
)
def test_training_settings_refuse_bad_values(kind, bad, match):
    with pytest.raises(ValueError, match=match):
        kind(**bad)


def test_even_losses_need_preconditioned_networks(data, tmp_path):
    plain = dataclasses.replace(architecture("identity"), preconditioned=False)
    with pytest.raises(ValueError, match="--even"):
        generator_options(data, tmp_path / "run", architecture=plain).run(QUIET)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("kind", ["identity", "expression"])
def test_head_without_a_front_of_the_face_is_refused_before_training(flame, data, tmp_path, kind):
    """The synthetic FLAME model's regions are random."""
    with pytest.raises(ValueError, match="front of the face"):
        generator_options(data, tmp_path / "run", kind, head=flame[0]).run(QUIET)
    assert not (tmp_path / "run").exists()
