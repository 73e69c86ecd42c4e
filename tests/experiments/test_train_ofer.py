"""Training of OFER's networks on examples drawn online: the examples, runs, resuming, and weights."""

import dataclasses
import json
import shutil
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from rich.console import Console

import flamejax
from experiments.training import loop
from experiments.training.ofer import train as training
from experiments.training.ofer import train_rank as ranking
from experiments.training.ofer.coefficients import ScanCoefficients, rest_coefficients
from experiments.training.ofer.examples import (
    draw_examples,
    draw_params,
    draw_visible,
    make_source,
    photographed,
    project,
)
from experiments.training.ofer.settings import GeneratorSettings, RankSettings
from experiments.training.ofer.step import optimizer_of, share_of, start_state, updated
from experiments.training.record import Record
from flamejax.head import HeadFileError, HeadParams, landmark_head, landmarks, landmarks_from_vertices, vertices
from models.encoders.landmark import LandmarkEncoderConfig, reference_landmarks
from models.generator import GeneratorConfig
from models.ofer_weights import load_generator, load_rank, ofer_path
from models.rank import IdRankConfig
from models.unet1d import UNet1DConfig
from models.weight_files import flat_state
from tests import flame_format
from tests.experiments.test_train_local_pca import SIZE, VERTICES, write_scans
from tests.heads import random_head

HEAD = random_head()
QUIET = Console(quiet=True)
STEPS = 8
LANDMARK = LandmarkEncoderConfig(width=12, hidden=16, blocks=1)
UNET = UNet1DConfig((6, 4), context=12, time=16, heads=1, head_width=4, tokens=2)
RANK = IdRankConfig((16, 8), context=12, landmark=LANDMARK)


