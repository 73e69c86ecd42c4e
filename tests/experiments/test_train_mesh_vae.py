"""Training of a tiny Mesh-VAE on scans of a synthetic FLAME-format head: resumed, killed, on several devices."""

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from rich.console import Console

import flamejax
from experiments.datasets.vertex_masks import mask_maker
from experiments.training.devices import device_mesh
from experiments.training.mesh_vae import train as training
from experiments.training.mesh_vae.heads import (
    Generator,
    augmentation,
    draw_head,
    generator,
    load_split,
    mirror_map,
    principal_components,
    statistics,
    training_parts,
)
from experiments.training.mesh_vae.settings import TrainSettings
from experiments.training.mesh_vae.step import (
    Fixed,
    TrainState,
    draw_mask,
    losses_of,
    make_step,
    mask_limit,
    maybe_mirrored,
    optimizer_of,
)
from experiments.training.record import Record
from flamejax.head import HeadFileError
from models.mesh_vae import MeshVAEConfig, hierarchy_for
from models.pretrained import build_mesh_vae, load_mesh_vae, write_mesh_vae
from models.weight_files import flat_state
from tests import flame_format
from tests.experiments.test_train_local_pca import SIZE, VERTICES, write_scans
from tests.heads import random_head

ROOT = Path(__file__).resolve().parents[2]
TINY = MeshVAEConfig(strides=(2, 2), features=(6,), latent_features=4, num_bases=3, centred=True, linear_rank=5)
STEPS = 12
SCRIPT = """
    import os, signal, sys, time
    from pathlib import Path
    from rich.console import Console
    from experiments import runtime
    from experiments.training.mesh_vae import train as training
    from experiments.training.record import Record
    from tests.experiments.test_train_mesh_vae import TINY, settings_of

    whole = Record.add

    def add(self, step, kind, values):
        whole(self, step, kind, values)
        if len(sys.argv) > 3 and step == 6:  # two steps beyond a checkpoint, which must be taken again
            while not (Path(sys.argv[2]) / "checkpoints" / "4").exists():
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGKILL)

    Record.add = add
    runtime.use_compilation_cache()
    training.JUDGED = training.JUDGED_AT_END = 2
    training.train(settings_of(Path(sys.argv[1]), Path(sys.argv[2])), TINY, Console(stderr=True))
"""


def settings_of(data, workdir, **changes):
    """A run of a few seconds."""
    settings = TrainSettings(
        workdir=workdir, head=data / "generic_model.pkl", scans=data / "scans", steps=STEPS, batch_size=8,
        synthetic=0.5, warmup=2, checkpoint_every=4, judge_every=12, log_every=1, curriculum=0.5,
        spread_weight=0.5,
    )  # fmt: skip
    return dataclasses.replace(settings, **changes)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder with a synthetic FLAME model and scans of it."""
    folder = tmp_path_factory.mktemp("data")
    path = flame_format.write_folder(folder, SIZE)
    if path.name != "generic_model.pkl":
        path.rename(folder / "generic_model.pkl")
    flame_format.write_masks(folder, VERTICES)
    write_scans(folder / "scans", flamejax.load_head(folder / "generic_model.pkl"))
    return folder


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """An uninterrupted run's folder."""
    workdir = tmp_path_factory.mktemp("whole") / "run"
    training.JUDGED = training.JUDGED_AT_END = 2
    training.train(settings_of(data, workdir), TINY, Console(quiet=True))
    return workdir


def start(data, workdir, *arguments, **environment):
    """The run in a process of its own."""
    command = [sys.executable, "-c", textwrap.dedent(SCRIPT), str(data), str(workdir), *arguments]
    env = {**os.environ, **environment}
    return subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def rows(workdir, kind="train"):
    found = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [row for row in found if row["kind"] == kind]


def weights(workdir):
    with np.load(workdir / "mesh_vae.npz") as file:
        return {name: file[name] for name in file.files if name.startswith("parameter:")}


