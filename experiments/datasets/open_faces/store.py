"""Files of the open scans, and their generation: one file per task, which appears only when it is complete.

    $FLAMEJAX_DATA/open_faces/VERSION/sources.npz                          the 300 people and the face units
    $FLAMEJAX_DATA/open_faces/VERSION/people-14142.npz                     300 other people without scans, of that seed
    $FLAMEJAX_DATA/open_faces/VERSION/scans/subject_0271.npy               the twelve scans of a subject
    $FLAMEJAX_DATA/open_faces/VERSION/photos/subject_0271-mouth_open.npz   a scan's photos, masks and visibility
    $FLAMEJAX_DATA/open_faces/VERSION/tfds/                                the packed photos, which are read

A file depends only on the seed and its own number. A killed run can therefore be continued, and `test` is a part of
`full`, byte by byte. Tasks run in worker processes with one thread each, because sums depend on the number of threads.
"""

from __future__ import annotations

import contextlib
import io
import os
import queue
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from experiments import cache
from experiments.datasets.open_faces.expressions import EXPRESSIONS
from experiments.datasets.open_faces.scans import SubjectScans
from experiments.datasets.open_faces.subjects import SPLITS, VERSION, ConfigName, subjects
from experiments.progress import progress_counter
from experiments.runtime import data_folder
from flamejax.files import remove_unfinished, write_bytes

ROOT = Path(__file__).resolve().parents[3]
SLICE_EXPRESSIONS = tuple(EXPRESSIONS.index(name) for name in ("eyebrow", "high_smile", "mouth_extreme"))
"""Expressions of `slice`: one for each kind of occluder for every subject."""


def folder() -> Path:
    """Returns the folder of this version of the data; it may not exist yet."""
    return data_folder() / "open_faces" / VERSION


def sources_path() -> Path:
    return folder() / "sources.npz"


def people_path(seed: int) -> Path:
    return folder() / f"people-{seed}.npz"


def scans_path(subject: int) -> Path:
    return folder() / "scans" / f"subject_{subject:04d}.npy"


def photo_path(subject: int, expression: int) -> Path:
    return folder() / "photos" / f"{key(subject, expression)}.npz"


def key(subject: int, expression: int) -> str:
    """Returns the name of a scan and its photos."""
    return f"subject_{subject:04d}-{EXPRESSIONS[expression]}"


def expressions(config: ConfigName) -> tuple[int, ...]:
    """Returns the indices of the expressions in a config."""
    return SLICE_EXPRESSIONS if config == "slice" else tuple(range(len(EXPRESSIONS)))


def scan_list(config: ConfigName, split: str) -> list[tuple[int, int]]:
    """List the pairs (subject, expression) of a split in reading order."""
    return [(s, e) for s in subjects(config, split) for e in expressions(config)]


def write_scans(scans: SubjectScans, path: Path) -> None:
    """Write one array (E, 2 V + 5, 3): vertices, unposed vertices and joint rotations, without a time stamp."""
    rows = np.concatenate([scans.vertices, scans.unposed, scans.joint_rotations], axis=1)
    buffer = io.BytesIO()
    np.save(buffer, rows, allow_pickle=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, buffer.getvalue())


def read_scans(path: Path) -> SubjectScans:
    """Read a file of `write_scans`, memory-mapped so that a few rows are cheap."""
    rows = np.load(path, mmap_mode="r", allow_pickle=False)
    count = (rows.shape[1] - 5) // 2
    return SubjectScans(rows[:, :count], rows[:, count : 2 * count], rows[:, 2 * count :])


def read_photo(path: Path) -> dict[str, np.ndarray]:
    """Read a photo's arrays, which `cache.write_arrays` wrote, by name."""
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def missing_scans(config: ConfigName) -> list[str]:
    """List tasks for the subjects without a file, those of the test split first."""
    numbers = [s for split in reversed(SPLITS) for s in subjects(config, split)]
    return [f"scans {s}" for s in numbers if not scans_path(s).exists()]


