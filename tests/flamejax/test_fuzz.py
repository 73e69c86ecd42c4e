"""Randomly damaged model files are read or raise a HeadFileError. `python -m tests.fuzz_head_files` tests more."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
EDITS = int(os.environ.get("FLAMEJAX_FUZZ_EDITS", "600"))
"""Number of damaged files; 10,000 take about a minute."""


@pytest.mark.skipif(sys.platform != "linux", reason="the limit on memory is Linux's")
def test_random_edits_of_model_files_are_read_or_refused():
    # A separate process: it limits its memory, and an audit hook cannot be removed.
    command = [sys.executable, "-m", "tests.fuzz_head_files", "--edits", str(EDITS), "--seed", "0"]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1800)
    print(process.stdout)
    assert process.returncode == 0, process.stdout[-3000:] + process.stderr[-3000:]
    assert f"{EDITS} edits, 0 misbehaved" in process.stdout


def test_the_fuzzer_notices_misbehaviour():
    script = """
import sys, tests.fuzz_head_files as fuzz
from pathlib import Path
hook = fuzz.AuditHook()
def read(action):
    return fuzz.read_once(fuzz.FuzzSource(Path("x"), action), hook)
print(read(lambda: None), read(lambda: 1 / 0), read(lambda: __import__("os").system("true")), sep="|")
fuzz.limit_memory()
print(read(lambda: bytearray(2**30 + 2**28)))
"""
    process = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert process.stdout.startswith("read|ZeroDivisionError: division by zero|tried os.system")
    assert "MemoryError" in process.stdout.splitlines()[1]
