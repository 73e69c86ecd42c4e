"""The expression space: 60 zero-centred components of the face units of `open_people.expression`.

Random activations of the units, as people use them (`activations`), are decomposed about the neutral face, not about
their mean. So zero coefficients are the neutral face.

A component is used in both directions, so lips that part at +2 would cross at -2. Therefore the parting of the lips is
removed from the units and given to three components of its own. So is the closing of the lids, to two components: both
eyes, and one eye more than the other. The other components leave shut lids and lips shut.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from experiments.datasets.open_people.activations import mirrored_name
from experiments.datasets.open_people.expression import load_units
from experiments.datasets.open_people.geometry import Head
from experiments.datasets.open_people.mouth import find_lips, gap_operator
from experiments.datasets.open_people.sources import MakeHumanSource
from tools.open_head import activations
from tools.open_head.lids import blinks, lid_operators
from tools.open_head.mouth import lip_partings, remove_gap_change
from tools.open_head.surface import MeanHeadSurface


@dataclass(frozen=True)
class ExpressionSpaceConfig:
    """Configuration of `build_expression`."""

    components: int = 60
    faces: int = 6000  # number of random faces that are decomposed
    seed: int = 2024
    part: tuple[float, float, float] = (0.0030, 0.0018, 0.0018)  # metres per standard deviation: middle, right, left
    close: float = 0.52  # share of a blink of both eyes per standard deviation
    wink: float = 0.22  # share of a blink of one eye, while the other opens as much
    peak: float = 0.0098  # metres: largest displacement of a component; beyond it a smile of +2 would fold the cheeks
    tail: float = 0.4  # per cent of the drawn faces that lie outside the range on either side


def build_expression(
    source: MakeHumanSource,
    head: Head,
    fade: np.ndarray,
    surface: MeanHeadSurface,
    config: ExpressionSpaceConfig = ExpressionSpaceConfig(),
) -> dict:
    """Return `basis` (K,V,3), metres per standard deviation, and the `range` (2,K) of plausible coefficients.

    `fade` (V,) multiplies every unit (zero at the neck's border). `parting` are the indices of the components that part
    the lips for positive coefficients, `closing` those of the lids, shut at about +1.9.
    """
    full_units = {k: v * fade[:, None] for k, v in load_units(source, head).items()}
    lips = find_lips(surface)
    operator = gap_operator(head, surface, lips)
    units = {name: remove_gap_change(operator, field, 6) for name, field in full_units.items()}
    for lid_operator in lid_operators(head, surface):
        units = {name: remove_gap_change(lid_operator, field, 6) for name, field in units.items()}
    names = sorted(units)
    fields = np.stack([units[n].reshape(-1) for n in names])
    peaks = np.array([np.linalg.norm(units[n], axis=1).max() for n in names])
    rng = np.random.default_rng(config.seed)
    drawn = activations.draw_activations(rng, names, np.maximum(peaks, 1e-4), config.faces)
    mirrored = np.array([names.index(mirrored_name(n)) for n in names])
    moment = drawn.T @ drawn / len(drawn)
    moment = (moment + moment[mirrored][:, mirrored]) / 2  # symmetrised, so that components are (anti)symmetric
    root = np.linalg.cholesky(moment + 1e-9 * np.eye(len(names)))
    mixed = root.T @ fields
    values, vectors = np.linalg.eigh(mixed @ mixed.T)
    values, vectors = np.maximum(values[::-1], 0), vectors[:, ::-1]
    number = config.components - 5  # three components part the lips, two close the lids
    basis = vectors[:, :number].T @ mixed
    # each face's coefficients: its field is activations @ fields, orthogonal to the omitted directions
    coefficients = drawn @ np.linalg.solve(basis @ basis.T, basis @ fields.T).T
    scale = np.where(coefficients.mean(0) < 0, -1.0, 1.0)  # positive is the direction that people use
    furthest = np.linalg.norm(basis.reshape(number, -1, 3), axis=2).max(1)
    scale *= np.minimum(1.0, config.peak / furthest)
    basis, coefficients = basis * scale[:, None], coefficients / scale
    low, high = np.percentile(coefficients, [config.tail, 100 - config.tail], axis=0)
    limits = np.stack([np.clip(low, -2.5, 0), np.clip(high, 0, 2.5)])
    part = lip_partings(operator, surface.vertices, lips).reshape(3, -1) * np.array(config.part)[:, None]
    left, right = blinks(full_units, head, surface).reshape(2, -1)
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
        "stats": _stats(basis, full_units, names, left + right, cumulative, number),
    }


def _stats(basis, units, names, blink, cumulative, number: int) -> dict:
    """Measure the basis: residuals of the units, and the Mahalanobis lengths of complete expressions."""
    fields = np.stack([units[n].reshape(-1) for n in names])
    gram = basis @ basis.T
    residual = fields - np.linalg.solve(gram, basis @ fields.T).T @ basis
    moved = (np.abs(fields).reshape(len(names), -1, 3).max(2) > 2e-4).sum(1)
    faces = {name: activations.full_activations(name, names) @ fields for name in activations.EXPRESSIONS}
    lengths = {n: np.linalg.norm(np.linalg.solve(gram, basis @ f)) for n, f in {"blink": blink, **faces}.items()}
    return {
        "units": len(names),
        "variance_kept": float(cumulative[number - 1]),
        "components_for": {str(q): int(np.searchsorted(cumulative, q) + 1) for q in (0.9, 0.99, 0.999)},
        "worst_unit_rms_mm": float(1e3 * np.sqrt((residual**2).sum(1) / np.maximum(moved, 1)).max()),
        "lengths": {name: round(float(n), 2) for name, n in lengths.items()},
    }