def missing_photos(config: ConfigName) -> list[str]:
    """List tasks for the photos without a file, those of the test split first, grouped by subject."""
    pairs = [pair for split in reversed(SPLITS) for pair in scan_list(config, split)]
    return [f"photo {s} {e}" for s, e in pairs if not photo_path(s, e).exists()]


def make_scans(config: ConfigName, workers: int | None = None) -> None:
    """Make the missing meshes of a config, with a progress bar on stderr.

    Raises:
        RuntimeError: a worker failed; its last messages are in the error.
    """
    if not missing_scans(config):
        return
    _remove_unfinished_files()
    if not sources_path().exists():
        run_tasks(["sources"], 1, "open faces: people and face units from the CC0 wheel (15 s)")
    run_tasks(missing_scans(config), workers, f"open faces '{config}': scans")


def make_people(seed: int) -> None:
    """Sample the people of a seed, if their file is missing; raises as `make_scans`."""
    if not people_path(seed).exists():
        _remove_unfinished_files()
        run_tasks([f"people {seed}"], 1, "open faces: new people from the CC0 wheel (15 s)")


def make_photos(config: ConfigName, workers: int | None = None) -> None:
    """Make the missing photos and meshes of a config; raises as `make_scans`."""
    make_scans(config, workers)
    _remove_unfinished_files()
    run_tasks(missing_photos(config), workers, f"open faces '{config}': photos")


def file_lock() -> contextlib.AbstractContextManager[None]:
    """Returns the lock of the data's folder: only one process builds at a time."""
    return cache.file_lock(folder(), "open faces")


def drop_photos(config: ConfigName) -> None:
    """Delete the photo files of a config, which are not needed after packing."""
    for split in SPLITS:
        for subject, expression in scan_list(config, split):
            photo_path(subject, expression).unlink(missing_ok=True)


def run_tasks(tasks: Sequence[str], workers: int | None, title: str) -> None:
    """Run tasks in worker processes, with a progress bar.

    Raises:
        RuntimeError: a worker failed.
    """
    if not tasks:
        return
    queued: queue.SimpleQueue[str] = queue.SimpleQueue()
    for task in tasks:
        queued.put(task)
    count = min(workers or os.cpu_count() or 1, len(tasks))
    errors: list[str] = []
    with progress_counter(title, len(tasks)) as advance:

        def run_worker() -> None:
            for _ in _worker(queued, errors):
                advance()

        threads = [threading.Thread(target=run_worker, daemon=True) for _ in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    if errors:
        raise RuntimeError(f"{title}: a worker failed.\n{errors[0]}")


def _worker(queued: queue.SimpleQueue[str], errors: list[str]) -> Iterator[str]:
    """Run one worker process until no task is left; yields each finished task.

    It reads tasks from its standard input, so it ends whenever this process ends.
    """
    one_thread = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_multi_thread_eigen=false".strip()
    environment = os.environ | one_thread | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", "experiments.datasets.open_faces.worker"]
    with tempfile.TemporaryFile("w+") as messages:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=messages, text=True, cwd=ROOT,
            env=environment,
        )  # fmt: skip
        assert process.stdin is not None and process.stdout is not None
        try:
            while not errors:
                try:
                    task = queued.get_nowait()
                    process.stdin.write(task + "\n")
                    process.stdin.flush()
                except (queue.Empty, BrokenPipeError):
                    break
                if process.stdout.readline() != f"done {task}\n":
                    break
                yield task
        finally:
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
            if process.wait():
                messages.seek(0)
                last_lines = "\n".join(messages.read().strip().splitlines()[-15:])
                errors.append(last_lines or f"it ended with {process.returncode}")
            process.stdout.close()


def _remove_unfinished_files() -> None:
    """Delete unfinished files of killed runs."""
    for name in ("", "scans", "photos"):
        (folder() / name).mkdir(parents=True, exist_ok=True)
        remove_unfinished(folder() / name)
