"""Runs in separate processes: killed, resumed, and on several devices."""

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from tests.experiments.training.conftest import QUIET
from tests.experiments.training.runs import STEPS, rows, weights
from tests.experiments.training.test_train_ofer_photos import options_of, photos  # noqa: F401

ROOT = Path(__file__).resolve().parents[3]
SCRIPT = """
    import os, signal, sys, time
    from pathlib import Path
    from rich.console import Console
    import flamejax
    from experiments import runtime
    from experiments.training.ofer import photo_examples
    from experiments.training.record import MetricsLogger
    from tests.experiments.training.runs import HEAD, mesh_options
    from tests.experiments.training.test_train_ofer_photos import options_of

    data, out = Path(sys.argv[1]), Path(sys.argv[2])
    add_losses_unpatched = MetricsLogger.add_losses

    def add_losses(self, last, losses):
        if sys.argv[3] == "kill" and last == 5:  # a step after the last checkpoint, which must be repeated
            while not (out / "mesh" / "checkpoints" / "4").exists():
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGKILL)
        return add_losses_unpatched(self, last, losses)

    MetricsLogger.add_losses = add_losses
    flamejax.load_head = lambda path: HEAD
    photo_examples.features_folder = lambda: data / "features"
    runtime.use_compilation_cache()
    mesh_options(data, out / "mesh").run(Console(stderr=True))
    options_of(data, out / "photos").run(Console(stderr=True))
"""


@pytest.mark.slow
def test_run_killed_and_resumed_on_four_devices_has_the_losses_of_one(data, mesh_run, photos, tmp_path):  # noqa: F811
    flags = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=4"

    def process(how):
        command = [sys.executable, "-c", textwrap.dedent(SCRIPT), str(data), str(tmp_path), how]
        environment = {**os.environ, "XLA_FLAGS": flags}
        return subprocess.run(command, cwd=ROOT, env=environment, text=True, capture_output=True, timeout=400)

    killed = process("kill")
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert len(rows(tmp_path / "mesh")) == 4 and not (tmp_path / "mesh" / "mesh_vae.npz").exists()
    done = process("resume")
    assert done.returncode == 0, done.stderr
    assert "resuming from step 4" in done.stderr and "4 devices" in done.stderr
    assert "8 of 28 photos of 7 identities: 1.7 epochs" in done.stderr
    options_of(photos, tmp_path / "single").run(QUIET)
    for one, four in ((mesh_run, tmp_path / "mesh"), (tmp_path / "single", tmp_path / "photos")):
        assert [row["step"] for row in rows(four)] == list(range(1, STEPS + 1))
        for first, second in zip(rows(one), rows(four), strict=True):
            assert abs(first["total"] - second["total"]) < 1e-5 * max(1.0, first["total"])
    before, after = weights(mesh_run / "mesh_vae.npz"), weights(tmp_path / "mesh" / "mesh_vae.npz")
    for name, array in before.items():
        np.testing.assert_allclose(np.float32(array), np.float32(after[name]), atol=2e-3, err_msg=name)
