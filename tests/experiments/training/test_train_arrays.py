"""Training from arrays: any mesh, in memory or in a folder; a second training compiles nothing."""

import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import trimesh

import fitting
import flamejax
from experiments.training import (
    GeneratorTraining,
    LocalConfig,
    MeshVAETraining,
    train_generator,
    train_local_models,
    train_mesh_vae,
)
from experiments.training.ofer import train as ofer
from experiments.training.record import MetricsLogger
from models.mesh_vae import MeshVAEConfig
from tests.experiments.training.conftest import QUIET, Stopped
from tests.experiments.training.runs import HEAD, MESH_TRAINING, SHORT, TINY, architecture
from tests.heads import random_params

ROOT = Path(__file__).resolve().parents[3]
SMALLEST = MeshVAEConfig(strides=(2,), features=(), latent_features=4, num_bases=2, centred=True, linear_rank=3)
"""Quick to compile."""
CONFIG = MeshVAETraining(
    steps=40, batch_size=4, warmup=4, learning_rate=1e-2, clip=1e3, log_every=10, curriculum=0.0, largest_mask=0.1
)


def balls(count, seed):
    """Returns faces (F, 3) of a sphere, and ellipsoids (N, V, 3), metres: not heads, and not in a head's topology."""
    ball = trimesh.creation.icosphere(2, 0.1)
    permuted = np.asarray(ball.vertices)[np.random.default_rng(9).permutation(162)]
    faces = np.random.default_rng(9).permutation(162).argsort()[np.asarray(ball.faces)]
    sizes = 1 + 0.2 * np.random.default_rng(seed).normal(size=(count, 1, 3))
    return faces, (permuted[None] * sizes).astype(np.float32)


@pytest.fixture(scope="module")
def trained():
    faces, vertices = balls(12, 0)
    return train_mesh_vae(faces, vertices, CONFIG, architecture=SMALLEST, validation=balls(4, 1)[1], console=QUIET)


def test_mesh_vae_learns_any_mesh_in_memory(trained):
    model, record = trained
    np.testing.assert_array_equal(record.losses["step"], np.arange(1, CONFIG.steps + 1))
    error = record.losses["l1_mm"]
    assert error[-5:].mean() < 0.8 * error[:3].mean()
    assert set(record.validation) == {"visible_mm", "hidden_mm", "whole_mm"}
    truth = balls(2, 1)[1]
    completed = model.complete(truth, np.ones((2, 162), bool))
    mean = balls(12, 0)[1].mean(axis=0)
    assert np.abs(completed - truth).mean() < 0.5 * np.abs(mean - truth).mean()
    assert model.decode(np.zeros((3, *model.latent_shape))).shape == (3, 162, 3)


def test_a_second_training_compiles_nothing(trained):
    compiled = []

    def listen(event, seconds, **_):
        if "backend_compile" in event:
            compiled.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        faces, vertices = balls(12, 0)
        again = train_mesh_vae(faces, vertices, CONFIG, architecture=SMALLEST, validation=balls(4, 1)[1], console=QUIET)
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    assert not compiled
    np.testing.assert_array_equal(again[1].losses["total"], trained[1].losses["total"])


def test_mesh_vae_resumes_in_a_folder(trained, tmp_path, stopped_at):
    faces, vertices = balls(12, 0)
    options = {"architecture": SMALLEST, "workdir": tmp_path / "run", "console": QUIET}
    config = MeshVAETraining(**{**vars(CONFIG), "checkpoint_every": 10})
    stopped_at(30)
    with pytest.raises(Stopped):
        train_mesh_vae(faces, vertices, config, **options)
    stopped_at(None)
    record = train_mesh_vae(faces, vertices, config, **options)[1]
    assert record.losses["step"].tolist() == [10, 20, *range(21, 41)] and not record.validation
    np.testing.assert_array_equal(record.losses["total"][2:], trained[1].losses["total"][20:])
    with pytest.raises(ValueError, match="data"):
        train_mesh_vae(faces, vertices + 1, config, **options)


def test_train_mesh_vae_with_a_head_aligns_scans(data):
    """The scans are translated; the compiled program is that of the command."""
    shift = np.stack([0.1 * np.arange(12), np.full(12, 0.2), np.zeros(12)], axis=1)
    scans = np.asarray(HEAD.v_template) + shift[:, None].astype(np.float32)
    model, record = train_mesh_vae(HEAD.faces, scans, MESH_TRAINING, architecture=TINY, head=HEAD, console=QUIET)
    assert np.isfinite(record.losses["total"]).all() and model.num_vertices == HEAD.num_vertices
    middle = np.asarray(HEAD.v_template - HEAD.joint_template[:1])
    assert np.abs(np.asarray(model.mean[...]) - middle).max() < 0.01


def test_train_mesh_vae_refuses_bad_meshes():
    faces, vertices = balls(3, 0)
    for bad, words in (
        (vertices[0], r"vertices are \(N, V, 3\)"),
        (np.full_like(vertices, np.nan), "finite"),
        (vertices[:, :50], "topology"),
        (vertices[:1], "1 training heads are fewer than a batch"),
    ):
        with pytest.raises(ValueError, match=words):
            train_mesh_vae(faces, bad, CONFIG, architecture=SMALLEST, console=QUIET)
    with pytest.raises(ValueError, match="validation have 50 vertices"):
        train_mesh_vae(faces, vertices, CONFIG, validation=vertices[:, :50], console=QUIET)
    with pytest.raises(ValueError, match="topology"):
        train_mesh_vae(faces, vertices[:, :50], CONFIG, head=HEAD, console=QUIET)


