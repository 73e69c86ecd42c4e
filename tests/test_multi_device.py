"""What several devices share out is what one device makes of it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.multi_device import DEVICES


@pytest.mark.parametrize(
    "tolerances",
    [
        pytest.param({"shared programs": 1e-6}, id="quick"),
        pytest.param({"algorithm 2": 5e-5}, id="whole", marks=pytest.mark.slow),
    ],
)
def test_photos_are_shared_out_over_devices(tolerances):
    root = Path(__file__).parents[1]
    flags = {"XLA_FLAGS": f"--xla_force_host_platform_device_count={DEVICES}", "PYTHONPATH": str(root)}
    command = [sys.executable, "-m", "tests.multi_device", *tolerances]
    done = subprocess.run(command, env=os.environ | flags, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    for name, difference in json.loads(done.stdout.splitlines()[-1]).items():
        assert difference < tolerances[name], name
