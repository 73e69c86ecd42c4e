"""Training of a tiny Mesh-VAE on scans: output files, resuming, the step and its losses."""

import dataclasses
import io
import json
import re
import signal
import threading

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from rich.console import Console

import flamejax
from experiments.datasets.placed_scans import load_placed
from experiments.datasets.vertex_masks import mask_maker
from experiments.training.checkpoints import Checkpoints, RunFolder
from experiments.training.devices import device_mesh
from experiments.training.mesh_vae import train as training
from experiments.training.mesh_vae.heads import (
    SyntheticHeads,
    augmentation,
    draw_heads,
    mirror_map,
    principal_components,
    synthetic_heads,
    weighted_statistics,
    weighted_training_heads,
)
from experiments.training.mesh_vae.settings import MeshVAETraining
from experiments.training.mesh_vae.step import (
    StepConstants,
    compute_losses,
    draw_mask,
    make_step,
    mask_limit,
    maybe_mirrored,
    optimizer_of,
)
from experiments.training.record import MetricsLogger
from experiments.training.state import initial_state
from experiments.training.stop_signals import SIGNALS, TrainingStopped, catch_stop_signals
from flamejax.head import HeadFileError
from models.mesh_vae import hierarchy_for
from models.pretrained import build_mesh_vae, load_mesh_vae, write_mesh_vae
from models.weight_files import flat_state
from tests.experiments.training.conftest import QUIET, Stopped
from tests.experiments.training.runs import (
    HEAD,
    MESH_TRAINING,
    STEPS,
    TINY,
    assert_same,
    mesh_options,
    rows,
    weights,
)

VERTICES = HEAD.num_vertices


def test_run_writes_its_files(mesh_run):
    assert {p.name for p in mesh_run.iterdir()} >= {"checkpoints", "metrics.jsonl", "pictures", "settings.json"}
    losses = rows(mesh_run)
    assert [row["step"] for row in losses] == list(range(1, STEPS + 1))
    assert losses[0]["hidden"] < 0.05 < losses[-1]["hidden"] <= 0.6
    validation = rows(mesh_run, "validation")
    assert validation and set(validation[-1]) == {"step", "kind", "visible_mm", "hidden_mm", "whole_mm"}
    results = json.loads((mesh_run / "results.json").read_text())
    assert results["visible_mm"] > 0 and results["validation_heads"] == 2
    baselines = results["baselines"]
    assert baselines["linear branch alone"]["whole_mm"] < baselines["mean head"]["whole_mm"]
    assert list((mesh_run / "pictures").glob("*.jpg"))
    assert list((mesh_run / "tensorboard").iterdir())


def test_resumed_run_ends_with_the_same_parameters(data, mesh_run, tmp_path, stopped_at):
    options = mesh_options(data, tmp_path / "run")
    stopped_at(5)  # a step after the last checkpoint, which must be repeated
    with pytest.raises(Stopped):
        options.run(QUIET)
    assert not (options.workdir / "mesh_vae.npz").exists() and len(rows(options.workdir)) == 4
    stopped_at(None)
    options.run(QUIET)
    assert rows(mesh_run) == rows(options.workdir)
    assert_same(weights(mesh_run / "mesh_vae.npz"), weights(options.workdir / "mesh_vae.npz"))


def test_ctrl_c_saves_a_checkpoint_and_the_run_continues(data, mesh_run, tmp_path, monkeypatch):
    add_losses_unpatched, handlers = MetricsLogger.add_losses, [signal.getsignal(each) for each in SIGNALS]

    def add_losses(self, last, losses):
        if last == 2:
            signal.raise_signal(signal.SIGINT)  # noticed in the next step
        return add_losses_unpatched(self, last, losses)

    monkeypatch.setattr(MetricsLogger, "add_losses", add_losses)
    options, console = mesh_options(data, tmp_path / "run"), Console(file=io.StringIO())
    with pytest.raises(TrainingStopped, match=r"Stopped at step 3; the same command continues\."):
        options.run(QUIET)
    assert [signal.getsignal(each) for each in SIGNALS] == handlers
    assert (options.workdir / "checkpoints" / "3").is_dir() and len(rows(options.workdir)) == 3
    options.run(console)
    assert "resuming from step 3" in console.file.getvalue()
    assert rows(mesh_run) == rows(options.workdir)
    assert_same(weights(mesh_run / "mesh_vae.npz"), weights(options.workdir / "mesh_vae.npz"))