@pytest.fixture(scope="module")
def examples():
    """Returns coefficients (40, 5), landmarks that depend on them, without a head, and their visibility."""
    rng = np.random.default_rng(0)
    mean, moves = rng.normal(size=(68, 2)), 0.2 * rng.normal(size=(5, 68, 2))
    coefficients = rng.normal(size=(40, 5)) * [1, 1, 1, 0.1, 0.1]
    points = 50 + 10 * (mean + np.einsum("ns,sld->nld", coefficients, moves))
    return coefficients, points, (rng.random((40, 68)) < 0.8).astype(np.float32)


GENERATOR = GeneratorTraining(
    **{**SHORT, "steps": 60, "eval_every": 60}, batch_size=8, learning_rate=1e-2, encoder_rate=1e-2, ema=0.5
)


def train_expression_generator(examples):
    """Train on all but the first eight examples, which are for validation."""
    training, validation = ([part[rows] for part in examples] for rows in (slice(8, None), slice(8)))
    return train_generator(
        None, *training[:2], GENERATOR, kind="expression", visible=training[2],
        architecture=architecture("expression"), validation=validation, console=QUIET,
    )  # fmt: skip


@pytest.mark.slow
def test_generator_without_a_head_learns_from_arrays(examples):
    """Some landmarks are hidden."""
    model, record = train_expression_generator(examples)
    assert record.losses["total"][-10:].mean() < record.losses["total"][:5].mean()
    assert set(record.validation) == {"samples", "mean", "spread"} and model.config.unet.size == 5


def test_train_generator_passes_arrays_to_the_loop(examples, monkeypatch):
    """The loop itself and its step are tested in `test_train_ofer`."""
    arguments = {}

    def record_arguments(model, make_step, optimizer, config, **kwargs):
        arguments.update(kwargs)
        return model, None

    monkeypatch.setattr(ofer, "train_network", record_arguments)
    model, _ = train_expression_generator(examples)
    coefficients, points, visible = examples
    np.testing.assert_allclose(model.deviation[...], coefficients[8:].std(axis=0), rtol=1e-5)
    assert model.config.unet.size == 5 and model.config.unet.widths[1:] == architecture("expression").unet.widths[1:]
    batch = next(arguments["batches"])
    index = np.abs(coefficients[8:, None] - batch.motion).sum(axis=-1).argmin(axis=0) + 8
    for part, expected in ((batch.motion, coefficients), (batch.points, points), (batch.visible, visible)):
        np.testing.assert_allclose(part, expected[index], rtol=1e-5)
    evaluator = arguments["evaluator"]
    assert evaluator.unit == "" and evaluator.basis.shape == (5, 1, 5)
    assert len(evaluator.examples.points) == GENERATOR.eval_examples
    validation = {tuple(row) for row in coefficients[:8].astype("f4")}
    assert {tuple(row) for row in np.asarray(evaluator.examples.motion)} <= validation


def test_train_generator_refuses_bad_arrays(examples):
    coefficients, points, _ = examples
    for bad, words in (
        ((coefficients, points[:3]), r"landmarks are \(40, 68, 2\)"),
        ((coefficients[0], points), r"coefficients are"),
        ((coefficients[:4], points[:4]), "fewer than a batch"),
    ):
        with pytest.raises(ValueError, match=words):
            train_generator(None, *bad, GENERATOR, architecture=architecture("identity"), console=QUIET)
    with pytest.raises(ValueError, match=rf"coefficients are \(N, {HEAD.num_betas}\)"):
        train_generator(HEAD, coefficients, points, GENERATOR, console=QUIET)
    with pytest.raises(ValueError, match="of the kind identity, not expression"):
        train_generator(
            None, coefficients, points, GENERATOR, kind="expression", architecture=architecture("identity")
        )  # fmt: skip


def test_train_local_models_from_arrays(data):
    params = random_params(HEAD, 1, (12,), 0.2)
    scans = np.asarray(flamejax.vertices(HEAD, params))
    scans = scans + 5e-4 * np.random.default_rng(0).normal(size=scans.shape)
    config = LocalConfig(num_betas=4, num_expression=2, max_shape=2, max_expression=1)
    local = train_local_models(HEAD, scans, config, subjects=np.arange(12) // 2, console=QUIET)
    assert len(local.regions) == len(HEAD.regions) and local.provenance["scans"] == "12 of 6 subjects"
    model = fitting.prepare(HEAD, local)
    assert model.head.num_betas == 4 + local.num_shape
    with pytest.raises(ValueError, match=r"subjects are \(12,\)"):
        train_local_models(HEAD, scans, config, subjects=np.arange(3), console=QUIET)
    with pytest.raises(ValueError, match="1 training scans"):
        train_local_models(HEAD, scans[:1], console=QUIET)
    with pytest.raises(ValueError, match="vertices are"):
        train_local_models(HEAD, scans[:, :5], console=QUIET)


def test_importing_the_package_imports_neither_jax_nor_grain():
    code = "import sys, experiments.training; sys.exit('jax' in sys.modules or 'grain' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_training_record_of_a_single_step():
    logger = MetricsLogger(None, 0)
    logger.add_losses(1, [{"total": 2.0}])
    record = logger.training_record()
    np.testing.assert_array_equal(record.losses["total"], [2.0])
    assert record.validation == {} and MetricsLogger(None, 0).training_record().losses == {}
