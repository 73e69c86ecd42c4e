"""What runs of the tables share: progress, batches of one size, and results that are kept under a digest of all that
decides them, so that a stopped run goes on and tables share what they have in common."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from pathlib import Path
from typing import TypeVar

import experiments
from experiments.cache import read_tree, write_tree
from experiments.runtime import data_folder
from flamejax.head import HeadModel, geometry_hash

ROOT = Path(experiments.__file__).parents[1]
T = TypeVar("T")

Tick = Callable[[int], None]
"""Called with how many were done since the last call."""
Progress = Callable[[str, int, int], None]
"""Called with what is done, how many there are, and how many were done since the last call."""


def no_tick(count: int) -> None:
    """For runs that nobody watches."""


def tick_of(progress: Progress, name: str, things: Sized) -> Tick:
    """What counts the things of one bar."""
    return lambda count: progress(name, len(things), count)


def batches(count: int, size: int) -> Iterator[tuple[list[int], int]]:
    """Places of `count` things in batches of one size, the last filled up with copies of the last thing, so that
    nothing is compiled twice; and how many of a batch are new."""
    for start in range(0, count, size):
        yield [min(start + k, count - 1) for k in range(size)], min(size, count - start)


def resumed(
    paths: Sequence[Path], kind: type[T], make: Callable[[list[int]], Iterable[T]], tick: Tick = no_tick
) -> list[T]:
    """Results, of a dataclass `kind`, from the files of earlier runs, each named by all that decides it. Those that are
    missing or damaged are made and kept one by one: `make` is given their places, and yields them in order."""
    found: dict[int, T] = {k: one for k, path in enumerate(paths) if (one := read_tree(path, kind)) is not None}
    tick(len(found))
    missing = [k for k in range(len(paths)) if k not in found]
    for k, one in zip(missing, make(missing), strict=True):
        write_tree(paths[k], one)
        found[k] = one
        tick(1)
    return [found[k] for k in range(len(paths))]


def run_folder(base: Path | None, name: str, rooms: tuple[str, ...], *settings: object) -> Path:
    """Where results of a run are kept: below `base`, by default the data folder's `evaluate`, by the version of the
    code in `rooms` and a digest of settings (numbers, texts, dataclasses, lists and dictionaries of these)."""
    text = json.dumps(settings, sort_keys=True, default=dataclasses.asdict)
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    return (base or data_folder() / "evaluate") / code_version(rooms) / f"{name}-{digest}"


def head_id(head: HeadModel) -> list[str]:
    """What names a head among settings."""
    return [head.name, head.version, geometry_hash(head)]


@functools.cache
def code_version(rooms: tuple[str, ...]) -> str:
    """A digest of code and data files in folders, or of single files, named from the project's root: results of other
    code are not mixed with this one's. Raises: FileNotFoundError, there is no such folder or file."""
    state = hashlib.sha256()
    for room in (ROOT / name for name in rooms):
        inside = sorted(room.rglob("*")) if room.is_dir() else [room]
        for path in inside:
            # Weights of networks are not code: whoever uses them names them by their own digest.
            weights = path.is_relative_to(ROOT / "models" / "assets")
            if path.suffix in (".py", ".npz", ".json", ".tflite") and not weights:
                state.update(path.relative_to(ROOT).as_posix().encode() + path.read_bytes())
    return state.hexdigest()[:12]
