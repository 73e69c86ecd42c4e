"""The table `fitting`: Diverse3DFace's Table 1 on the open scans, with what explains it (its Fig. 6 as well)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from experiments.datasets.observations import Landmarks, Look
from experiments.datasets.open_faces import Photo
from experiments.tables.fits import NO_FACE, Fitter, Job, Result
from experiments.tables.statistics import mean_of, ratio_of
from fitting.local_files import load_local_model
from fitting.local_model import with_local
from fitting.scan_fit import fit_scans
from flamejax.head import HeadModel
from flamejax.metrics.heads import aligned, mask_counts, rms

METHODS = ("mean", "global", "global+local")
OCCLUDERS = ("glasses", "face-mask", "random", "overall")
RANDOM = ("hand", "object")
ERRORS = ("rms_all", "rms_visible", "rms_all_aligned", "rms_visible_aligned")

Progress = Callable[[str, int], None]
"""Called with what is being done and how many photos are done since the last call."""


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

    def job(method: str, occluded: bool, masks: str) -> Job:
        return Job(method, Look(occluded, masks, landmarks), preset, seed)  # type: ignore[arg-type]

    both = {name: job(name, True, "given") for name in METHODS[1:]}
    if not robustness:
        return both
    return both | {
        "clean": job("global+local", False, "none"),
        "auto": job("global+local", True, "auto"),
        "auto clean": job("global+local", False, "auto"),
    }


def make(
    head: HeadModel, fitter: Fitter, photos: Sequence[Photo], wanted: dict[str, Job], progress: Progress
) -> FittingTable:
    """Fit the photos in every way and compare. A photo with a failed fit counts with what it got (the mean head, where
    nothing could be fitted), and rows say how many there are."""
    fits = {
        name: fitter.fit(photos, job, lambda count, name=name: progress(name, count))  # type: ignore[misc]
        for name, job in wanted.items()
    }
    floors = floor_vertices(head, photos, progress)
    at_root = np.asarray(head.v_template) - np.asarray(head.joint_template[0])
    found = {
        "mean": [at_root] * len(photos),
        "global": [result.vertices for result in fits["global"]],
        "global+local": [result.vertices for result in fits["global+local"]],
    }
    errors = {method: _errors(heads, photos) for method, heads in found.items()}
    floor = {method: _errors(heads, photos) for method, heads in floors.items()}
    return FittingTable(
        rows=[
            _row(m, o, errors[m], floor.get(m), photos, [r.code for r in fits.get(m, [])])
            for m in METHODS
            for o in OCCLUDERS
            if any(chosen(photos, o))
        ],
        ratios=[_ratio(o, errors, floor, photos) for o in OCCLUDERS if any(chosen(photos, o))],
        robustness=_robustness(fits, photos) if "auto" in fits else [],
        masks=_masks(fits, photos) if "auto" in fits else [],
        histogram={method: errors[method]["rms_all"].tolist() for method in METHODS},
    )


def chosen(photos: Sequence[Photo], occluder: str) -> np.ndarray:
    """(N,) bool: the photos of a row; `random` are hands and objects, `overall` all."""
    kinds = np.array([photo.occluder for photo in photos])
    if occluder == "overall":
        return np.ones(len(photos), bool)
    return np.isin(kinds, RANDOM) if occluder == "random" else kinds == occluder


def floor_vertices(head: HeadModel, photos: Sequence[Photo], progress: Progress) -> dict[str, list[np.ndarray]]:
    """method -> the most likely 3D fit of its model to each true head (V, 3), as `fit_scans` finds it."""
    truth = np.stack([photo.vertices for photo in photos])
    models = {"global": head, "global+local": with_local(head, load_local_model(head))}
    return {
        method: list(
            np.asarray(fit_scans(model, truth, advance=lambda n, m=method: progress(f"floor {m}", n)).vertices)  # type: ignore[misc]
        )
        for method, model in models.items()
    }


def _errors(heads: Sequence[np.ndarray], photos: Sequence[Photo]) -> dict[str, np.ndarray]:
    """Each of `ERRORS` for every photo, (N,)."""
    rows = []
    for found, photo in zip(heads, photos, strict=True):
        seen = photo.vertices_visible_occluded
        rows.append((
            rms(found, photo.vertices),
            rms(found, photo.vertices, seen),
            rms(aligned(found, photo.vertices), photo.vertices),
            rms(aligned(found, photo.vertices, seen), photo.vertices, seen),
        ))  # fmt: skip
    return dict(zip(ERRORS, np.array(rows).T, strict=True))


def _subjects(photos: Sequence[Photo]) -> np.ndarray:
    return np.array([photo.subject for photo in photos])


def _row(
    method: str,
    occluder: str,
    errors: dict[str, np.ndarray],
    floor: dict[str, np.ndarray] | None,
    photos: Sequence[Photo],
    codes: Sequence[int],
) -> dict:
    which, subjects = chosen(photos, occluder), _subjects(photos)
    row: dict = {"method": method, "occluder": occluder, "photos": int(which.sum())}
    row["failed"] = int(np.count_nonzero(np.asarray(codes)[which])) if codes else 0
    for name in ERRORS:
        value, low, high = mean_of(errors[name][which], subjects[which])
        row |= {name: value, f"{name}_low": low, f"{name}_high": high}
        row[f"floor_{name}"] = None if floor is None else float(np.nanmean(floor[name][which]))
    return row


def _ratio(
    occluder: str, errors: dict[str, dict[str, np.ndarray]], floor: dict[str, dict], photos: Sequence[Photo]
) -> dict:
    which, subjects = chosen(photos, occluder), _subjects(photos)
    row: dict = {"occluder": occluder}
    for name in ERRORS:
        local, whole = (errors[m][name][which] for m in ("global+local", "global"))
        value, low, high = ratio_of(local, whole, subjects[which])
        row |= {name: value, f"{name}_low": low, f"{name}_high": high}
        local, whole = (floor[m][name][which] for m in ("global+local", "global"))
        row[f"floor_{name}"] = float(np.nanmean(local) / np.nanmean(whole))
    return row


def _robustness(fits: dict[str, list[Result]], photos: Sequence[Photo]) -> list[dict]:
    subjects, rows = _subjects(photos), []
    errors: dict[str, dict[str, np.ndarray]] = {}
    for name in ("clean", "global+local", "auto"):
        errors[name] = _errors([result.vertices for result in fits[name]], photos)
    for occluder in OCCLUDERS:
        which = chosen(photos, occluder)
        if not which.any():
            continue
        for masks, name in (("given", "global+local"), ("auto", "auto")):
            row: dict = {"occluder": occluder, "masks": masks}
            for error in ("rms_visible", "rms_visible_aligned"):
                value, low, high = ratio_of(errors[name][error][which], errors["clean"][error][which], subjects[which])
                row |= {error: value, f"{error}_low": low, f"{error}_high": high}
                row[f"{error}_clean"] = float(np.nanmean(errors["clean"][error][which]))
            rows.append(row)
    return rows


def _masks(fits: dict[str, list[Result]], photos: Sequence[Photo]) -> list[dict]:
    rows = []
    pairs = zip(fits["auto"], fits["auto clean"], strict=True)
    faced = np.array([NO_FACE not in (one.code, clean.code) for one, clean in pairs])
    for occluder in ("glasses", "face-mask", *RANDOM, "overall"):
        which = np.flatnonzero(chosen(photos, occluder) & faced).tolist()
        if not which:
            continue
        found, clean = ([fits[name][k].occlusion_mask for k in which] for name in ("auto", "auto clean"))
        seen = [photos[k] for k in which]
        counts = [mask_counts(m, p.occlusion_mask, p.face_mask) for m, p in zip(found, seen, strict=True)]
        common, either = np.sum(counts, axis=0)
        called = sum(float((m * p.face_mask).sum()) for m, p in zip(clean, seen, strict=True))
        area = sum(float(p.face_mask.sum()) for p in seen)
        rows.append({
            "occluder": occluder, "photos": len(which), "iou": float(common / max(either, 1)),
            "false_on_clean": called / max(area, 1.0),
        })  # fmt: skip
    return rows
