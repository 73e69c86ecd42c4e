"""Expression space: the face units of `open_people.expression` as 60 zero-centred components.

The units are drawn at random as people use them (`activations`) and decomposed about the neutral face (not about its
mean, so zero coefficients are the neutral face).

A component counts in both directions, so lips that part at +2 would cross at -2. Therefore all parting of the lips is
taken out of the units and given to three components of its own, and all closing of the lids to two: both eyes, and one
eye more than the other. Whatever the other components do, shut lids and lips stay shut.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from experiments.datasets.open_people.activations import twin
from experiments.datasets.open_people.expression import load_units
from experiments.datasets.open_people.geometry import Head
from experiments.datasets.open_people.mouth import gap_operator, lips_of
from experiments.datasets.open_people.sources import Source
from tools.open_head import activations
from tools.open_head.lids import blinks, lid_operators
from tools.open_head.mouth import parting, shut
from tools.open_head.surface import Surface


@dataclass(frozen=True)
class Config:
    components: int = 60
    faces: int = 6000
    seed: int = 2024
    part: tuple[float, float, float] = (0.0030, 0.0018, 0.0018)  # metres per standard deviation: middle, right, left
    close: float = 0.52  # share of a blink of both eyes per standard deviation
    wink: float = 0.22  # of one eye, the other opening as much
    peak: float = 0.0098  # metres: no component moves a vertex further, or a smile of +2 would fold the cheeks
    tail: float = 0.4  # per cent of the drawn faces left outside the range on either side


def build_expression(source: Source, head: Head, keep: np.ndarray, surface: Surface, config: Config = Config()) -> dict:
    """Components (K,V,3) in standard deviations and the range (2,K) in which they make faces of people.

    `keep` (V,) multiplies every unit (zero at the neck's border). `parting` names the components that part the lips
    where positive, `closing` those of the lids: shut at about +1.9.
    """
    whole = {k: v * keep[:, None] for k, v in load_units(source, head).items()}
    lips = lips_of(surface)
    operator = gap_operator(head, surface, lips)
    eyes = lid_operators(head, surface)
    units = {name: shut(operator, field, 6) for name, field in whole.items()}
    for eye in eyes:
        units = {name: shut(eye, field, 6) for name, field in units.items()}
    names = sorted(units)
    fields = np.stack([units[n].reshape(-1) for n in names])
    peaks = np.array([np.linalg.norm(units[n], axis=1).max() for n in names])
    drawn = activations.draw(np.random.default_rng(config.seed), names, np.maximum(peaks, 1e-4), config.faces)
    mirrored = np.array([names.index(twin(n)) for n in names])
    moment = drawn.T @ drawn / len(drawn)
    moment = (moment + moment[mirrored][:, mirrored]) / 2  # both sides alike, so components are (anti)symmetric
    root = np.linalg.cholesky(moment + 1e-9 * np.eye(len(names)))
    mixed = root.T @ fields
    values, vectors = np.linalg.eigh(mixed @ mixed.T)
    values, vectors = np.maximum(values[::-1], 0), vectors[:, ::-1]
    own = 5
    number = config.components - own
    basis = vectors[:, :number].T @ mixed
    # each face's coefficients: its field is activations @ fields, orthogonal to the left-out directions
    found = drawn @ np.linalg.solve(basis @ basis.T, basis @ fields.T).T
    scale = np.where(found.mean(0) < 0, -1.0, 1.0)  # positive is what people do, not its opposite
    furthest = np.linalg.norm(basis.reshape(number, -1, 3), axis=2).max(1)
    scale *= np.minimum(1.0, config.peak / furthest)
    basis, found = basis * scale[:, None], found / scale
    low, high = np.percentile(found, [config.tail, 100 - config.tail], axis=0)
    limits = np.stack([np.clip(low, -2.5, 0), np.clip(high, 0, 2.5)])
    part = parting(operator, surface.vertices, lips).reshape(3, -1) * np.array(config.part)[:, None]
    left, right = blinks(whole, head, surface).reshape(2, -1)
    basis = np.concatenate([basis, part, [config.close * (left + right)], [config.wink * (left - right)]])
    limits = np.concatenate([limits, [[0, 0, 0, -0.3, -0.6], [2.5, 2.5, 2.5, 2.0, 0.6]]], axis=1)
    order = np.argsort(-(basis**2).sum(1), kind="stable")
    basis, limits = basis[order], limits[:, order]
    cumulative = np.cumsum(values) / values.sum()
    return {
        "basis": basis.reshape(config.components, -1, 3),
        "range": limits,
        "parting": np.flatnonzero((order >= number) & (order < number + 3)),
        "closing": np.array([int(np.flatnonzero(order == number + k)[0]) for k in (3, 4)]),
        "stats": _stats(basis, whole, names, left + right, cumulative, number),
    }


def _stats(basis, whole, names, blink, cumulative, number: int) -> dict:
    """How far the components reach: what the units leave over, and the Mahalanobis lengths of whole expressions."""
    wanted = np.stack([whole[n].reshape(-1) for n in names])
    gram = basis @ basis.T
    left = wanted - np.linalg.solve(gram, basis @ wanted.T).T @ basis
    moved = (np.abs(wanted).reshape(len(names), -1, 3).max(2) > 2e-4).sum(1)
    faces = {name: activations.full(name, names) @ wanted for name in activations.WHOLE}
    lengths = {n: np.linalg.norm(np.linalg.solve(gram, basis @ f)) for n, f in {"blink": blink, **faces}.items()}
    return {
        "units": len(names),
        "variance_kept": float(cumulative[number - 1]),
        "components_for": {str(q): int(np.searchsorted(cumulative, q) + 1) for q in (0.9, 0.99, 0.999)},
        "worst_unit_rms_mm": float(1e3 * np.sqrt((left**2).sum(1) / np.maximum(moved, 1)).max()),
        "lengths": {name: round(float(n), 2) for name, n in lengths.items()},
    }