def test_what_a_run_leaves(whole):
    assert {p.name for p in whole.iterdir()} >= {"checkpoints", "metrics.jsonl", "pictures", "settings.json"}
    found = rows(whole)
    assert [row["step"] for row in found] == list(range(1, STEPS + 1))
    assert found[0]["hidden"] < 0.05 < found[-1]["hidden"] <= 0.6
    judged = rows(whole, "validation")
    assert judged and set(judged[-1]) == {"step", "kind", "visible_mm", "hidden_mm", "whole_mm"}
    assert json.loads((whole / "results.json").read_text())["visible_mm"] > 0
    assert list((whole / "pictures").glob("*.jpg"))
    assert list((whole / "tensorboard").iterdir())


@pytest.mark.slow
def test_killed_and_resumed_it_ends_with_the_same_parameters(data, whole, tmp_path):
    workdir = tmp_path / "run"
    process = start(data, workdir, "kill")
    _, said = process.communicate(timeout=240)
    assert process.returncode == -signal.SIGKILL, said
    assert len(rows(workdir)) == 6
    assert not (workdir / "mesh_vae.npz").exists()
    again = start(data, workdir)
    _, said = again.communicate(timeout=240)
    assert again.returncode == 0, said
    assert "going on from step" in said
    first, second = rows(whole), rows(workdir)
    assert [row["step"] for row in second] == list(range(1, STEPS + 1))
    assert [row["total"] for row in first] == [row["total"] for row in second]
    before, after = weights(whole), weights(workdir)
    assert before.keys() == after.keys()
    for name, array in before.items():
        np.testing.assert_array_equal(array, after[name], err_msg=name)


@pytest.mark.slow
def test_four_devices_give_the_same_losses(data, whole, tmp_path):
    flags = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=4"
    process = start(data, tmp_path / "run", XLA_FLAGS=flags)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    assert "4 devices" in said
    for one, four in zip(rows(whole), rows(tmp_path / "run"), strict=True):
        assert abs(one["total"] - four["total"]) < 1e-5 * max(1.0, one["total"])


def test_a_finished_run_goes_no_further(data, whole):
    before = weights(whole)
    training.train(settings_of(data, whole), TINY, Console(quiet=True))
    after = weights(whole)
    assert all(np.array_equal(before[name], after[name]) for name in before)
    assert len(rows(whole)) == STEPS


def test_a_run_goes_on_with_the_components_it_began_with(data, whole, monkeypatch):
    """Another computer's would have other signs, which the trained weights do not know."""
    monkeypatch.setattr(training, "principal_components", None)  # not made again
    before = dict(np.load(whole / "mesh_vae.npz"))
    training.train(settings_of(data, whole), TINY, Console(quiet=True))
    after = dict(np.load(whole / "mesh_vae.npz"))
    frames = [name for name in before if name.startswith("frame:")]
    assert frames and all(np.array_equal(before[name], after[name]) for name in frames)
    kept = (whole / "frame.npz").read_bytes()
    (whole / "frame.npz").write_bytes(kept[:100])
    try:
        with pytest.raises(RuntimeError, match="--restart"):
            training.train(settings_of(data, whole), TINY, Console(quiet=True))
    finally:
        (whole / "frame.npz").write_bytes(kept)


def test_what_is_refused_deletes_nothing_and_is_mended_by_the_right_options(data, whole, tmp_path):
    with pytest.raises(ValueError):
        training.train(settings_of(data, whole, restart=True, scans=tmp_path), TINY, Console(quiet=True))
    assert (whole / "checkpoints" / str(STEPS)).is_dir()
    with pytest.raises(ValueError, match="architecture"):
        training.train(settings_of(data, whole), dataclasses.replace(TINY, linear_noise=0.1), Console(quiet=True))
    with pytest.raises(ValueError):
        training.train(settings_of(data, tmp_path / "run", scans=tmp_path), TINY, Console(quiet=True))
    assert not (tmp_path / "run").exists()


