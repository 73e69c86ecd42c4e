"""The command: writes the photos, runs and kills reconstructions, checks the output, prints the counts."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from rich.console import Console

from experiments.command_line import UsageError, message_console, print_error
from experiments.progress import progress_bar
from experiments.soak.files import write_photos

POLL_SECONDS = 0.1
MEMORY_AT = (100, 500, 1000)
"""Numbers of heads of one process at which its memory is recorded."""
FAULTS = ("lost", "done twice", "failures missing", "tracebacks", "unfinished files")
"""Counts that have to be 0."""
UNFINISHED = ".writing-"


@dataclass(frozen=True)
class SoakConfig:
    """Reconstruct many photos, some of them broken; kill the command at random moments, and resume it.

    Counts lost photos, photos done twice, and tracebacks. Exit status: 0 if these counts are 0.
    """

    files: int = 1000
    """Photos and broken files."""
    broken: float = 0.1
    """Share of the files that is broken, in 17 ways."""
    kills: int = 5
    """How often the command is killed (SIGKILL) while it writes, and resumed."""
    minutes: float = 0.0
    """Stop after this time with what is done until then; 0: no limit."""
    seed: int = 0
    """Seed of photos, broken files and moments of the kills."""
    workdir: Path | None = None
    """Empty folder for photos and results, which stay there; by default a temporary one, which is deleted."""
    options: tuple[str, ...] = ()
    """Further options of `flamejax reconstruct fit`."""
    json: Path | None = None
    """Write the counts here."""


@dataclass
class Watch:
    """What was observed while processes ran."""

    complete: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Name of a result -> inode and modification time of its metrics.json, when first seen complete."""
    repeated: set[str] = field(default_factory=set)
    """Results that were written again."""
    tracebacks: int = 0
    memory: dict[int, float] = field(default_factory=dict)
    """Heads written by one process -> its resident memory, MB: the largest over the processes."""
    peak_mb: float = 0.0
    statuses: list[int] = field(default_factory=list)
    rates: list[tuple[int, float]] = field(default_factory=list)
    """Heads of a process after its first, and the seconds that they took."""


def main(args: Sequence[str] | None = None, prog: str = "python -m experiments.soak") -> int:
    """Run the soak test. Returns the exit status (see `SoakConfig`)."""
    config = tyro.cli(SoakConfig, args=None if args is None else list(args), prog=prog)
    console = message_console()
    try:
        if config.workdir is not None:
            if config.workdir.exists() and any(config.workdir.iterdir()):
                raise UsageError(f"--workdir {config.workdir} is not empty.")
            counts = soak(config, config.workdir, console)
        else:
            with tempfile.TemporaryDirectory(prefix="flamejax-soak-") as folder:
                counts = soak(config, Path(folder), console)
    except UsageError as error:
        print_error(error)
        return 2
    for name, value in counts.items():
        print(f"{name:28} {value}")
    if config.json is not None:
        config.json.write_text(json.dumps(counts, indent=1) + "\n")
    return int(any(counts[name] for name in FAULTS))


def soak(config: SoakConfig, folder: Path, console: Console) -> dict[str, Any]:
    """Run the whole test in an empty folder. Returns the counts by name."""
    try:
        from skimage import data
    except ImportError as error:
        raise UsageError("the portrait comes with scikit-image: pip install 'flamejax[photos]'.") from error
    started, rng, watch = time.monotonic(), np.random.default_rng(config.seed), Watch()
    photos_folder, output = folder / "photos", folder / "out"
    photos_folder.mkdir(parents=True)
    photos, broken = write_photos(photos_folder, data.astronaut(), config.files, config.broken, config.seed)
    deadline = started + 60 * config.minutes if config.minutes else np.inf
    with progress_bar(console) as bar:
        task = bar.add_task("photos", total=len(photos))
        for turn in range(config.kills + 1):
            share = (turn + rng.uniform(0.3, 1.0)) / (config.kills + 1)
            target = int(share * len(photos)) if turn < config.kills else None
            delay = rng.uniform(0, 2)
            ended = _run_once(config, photos_folder, output, watch, target, delay, deadline, bar, task)
            if ended or time.monotonic() > deadline:
                break
    return _count(photos, broken, output, watch, time.monotonic() - started)


