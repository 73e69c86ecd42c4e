"""The benchmark's rows, missing peers, and memory by batch. No time is checked."""

import dataclasses
import importlib.util
import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import flamejax
from experiments import benchmark
from experiments.benchmark import command, dpp, head, head_peers, networks, render, render_peers
from experiments.benchmark.spheres import FLAME_SPHERES, spheres
from experiments.benchmark.timing import PeerMissing, Row, Setting, TimedCall, time_alternating
from experiments.datasets.synthetic_flame import TRUE_SIZE, write_flame_folder
from models.hierarchy import mesh_hierarchy
from models.mesh_conv import MeshConv
from models.mesh_vae import MeshVAEConfig
from sampling.dpp import diversity_loss
from tests.heads import random_head

ROW = Row("vertices", 4, 12.3456, 0.5, 0.0123, None, "a GEMM", 1.0)


@pytest.fixture
def keep_cache():
    """Restore the compilation cache, which main turns off, for the other tests."""
    before = jax.config.values["jax_enable_compilation_cache"]
    yield
    jax.config.update("jax_enable_compilation_cache", before)


def test_command_prints_and_writes_rows(monkeypatch, tmp_path, capsys, keep_cache):
    given = []
    monkeypatch.setitem(command.GROUPS, "head", lambda setting: given.append(setting) or [ROW])
    path = tmp_path / "rows.json"
    assert benchmark.main(["head", "--json", str(path), "--limit", "5", "--peers"]) == 0
    assert given[0].limit == 5 and given[0].peers and given[0].jaxrenderer_python is None
    (row,) = json.loads(path.read_text())
    assert row == dataclasses.asdict(ROW) and row["memory_mb"] is None
    out = capsys.readouterr().out
    assert "12.3" in out and "0.012" in out and "memory" not in out


def test_memory_has_a_column_when_it_is_measured(capsys):
    console = command.message_console(stderr=False, soft_wrap=False, width=160)
    console.print(command.make_table([dataclasses.replace(ROW, memory_mb=1234.5)]))
    out = capsys.readouterr().out
    assert "memory MB" in out and "1,234" in out and "s per photo" not in out


def test_programs_run_alternately():
    order: list[str] = []
    ours, theirs = (TimedCall(lambda name=name: order.append(name)) for name in ("ours", "theirs"))
    seconds, ratio = time_alternating(ours, theirs, 3)
    assert order == ["ours", "theirs"] * 4 and seconds >= 0 and ratio > 0


@pytest.mark.slow
def test_memory_of_a_render_grows_with_the_batch_and_not_faster():
    model, key = random_head(subdivisions=3), jax.random.key(0)
    one, two, four = (render.render_programs(model, key, batch, 64)[1].memory_mb() for batch in (1, 2, 4))
    assert one < two < 2.1 * one
    assert four == pytest.approx(2 * two, rel=0.05)


