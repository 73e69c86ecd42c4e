"""Expression space: the CC0 face units and MakeHuman's expression units, as 60 zero-centred components.

`jawOpen` and the eye-look units are joint rotations in our model and `mouthClose` only cancels `jawOpen`; `tongueOut`
moves nothing on the cut head. What is left is drawn at random and decomposed about the neutral face (not about its
mean, so zero coefficients are the neutral face).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .geometry import Head
from .sources import FACE_UNITS, MPFB, Source

EXPRESSIONS = MPFB + "targets/expression/units/"
DROPPED = ("jawOpen", "mouthClose", "tongueOut", "eyeLook")


@dataclass(frozen=True)
class Config:
    components: int = 60
    spread: float = 0.20  # root mean square activation of a unit in [0, 1]
    side_correlation: float = 0.7
    peak: float = 0.0038  # metres: an r.m.s. activation moves no vertex further than this


def load_units(source: Source, head: Head) -> dict[str, np.ndarray]:
    """Name -> (V,3) displacements; expression units are the mean over the three ethnicities."""
    units = {}
    for path in source.names(FACE_UNITS, ".target"):
        name = path.rsplit("/", 1)[1].removesuffix(".target")
        if not name.startswith(DROPPED):
            units[name] = head.carry(source.target(path))
    for path in source.names(EXPRESSIONS + "caucasian/", ".target.gz"):
        name = path.rsplit("/", 1)[1].removesuffix(".target.gz")
        fields = [source.target(path.replace("caucasian", e)) for e in ("african", "asian", "caucasian")]
        units["unit-" + name] = head.carry(np.mean(fields, axis=0))
    for field in units.values():
        field[head.part > 0] = 0  # gaze is a joint rotation
    return units


def _twin(name: str) -> str | None:
    """The other side's unit name, or None for a unit of both sides."""
    for a, b in (("Left", "Right"), ("-left-", "-right-")):
        if a in name:
            return name.replace(a, b)
        if b in name:
            return name.replace(b, a)
    return None


def build_expression(source: Source, head: Head, keep: np.ndarray, config: Config = Config()) -> dict:
    """Components (K,V,3) in standard deviations, the units, and the coefficients that best reproduce each unit.

    `keep` (V,) multiplies every unit (zero at the neck's border).
    """
    units = {k: v * keep[:, None] for k, v in load_units(source, head).items()}
    names = sorted(units)
    fields = np.stack([units[n].reshape(-1) for n in names])
    peaks = np.array([np.linalg.norm(units[n], axis=1).max() for n in names])
    sigma = np.minimum(config.spread, config.peak / peaks)
    correlation = np.eye(len(names))
    for i, name in enumerate(names):
        other = _twin(name)
        if other in names:
            correlation[i, names.index(other)] = config.side_correlation
    root = np.linalg.cholesky(correlation)  # second moment of the activations = (sigma root)(sigma root)^T
    mixed = (sigma[:, None] * root).T @ fields
    gram = mixed @ mixed.T
    values, vectors = np.linalg.eigh(gram)
    values, vectors = np.maximum(values[::-1], 0), vectors[:, ::-1]
    basis = vectors[:, : config.components].T @ mixed
    peak = np.take_along_axis(basis, np.abs(basis).argmax(1)[:, None], 1)
    basis *= np.sign(peak)
    coefficients = fields @ basis.T / np.maximum((basis**2).sum(1), 1e-20)
    left = fields - coefficients @ basis
    cumulative = np.cumsum(values) / values.sum()
    moved = (np.abs(fields).reshape(len(names), -1, 3).max(2) > 2e-4).sum(1)
    stats = {
        "units": len(names),
        "variance_kept": float(cumulative[config.components - 1]),
        "components_for": {str(q): int(np.searchsorted(cumulative, q) + 1) for q in (0.9, 0.99, 0.999)},
        "worst_unit_rms_mm": float(1e3 * np.sqrt((left**2).sum(1) / np.maximum(moved, 1)).max()),
    }
    return {
        "basis": basis.reshape(config.components, -1, 3),
        "coefficients": dict(zip(names, coefficients, strict=True)),
        "stats": stats,
    }


def neck_fade(template: np.ndarray, head: Head) -> np.ndarray:
    """(V,) 0 at the neck's border rising to 1 above it: expressions leave the cut where it is."""
    low = template[head.neck_loop, 1].max()
    t = np.clip((template[:, 1] - low) / 0.03, 0, 1)
    return t * t * (3 - 2 * t)
