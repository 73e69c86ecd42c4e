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
    """(F, 3) of a sphere, and (N, V, 3) ellipsoids, metres: no head, and no head's topology."""
    ball = trimesh.creation.icosphere(2, 0.1)
    turned = np.asarray(ball.vertices)[np.random.default_rng(9).permutation(162)]
    faces = np.random.default_rng(9).permutation(162).argsort()[np.asarray(ball.faces)]
    sizes = 1 + 0.2 * np.random.default_rng(seed).normal(size=(count, 1, 3))
    return faces, (turned[None] * sizes).astype(np.float32)


@pytest.fixture(scope="module")
def trained():
    faces, vertices = balls(12, 0)
    return train_mesh_vae(faces, vertices, CONFIG, architecture=SMALLEST, validation=balls(4, 1)[1], console=QUIET)


def test_a_mesh_vae_of_any_mesh_learns_in_memory(trained):
    model, record = trained
    np.testing.assert_array_equal(record.losses["step"], np.arange(1, CONFIG.steps + 1))
    error = record.losses["l1_mm"]
    assert error[-5:].mean() < 0.8 * error[:3].mean()
    assert set(record.validation) == {"visible_mm", "hidden_mm", "whole_mm"}
    truth = balls(2, 1)[1]
    found = model.complete(truth, np.ones((2, 162), bool))
    mean = balls(12, 0)[1].mean(axis=0)
    assert np.abs(found - truth).mean() < 0.5 * np.abs(mean - truth).mean()
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


def test_in_a_folder_it_goes_on_where_it_was(trained, tmp_path, stopped_at):
    faces, vertices = balls(12, 0)
    given = {"architecture": SMALLEST, "workdir": tmp_path / "run", "console": QUIET}
    config = MeshVAETraining(**{**vars(CONFIG), "checkpoint_every": 10})
    stopped_at(30)
    with pytest.raises(Stopped):
        train_mesh_vae(faces, vertices, config, **given)
    stopped_at(None)
    record = train_mesh_vae(faces, vertices, config, **given)[1]
    assert record.losses["step"].tolist() == [10, 20, *range(21, 41)] and not record.validation
    np.testing.assert_array_equal(record.losses["total"][2:], trained[1].losses["total"][20:])
    with pytest.raises(ValueError, match="data"):
        train_mesh_vae(faces, vertices + 1, config, **given)


def test_with_a_head_scans_are_placed_and_the_model_completes_heads(data):
    """Scans that lie anywhere; the same program as the command's."""
    moved = np.stack([0.1 * np.arange(12), np.full(12, 0.2), np.zeros(12)], axis=1)
    scans = np.asarray(HEAD.v_template) + moved[:, None].astype(np.float32)
    model, record = train_mesh_vae(HEAD.faces, scans, MESH_TRAINING, architecture=TINY, head=HEAD, console=QUIET)
    assert np.isfinite(record.losses["total"]).all() and model.num_vertices == HEAD.num_vertices
    middle = np.asarray(HEAD.v_template - HEAD.joint_template[:1])
    assert np.abs(np.asarray(model.mean[...]) - middle).max() < 0.01


def test_meshes_that_cannot_be_used():
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
def marks():
    """Coefficients (40, 5), landmarks that they move, of no head, and which of these are seen."""
    rng = np.random.default_rng(0)
    mean, moves = rng.normal(size=(68, 2)), 0.2 * rng.normal(size=(5, 68, 2))
    known = rng.normal(size=(40, 5)) * [1, 1, 1, 0.1, 0.1]
    points = 50 + 10 * (mean + np.einsum("ns,sld->nld", known, moves))
    return known, points, (rng.random((40, 68)) < 0.8).astype(np.float32)


GENERATOR = GeneratorTraining(
    **{**SHORT, "steps": 60, "eval_every": 60}, batch_size=8, learning_rate=1e-2, encoder_rate=1e-2, ema=0.5
)


def generator_of(marks):
    """Trained on all but the first eight, which it is judged on."""
    training, validation = ([part[rows] for part in marks] for rows in (slice(8, None), slice(8)))
    return train_generator(
        None, *training[:2], GENERATOR, kind="expression", visible=training[2],
        architecture=architecture("expression"), validation=validation, console=QUIET,
    )  # fmt: skip


@pytest.mark.slow
def test_a_generator_of_other_coefficients_learns_from_arrays(marks):
    """Landmarks that coefficients move, of no head; some of them hidden."""
    model, record = generator_of(marks)
    assert record.losses["total"][-10:].mean() < record.losses["total"][:5].mean()
    assert set(record.validation) == {"samples", "mean", "spread"} and model.config.unet.size == 5


def test_what_a_generator_is_trained_on_from_arrays(marks, monkeypatch):
    """The loop itself, and its step, are those of `test_train_ofer`."""
    given = {}

    def keep(model, make_step, optimizer, config, **more):
        given.update(more)
        return model, None

    monkeypatch.setattr(ofer, "train_network", keep)
    model, _ = generator_of(marks)
    known, points, visible = marks
    np.testing.assert_allclose(model.deviation[...], known[8:].std(axis=0), rtol=1e-5)
    assert model.config.unet.size == 5 and model.config.unet.widths[1:] == architecture("expression").unet.widths[1:]
    batch = next(given["batches"])
    place = np.abs(known[8:, None] - batch.motion).sum(axis=-1).argmin(axis=0) + 8
    for part, wanted in ((batch.motion, known), (batch.points, points), (batch.visible, visible)):
        np.testing.assert_allclose(part, wanted[place], rtol=1e-5)
    judge = given["judge"]
    assert judge.unit == "" and judge.basis.shape == (5, 1, 5) and len(judge.examples.points) == GENERATOR.judged
    assert {tuple(row) for row in np.asarray(judge.examples.motion)} <= {tuple(row) for row in known[:8].astype("f4")}


def test_arrays_that_no_generator_can_be_trained_on(marks):
    known, points, _ = marks
    for bad, words in (
        ((known, points[:3]), r"landmarks are \(40, 68, 2\)"),
        ((known[0], points), r"coefficients are"),
        ((known[:4], points[:4]), "fewer than a batch"),
    ):
        with pytest.raises(ValueError, match=words):
            train_generator(None, *bad, GENERATOR, architecture=architecture("identity"), console=QUIET)
    with pytest.raises(ValueError, match=rf"coefficients are \(N, {HEAD.num_betas}\)"):
        train_generator(HEAD, known, points, GENERATOR, console=QUIET)
    with pytest.raises(ValueError, match="of the kind identity, not expression"):
        train_generator(None, known, points, GENERATOR, kind="expression", architecture=architecture("identity"))


def test_local_models_from_arrays(data):
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


def test_the_package_is_imported_for_nothing():
    code = "import sys, experiments.training; sys.exit('jax' in sys.modules or 'grain' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_the_record_of_a_single_step():
    record = MetricsLogger(None, 0)
    record.add_losses(1, [{"total": 2.0}])
    found = record.found()
    np.testing.assert_array_equal(found.losses["total"], [2.0])
    assert found.validation == {} and MetricsLogger(None, 0).found().losses == {}