def test_second_ctrl_c_stops_at_once_and_threads_catch_nothing():
    with pytest.raises(KeyboardInterrupt), catch_stop_signals() as stop:
        signal.raise_signal(signal.SIGINT)
        assert stop.signal_number == signal.SIGINT
        signal.raise_signal(signal.SIGINT)
    handlers = []

    def catch_in_a_thread():
        with catch_stop_signals():
            handlers.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=catch_in_a_thread)
    thread.start()
    thread.join()
    assert handlers == [signal.getsignal(signal.SIGINT)]


def test_a_run_without_checkpoints_says_that_it_starts_anew(tmp_path):
    for started_before in (False, True):
        checkpoints = Checkpoints(RunFolder(tmp_path), keep=1)
        assert checkpoints.started_before == started_before
        checkpoints.close()
    checkpoints = Checkpoints(RunFolder(tmp_path, restart=True), keep=1)
    checkpoints.close()
    assert not checkpoints.started_before


def test_finished_run_does_not_change_and_reads_its_stored_components(data, mesh_run, monkeypatch):
    """Recomputed components could have other signs, which do not fit the trained weights."""
    monkeypatch.setattr(training, "principal_components", None)  # not recomputed
    before = dict(np.load(mesh_run / "mesh_vae.npz"))
    mesh_options(data, mesh_run).run(QUIET)
    after = dict(np.load(mesh_run / "mesh_vae.npz"))
    names = [name for name in before if name.startswith(("frame:", "parameter:"))]
    assert names and all(np.array_equal(before[name], after[name]) for name in names)
    assert len(rows(mesh_run)) == STEPS
    frame = (mesh_run / "frame.npz").read_bytes()
    (mesh_run / "frame.npz").write_bytes(frame[:100])
    try:
        with pytest.raises(RuntimeError, match="--restart"):
            mesh_options(data, mesh_run).run(QUIET)
    finally:
        (mesh_run / "frame.npz").write_bytes(frame)


def test_refused_options_delete_nothing(data, mesh_run, tmp_path):
    with pytest.raises(ValueError):
        mesh_options(data, mesh_run, restart=True, scans=tmp_path).run(QUIET)
    assert (mesh_run / "checkpoints" / str(STEPS)).is_dir()
    with pytest.raises(ValueError, match="architecture"):
        mesh_options(data, mesh_run, architecture=dataclasses.replace(TINY, linear_noise=0.1)).run(QUIET)
    with pytest.raises(ValueError, match="learning_rate"):
        mesh_options(data, mesh_run, learning_rate=0.5).run(QUIET)
    for bad in ({"scans": tmp_path}, {"devices": 64}):
        with pytest.raises(ValueError):
            mesh_options(data, tmp_path / "run", **bad).run(QUIET)
    assert not (tmp_path / "run").exists()
    for bad in ({"steps": 0}, {"synthetic": 1.5}, {"largest_mask": 0.95}):
        with pytest.raises(ValueError):
            MeshVAETraining(**bad)


def test_run_stops_when_a_loss_is_not_finite_and_keeps_the_last_checkpoint(data, mesh_run, tmp_path, monkeypatch):
    def make_broken_step(graphdef, config, mesh):
        step = make_step(graphdef, config, mesh)

        def broken_step(state, *rest):
            state, losses = step(state, *rest)
            return state, {**losses, "kl": jnp.where(state.step == 4, jnp.nan, losses["kl"])}

        return broken_step

    monkeypatch.setattr(training, "make_step", make_broken_step)
    options = mesh_options(data, tmp_path / "run")
    with pytest.raises(RuntimeError, match=r"not finite.*step 2 is good.*--learning-rate"):
        options.run(QUIET)
    assert not (options.workdir / "mesh_vae.npz").exists()
    assert [row["step"] for row in rows(options.workdir)] == [1, 2, 3]


def test_metrics_logger_drops_later_and_truncated_rows(tmp_path):
    lines = ['{"step": 1, "kind": "train"}', '{"step": 5, "kind": "train"}', '{"step": 2, "ki']
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines))
    MetricsLogger(tmp_path, 3).close()
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 1, "kind": "train"}\n'


@pytest.fixture(scope="module")
def placed(data):
    return load_placed(HEAD, "train", mesh_options(data, data), QUIET)