def test_it_learns(data, tmp_path):
    settings = settings_of(
        data, tmp_path / "run", steps=150, learning_rate=3e-2, clip=1e3, synthetic=0.0, largest_mask=0.1,
        checkpoint_every=150, judge_every=150,
    )  # fmt: skip
    training.train(settings, TINY, Console(quiet=True))
    errors = [row["l1_mm"] for row in rows(settings.workdir)]
    assert np.mean(errors[-10:]) < 0.8 * np.mean(errors[:5])


def test_other_settings_are_refused(data, whole):
    with pytest.raises(ValueError, match="learning_rate"):
        training.train(settings_of(data, whole, learning_rate=0.5), TINY, Console(quiet=True))


def test_it_stops_where_the_loss_is_no_number_and_keeps_the_last_good(data, tmp_path):
    settings = settings_of(data, tmp_path / "run", learning_rate=1e30, clip=1e30, warmup=5)
    with pytest.raises(RuntimeError, match="no number"):
        training.train(settings, TINY, Console(quiet=True))
    assert not (settings.workdir / "mesh_vae.npz").exists()
    for row in rows(settings.workdir):
        assert np.isfinite(row["total"])


def test_batches_that_devices_cannot_share(data, tmp_path):
    with pytest.raises(ValueError, match="devices"):
        training.train(settings_of(data, tmp_path / "run", devices=64), TINY, Console(quiet=True))
    for bad in ({"steps": 0}, {"synthetic": 1.5}, {"largest_mask": 0.95}):
        with pytest.raises(ValueError):
            settings_of(data, tmp_path, **bad)


def test_a_record_that_was_cut_short(tmp_path):
    lines = ['{"step": 1, "kind": "train"}', '{"step": 5, "kind": "train"}', '{"step": 2, "ki']
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines))
    Record(tmp_path, 3).close()
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 1, "kind": "train"}\n'


def test_synthetic_heads_have_the_models_statistics(data, tmp_path):
    head = flamejax.load_head(data / "generic_model.pkl")
    split = load_split(settings_of(data, tmp_path), head, "train", Console(quiet=True))
    np.testing.assert_allclose(split.rotations[:, 0], 0)
    source = generator(head, split)
    drawn = jax.jit(jax.vmap(lambda key: draw_head(source, key)))(jax.random.split(jax.random.key(0), 400))
    mean = np.asarray(head.v_template - head.joint_template[:1])
    spread = np.asarray(jnp.std(drawn, axis=0)).mean()
    assert np.abs(np.asarray(drawn.mean(axis=0)) - mean).mean() < 0.3 * spread
    found, deviation = statistics([(split.vertices, 1.0)])
    np.testing.assert_allclose(found, split.vertices.mean(0), atol=1e-6)
    np.testing.assert_allclose(deviation, np.sqrt(((split.vertices - found) ** 2).mean()), rtol=1e-4)


def test_the_curriculum_grows(data, tmp_path):
    settings = settings_of(data, tmp_path)
    limits = [float(mask_limit(settings, jnp.asarray(step))) for step in (0, 3, 6, 12)]
    np.testing.assert_allclose(limits, [0, 0.2, 0.4, 0.4])
    without = dataclasses.replace(settings, curriculum=0.0)
    assert float(mask_limit(without, jnp.asarray(0))) == pytest.approx(0.4)
    head = flamejax.load_head(data / "generic_model.pkl")
    masks = mask_maker(head, count=8)
    for limit in (0.0, 0.4):
        keys = jax.random.split(jax.random.key(1), 16)
        visible = jax.jit(jax.vmap(lambda key, m=limit: draw_mask(masks, settings, key, jnp.asarray(m))))(keys)
        hidden = 1 - np.asarray(visible).mean(1)
        assert hidden.max() == 0 if limit == 0 else 0.1 < hidden.max() <= 0.75


