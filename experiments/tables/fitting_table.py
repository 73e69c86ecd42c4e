"""The table `fitting`: Diverse3DFace's Table 1 and Fig. 6 on the open scans, with further tables that explain it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from experiments.datasets.observations import Landmarks, ObservationOptions
from experiments.datasets.open_faces import ScanPhoto
from experiments.tables.fits import NO_FACE, FitJob, Fitter, PhotoFit
from experiments.tables.report import Column, Sheet, interval_text, number, sheet
from experiments.tables.runs import Progress, progress_tick
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
    """Method by occluder: Table 1, and the number of fits that `failed`. `floor_*` is the error of the model's most
    likely 3D fit to the complete true head (Eq. 3): the best possible result of a photo, but no strict bound for the
    visible or aligned errors."""
    ratios: list[dict]
    """global+local over global by occluder, with 95 % intervals, beside the ratio of the floors."""
    robustness: list[dict]
    """Ratio of errors, occluded over clean photo, on vertices visible in both, with given and with automatic masks."""
    masks: list[dict]
    """Pooled IoU of automatic masks by occluder, and the share of clean faces that they mark as hidden."""
    histogram: dict[str, list[float]]
    """method -> rms_all of each photo (Fig. 6)."""


def fit_jobs(preset: str, landmarks: Landmarks, seed: int, robustness: bool = True) -> dict[str, FitJob]:
    """Returns the fits that the table needs, by name; `robustness` adds clean photos and automatic masks."""
    options = {
        "global": ObservationOptions(True, "given", landmarks),
        "global+local": ObservationOptions(True, "given", landmarks),
        "clean": ObservationOptions(False, "none", landmarks),
        "auto": ObservationOptions(True, "auto", landmarks),
        "auto clean": ObservationOptions(False, "auto", landmarks),
    }
    names = list(options)[: None if robustness else 2]
    return {name: FitJob(name if name in METHODS else "global+local", options[name], preset, seed) for name in names}


def compute_table(
    head: HeadModel, fitter: Fitter, photos: Sequence[ScanPhoto], jobs: dict[str, FitJob], progress: Progress
) -> FittingTable:
    """Fit the photos by all jobs and compare. Failed fits count with their result (the mean head if there is no face);
    rows have their number."""
    fits = {name: fitter.fit(photos, job, progress_tick(progress, name, photos)) for name, job in jobs.items()}
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
            local_floor = np.nanmean(floors["global+local"][name][which])
            global_floor = np.nanmean(floors["global"][name][which])
            row[f"floor_{name}"] = float(local_floor / global_floor)
        ratios.append(row)
        for masks, job in (("given", "global+local"), ("auto", "auto")) if "auto" in fits else ():
            row = {"occluder": occluder, "masks": masks}
            for name in VISIBLE:
                row |= ratio(job, "clean", name, which)
                row[f"{name}_clean"] = float(np.nanmean(errors["clean"][name][which]))
            robustness.append(row)
    mask_rows = _mask_rows(fits["auto"], fits["auto clean"], photos) if "auto" in fits else []
    histogram = {method: errors[method]["rms_all"].tolist() for method in METHODS}
    return FittingTable(rows, ratios, robustness, mask_rows, histogram)


def floor_vertices(head: HeadModel, photos: Sequence[ScanPhoto], progress: Progress) -> dict[str, np.ndarray]:
    """Returns method -> the most likely 3D fits of its model to the true heads, (N, V, 3), by `fit_scans`."""
    truth = np.stack([photo.vertices for photo in photos])
    models = {"global": head, "global+local": with_local(head, load_local_model(head))}
    return {
        method: np.asarray(fit_scans(model, truth, advance=progress_tick(progress, f"floor {method}", photos)).vertices)
        for method, model in models.items()
    }


def _errors(heads: Sequence[np.ndarray] | np.ndarray, photos: Sequence[ScanPhoto]) -> Errors:
    rows = []
    for fitted, photo in zip(heads, photos, strict=True):
        truth, visible = photo.vertices, photo.vertices_visible_occluded
        aligned_all, aligned_visible = aligned(fitted, truth), aligned(fitted, truth, visible)
        plain = rms(fitted, truth), rms(fitted, truth, visible)
        rows.append((*plain, rms(aligned_all, truth), rms(aligned_visible, truth, visible)))
    return dict(zip(ERRORS, np.array(rows).T, strict=True))


def _mask_rows(auto: Sequence[PhotoFit], clean: Sequence[PhotoFit], photos: Sequence[ScanPhoto]) -> list[dict]:
    rows = []
    has_face = np.array([NO_FACE not in (a.code, c.code) for a, c in zip(auto, clean, strict=True)])
    kinds = np.where(has_face, [photo.occluder for photo in photos], "")
    for occluder, which in groups(kinds, ("glasses", "face-mask", *RANDOM, "overall")):
        if not (which & has_face).any():
            continue
        triples = [(auto[k], clean[k], photos[k]) for k in np.flatnonzero(which & has_face).tolist()]
        counts = [mask_counts(fit.occlusion_mask, p.occlusion_mask, p.face_mask) for fit, _, p in triples]
        intersection, union = np.sum(counts, axis=0)
        false_area = sum(float((fit.occlusion_mask * p.face_mask).sum()) for _, fit, p in triples)
        area = sum(float(p.face_mask.sum()) for _, _, p in triples)
        rows.append({
            "occluder": occluder, "photos": len(triples), "iou": float(intersection / max(union, 1)),
            "false_on_clean": false_area / max(area, 1.0),
        })  # fmt: skip
    return rows


def sheets(table: FittingTable) -> list[Sheet]:
    """Returns all tables as text."""

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
