"""The table `fitting`: Diverse3DFace's Table 1 on the open scans, with what explains it (its Fig. 6 as well)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from experiments.datasets.observations import Landmarks, Look
from experiments.datasets.open_faces import Photo
from experiments.tables.fits import NO_FACE, Fitter, Job, Result
from experiments.tables.report import Column, Sheet, interval_text, number, sheet
from experiments.tables.runs import Progress, tick_of
from experiments.tables.statistics import RANDOM, columns, groups, mean_of, ratio_of, subjects_of
from fitting.local_files import load_local_model
from fitting.local_model import with_local
from fitting.scan_fit import fit_scans
from flamejax.head import HeadModel
from flamejax.metrics import aligned, mask_counts, rms

METHODS = ("mean", "global", "global+local")
ERRORS = ("rms_all", "rms_visible", "rms_all_aligned", "rms_visible_aligned")
VISIBLE = ("rms_visible", "rms_visible_aligned")

Errors = dict[str, np.ndarray]
"""Each of `ERRORS` for every photo, (N,)."""


@dataclass(frozen=True)
class FittingTable:
    """The rows, as printed and as written."""

    rows: list[dict]
    """Method by occluder: Table 1, and how many fits `failed`. `floor_*` is the model's most likely 3D fit to the whole
    true head (Eq. 3): what a photo could tell at best, though no strict bound on the visible or aligned part."""
    ratios: list[dict]
    """global+local over global by occluder, with 95 % intervals, beside the ratio of the floors."""
    robustness: list[dict]
    """Growth of the error on vertices seen in both photos, occluded over clean, with given and with found masks."""
    masks: list[dict]
    """IoU of found masks, pooled, by occluder, and the share of clean faces that is called hidden."""
    histogram: dict[str, list[float]]
    """method -> rms_all of each photo (Fig. 6)."""


def jobs(preset: str, landmarks: Landmarks, seed: int, robustness: bool = True) -> dict[str, Job]:
    """The fits that the table needs, by name; `robustness` adds clean photos and masks that are found."""
    looks = {
        "global": Look(True, "given", landmarks),
        "global+local": Look(True, "given", landmarks),
        "clean": Look(False, "none", landmarks),
        "auto": Look(True, "auto", landmarks),
        "auto clean": Look(False, "auto", landmarks),
    }
    names = list(looks)[: None if robustness else 2]
    return {name: Job(name if name in METHODS else "global+local", looks[name], preset, seed) for name in names}


def make(
    head: HeadModel, fitter: Fitter, photos: Sequence[Photo], wanted: dict[str, Job], progress: Progress
) -> FittingTable:
    """Fit the photos in every way and compare. A photo with a failed fit counts with what it got (the mean head, where
    nothing could be fitted), and rows say how many there are."""
    fits = {name: fitter.fit(photos, job, tick_of(progress, name, photos)) for name, job in wanted.items()}
    floors = {method: _errors(heads, photos) for method, heads in floor_vertices(head, photos, progress).items()}
    at_root = np.asarray(head.v_template) - np.asarray(head.joint_template[0])
    errors = {"mean": _errors([at_root] * len(photos), photos)}
    errors |= {name: _errors([result.vertices for result in results], photos) for name, results in fits.items()}
    failed = {name: np.array([result.code != 0 for result in results]) for name, results in fits.items()}
    subjects, kinds = subjects_of(photos), [photo.occluder for photo in photos]
    rows, ratios, robustness = [], [], []

    def ratio(job: str, reference: str, name: str, which: np.ndarray) -> dict:
        pair = errors[job][name][which], errors[reference][name][which]
        return columns(name, ratio_of(*pair, subjects[which]))

    for method in METHODS:
        for occluder, which in groups(kinds):
            row: dict = {"method": method, "occluder": occluder, "photos": int(which.sum())}
            row["failed"] = int(failed[method][which].sum()) if method in failed else 0
            for name in ERRORS:
                row |= columns(name, mean_of(errors[method][name][which], subjects[which]))
                row[f"floor_{name}"] = float(np.nanmean(floors[method][name][which])) if method in floors else None
            rows.append(row)
    for occluder, which in groups(kinds):
        row = {"occluder": occluder}
        for name in ERRORS:
            row |= ratio("global+local", "global", name, which)
            local, whole = (np.nanmean(floors[method][name][which]) for method in ("global+local", "global"))
            row[f"floor_{name}"] = float(local / whole)
        ratios.append(row)
        for masks, job in (("given", "global+local"), ("auto", "auto")) if "auto" in fits else ():
            row = {"occluder": occluder, "masks": masks}
            for name in VISIBLE:
                row |= ratio(job, "clean", name, which)
                row[f"{name}_clean"] = float(np.nanmean(errors["clean"][name][which]))
            robustness.append(row)
    masks_found = _masks(fits["auto"], fits["auto clean"], photos) if "auto" in fits else []
    histogram = {method: errors[method]["rms_all"].tolist() for method in METHODS}
    return FittingTable(rows, ratios, robustness, masks_found, histogram)


def floor_vertices(head: HeadModel, photos: Sequence[Photo], progress: Progress) -> dict[str, np.ndarray]:
    """method -> the most likely 3D fit of its model to each true head (N, V, 3), as `fit_scans` finds it."""
    truth = np.stack([photo.vertices for photo in photos])
    models = {"global": head, "global+local": with_local(head, load_local_model(head))}
    return {
        method: np.asarray(fit_scans(model, truth, advance=tick_of(progress, f"floor {method}", photos)).vertices)
        for method, model in models.items()
    }


def _errors(heads: Sequence[np.ndarray] | np.ndarray, photos: Sequence[Photo]) -> Errors:
    rows = []
    for found, photo in zip(heads, photos, strict=True):
        truth, seen = photo.vertices, photo.vertices_visible_occluded
        moved = aligned(found, truth), aligned(found, truth, seen)
        rows.append((rms(found, truth), rms(found, truth, seen), rms(moved[0], truth), rms(moved[1], truth, seen)))
    return dict(zip(ERRORS, np.array(rows).T, strict=True))


def _masks(auto: Sequence[Result], clean: Sequence[Result], photos: Sequence[Photo]) -> list[dict]:
    rows = []
    faced = np.array([NO_FACE not in (one.code, other.code) for one, other in zip(auto, clean, strict=True)])
    kinds = np.where(faced, [photo.occluder for photo in photos], "")
    for occluder, which in groups(kinds, ("glasses", "face-mask", *RANDOM, "overall")):
        if not (which & faced).any():
            continue
        seen = [(auto[k], clean[k], photos[k]) for k in np.flatnonzero(which & faced).tolist()]
        counts = [mask_counts(found.occlusion_mask, p.occlusion_mask, p.face_mask) for found, _, p in seen]
        common, either = np.sum(counts, axis=0)
        called = sum(float((found.occlusion_mask * p.face_mask).sum()) for _, found, p in seen)
        area = sum(float(p.face_mask.sum()) for _, _, p in seen)
        rows.append({
            "occluder": occluder, "photos": len(seen), "iou": float(common / max(either, 1)),
            "false_on_clean": called / max(area, 1.0),
        })  # fmt: skip
    return rows


def sheets(table: FittingTable) -> list[Sheet]:
    """All tables as text."""

    def beside(name: str, other: str, text: str) -> Column:
        return name, lambda row: interval_text(row, name) + text.format(row[other])

    def with_floor(name: str) -> Column:
        def text(row: dict) -> str:
            floor = row[f"floor_{name}"]
            return f"{row[name]:.2f}" + ("" if floor is None else f" (floor {floor:.2f})")

        return name, text

    ratios = [beside(name, f"floor_{name}", "; {:.2f}") for name in ERRORS]
    growth = [c for n in VISIBLE for c in (beside(n, n, ""), number(f"{n}_clean", 2, "clean"))]
    return [
        sheet(
            "Per-vertex RMS x 1000 m; floor: the model's 3D fit to the true head", table.rows,
            "method", "occluder", "photos", "failed", *map(with_floor, ERRORS),
        ),
        sheet("global+local / global (95 % interval); of the floors", table.ratios, "occluder", *ratios),
        sheet(
            "Error on visible vertices, occluded / clean photo (95 % interval)", table.robustness,
            "occluder", "masks", *growth,
        ),
        sheet(
            "Automatic masks within the face", table.masks,
            "occluder", "photos", number("iou", 3, "IoU"), number("false_on_clean", 3, "called hidden on clean faces"),
        ),
    ]  # fmt: skip