def _run_once(
    config: SoakConfig, photos: Path, output: Path, watch: Watch, target: int | None, delay: float, deadline: float,
    bar: Any, task: Any,
) -> bool:  # fmt: skip
    """Run the command once; kill it `delay` seconds after `target` results exist. Returns whether it ended itself."""
    command = [sys.executable, "-m", "experiments.reconstruct", "fit", str(photos), "--output", str(output)]
    command += ["--resume", *config.options] if output.exists() else config.options
    log = output.with_name(f"log-{len(watch.statuses)}.txt")
    with log.open("w") as errors, subprocess.Popen(command, stdout=errors, stderr=errors) as process:
        before, first, kill_at = len(watch.complete), None, np.inf
        while process.poll() is None:
            time.sleep(POLL_SECONDS)
            _observe_results(output, watch)
            done = len(watch.complete)
            bar.update(task, completed=done)
            memory = _resident_mb(process.pid)
            watch.peak_mb = max(watch.peak_mb, memory)
            for mark in MEMORY_AT:
                if done - before >= mark > done - before - 20:
                    watch.memory[mark] = max(watch.memory.get(mark, 0.0), memory)
            if first is None and done > before:
                first = (done, time.monotonic())
            if target is not None and done >= target:
                kill_at = min(kill_at, time.monotonic() + delay)
            if time.monotonic() >= kill_at:
                process.send_signal(signal.SIGKILL)
            elif time.monotonic() > deadline:
                process.send_signal(signal.SIGINT)
                deadline = np.inf
        ended = time.monotonic()
    _observe_results(output, watch)
    watch.statuses.append(process.returncode)
    watch.tracebacks += "Traceback" in log.read_text()
    if first is not None and len(watch.complete) > first[0]:
        watch.rates.append((len(watch.complete) - first[0], ended - first[1]))
    return process.returncode >= 0


def _observe_results(output: Path, watch: Watch) -> None:
    """Record new results, and results that were written again."""
    if not output.is_dir():
        return
    for entry in os.scandir(output):
        if entry.name.startswith(UNFINISHED):
            continue
        try:
            stat = os.stat(os.path.join(entry.path, "metrics.json"))  # noqa: PTH116, PTH118
        except OSError:
            continue
        key = stat.st_ino, stat.st_mtime_ns
        if watch.complete.setdefault(entry.name, key) != key:
            watch.repeated.add(entry.name)
            watch.complete[entry.name] = key


def _resident_mb(pid: int) -> float:
    """Return a process's resident memory in MB; 0 where the system has no /proc."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError, ValueError):
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def _rows(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a list over all photos; none if it was not written."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def _count(photos: list[Path], broken: list[Path], output: Path, watch: Watch, seconds: float) -> dict[str, Any]:
    failures = Counter(row["photo"] for row in _rows(output / "failures.jsonl"))
    done = Counter(Path(row["photo"]).name for row in _rows(output / "summary.jsonl"))
    heads = sum(count for count, _ in watch.rates)
    return {
        "photos": len(photos),
        "broken files": len(broken),
        "kills": sum(status == -signal.SIGKILL for status in watch.statuses),
        "lost": sum(done[path.name] + (str(path) in failures) == 0 for path in photos),
        "photos that failed": sum(str(path) in failures for path in photos),
        "done twice": len(watch.repeated) + sum(done[path.name] > 1 for path in photos),
        "failures missing": sum(failures[str(path)] != 1 for path in broken),
        "tracebacks": watch.tracebacks,
        "unfinished files": len(list(output.rglob(f"{UNFINISHED}*"))),
        "exit statuses": watch.statuses,
        "photos per second": round(heads / max(sum(s for _, s in watch.rates), 1e-9), 2),
        "peak memory, MB": round(watch.peak_mb),
        "memory at heads, MB": {count: round(memory) for count, memory in sorted(watch.memory.items())},
        "minutes": round(seconds / 60, 1),
    }
