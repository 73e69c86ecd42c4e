"""Expression space: the CC0 face units and MakeHuman's expression units, as 60 zero-centred components.

`jawOpen` and the eye-look units are joint rotations in our model and `mouthClose` only cancels `jawOpen`; `tongueOut`
moves nothing on the cut head. What is left is drawn at random and decomposed about the neutral face (not about its
mean, so zero coefficients are the neutral face).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .gaps import openings
from .geometry import Head
from .mouth import gap_operator, lip_gap, parting, shut
from .sources import FACE_UNITS, MPFB, Source
from .surface import Surface

EXPRESSIONS = MPFB + "targets/expression/units/"
DROPPED = ("jawOpen", "mouthClose", "tongueOut", "eyeLook", "unit-mouth-open")  # the last is the jaw's work too
LID_REACH = 0.004  # metres over the skin within which a correction of the lids fades


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
        if not f"unit-{name}".startswith(DROPPED):
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


def meet_lids(units: dict[str, np.ndarray], head: Head, surface: Surface) -> None:
    """Lets the lids of units that overclose them (a full blink: by 3 mm) just meet, in place."""
    for side in ("left", "right"):
        lids = openings(surface)[side]
        operator = gap_operator(head, surface, (lids.upper, lids.lower), LID_REACH)
        for name, field in units.items():
            rest, closed = lids.gap(surface.vertices), lids.gap(surface.vertices + field)
            if closed.min() > -1e-4:
                continue
            way = rest - closed
            share = np.median((rest / way)[way > 0.5 * way.max()])
            field = min(1.0, float(share)) * field
            units[name] = shut(operator, surface.vertices + field, 6) - surface.vertices


def build_expression(source: Source, head: Head, keep: np.ndarray, surface: Surface, config: Config = Config()) -> dict:
    """Components (K,V,3) in standard deviations, the units, and the coefficients that best reproduce each unit.

    `keep` (V,) multiplies every unit (zero at the neck's border). A component counts in both directions, so lips that
    part at +2 would cross at -2. Therefore all parting of the lips is taken out of the units and given to three
    components of its own (`parting` names them), which part the lips where positive; the others leave them as they are.
    """
    units = {k: v * keep[:, None] for k, v in load_units(source, head).items()}
    meet_lids(units, head, surface)
    lips = openings(surface)["lips"]
    operator = lip_gap(head, surface)
    gaps = np.array([lips.gap(surface.vertices + units[n]) - lips.gap(surface.vertices) for n in sorted(units)])
    whole = units
    units = {name: shut(operator, field, 6) for name, field in units.items()}
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
    basis = vectors[:, : config.components - 3].T @ mixed
    peak = np.take_along_axis(basis, np.abs(basis).argmax(1)[:, None], 1)
    basis *= np.sign(peak)
    modes = parting(operator, surface.vertices, lips).reshape(3, -1)
    modes *= np.sqrt(np.mean(((sigma[:, None] * root).T @ gaps) ** 2, 1).sum()) * np.array([[1.0], [0.6], [0.6]])
    basis = np.concatenate([basis, modes])
    order = np.argsort(-(basis**2).sum(1), kind="stable")
    basis = basis[order]
    wanted = np.stack([whole[n].reshape(-1) for n in names])
    coefficients = np.linalg.solve(basis @ basis.T, basis @ wanted.T).T
    left = wanted - coefficients @ basis
    cumulative = np.cumsum(values) / values.sum()
    moved = (np.abs(wanted).reshape(len(names), -1, 3).max(2) > 2e-4).sum(1)
    stats = {
        "units": len(names),
        "variance_kept": float(cumulative[config.components - 4]),
        "components_for": {str(q): int(np.searchsorted(cumulative, q) + 1) for q in (0.9, 0.99, 0.999)},
        "worst_unit_rms_mm": float(1e3 * np.sqrt((left**2).sum(1) / np.maximum(moved, 1)).max()),
        "parting_mm": (1e3 * np.abs(modes).max(1)).round(2).tolist(),
    }
    return {
        "basis": basis.reshape(config.components, -1, 3),
        "coefficients": dict(zip(names, coefficients, strict=True)),
        "parting": np.flatnonzero(order >= config.components - 3),
        "units": whole,
        "stats": stats,
    }


def neck_fade(template: np.ndarray, head: Head) -> np.ndarray:
    """(V,) 0 at the neck's border rising to 1 above it: expressions leave the cut where it is."""
    low = template[head.neck_loop, 1].max()
    t = np.clip((template[:, 1] - low) / 0.03, 0, 1)
    return t * t * (3 - 2 * t)
