"""A run that is killed while it writes, and resumed."""

import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from rich.console import Console

from experiments.reconstruct import UsageError, command, reconstruct_config
from flamejax import files
from flamejax.files import TEMPORARY_PREFIX
from flamejax.io.results import RESULT_FILES
from tests.experiments.fakes import HEAD, IDENTITY, FakeTools, write_photo

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = """
    import os, signal, sys
    from pathlib import Path
    from experiments.reconstruct import UsageError, command, reconstruct_config, results
    from tests.experiments.fakes import HEAD, IDENTITY, FakeTools

    command.load_head = lambda path: (HEAD, IDENTITY)
    whole = results.write_glb
    written = []

    def write_glb(path, mesh):
        written.append(path)
        if len(written) == 3:  # in the middle of the third result: its OBJ lies there, its GLB and metrics do not
            os.kill(os.getpid(), signal.SIGKILL)
        whole(path, mesh)

    results.write_glb = write_glb
    config = reconstruct_config((sys.argv[1],), Path(sys.argv[2]), size=64, batch_size=2)
    command.run(config, None, FakeTools().tools)
"""


def test_a_run_killed_while_writing_resumes(tmp_path, monkeypatch):
    for i in range(6):
        write_photo(tmp_path / "in" / f"p{i}.png")
    out = tmp_path / "out"
    command_line = [sys.executable, "-c", textwrap.dedent(SCRIPT), str(tmp_path / "in"), str(out)]
    ended = subprocess.run(command_line, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    leftovers = list(out.glob(f"{TEMPORARY_PREFIX}*"))
    assert leftovers, "the kill came too late to test anything"
    finished = [p for p in out.iterdir() if p.is_dir() and not p.name.startswith(".") and p.name != "thumbnails"]
    assert 0 < len(finished) < 6
    for folder in finished:
        assert {p.name for p in folder.iterdir()} == set(RESULT_FILES)

    monkeypatch.setattr(command, "load_head", lambda path: (HEAD, IDENTITY))
    fake = FakeTools()
    config = reconstruct_config((str(tmp_path / "in"),), out, size=64, batch_size=2, resume=True)
    assert command.run(config, Console(quiet=True), fake.tools) == 0
    assert len(fake.observed) == 6 - len(finished)
    assert not list(out.rglob(f"{TEMPORARY_PREFIX}*"))
    assert len((out / "summary.jsonl").read_text().splitlines()) == 6


@pytest.mark.parametrize("name", ["summary.jsonl", "run.json", "index.html"])
def test_lists_are_replaced_atomically(tmp_path, monkeypatch, name):
    """A list that cannot be written leaves the old one as it was."""
    monkeypatch.setattr(command, "load_head", lambda path: (HEAD, IDENTITY))
    write_photo(tmp_path / "in/a.png")
    config = {"photos": (str(tmp_path / "in"),), "output": tmp_path / "out", "size": 64, "batch_size": 1}
    command.run(reconstruct_config(**config), Console(quiet=True), FakeTools().tools)
    before = (tmp_path / "out" / name).read_bytes()
    write_photo(tmp_path / "in/b.png")
    replace = files.os.replace

    def refuse(source, target):
        if Path(target).name == name:
            raise OSError("disk full")
        return replace(source, target)

    monkeypatch.setattr("flamejax.files.os.replace", refuse)
    with pytest.raises(UsageError, match="disk full"):
        command.run(reconstruct_config(**config, resume=True), Console(quiet=True), FakeTools().tools)
    assert (tmp_path / "out" / name).read_bytes() == before
