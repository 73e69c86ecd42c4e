"""The photos that the tables of hypotheses are of."""

from __future__ import annotations

from collections.abc import Sequence

from experiments.datasets.observations import spread_out
from experiments.datasets.open_faces import Photo, data_source, load_photos
from experiments.datasets.open_faces.photos import kind_of
from experiments.datasets.open_faces.store import scan_list
from experiments.evaluate.config import EvaluateConfig
from experiments.evaluate.folder_photos import folder_cases
from experiments.tables.diverse_cases import Case, balanced, case_of
from experiments.tables.moving_occlusion import PLACES, frontality, with_patch
from experiments.tables.runs import Progress
from fitting.detector import LiteRTDetector
from flamejax.head import HeadModel

FRONTAL_OF = 3
"""For the moving patch so many times the photos are looked at, and the most frontal of them are taken: a patch on a
cheek that is turned away hides nothing."""


def cases_for(config: EvaluateConfig, head: HeadModel, progress: Progress) -> tuple[list[Case], list[str]]:
    """The photos of a table, those for the moving patch with the patch at every place; and a line for every photo that
    is left out."""
    moving = config.table == "moving-occlusion"
    if config.photos is not None:
        cases, failures = folder_cases(head, config.photos, config.most, progress, LiteRTDetector)
        return [with_patch(case, None, place) for place in PLACES for case in cases] if moving else cases, failures
    if not moving:
        return scan_cases(config, config.most)
    count = len(data_source(config.split, config.data))
    places = spread_out(count, None if config.most is None else FRONTAL_OF * config.most)
    pairs, failures = _observed(config, places, occluded=False)
    pairs = sorted(pairs, key=lambda pair: -frontality(pair[0]))[: config.most]
    return [with_patch(case, photo, place) for place in PLACES for case, photo in pairs], failures


def scan_cases(config: EvaluateConfig, limit: int | None, occluded: bool = True) -> tuple[list[Case], list[str]]:
    """Photos of the open scans, occluded or clean, balanced by occluder; and a line for every one that is left out."""
    pairs = scan_list(config.data, config.split)
    places = balanced([s for s, _ in pairs], [kind_of(*pair) for pair in pairs], limit)
    observed, failures = _observed(config, places, occluded)
    return [case for case, _ in observed], failures


def _observed(
    config: EvaluateConfig, places: Sequence[int], occluded: bool
) -> tuple[list[tuple[Case, Photo]], list[str]]:  # fmt: skip
    detector = LiteRTDetector() if config.landmarks == "detected" else None
    pairs, failures = [], []
    for photo in load_photos(config.split, config.data, indices=list(places)):
        case = case_of(photo, config.landmarks, detector, occluded)
        if case is None:
            failures.append(f"{photo.key}: no face was found.")
        else:
            pairs.append((case, photo))
    return pairs, failures