@pytest.mark.parametrize("weight", [0.0, 0.5])
def test_losses(data, tmp_path, weight):
    head = flamejax.load_head(data / "generic_model.pkl")
    model = build_mesh_vae(head, TINY, np.zeros((VERTICES, 3)), 1.0)
    graph = hierarchy_for(TINY, np.asarray(head.faces), np.asarray(head.v_template)).graph()
    heads = 0.01 * jax.random.normal(jax.random.key(0), (3, VERTICES, 3))
    keys, settings = jax.random.split(jax.random.key(1), 3), settings_of(data, tmp_path, spread_weight=weight)
    visible = jnp.ones((3, VERTICES), bool)
    total, (l1, lap, kl, spread) = losses_of(model, graph, heads, visible, keys, settings, jnp.asarray(10**6))
    posterior = model.encode(heads, visible)
    count = 2 if weight else 1
    drawn = [[jax.tree.map(lambda x, k=k: x[k], posterior).sample(key) for key in jax.random.split(keys[k], count)]
             for k in range(3)]  # fmt: skip
    decoded = model.decode(jnp.stack([jnp.stack(each) for each in drawn]))
    np.testing.assert_allclose(l1, 1e3 * jnp.mean(jnp.abs(decoded - heads[:, None])), rtol=1e-4)
    np.testing.assert_allclose(spread, 1e3 * jnp.mean(jnp.abs(decoded[:, 0] - decoded[:, -1])), rtol=1e-4)
    np.testing.assert_allclose(kl, jnp.mean(posterior.kl()), rtol=1e-5)
    expected = l1 + settings.laplacian_weight * lap + settings.kl_weight * kl - weight * spread
    np.testing.assert_allclose(total, expected, rtol=1e-5)
    assert (spread > 0) == (weight > 0)


def test_mirror_images(data):
    head = flamejax.load_head()
    mirror = mirror_map(head)
    np.testing.assert_array_equal(mirror[mirror], np.arange(head.num_vertices))
    drawn = np.asarray(head.v_template) + np.float32(0.001) * np.arange(head.num_vertices, dtype=np.float32)[:, None]
    flipped = jax.jit(maybe_mirrored, static_argnums=3)
    there = flipped(jnp.asarray(drawn), jnp.asarray(mirror), jax.random.key(0), TrainSettings(mirrored=1.0))
    back = flipped(there, jnp.asarray(mirror), jax.random.key(0), TrainSettings(mirrored=1.0))
    np.testing.assert_array_equal(back, drawn)
    np.testing.assert_allclose(there[mirror[5]], drawn[5] * [-1, 1, 1])
    same = flipped(jnp.asarray(drawn), jnp.asarray(mirror), jax.random.key(0), TrainSettings(mirrored=0.0))
    np.testing.assert_array_equal(same, drawn)
    # The mirror image of the mesh is the mesh: faces become faces, turned round.
    faces = {tuple(sorted(face)) for face in np.asarray(head.faces).tolist()}
    assert {tuple(sorted(face)) for face in mirror[np.asarray(head.faces)].tolist()} == faces
    assert mirror_map(flamejax.load_head(data / "generic_model.pkl")) is None


def test_components_of_weighted_heads():
    rng = np.random.default_rng(0)
    parts = [(rng.normal(size=(7, 4, 3)).astype(np.float32), 0.8), (rng.normal(size=(5, 4, 3)).astype(np.float32), 0.2)]
    mean, spread = statistics(parts)
    away = [(heads - mean).reshape(len(heads), -1) for heads, _ in parts]
    covariance = sum(w / len(rows) * rows.T @ rows for rows, (_, w) in zip(away, parts, strict=True))
    np.testing.assert_allclose(mean, 0.8 * parts[0][0].mean(0) + 0.2 * parts[1][0].mean(0), rtol=1e-5)
    np.testing.assert_allclose(spread, np.sqrt(np.trace(covariance) / 12), rtol=1e-5)
    rows = principal_components(parts, mean, 11).reshape(11, 12)
    np.testing.assert_allclose(rows.T @ rows, covariance, atol=0.05 * covariance.max())
    values = np.linalg.eigvalsh(covariance)[::-1]
    np.testing.assert_allclose((rows**2).sum(1), values[:11], rtol=1e-3, atol=1e-4)
    assert (rows[np.arange(11), np.abs(rows).argmax(axis=1)] > 0).all()  # of two signs the same everywhere
    with pytest.raises(ValueError, match="fewer"):
        principal_components(parts, mean, 12)


