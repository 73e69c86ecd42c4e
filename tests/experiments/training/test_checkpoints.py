"""Resuming from damaged checkpoints and settings."""

import io
import shutil

import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

from experiments.training.checkpoints import Checkpoints, RunFolder
from experiments.training.record import MetricsLogger
from tests.experiments.training.conftest import QUIET
from tests.experiments.training.runs import STEPS, assert_same, mesh_options, rows, weights

STATE = {"weights": jnp.arange(2000.0), "step": jnp.zeros((), jnp.int32)}


class Position:
    """Stands for an iterator of batches."""

    def __init__(self, step):
        self.step = step

    def get_state(self):
        return {"step": self.step}

    def set_state(self, state):
        self.step = state["step"]


def save(checkpoints, step):
    checkpoints.save(step, {**STATE, "step": jnp.int32(step)}, Position(step))
    checkpoints.wait()


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Returns a run's folder with checkpoints of steps 2, 4 and 6."""
    workdir = tmp_path_factory.mktemp("checkpoints")
    checkpoints = Checkpoints(RunFolder(workdir), keep=3)
    for step in (2, 4, 6):
        save(checkpoints, step)
    checkpoints.close()
    return workdir


def truncate_arrays(folder):
    for path in (folder / "state").rglob("d/*"):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty_folder(folder):
    shutil.rmtree(folder)
    folder.mkdir()


DAMAGE = {
    "truncated arrays": truncate_arrays,
    "no manifest": lambda folder: (folder / "state" / "manifest.ocdbt").unlink(),
    "damaged metadata": lambda folder: (folder / "state" / "_METADATA").write_text('{"tree'),
    "no state": lambda folder: shutil.rmtree(folder / "state"),
    "no position": lambda folder: (folder / "data" / "metadata").unlink(),
    "damaged position": lambda folder: (folder / "data" / "metadata").write_text('{"iter'),
    "other position": lambda folder: (folder / "data" / "metadata").write_text('{"iterator": {}}'),
    "empty folder": empty_folder,
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_damaged_checkpoint_is_skipped_and_its_step_can_be_saved_again(saved, tmp_path, damage):
    workdir, console = tmp_path / "run", Console(file=io.StringIO(), width=40)
    shutil.copytree(saved, workdir)
    damage(workdir / "checkpoints" / "6")
    checkpoints, position = Checkpoints(RunFolder(workdir), keep=3), Position(0)
    state, step = checkpoints.restore(STATE, position, console)
    assert step == state["step"] == position.step == checkpoints.latest() == 4
    np.testing.assert_array_equal(state["weights"], STATE["weights"])
    (line,) = console.file.getvalue().splitlines()
    aside = workdir / "checkpoints" / "unreadable-6"
    assert "checkpoint of step 6 cannot be read" in line and line.endswith(str(aside)) and aside.is_dir()
    save(checkpoints, 6)
    checkpoints.close()
    checkpoints = Checkpoints(RunFolder(workdir), keep=3)
    assert checkpoints.restore(STATE, position, QUIET)[1] == position.step == 6
    checkpoints.close()


def test_run_without_a_readable_checkpoint_is_refused_and_keeps_them(saved, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(saved, workdir)
    for step in ("2", "4", "6"):
        truncate_arrays(workdir / "checkpoints" / step)
    checkpoints = Checkpoints(RunFolder(workdir), keep=3)
    with pytest.raises(RuntimeError, match=r"run/checkpoints: no checkpoint .*steps 2, 4, 6 .*--restart"):
        checkpoints.restore(STATE, Position(0), QUIET)
    checkpoints.close()
    assert {path.name for path in (workdir / "checkpoints").iterdir()} == {"2", "4", "6"}
    restarted = Checkpoints(RunFolder(workdir, restart=True), keep=3)
    assert restarted.latest() is None
    restarted.close()


@pytest.mark.parametrize("content", [b"", b'{"seed": 0', b"[]", b"\xff\xfe\x00", b"[" * 100_000])
def test_damaged_settings_are_named(saved, tmp_path, content):
    workdir = tmp_path / "run"
    shutil.copytree(saved, workdir)
    (workdir / "settings.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"run/settings\.json is damaged.*--restart"):
        RunFolder(workdir, fingerprint={"seed": 0}).check_fingerprint()
    assert (workdir / "settings.json").read_bytes() == content
    RunFolder(workdir, restart=True, fingerprint={"seed": 0}).check_fingerprint()


def test_bytes_that_are_no_text_in_metrics_are_dropped(tmp_path):
    good = b'{"step": 1, "kind": "train", "total": 1.0}\n'
    (tmp_path / "metrics.jsonl").write_bytes(good + b"\xff\xfe\x00\n")
    MetricsLogger(tmp_path, 1).close()
    assert (tmp_path / "metrics.jsonl").read_bytes() == good


def test_run_resumed_before_a_damaged_checkpoint_ends_with_the_same_parameters(data, mesh_run, tmp_path):
    options, console = mesh_options(data, tmp_path / "run"), Console(file=io.StringIO())
    shutil.copytree(mesh_run, options.workdir)
    (options.workdir / "mesh_vae.npz").unlink()
    truncate_arrays(options.workdir / "checkpoints" / str(STEPS))
    options.run(console)
    assert f"resuming from step {STEPS - 2} of {STEPS}" in console.file.getvalue()
    assert rows(mesh_run) == rows(options.workdir)
    assert_same(weights(mesh_run / "mesh_vae.npz"), weights(options.workdir / "mesh_vae.npz"))
