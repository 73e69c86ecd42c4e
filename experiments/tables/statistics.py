"""Means and ratios with bootstrap intervals over subjects, and groups of photos by occluder."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

DRAWS = 2000
OCCLUDERS = ("glasses", "face-mask", "random", "overall")
"""Occluders of rows: `random` are hands and objects, `overall` is everything."""
RANDOM = ("hand", "object")
ALL = slice(None)

Interval = tuple[float, float, float]
"""A value, and the lower and upper end of its 95 % interval."""


def bootstrap(
    values: np.ndarray, subjects: np.ndarray, statistic: Callable[[np.ndarray], np.ndarray], draws: int = DRAWS
) -> Interval:
    """Returns a statistic with its 95 % bootstrap interval, from subjects drawn with replacement, since photos of one
    subject are not independent.

    Args:
      values: (N, K), a row per photo; NaN is ignored. subjects: (N,) subject of each photo.
      statistic: a function of the K column means, (..., K) -> (...).
    """
    names, index = np.unique(subjects, return_inverse=True)
    finite = np.isfinite(values)
    sums = np.stack([np.bincount(index, np.where(finite[:, k], values[:, k], 0.0)) for k in range(values.shape[1])], 1)
    counts = np.stack([np.bincount(index, finite[:, k].astype(float)) for k in range(values.shape[1])], 1)
    picks = np.random.default_rng(0).integers(0, len(names), (draws, len(names)))
    with np.errstate(invalid="ignore", divide="ignore"):
        drawn = statistic(sums[picks].sum(1) / counts[picks].sum(1))
        value = statistic(sums.sum(0) / counts.sum(0))
    low, high = np.nanpercentile(drawn, [2.5, 97.5]) if np.isfinite(drawn).any() else (np.nan, np.nan)
    return float(value), float(low), float(high)


def mean_of(values: np.ndarray, subjects: np.ndarray) -> Interval:
    """Returns the mean of values (N,) with its interval."""
    return bootstrap(values[:, None], subjects, lambda means: means[..., 0])


def ratio_of(values: np.ndarray, reference: np.ndarray, subjects: np.ndarray) -> Interval:
    """Returns the ratio of two means over the same photos, with its interval."""
    return bootstrap(np.stack([values, reference], axis=1), subjects, lambda means: means[..., 0] / means[..., 1])


def difference_of(values: np.ndarray, reference: np.ndarray, subjects: np.ndarray) -> Interval:
    """Returns the difference of two means over the same photos, with its interval."""
    return bootstrap(np.stack([values, reference], axis=1), subjects, lambda means: means[..., 0] - means[..., 1])


def columns(name: str, interval: Sequence[float], subjects: np.ndarray | None = None) -> dict:
    """Returns columns `name`, `name_low` and `name_high` of a row, None instead of NaN. subjects: (N,) of the values; a
    single subject has no interval."""
    if subjects is not None and len(set(subjects.tolist())) <= 1:
        interval = interval[0], math.nan, math.nan
    return dict(zip((name, f"{name}_low", f"{name}_high"), map(finite_or_none, interval), strict=True))


def mean_columns(values: Mapping[str, np.ndarray], names: Sequence[str], subjects: np.ndarray) -> dict:
    """Returns the `columns` of the means of values (N,), for each of `names`."""
    row: dict = {}
    for name in names:
        row |= columns(name, mean_of(values[name], subjects), subjects)
    return row


def subjects_of(cases: Sequence[Any]) -> np.ndarray:
    """Returns the subjects of cases, (N,)."""
    return np.array([case.subject for case in cases])


def finite_or_none(value: float) -> float | None:
    """Returns the value, or None if it is not finite, which JSON cannot represent."""
    return float(value) if math.isfinite(value) else None


def groups(kinds: Sequence[str] | np.ndarray, names: Sequence[str] = OCCLUDERS) -> Iterator[tuple[str, np.ndarray]]:
    """Yields each row's occluder and a mask (N,) bool of its photos, from their occluders `kinds`. Skips empty rows."""
    kinds = np.asarray(kinds)
    for name in names:
        which = np.isin(kinds, RANDOM if name == "random" else name) | (name == "overall")
        if which.any():
            yield name, which