def test_synthetic_heads_have_the_models_statistics(placed):
    np.testing.assert_allclose(placed.rotations[:, 0], 0)
    drawn = draw_heads(synthetic_heads(HEAD, np.zeros((1, 5, 3), np.float32)), 384, 0)
    mean = np.asarray(HEAD.v_template - HEAD.joint_template[:1])
    assert np.abs(drawn.mean(axis=0) - mean).mean() < 0.3 * drawn.std(axis=0).mean()
    scan_mean, deviation = weighted_statistics([(placed.vertices, 1.0)])
    np.testing.assert_allclose(scan_mean, placed.vertices.mean(0), atol=1e-6)
    np.testing.assert_allclose(deviation, np.sqrt(((placed.vertices - scan_mean) ** 2).mean()), rtol=1e-4)


def test_mask_limit_grows_with_the_curriculum():
    config = dataclasses.replace(MESH_TRAINING, steps=12)
    limits = [float(mask_limit(config, jnp.asarray(step))) for step in (0, 3, 6, 12)]
    np.testing.assert_allclose(limits, [0, 0.2, 0.4, 0.4])
    without = dataclasses.replace(config, curriculum=0.0)
    assert float(mask_limit(without, jnp.asarray(0))) == pytest.approx(0.4)
    masks, keys = mask_maker(HEAD, count=8), jax.random.split(jax.random.key(1), 16)
    drawn = jax.jit(lambda limit: jax.vmap(lambda key: draw_mask(masks, config, key, limit))(keys))
    assert np.asarray(drawn(jnp.asarray(0.0))).all()
    assert 0.1 < (1 - np.asarray(drawn(jnp.asarray(0.4))).mean(1)).max() <= 0.75


def test_compute_losses_returns_its_terms():
    model = build_mesh_vae(HEAD, TINY, np.zeros((VERTICES, 3)), 1.0)
    graph = hierarchy_for(TINY, np.asarray(HEAD.faces), np.asarray(HEAD.v_template)).graph()
    heads = 0.01 * jax.random.normal(jax.random.key(0), (3, VERTICES, 3))
    keys, visible = jax.random.split(jax.random.key(1), 3), jnp.ones((3, VERTICES), bool)

    @jax.jit
    def evaluate(model):
        posterior, each = model.encode(heads, visible), []
        for weight in (0.0, 0.5):
            config = MeshVAETraining(spread_weight=weight)
            count = 2 if weight else 1
            sample = jax.vmap(lambda key, post, n=count: jax.vmap(post.sample)(jax.random.split(key, n)))
            draws = sample(keys, posterior)
            parts = compute_losses(model, graph, heads, visible, keys, config, jnp.asarray(10**6))
            each.append((weight, parts, model.decode(draws)))
        return each, posterior.kl()

    each, nats = evaluate(model)
    for weight, (total, (l1, lap, kl, spread)), decoded in each:
        np.testing.assert_allclose(l1, 1e3 * jnp.mean(jnp.abs(decoded - heads[:, None])), rtol=1e-4)
        np.testing.assert_allclose(spread, 1e3 * jnp.mean(jnp.abs(decoded[:, 0] - decoded[:, -1])), rtol=1e-4)
        np.testing.assert_allclose(kl, jnp.mean(nats), rtol=1e-5)
        np.testing.assert_allclose(total, l1 + lap + 1e-5 * kl - weight * spread, rtol=1e-5)
        assert (spread > 0) == (weight > 0)


def test_maybe_mirrored_flips_symmetric_heads(flame):
    head = flamejax.load_head()
    mirror = mirror_map(head)
    np.testing.assert_array_equal(mirror[mirror], np.arange(head.num_vertices))
    drawn = np.asarray(head.v_template) + np.float32(0.001) * np.arange(head.num_vertices, dtype=np.float32)[:, None]
    flipped = jax.jit(maybe_mirrored, static_argnums=3)
    there = flipped(jnp.asarray(drawn), jnp.asarray(mirror), jax.random.key(0), MeshVAETraining(mirrored=1.0))
    back = flipped(there, jnp.asarray(mirror), jax.random.key(0), MeshVAETraining(mirrored=1.0))
    np.testing.assert_array_equal(back, drawn)
    np.testing.assert_allclose(there[mirror[5]], drawn[5] * [-1, 1, 1])
    same = flipped(jnp.asarray(drawn), jnp.asarray(mirror), jax.random.key(0), MeshVAETraining(mirrored=0.0))
    np.testing.assert_array_equal(same, drawn)
    # The mirror image of the mesh is the mesh: faces become faces of opposite orientation.
    faces = {tuple(sorted(face)) for face in np.asarray(head.faces).tolist()}
    assert {tuple(sorted(face)) for face in mirror[np.asarray(head.faces)].tolist()} == faces
    assert mirror_map(flame[1]) is None


