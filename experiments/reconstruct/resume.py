"""What of the asked photos is done already, and under which names."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from experiments.photos import Photo, name_photos
from experiments.reconstruct.config import DRAWING
from experiments.reconstruct.store import Store
from experiments.results import photo_digest

Metrics = dict[str, Any]


@dataclass(frozen=True)
class Plan:
    """What a run has to do."""

    todo: list[Photo]
    done: list[Photo]
    taken: set[str]
    """Names that further faces of a photo must not take."""
    stale: dict[str, list[str]]
    """Name of a photo to do -> its results of other settings or of an earlier version of its file."""


def plan(store: Store, photos: Sequence[Photo], settings: dict[str, Any]) -> Plan:
    """Name the photos, keeping away from what lies in the output folder, and sort out those that are done.

    A result belongs to a photo of the same path, or of the same file name and content (so that a folder of photos and
    its results may move). It is kept when the photo's content and the settings are those that made it.
    """
    records, complete = store.records(), store.results().keys()
    digest = cache(_digest)
    owned = _owned_by(photos, records, digest)
    others = records.keys() - {name for names in owned.values() for name in names}
    taken = store.foreign_names() | others
    todo: list[Photo] = []
    done: list[Photo] = []
    stale: dict[str, list[str]] = {}
    for photo in name_photos(photos, taken):
        source = photo.path.resolve()
        own = [records[name] for name in owned[source]]
        # Of two equal files under one file name, each has its own result: then the name decides.
        own = [m for m in own if m["photo_path"] == str(source) or m["name"].startswith(photo.name)]
        kept = [m for m in own if m["name"] in complete and _serves(m, settings)]
        kept = [m for m in kept if m["photo_sha256"] == digest(source)]
        whole = bool(kept) and {m["face"] for m in kept} == set(range(kept[0]["num_faces"]))
        (done if whole else todo).append(photo)
        stale[photo.name] = [] if whole else [m["name"] for m in own if m not in kept]
    return Plan(todo, done, taken | {photo.name for photo in [*todo, *done]}, stale)


def _serves(metrics: Metrics, settings: dict[str, Any]) -> bool:
    """Whether a result is what these settings would give. One with hypotheses besides serves as a plain fit."""
    made = metrics["settings"]
    if settings.get("method") == "fit":
        made, settings = ({k: v for k, v in each.items() if k not in DRAWING} for each in (made, settings))
        return made == settings
    return made == settings and bool(metrics.get("hypotheses"))


def _owned_by(
    photos: Sequence[Photo], results: dict[str, Metrics], digest: Callable[[Path], str | None]
) -> dict[Path, list[str]]:
    """Resolved photo path -> names of its results."""
    by_path = {str(photo.path.resolve()): photo.path.resolve() for photo in photos}
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


def _digest(path: Path) -> str | None:
    try:
        return photo_digest(path)
    except OSError:
        return None
