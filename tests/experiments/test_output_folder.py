"""Damaged, foreign and shared output folders: what is deleted, redone, refused and written while a run goes on."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from experiments.reconstruct import UsageError, main
from experiments.reconstruct.lock import LOCK, FolderLock
from experiments.view.explorer import Explorer
from flamejax import files
from flamejax.io import ResultError, load_image, load_results
from flamejax.io.records import RESULT_FILES
from tests.experiments.fakes import HEAD, IDENTITY, FakeTools, reconstruct, results, rows, write_photo

OTHER_HEAD = {"head": dataclasses.asdict(IDENTITY) | {"sha256": "0" * 64}}
ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.usefixtures("small_head")


@pytest.fixture
def photos(tmp_path):
    for i in range(3):
        write_photo(tmp_path / "in" / f"p{i}.png", colour=100 + 10 * i)
    return tmp_path / "in"


@pytest.fixture
def out(photos, tmp_path):
    assert reconstruct(photos, tmp_path / "out") == 0
    return tmp_path / "out"


def change_metrics(folder: Path, **changes) -> None:
    record = json.loads((folder / "metrics.json").read_text())
    (folder / "metrics.json").write_text(json.dumps(record | changes))


def tree(folder: Path) -> dict[str, int]:
    return {str(path): path.lstat().st_mtime_ns for path in folder.rglob("*")}


@pytest.mark.parametrize("option", ["resume", "overwrite"])
def test_nothing_outside_the_output_is_deleted_or_written(photos, out, tmp_path, option):
    victim = tmp_path / "victim"
    shutil.copytree(out / "p0", victim / "p0")
    (victim / ".writing-0123456789abcdef").mkdir()
    (victim / "p1.jpg").write_text("mine")
    change_metrics(out / "p0", name="../victim/p0", settings={})
    change_metrics(out / "p1", name=str(victim), settings={})
    for name, target in (("p2", victim / "p0"), ("thumbnails", victim)):
        shutil.rmtree(out / name)
        (out / name).symlink_to(target)
    before = tree(victim)
    assert reconstruct(photos, out, iterations=8, **{option: True}) == 0
    assert tree(victim) == before
    assert results(out) == ["p0", "p1", "p2"]
    assert not (out / "p2").is_symlink() and not (out / "thumbnails").is_symlink()


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("params.npz", b""),
        ("params.npz", 0.5),
        ("params.npz", "flip"),
        ("overlay.png", 0.9),
        ("mesh.glb", 0.9),
        ("mesh.obj", b""),
        ("camera.json", b"{"),
        ("metrics.json", b"[" * 100_000),
        ("metrics.json", b'{"format_version": 1, "name": "p1"}'),
        ("metrics.json", {"num_faces": 10**9}),
        ("metrics.json", {"visible_landmarks": "<script>"}),
        ("metrics.json", {"landmark_nme": [1]}),
        ("metrics.json", {"hypotheses": "2"}),
        ("metrics.json", {"head": {}}),
        ("metrics.json", OTHER_HEAD),
        ("metrics.json", {"deep": json.loads("[" * 50 + "]" * 50)}),
    ],
)
def test_damaged_results_are_done_again_in_their_folder(photos, out, file, content):
    path = out / "p1" / file
    data = bytearray(path.read_bytes())
    if isinstance(content, dict):
        change_metrics(out / "p1", **content)
    elif content == "flip":
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    else:
        path.write_bytes(content if isinstance(content, bytes) else data[: int(content * len(data))])
    if file == "metrics.json" and content != OTHER_HEAD:
        with pytest.raises(ResultError, match=r"p1/metrics.json: "):
            load_results(out)
        explorer = Explorer(out, HEAD, IDENTITY)
        assert explorer.names == ["p0", "p2", "p1"] and "p1" in explorer.damaged
        assert explorer.first_face().result.name == "p0"
    fake = FakeTools()
    assert reconstruct(photos, out, fake, resume=True) == 0
    assert len(fake.observed) == 1 and results(out) == ["p0", "p1", "p2"] and len(load_results(out)) == 3


@pytest.mark.parametrize("content", [b'{"photo": "x", ', b"\xff\xfe", b"[" * 100_000, b'{"photo": 1}\nnull\n[]', b""])
def test_damaged_lists_are_written_anew(photos, out, content):
    for name in ("failures.jsonl", "summary.jsonl", "index.html", "contact_sheet.png", "run.json", "thumbnails/p0.jpg"):
        (out / name).write_bytes(content)
    with (out / "failures.jsonl").open("ab") as file:
        file.write(b'\n{"photo": "gone.png", "stage": "load", "reason": "why"}\n')
    assert reconstruct(photos, out, resume=True) == 0
    assert [row["photo"] for row in rows(out / "failures.jsonl")] == ["gone.png"]
    assert [row["name"] for row in rows(out / "summary.jsonl")] == ["p0", "p1", "p2"]
    assert json.loads((out / "run.json").read_text())["status"] == "finished"
    Image.open(out / "contact_sheet.png").load()


@pytest.mark.parametrize("option", ["resume", "overwrite"])
def test_the_users_own_files_stay(photos, out, option):
    own = ["p1/note.txt", "p1/mine/deep.txt", "p1/hypotheses/note.txt", "thumbnails/me.jpg", "p1/crop.png"]
    for name in own:
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text("mine")
    assert reconstruct(photos, out, iterations=8, **{option: True}) == 0
    assert all((out / name).read_text() == "mine" for name in own)
    assert results(out) == ["p0", "p1", "p2"] and len(load_results(out)) == 3
    assert not list(out.rglob(f"{files.TEMPORARY_PREFIX}*"))


def test_files_with_our_names_in_a_foreign_folder_are_not_replaced(photos, tmp_path):
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "index.html").write_text("mine")
    with pytest.raises(UsageError, match=r"index.html, which flamejax did not write"):
        reconstruct(photos, tmp_path / "site", overwrite=True)
    assert [path.name for path in (tmp_path / "site").iterdir()] == ["index.html"]
    (tmp_path / "out" / "p0").mkdir(parents=True)
    (tmp_path / "out" / "p0" / "metrics.json").write_text('{"mine": 1}')
    assert reconstruct(photos, tmp_path / "out", overwrite=True) == 0
    assert (tmp_path / "out" / "p0" / "metrics.json").read_text() == '{"mine": 1}'
    assert set(results(tmp_path / "out")) == {"p0", "p0_2", "p1", "p2"}


def test_a_second_run_is_refused_while_the_first_writes(photos, tmp_path):
    message = rf"another run \(process {os.getpid()} on .*, since .*\) is writing to"

    class Second(FakeTools):
        def fit(self, head, observation):
            with pytest.raises(UsageError, match=message):
                reconstruct(photos, tmp_path / "out", resume=True)
            return super().fit(head, observation)

    assert reconstruct(photos, tmp_path / "out", Second()) == 0
    assert results(tmp_path / "out") == ["p0", "p1", "p2"] and not (tmp_path / "out" / LOCK).exists()


def test_the_lock_is_released_when_a_run_ends_early(photos, tmp_path):
    class Interrupted(FakeTools):
        def fit(self, head, observation):
            assert (tmp_path / "out" / LOCK).is_file()
            raise KeyboardInterrupt

    assert reconstruct(photos, tmp_path / "out", Interrupted()) == 130
    assert not (tmp_path / "out" / LOCK).exists()
    with pytest.raises(UsageError, match="not empty"):
        reconstruct(photos, tmp_path / "out")
    assert not (tmp_path / "out" / LOCK).exists()


def test_locks_of_ended_runs_are_taken_over_and_those_of_other_hosts_are_not(tmp_path):
    script = f"""
