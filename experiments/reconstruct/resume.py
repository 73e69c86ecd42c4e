"""Decides which photos are already done, and names the results."""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.photos import PhotoFile, name_photos, real_path
from experiments.reconstruct.settings import DRAWING_SETTINGS, INPUT_SETTINGS
from experiments.reconstruct.store import Store
from experiments.results import short_digest

Metrics = dict[str, Any]


@dataclass(frozen=True)
class Plan:
    """The photos that a run reconstructs, and those that it skips."""

    todo: list[PhotoFile]
    done: list[PhotoFile]
    reserved_names: set[str]
    """Names that further faces of a photo must not get."""
    stale: dict[str, list[str]]
    """Name of a photo in `todo` -> its results of other settings or of an earlier version of its file."""


def plan(
    store: Store,
    photos: Sequence[PhotoFile],
    settings: dict[str, Any],
    record_inputs: Callable[[PhotoFile], dict[str, Any]],
    overwrite: bool = False,
) -> Plan:
    """Name the photos, avoiding names in the output folder, and separate those that are done from the others.

    A result belongs to a photo of the same path, or of the same file name and content (so that a folder of photos and
    its results may move). It is valid if neither the photo's content nor the settings nor what the user gave for the
    photo have changed since.

    Args:
        record_inputs: returns what the user gives for a photo, as `GivenInputs.record`.
        overwrite: whether earlier results will be deleted, so that all photos are to do.
    """
    records, complete = ({}, set()) if overwrite else (store.records(), set(store.results()))
    digest = functools.cache(functools.partial(short_digest, digits=64))
    owned = _owned_by(photos, records, digest)
    others = records.keys() - {name for names in owned.values() for name in names}
    reserved = store.foreign_names() | others
    todo: list[PhotoFile] = []
    done: list[PhotoFile] = []
    stale: dict[str, list[str]] = {}
    for photo in name_photos(photos, reserved):
        source = real_path(photo.path)
        own = [records[name] for name in owned[source]]
        # Two equal files with one file name have a result each: then the name decides.
        own = [m for m in own if m["photo_path"] == str(source) or m["name"].startswith(photo.name)]
        valid = [m for m in own if m["name"] in complete and _has_settings(m, settings, record_inputs(photo))]
        valid = [m for m in valid if m["photo_sha256"] == digest(source)]
        has_all_faces = bool(valid) and {m["face"] for m in valid} == set(range(valid[0]["num_faces"]))
        (done if has_all_faces else todo).append(photo)
        stale[photo.name] = [] if has_all_faces else [m["name"] for m in own if m not in valid]
    return Plan(todo, done, reserved | {photo.name for photo in [*todo, *done]}, stale)


def _has_settings(metrics: Metrics, settings: dict[str, Any], inputs: dict[str, Any]) -> bool:
    """Return whether these settings and inputs would give this result. For the method `fit`, it may have hypotheses.

    Results of early versions do not record the inputs: the same folders of inputs count as the same inputs.
    """
    is_fit, has_inputs = settings.get("method") == "fit", metrics.get("inputs") is not None
    ignored = (DRAWING_SETTINGS if is_fit else ()) + (INPUT_SETTINGS if has_inputs else ())
    recorded, current = (
        {name: value for name, value in each.items() if name not in ignored} for each in (metrics["settings"], settings)
    )
    same_inputs = not has_inputs or metrics["inputs"] == inputs
    return recorded == current and same_inputs and (is_fit or bool(metrics.get("hypotheses")))


def _owned_by(
    photos: Sequence[PhotoFile], results: dict[str, Metrics], digest: Callable[[Path], str | None]
) -> dict[Path, list[str]]:
    """Map each resolved photo path to the names of its results."""
    by_path = {str(real_path(photo.path)): real_path(photo.path) for photo in photos}
    by_file_name = defaultdict(list)
    for source in by_path.values():
        by_file_name[source.name].append(source)
    owned: dict[Path, list[str]] = {source: [] for source in by_path.values()}
    for name, metrics in results.items():
        recorded = metrics["photo_path"]
        if recorded in by_path:
            owned[by_path[recorded]].append(name)
            continue
        for source in by_file_name[Path(recorded).name]:
            if digest(source) == metrics["photo_sha256"]:
                owned[source].append(name)
    return owned
