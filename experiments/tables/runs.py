"""Common parts of the tables' runs: progress, batches of one size, and results cached under a digest of their inputs,
so that a stopped run resumes and tables share results."""

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
"""Called with the number of items done since the last call."""
Progress = Callable[[str, int, int], None]
"""Called with the name of a task, its number of items, and the number done since the last call."""


def no_tick(count: int) -> None:
    """Does nothing: for runs without a progress bar."""


def progress_tick(progress: Progress, name: str, items: Sized) -> Tick:
    """Returns a tick for one progress bar over the items."""
    return lambda count: progress(name, len(items), count)


def batches(count: int, size: int) -> Iterator[tuple[list[int], int]]:
    """Yields indices of `count` items in batches of one size, and how many of each batch are new. The last batch is
    padded with copies of the last item, so that nothing is compiled twice."""
    for start in range(0, count, size):
        yield [min(start + k, count - 1) for k in range(size)], min(size, count - start)


def load_or_compute(
    paths: Sequence[Path], kind: type[T], compute: Callable[[list[int]], Iterable[T]], tick: Tick = no_tick
) -> list[T]:
    """Returns results, of the dataclass `kind`, from their files. `compute` gets the indices of missing or damaged
    ones, and yields these results in order; each is written at once."""
    results: dict[int, T] = {k: tree for k, path in enumerate(paths) if (tree := read_tree(path, kind)) is not None}
    tick(len(results))
    missing = [k for k in range(len(paths)) if k not in results]
    for k, result in zip(missing, compute(missing), strict=True):
        write_tree(paths[k], result)
        results[k] = result
        tick(1)
    return [results[k] for k in range(len(paths))]


def run_folder(base: Path | None, name: str, code_paths: tuple[str, ...], *settings: object) -> Path:
    """Returns the cache folder of a run's results, below `base`, by default the data folder's `evaluate`.

    It is named by the version of the code in `code_paths` and a digest of settings (numbers, texts, dataclasses, lists
    and dictionaries of these).
    """
    text = json.dumps(settings, sort_keys=True, default=dataclasses.asdict)
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    return (base or data_folder() / "evaluate") / code_version(code_paths) / f"{name}-{digest}"


def head_id(head: HeadModel) -> list[str]:
    """Returns what identifies a head in settings: name, version and geometry hash."""
    return [head.name, head.version, geometry_hash(head)]


@functools.cache
def code_version(code_paths: tuple[str, ...]) -> str:
    """Returns a digest of code and data files, in folders or single ones, with paths from the project's root.

    Results of different code are thus never mixed. Raises: FileNotFoundError, there is no such folder or file.
    """
    state = hashlib.sha256()
    for root in (ROOT / name for name in code_paths):
        for path in sorted(root.rglob("*")) if root.is_dir() else [root]:
            # Weights of networks are not code: users of weights add their digest to the settings.
            weights = path.is_relative_to(ROOT / "models" / "assets")
            if path.suffix in (".py", ".npz", ".json", ".tflite") and not weights:
                state.update(path.relative_to(ROOT).as_posix().encode() + path.read_bytes())
    return state.hexdigest()[:12]