import os, signal
from pathlib import Path
from experiments.reconstruct.lock import FolderLock
FolderLock(Path({str(tmp_path)!r})).acquire()
os.kill(os.getpid(), signal.SIGKILL)
"""
    killed = subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=False)
    assert killed.returncode == -signal.SIGKILL
    record = json.loads((tmp_path / LOCK).read_text())
    assert {"process", "host", "boot", "started"} == record.keys()
    lock = FolderLock(tmp_path)
    lock.acquire()
    assert json.loads((tmp_path / LOCK).read_text())["process"] == os.getpid()
    lock.release()
    other = record | {"host": "elsewhere", "boot": "another"}
    for content, message in ((other, r"process \d+ on elsewhere.*delete .*\.lock"), ({"mine": 1}, "")):
        (tmp_path / LOCK).write_text(json.dumps(content))
        lock = FolderLock(tmp_path)
        if message:
            with pytest.raises(UsageError, match=message):
                lock.acquire()
        else:
            lock.acquire()
        lock.release()
    (tmp_path / LOCK).symlink_to("elsewhere")
    with pytest.raises(OSError, match=r"\.lock"):
        lock.acquire()


KILLED = """
    import os, signal, sys
    from pathlib import Path
    from experiments.reconstruct import command, live_lists, reconstruct_config
    from tests.experiments.fakes import HEAD, IDENTITY, FakeTools

    command.load_head = lambda path: (HEAD, IDENTITY)
    live_lists.SECONDS_BETWEEN_UPDATES, live_lists.MAX_TIME_SHARE = 0.0, 1e9

    class Killed(FakeTools):
        def fit(self, head, observation):
            if len(self.batches) == 4:
                os.kill(os.getpid(), signal.SIGKILL)
            return super().fit(head, observation)

    config = reconstruct_config((sys.argv[1],), Path(sys.argv[2]), size=64, batch_size=1, method="fit")
    command.run(config, None, Killed().tools)