@pytest.mark.parametrize(
    ("load", "module"),
    [
        (head_peers.load_smplx, "smplx"),
        (head_peers.load_smplx, "torch"),
        (head_peers.load_flame_pytorch, "flame_pytorch"),
        (head_peers.load_body_models, "body_models.flame.jax"),
    ],
)
def test_a_head_peer_that_is_not_installed_says_what_to_install(load, module, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(PeerMissing, match="pip install"):
        load(tmp_path / "FLAME_NEUTRAL.pkl", {}, np.zeros(0))


def test_other_peers_are_timed_when_one_is_missing(monkeypatch):
    monkeypatch.setattr(head_peers, "PEERS", {"absent": None, "present": None})
    monkeypatch.setattr(head, "BATCHES", (1, 2))
    monkeypatch.setattr(head, "gemm_rows", lambda setting, model, name: [])
    monkeypatch.setattr(head, "write_flame_folder", lambda folder: None)
    monkeypatch.setattr(flamejax, "load_head", lambda path: None)

    def peer_row(setting, model, peer, load, path, batch):
        if peer == "absent":
            raise PeerMissing("no rows against absent: pip install absent")
        return dataclasses.replace(ROW, reference=peer, batch=batch)

    monkeypatch.setattr(head, "_peer_row", peer_row)
    reports = []
    rows = head.peer_rows(Setting(None, jax.random.key(0), 1, peers=True, report=reports.append))
    assert [(row.reference, row.batch) for row in rows] == [("present", 1), ("present", 2)]
    assert reports == ["no rows against absent: pip install absent"]


def test_deodr_missing_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "deodr.differentiable_renderer", None)
    monkeypatch.setattr(render, "own_rows", lambda setting: [ROW])
    nothing = SimpleNamespace(screen=np.zeros((1, 3, 3)), colours=None, faces=None, opposite=None)
    monkeypatch.setattr(render, "ColouredHead", lambda setting, size: nothing)
    reports = []
    assert render.render_rows(Setting(None, jax.random.key(0), 1, peers=True, report=reports.append)) == [ROW]
    assert len(reports) == 1 and "pip install deodr" in reports[0]


@pytest.mark.parametrize("python", [Path("/no/such/python"), Path(sys.executable)])
def test_an_interpreter_without_jaxrenderer_is_one_line(python):
    if python.exists() and importlib.util.find_spec("renderer"):
        pytest.skip("jaxrenderer is installed here")
    scene = {"screen": np.zeros((3, 3)), "colours": np.zeros((3, 3)), "faces": np.zeros((1, 3), int), "size": 4}
    with (
        pytest.raises(PeerMissing, match=r"pip install jaxrenderer") as missing,
        render_peers.jaxrenderer(python, **scene, report=print),
    ):
        pass
    assert "\n" not in str(missing.value)


def test_jaxrenderer_scene_talks_to_its_worker(tmp_path, monkeypatch):
    """With a stand-in for the worker's file: the image is compared, the refused gradient reports, the files removed."""
    worker = tmp_path / "worker.py"
    worker.write_text(
        "import json, os, sys, numpy as np\n"
        "folder = sys.argv[1]\n"
        "size = int(np.load(folder + '/scene.npz')['size'])\n"
        "np.save(folder + '/image.npy', np.zeros((size, size, 3)))\n"
        "about = {'version': folder, 'jax': str(os.getpid()), 'compile_s': 1.5, 'gradient': 'it is not finite'}\n"
        "for line in sys.stdin:\n"
        "    print(json.dumps(about if line == 'compile\\n' else {'seconds': 0.25}), flush=True)\n"
    )
    monkeypatch.setattr(render_peers, "WORKER", worker)
    reports = []
    corners, faces = np.zeros((3, 3)), np.zeros((1, 3), int)
    with render_peers.jaxrenderer(Path(sys.executable), corners, corners, faces, 4, reports.append) as scene:
        forward, gradient = scene.programs
        assert forward.seconds() == 0.25 and forward.compile_s == 1.5
        assert gradient is None and reports == ["no gradient of jaxrenderer: it is not finite"]
        scene.check_image(np.zeros((4, 4, 3)))
        with pytest.raises(RuntimeError, match=r"0\.0% of the pixels"):
            scene.check_image(np.ones((4, 4, 3)))
        folder, process = scene.name.removeprefix("jaxrenderer ").split(", jax ")
        assert Path(folder).exists()
    assert not Path(folder).exists()
    with pytest.raises(ProcessLookupError):
        os.kill(int(process), 0)


def test_the_synthetic_flame_model_is_read_as_flame(tmp_path):
    model = flamejax.load_head(write_flame_folder(tmp_path / "FLAME2020"))
    assert model.num_vertices == TRUE_SIZE["vertices"] and len(model.basis) == 436


TINY_SPHERES = ((60, 1.0, (0.0, 0.0, 0.0)), (20, 0.1, (0.3, 0.2, 0.8)))