def test_what_a_network_sees_beside_the_scans(data, tmp_path):
    head = flamejax.load_head(data / "generic_model.pkl")
    settings = settings_of(data, tmp_path)
    split = load_split(settings, head, "train", Console(quiet=True))
    parts = training_parts(split, None, generator(head, split), settings)
    assert [weight for _, weight in parts] == [0.5, 0.5] and len(parts[1][0]) == 600
    turned = np.arange(VERTICES)[::-1]
    assert [w for _, w in training_parts(split, turned, generator(head, split), settings)] == [0.25, 0.25, 0.5]
    more = augmentation(head, split.vertices, split.rotations, synthetic=0.5)  # no mirror images of this head
    assert more.shape == split.vertices.shape


def test_weights_files(data, whole, tmp_path):
    head = flamejax.load_head(data / "generic_model.pkl")
    model = load_mesh_vae(head, whole / "mesh_vae.npz")
    write_mesh_vae(tmp_path / "again.npz", head, model, {"data": "none"})
    again = load_mesh_vae(head, tmp_path / "again.npz")
    for name, array in flat_state(model).items():
        np.testing.assert_array_equal(array, flat_state(again)[name])
    assert nnx.state(again, nnx.Param) is not None
    with pytest.raises(HeadFileError, match="trained for the head"):
        load_mesh_vae(flamejax.load_head(), whole / "mesh_vae.npz")
    with pytest.raises(FileNotFoundError, match="mesh_vae_small"):
        load_mesh_vae(head, tmp_path / "missing.npz")
    (tmp_path / "broken.npz").write_bytes((whole / "mesh_vae.npz").read_bytes()[:2000])
    with pytest.raises(HeadFileError):
        load_mesh_vae(head, tmp_path / "broken.npz")


def test_the_step_lowers_for_every_accelerator_without_callbacks():
    """On a small sphere-topology mesh, no accelerator at hand: StableHLO for all three, nothing that asks the host."""
    head = random_head(subdivisions=2)
    settings = TrainSettings(batch_size=4, steps=10, spread_weight=0.5)
    components = np.random.default_rng(0).normal(size=(5, head.num_vertices, 3)) * 1e-3
    model = build_mesh_vae(head, TINY, head.v_template, 0.01, components)
    graphdef, state = nnx.split(model)
    params, rest = nnx.split_state(state, nnx.Param, ...)
    optimizer, mesh = optimizer_of(settings), device_mesh(1)
    step = make_step(graphdef, settings, optimizer, mesh)
    graph = hierarchy_for(TINY, np.asarray(head.faces), np.asarray(head.v_template)).graph()
    source = Generator(head, jnp.zeros((2, 5, 3)))
    fixed = Fixed(rest, graph, mask_maker(head, count=4), source, jnp.arange(head.num_vertices))
    start = TrainState(params, optimizer.init(params), jnp.zeros((), jnp.int32))
    heads = jnp.zeros((3, head.num_vertices, 3))
    with jax.set_mesh(mesh):
        lowered = jax.export.export(step, platforms=("cpu", "cuda", "tpu"))(start, fixed, heads)
    assert lowered.platforms == ("cpu", "cuda", "tpu")
    calls = set(re.findall(r"custom_call @([\w.]+)", lowered.mlir_module()))
    assert calls and not {name for name in calls if "python" in name or "callback" in name}