"""


def test_a_killed_run_leaves_its_lists_and_progress(tmp_path):
    for i in range(6):
        write_photo(tmp_path / "in" / f"p{i}.png")
    (tmp_path / "in" / "a.jpg").write_text("broken")
    out = tmp_path / "out"
    command_line = [sys.executable, "-c", textwrap.dedent(KILLED), str(tmp_path / "in"), str(out)]
    ended = subprocess.run(command_line, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    listed = {row["name"] for row in rows(out / "summary.jsonl")}
    assert listed and listed <= set(results(out)) <= {"p0", "p1", "p2", "p3"}
    assert [Path(row["photo"]).name for row in rows(out / "failures.jsonl")] == ["a.jpg"]
    record = json.loads((out / "run.json").read_text())
    assert record["status"] == "running" and 1 <= record["photos_done"] <= 5 and record["photos_to_do"] == 7
    page = (out / "index.html").read_text()
    assert "of 7 photos of a run that has not ended" in page and "a.jpg" in page
    assert reconstruct(tmp_path / "in", out, resume=True) == 0
    assert [row["name"] for row in rows(out / "summary.jsonl")] == [f"p{i}" for i in range(6)]
    assert len(rows(out / "failures.jsonl")) == 1 and "has not ended" not in (out / "index.html").read_text()


@pytest.mark.parametrize("reason", ["No space left on device", "Read-only file system"])
@pytest.mark.parametrize("step", ["mkdir", "pwrite", "write"])
def test_a_full_or_read_only_folder_ends_in_one_line(photos, tmp_path, monkeypatch, reason, step):
    def refuse(*_args, **_options):
        raise OSError(28, reason)

    target = {"mkdir": (Path, "mkdir"), "pwrite": (os, "pwrite"), "write": (Path, "write_bytes")}[step]
    monkeypatch.setattr(*target, refuse)
    with pytest.raises(UsageError, match=rf"--output .*out: {reason}\.$"):
        reconstruct(photos, tmp_path / "out")
    assert not (tmp_path / "out" / LOCK).exists()


def test_main_returns_2_where_nothing_can_be_written(photos, monkeypatch, capsys):
    assert main([str(photos), "--output", "/proc/flamejax", "--method", "fit", "--local", "none"]) == 2
    assert "--output /proc/flamejax: No such file" in " ".join(capsys.readouterr().err.split())


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="has no pipes")
def test_odd_entries_of_a_folder_fail_alone(photos, tmp_path):
    (photos / "loop.jpg").symlink_to("loop.jpg")
    (photos / "gone.jpg").symlink_to("nowhere")
    (photos / "device.jpg").symlink_to("/dev/zero")
    (photos / "folder.jpg").mkdir()
    os.mkfifo(photos / "pipe.jpg")
    for resume in (False, True):
        assert reconstruct(photos, tmp_path / "out", resume=resume) == 0
        reasons = {Path(row["photo"]).name: row["reason"] for row in rows(tmp_path / "out/failures.jsonl")}
        assert sorted(reasons) == ["device.jpg", "gone.jpg", "loop.jpg", "pipe.jpg"]
        assert "not an image file" in reasons["pipe.jpg"] and "broken link" in reasons["loop.jpg"]
        assert results(tmp_path / "out") == ["p0", "p1", "p2"]
    (photos / "p1.png").unlink()  # a pipe where a photo was
    os.mkfifo(photos / "p1.png")
    assert reconstruct(photos, tmp_path / "out", resume=True) == 0


def test_photos_that_vanish_or_change_after_they_are_read(photos, tmp_path, monkeypatch):
    def load(path):
        image = load_image(path)
        if path.name == "p1.png":
            path.unlink()
        elif path.name == "p2.png":
            write_photo(path, colour=7)
        return image

    with monkeypatch.context() as patch:
        patch.setattr("experiments.reconstruct.observing.load_image", load)
        assert reconstruct(photos, tmp_path / "out") == 0
    assert results(tmp_path / "out") == ["p0", "p1", "p2"] and not rows(tmp_path / "out/failures.jsonl")
    fake = FakeTools()
    assert reconstruct(photos, tmp_path / "out", fake, resume=True) == 0 and len(fake.observed) == 1  # p2, as it is now


def test_every_file_of_a_result_is_checked(photos, out):
    for file in RESULT_FILES:
        content = (out / "p1" / file).read_bytes()
        (out / "p1" / file).write_bytes(content[: len(content) // 2] if file != "mesh.mtl" else b"")
        fake = FakeTools()
        assert reconstruct(photos, out, fake, resume=True) == 0 and len(fake.observed) == 1, file
    with np.load(out / "p1" / "params.npz") as arrays:
        assert arrays["vertices"].size
