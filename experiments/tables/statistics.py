"""Means, ratios and their intervals, with subjects as the unit that is drawn; and the occluders that rows are of."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

DRAWS = 2000
OCCLUDERS = ("glasses", "face-mask", "random", "overall")
"""Of rows: `random` are hands and objects, `overall` is everything."""
RANDOM = ("hand", "object")
ALL = slice(None)

Interval = tuple[float, float, float]
"""A value, and the lower and upper end of its 95 % interval."""


def bootstrap(
    values: np.ndarray, subjects: np.ndarray, statistic: Callable[[np.ndarray], np.ndarray], draws: int = DRAWS
) -> Interval:
    """A statistic with its interval, subjects drawn with replacement (photos of one subject are not independent).

    Args:
      values: (N, K) a row per photo; NaN counts nowhere. subjects: (N,) whose photo it is.
      statistic: of the K column means (..., K) -> (...).
    """
    names, place = np.unique(subjects, return_inverse=True)
    known = np.isfinite(values)
    sums = np.stack([np.bincount(place, np.where(known[:, k], values[:, k], 0.0)) for k in range(values.shape[1])], 1)
    counts = np.stack([np.bincount(place, known[:, k].astype(float)) for k in range(values.shape[1])], 1)
    picks = np.random.default_rng(0).integers(0, len(names), (draws, len(names)))
    with np.errstate(invalid="ignore", divide="ignore"):
        drawn = statistic(sums[picks].sum(1) / counts[picks].sum(1))
        value = statistic(sums.sum(0) / counts.sum(0))
    low, high = np.nanpercentile(drawn, [2.5, 97.5]) if np.isfinite(drawn).any() else (np.nan, np.nan)
    return float(value), float(low), float(high)


def mean_of(values: np.ndarray, subjects: np.ndarray) -> Interval:
    """Mean of (N,) values with its interval."""
    return bootstrap(values[:, None], subjects, lambda means: means[..., 0])


def ratio_of(values: np.ndarray, reference: np.ndarray, subjects: np.ndarray) -> Interval:
    """Ratio of two means over the same photos, with its interval."""
    return bootstrap(np.stack([values, reference], axis=1), subjects, lambda means: means[..., 0] / means[..., 1])


def difference_of(values: np.ndarray, reference: np.ndarray, subjects: np.ndarray) -> Interval:
    """Difference of two means over the same photos, with its interval."""
    return bootstrap(np.stack([values, reference], axis=1), subjects, lambda means: means[..., 0] - means[..., 1])


def columns(name: str, found: Sequence[float], subjects: np.ndarray | None = None) -> dict:
    """Columns `name`, `name_low` and `name_high` of a row, None for what is no number. subjects: (N,) whose values they
    are; one subject has no interval."""
    found = found if subjects is None or len(set(subjects.tolist())) > 1 else (found[0], math.nan, math.nan)
    return dict(zip((name, f"{name}_low", f"{name}_high"), map(none_of, found), strict=True))


def mean_columns(values: Mapping[str, np.ndarray], names: Sequence[str], subjects: np.ndarray) -> dict:
    """`columns` of the means of values (N,), for each of `names`."""
    row: dict = {}
    for name in names:
        row |= columns(name, mean_of(values[name], subjects), subjects)
    return row


def subjects_of(cases: Sequence[Any]) -> np.ndarray:
    """(N,) whose photos or landmarks cases are."""
    return np.array([case.subject for case in cases])


def none_of(value: float) -> float | None:
    """None for what JSON has no number for."""
    return float(value) if math.isfinite(value) else None


def groups(kinds: Sequence[str] | np.ndarray, names: Sequence[str] = OCCLUDERS) -> Iterator[tuple[str, np.ndarray]]:
    """The occluders of rows, and which (N,) bool of the photos' occluders `kinds` these are; without empty rows."""
    kinds = np.asarray(kinds)
    for name in names:
        which = np.isin(kinds, RANDOM if name == "random" else name) | (name == "overall")
        if which.any():
            yield name, which
