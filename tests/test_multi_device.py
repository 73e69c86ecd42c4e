"""Tests that programs on several devices equal those on one device."""

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
        pytest.param({"sharded programs": 1e-6}, id="quick"),
        pytest.param({"algorithm 2": 5e-5}, id="full", marks=pytest.mark.slow),
    ],
)
def test_several_devices_equal_one(tolerances):
    root = Path(__file__).parents[1]
    flags = {"XLA_FLAGS": f"--xla_force_host_platform_device_count={DEVICES}", "PYTHONPATH": str(root)}
    command = [sys.executable, "-m", "tests.multi_device", *tolerances]
    process = subprocess.run(command, env=os.environ | flags, cwd=root, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr[-2000:]
    for name, difference in json.loads(process.stdout.splitlines()[-1]).items():
        assert difference < tolerances[name], name