def architecture(kind):
    return GeneratorConfig(kind, UNET, landmark=LANDMARK, preconditioned=True)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder with a synthetic FLAME model and scans of it."""
    folder = tmp_path_factory.mktemp("data")
    path = flame_format.write_folder(folder, SIZE)
    if path.name != "generic_model.pkl":
        path.rename(folder / "generic_model.pkl")
    flame_format.write_face_masks(folder, VERTICES)
    write_scans(folder / "scans", flamejax.load_head(folder / "generic_model.pkl"))
    return folder


def settings_of(data, workdir, kind=GeneratorSettings, **changes):
    """A run of a few seconds."""
    return kind(
        workdir=workdir, head=data / "generic_model.pkl", scans=data / "scans", steps=STEPS, batch_size=4, warmup=2,
        checkpoint_every=4, judge_every=8, log_every=1, **changes,
    )  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def few_judged():
    """Judging is not what is tested here."""
    for module in (training, ranking):
        module.JUDGED = module.JUDGED_AT_END = 4
    training.STATISTICS = 64


@pytest.fixture(scope="module", params=["identity", "expression"])
def run(request, data, tmp_path_factory):
    """A finished run: kind, folder, weights."""
    workdir = tmp_path_factory.mktemp(request.param) / "run"
    settings = settings_of(data, workdir, draws=2, even=True, dropped=0.2)
    training.train(settings, architecture(request.param), QUIET)
    return request.param, settings, workdir / ("idgen.npz" if request.param == "identity" else "expgen.npz")


def scans_of(count=5, seed=0):
    rng = np.random.default_rng(seed)
    return ScanCoefficients(
        rng.normal(size=(count, 6)), rng.normal(size=(count, 4)), 0.1 * rng.normal(size=(count, 3)), np.arange(count)
    )


SOURCE = make_source(HEAD, scans_of())


def test_the_small_head_has_the_same_landmarks():
    head = random_head(subdivisions=4)
    small = landmark_head(head)
    assert small.num_vertices < head.num_vertices
    for yaw in (-0.6, 0.0, 0.4):
        params = draw_params(SOURCE, jax.random.key(3))
        params = dataclasses.replace(params, global_orient=jnp.asarray([0.1, yaw, 0.0]))
        found = landmarks_from_vertices(small, vertices(small, params), params)
        np.testing.assert_allclose(found, landmarks(head, params), atol=1e-6)


def test_an_example_depends_on_its_key_alone():
    whole = draw_examples(SOURCE, jax.random.key(0), 6)
    keys = jax.random.split(jax.random.key(0), 6)
    params = jax.vmap(lambda key: draw_params(SOURCE, jax.random.fold_in(key, 0)))(keys[2:4])
    part = photographed(SOURCE, params, jax.vmap(lambda key: jax.random.fold_in(key, 1))(keys[2:4]))
    np.testing.assert_allclose(part.points, whole.points[2:4], atol=1e-6)
    np.testing.assert_array_equal(part.visible, whole.visible[2:4])
    np.testing.assert_allclose(part.target("identity"), whole.betas[2:4])
    assert whole.target("expression").shape == (6, HEAD.num_expression + 3)


def test_landmarks_have_the_noise_that_was_measured():
    params = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (2000, *leaf.shape)), HeadParams.zeros(HEAD))
    found = photographed(SOURCE, params, jax.random.split(jax.random.key(1), 2000))
    spread = np.asarray(found.points).std(axis=0).mean(axis=-1)
    near = np.asarray(
        jax.vmap(lambda n: project(landmarks(HEAD, HeadParams.zeros(HEAD)), n))(jnp.linspace(0, 1.25, 50))
    )
    expected = np.sqrt(np.asarray(SOURCE.noise) ** 2 + near.var(axis=0).mean(axis=-1))
    np.testing.assert_allclose(spread, expected, rtol=0.15)
    assert SOURCE.noise[30] == pytest.approx(0.088 * 0.03)


def test_projection_of_a_far_camera_is_orthographic_and_a_near_one_magnifies_what_is_near():
    points = jnp.asarray(np.random.default_rng(0).normal(size=(68, 3)) * 0.05, jnp.float32)
    np.testing.assert_allclose(project(points, jnp.zeros(())), points[:, :2] * np.array([[1, -1]]), atol=1e-7)
    close = project(points, jnp.ones(()))
    depth = points[:, 2] - points[:, 2].mean()
    np.testing.assert_allclose(close[:, 0] * (1 - depth), points[:, 0], atol=1e-6)


def test_occluders_hide_some_all_or_none():
    visible = np.asarray(
        jax.vmap(lambda k: draw_visible(reference_landmarks(HEAD), k))(jax.random.split(jax.random.key(0), 600))
    )
    assert set(np.unique(visible)) == {0.0, 1.0}
    share = 1 - visible.mean(axis=1)
    assert 0.1 < (share < 0.06).mean() < 0.6
    assert (share > 0.5).mean() > 0.02


def test_expressions_are_those_of_the_scans_mostly():
    drawn = jax.vmap(lambda key: draw_params(SOURCE, key))(jax.random.split(jax.random.key(0), 400))
    scans = np.asarray(SOURCE.expression)
    away = np.linalg.norm(np.asarray(drawn.expression)[:, None] - scans[None], axis=-1).min(axis=1)
    assert 0.1 < (away < 1e-5).mean() < 0.5  # as they are; the others blended, weaker, stronger or made up
    none = make_source(HEAD, None)
    drawn = jax.vmap(lambda key: draw_params(none, key))(jax.random.split(jax.random.key(0), 50))
    assert np.isfinite(drawn.expression).all() and np.asarray(drawn.jaw_pose)[:, 0].min() >= 0


def test_coefficients_of_heads_at_rest_are_recovered():
    rng = np.random.default_rng(2)
    betas, expression = rng.normal(size=(3, 6)), rng.normal(size=(3, 4))
    params = dataclasses.replace(
        HeadParams.zeros(HEAD, (3,)),
        betas=jnp.asarray(betas, jnp.float32),
        expression=jnp.asarray(expression, jnp.float32),
    )
    rest = np.asarray(vertices(HEAD, params))
    root = np.asarray(HEAD.J_regressor[0]) @ rest
    found = rest_coefficients(HEAD, rest - root[:, None])
    # A prior of a standard deviation against a millimetre a vertex shrinks them a little: this head has few vertices.
    np.testing.assert_allclose(found[0], betas, atol=0.1)
    np.testing.assert_allclose(found[1], expression, atol=0.1)


def test_the_weights_are_those_of_the_run(run):
    kind, settings, path = run
    head = flamejax.load_head(settings.head)
    model = load_generator(head, kind, path)
    assert model.config.kind == kind and model.config.unconditional
    wanted = head.num_betas if kind == "identity" else head.num_expression + 3
    assert model.config.unet.widths == (wanted, 4)
    assert np.asarray(model.deviation[...]).min() > 0
    with np.load(path) as file:
        assert "experiments.train" in str(file["provenance_made_with"])
        assert json.loads(str(file["provenance_validation"]))["samples_mm"] > 0
    rows = [json.loads(line) for line in (settings.workdir / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if row["kind"] == "train"] == list(range(1, STEPS + 1))


def test_weights_of_others_are_refused(run, tmp_path):
    kind, settings, path = run
    head = flamejax.load_head(settings.head)
    with pytest.raises(HeadFileError, match="weights of"):
        load_generator(head, "expression" if kind == "identity" else "identity", path)
    with pytest.raises(HeadFileError, match="trained for the head"):
        load_generator(HEAD, kind, path)
    (tmp_path / "cut.npz").write_bytes(path.read_bytes()[:1000])
    with pytest.raises(HeadFileError):
        load_generator(head, kind, tmp_path / "cut.npz")
    with pytest.raises(FileNotFoundError, match="--config id"):
        load_generator(head, "identity", tmp_path / "none.npz")


class Stopped(RuntimeError):
    """As a kill, but in this process."""


@pytest.mark.parametrize("kind", ["identity"])
def test_stopped_and_resumed_it_ends_with_the_same_parameters(data, tmp_path, kind, monkeypatch):
    settings = settings_of(data, tmp_path / "one", draws=2, even=True)
    training.train(settings, architecture(kind), QUIET)
    other = dataclasses.replace(settings, workdir=tmp_path / "two")
    whole = Record.add

    def add(self, step, what, values):
        if step == 6:  # two steps beyond a checkpoint, which must be taken again
            raise Stopped
        whole(self, step, what, values)

    monkeypatch.setattr(loop.Record, "add", add)
    with pytest.raises(Stopped):
        training.train(other, architecture(kind), QUIET)
    monkeypatch.setattr(loop.Record, "add", whole)
    training.train(other, architecture(kind), QUIET)
    head = flamejax.load_head(settings.head)
    first, second = (flat_state(load_generator(head, kind, s.workdir / "idgen.npz")) for s in (settings, other))
    assert first.keys() == second.keys()
    for name, array in first.items():
        np.testing.assert_array_equal(array, second[name], err_msg=name)
    with pytest.raises(ValueError, match="learning_rate"):
        training.train(dataclasses.replace(other, learning_rate=1.0), architecture(kind), QUIET)


def test_a_ranker_is_trained_on_the_candidates_of_an_idgen(data, tmp_path):
    made = settings_of(data, tmp_path / "gen")
    training.train(made, architecture("identity"), QUIET)
    settings = settings_of(
        data, tmp_path / "rank", RankSettings, idgen=tmp_path / "gen" / "idgen.npz", candidates=6, sampler_steps=2,
        encoder_rate=1e-2,
    )  # fmt: skip
    errors = ranking.train_rank(settings, RANK, QUIET)
    assert ranking.train_rank(settings, RANK, QUIET) == errors  # The run goes on from its end.
    with pytest.raises(ValueError, match="candidates 6 -> 5"):
        ranking.train_rank(dataclasses.replace(settings, candidates=5), RANK, QUIET)
    assert 0 < errors["minimum_mm"] <= errors["ranked_mm"] and errors["minimum_mm"] < errors["average_mm"]
    head = flamejax.load_head(settings.head)
    model = load_rank(head, settings.workdir / "idrank.npz")
    idgen = load_generator(head, "identity", tmp_path / "gen" / "idgen.npz")
    # It began with IdGen's encoder, and went on from there.
    before, after = (flat_state(each.encoders)["0/seen/kernel"] for each in (idgen, model))
    assert 0 < np.abs(np.asarray(before) - np.asarray(after)).max() < 0.3


def test_encoders_learn_at_their_own_rate():
    settings = GeneratorSettings(steps=10, warmup=1, learning_rate=1e-2, encoder_rate=0.0, weight_decay=0.0, ema=0.5)
    params = nnx.State({"encoders": {"0": {"a": nnx.Param(jnp.ones(2))}}, "unet": {"b": nnx.Param(jnp.ones(2))}})
    optimizer = optimizer_of(settings)
    state = start_state(params, optimizer)
    for _ in range(3):
        state = updated(state, jax.tree.map(jnp.ones_like, params), optimizer, settings.ema)
    np.testing.assert_array_equal(state.params["encoders"]["0"]["a"][...], 1)
    moved = np.asarray(state.params["unet"]["b"][...])
    average = np.asarray(state.average["unet"]["b"][...])
    assert (moved < 0.995).all() and (moved < average).all() and (average < 1).all()


def test_the_shipped_networks_are_named():
    assert ofer_path("IdGen").name == "open_head_idgen.npz"


def test_a_batch_that_devices_cannot_share():
    mesh = SimpleNamespace(devices=np.zeros(4))
    assert share_of(GeneratorSettings(batch_size=8), mesh) == 2
    with pytest.raises(ValueError, match="batch-size 6 cannot be shared by 4 devices"):
        share_of(GeneratorSettings(batch_size=6), mesh)


@pytest.mark.parametrize(
    ("kind", "bad", "match"),
    [
        (GeneratorSettings, {"steps": 0}, "--steps"),
        (GeneratorSettings, {"keep": 0}, "--keep"),
        (GeneratorSettings, {"ema": 1.0}, "--ema"),
        (GeneratorSettings, {"draws": 0}, "--draws"),
        (GeneratorSettings, {"dropped": 1.0}, "--dropped"),
        (RankSettings, {"candidates": 1}, "--candidates"),
    ],
)
def test_settings_that_cannot_be(kind, bad, match):
    with pytest.raises(ValueError, match=match):
        kind(**bad)


def test_even_losses_are_of_preconditioned_networks(data, tmp_path):
    plain = dataclasses.replace(architecture("identity"), preconditioned=False)
    with pytest.raises(ValueError, match="--even"):
        training.train(settings_of(data, tmp_path / "run", even=True), plain, QUIET)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("kind", ["identity", "expression"])
def test_a_head_without_a_front_of_the_face_is_refused_before_training(data, tmp_path, kind):
    shutil.copytree(data, tmp_path / "head")
    flame_format.write_masks(tmp_path / "head", VERTICES)  # Random regions.
    with pytest.raises(ValueError, match="front of the face"):
        training.train(settings_of(tmp_path / "head", tmp_path / "run"), architecture(kind), QUIET)
    assert not (tmp_path / "run").exists()