def test_principal_components_of_weighted_heads():
    rng = np.random.default_rng(0)
    parts = [(rng.normal(size=(7, 4, 3)).astype(np.float32), 0.8), (rng.normal(size=(5, 4, 3)).astype(np.float32), 0.2)]
    mean, spread = weighted_statistics(parts)
    centred = [(heads - mean).reshape(len(heads), -1) for heads, _ in parts]
    covariance = sum(w / len(rows) * rows.T @ rows for rows, (_, w) in zip(centred, parts, strict=True))
    np.testing.assert_allclose(mean, 0.8 * parts[0][0].mean(0) + 0.2 * parts[1][0].mean(0), rtol=1e-5)
    np.testing.assert_allclose(spread, np.sqrt(np.trace(covariance) / 12), rtol=1e-5)
    rows = principal_components(parts, mean, 11).reshape(11, 12)
    np.testing.assert_allclose(rows.T @ rows, covariance, atol=0.05 * covariance.max())
    values = np.linalg.eigvalsh(covariance)[::-1]
    np.testing.assert_allclose((rows**2).sum(1), values[:11], rtol=1e-3, atol=1e-4)
    assert (rows[np.arange(11), np.abs(rows).argmax(axis=1)] > 0).all()  # the sign is the same on every computer
    with pytest.raises(ValueError, match="fewer"):
        principal_components(parts, mean, 12)


def test_weighted_training_heads_and_augmentation(placed):
    scans, source = placed.vertices, synthetic_heads(HEAD, placed.rotations)
    parts = weighted_training_heads(scans, None, source, MESH_TRAINING)
    assert [weight for _, weight in parts] == [0.5, 0.5] and len(parts[1][0]) == 600
    turned = np.arange(VERTICES)[::-1]
    assert [w for _, w in weighted_training_heads(scans, turned, source, MESH_TRAINING)] == [0.25, 0.25, 0.5]
    assert [w for _, w in weighted_training_heads(scans, None, None, MESH_TRAINING)] == [1.0]
    mirror = mirror_map(HEAD)
    more = augmentation(HEAD, scans, placed.rotations, synthetic=0.5)
    np.testing.assert_allclose(more[: len(scans), mirror], scans * np.float32([-1, 1, 1]))
    assert len(more) == 3 * len(scans)


def test_weights_files_round_trip_and_refuse_others(mesh_run, tmp_path):
    model = load_mesh_vae(HEAD, mesh_run / "mesh_vae.npz")
    write_mesh_vae(tmp_path / "again.npz", HEAD, model, {"data": "none"})
    again = load_mesh_vae(HEAD, tmp_path / "again.npz")
    assert_same(flat_state(model), flat_state(again))
    with pytest.raises(HeadFileError, match="trained for the head"):
        load_mesh_vae(flamejax.load_head(), mesh_run / "mesh_vae.npz")
    with pytest.raises(FileNotFoundError, match="mesh_vae_small"):
        load_mesh_vae(HEAD, tmp_path / "missing.npz")
    (tmp_path / "broken.npz").write_bytes((mesh_run / "mesh_vae.npz").read_bytes()[:2000])
    with pytest.raises(HeadFileError):
        load_mesh_vae(HEAD, tmp_path / "broken.npz")


def test_step_lowers_for_every_accelerator_without_callbacks():
    """Exports StableHLO for three platforms, on a small mesh with a sphere's topology."""
    config = MeshVAETraining(batch_size=4, steps=10)
    components = np.random.default_rng(0).normal(size=(5, VERTICES, 3)) * 1e-3
    model = build_mesh_vae(HEAD, TINY, HEAD.v_template, 0.01, components)
    graphdef, state = nnx.split(model)
    params, rest = nnx.split_state(state, nnx.Param, ...)
    mesh = device_mesh(1)
    step = make_step(graphdef, config, mesh)
    graph = hierarchy_for(TINY, np.asarray(HEAD.faces), np.asarray(HEAD.v_template)).graph()
    source = SyntheticHeads(HEAD, jnp.zeros((2, 5, 3)))
    constants = StepConstants(graph, mask_maker(HEAD, count=4), source, jnp.arange(VERTICES))
    start = initial_state(params, optimizer_of(config))
    with jax.set_mesh(mesh):
        export = jax.export.export(step, platforms=("cpu", "cuda", "tpu"))
        lowered = export(start, rest, constants, jnp.zeros((3, VERTICES, 3)))
    assert lowered.platforms == ("cpu", "cuda", "tpu")
    calls = set(re.findall(r"custom_call @([\w.]+)", lowered.mlir_module()))
    assert calls and not {name for name in calls if "python" in name or "callback" in name}