def test_spheres_are_closed_and_of_flames_size():
    faces, positions = spheres()
    assert len(positions) == 5023 and len(faces) == sum(2 * count - 4 for count, _, _ in FLAME_SPHERES)
    edges = np.sort(np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]), axis=1)
    assert (np.unique(edges, axis=0, return_counts=True)[1] == 2).all()


@pytest.mark.slow
def test_mesh_convolutions_have_all_rows(monkeypatch):
    """All of them, on a small mesh and a small network."""
    config = MeshVAEConfig(strides=(2, 2), features=(4,), latent_features=3, num_bases=2, centred=True)
    monkeypatch.setattr(networks, "spheres", lambda: spheres(TINY_SPHERES))
    monkeypatch.setattr(networks, "SMALL", config)
    monkeypatch.setattr(networks, "LAYERS", {"down": (0, "pool", 3, 4), "up": (0, "unpool", 4, 1)})
    monkeypatch.setattr(MeshConv, "project_first", property(lambda conv: conv.out_features == 1))
    rows = command.GROUPS["mesh_conv"](Setting(None, jax.random.key(0), 1))
    assert [(row.name, row.batch) for row in rows[:3]] == [("down", 16), ("up", 16), ("up", 16)]
    assert [row.reference for row in rows[:3]] == [networks.AGGREGATE, networks.AGGREGATE, networks.PROJECT]
    assert rows[3].batch == 8 and "training step" in rows[3].name
    assert all(0 < value < np.inf for row in rows for value in (row.ratio_forward, row.ratio_gradient, row.compile_s))


def test_the_closed_form_is_the_loss_and_its_gradient():
    rng = np.random.default_rng(0)
    shapes, latents = rng.normal(size=(7, 20, 3)).astype(np.float32), rng.normal(size=(7, 30)).astype(np.float32) * 1.5
    value, gradient = dpp.closed_form(shapes.astype(np.float64), latents.astype(np.float64))
    ours = jax.value_and_grad(lambda s: diversity_loss(s, jnp.asarray(latents)))(jnp.asarray(shapes))
    np.testing.assert_allclose(ours[0], value, rtol=1e-5)
    np.testing.assert_allclose(ours[1], gradient, atol=1e-5 * np.abs(gradient).max())


def test_diversity_group_reports_a_missing_mesh_vae(monkeypatch):
    """For a head without a Mesh-VAE, Algorithm 2 is left out, and a line says so."""
    reports: list[str] = []
    monkeypatch.setattr(dpp, "SETS", (3,))
    (row,) = command.GROUPS["diversity"](Setting(random_head(), jax.random.key(0), 1, report=reports.append))
    assert "3 heads" in row.name and row.reference == "closed form in NumPy"
    assert 0 < row.ratio_forward < np.inf and 0 < row.ratio_gradient < np.inf
    assert "Algorithm 2 is left out" in reports[0]


def test_the_reference_has_the_shapes_of_the_convolution():
    step = mesh_hierarchy(*spheres(TINY_SPHERES), (2,)).steps[0]
    conv = MeshConv(step.pool, 3, 4, 5, rngs=nnx.Rngs(0))
    targets, width = step.pool.num_targets, step.pool.width

    def shapes(work, project_first):
        made = lambda key: work(networks.reference_products(conv, 2, key, project_first))  # noqa: E731
        return [one.shape for one in jax.tree.leaves(jax.eval_shape(made, jax.random.key(0)))]

    assert shapes(networks.forward_products, False) == [(targets, 5, 2 * 3), (2 * targets, 4)]
    assert shapes(networks.forward_products, True) == [(2 * 80, 5 * 4), (targets, 1, 2 * 4)]
    operands = shapes(lambda products: [one for left, right, _ in products for one in (left, right)], False)
    assert operands[0] == (targets, 5, width)
    assert shapes(networks.backward_products, False) == operands
