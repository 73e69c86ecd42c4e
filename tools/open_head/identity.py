"""The identity space: principal components of the population of `open_people.identity`."""

from __future__ import annotations

import numpy as np

from experiments.datasets.open_people.geometry import Head
from experiments.datasets.open_people.identity import PopulationConfig, calibrated_population
from experiments.datasets.open_people.sources import MakeHumanSource

COMPONENTS = 150


def pca(samples: np.ndarray, components: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return mean (D,), components (K, D) scaled to one standard deviation, and all variances (N,), of samples (N, D).

    Uses the Gram matrix, since N is smaller than D."""
    mean = samples.mean(0, dtype=np.float64)
    x = (samples - mean).astype(np.float32)
    gram = (x @ x.T).astype(np.float64) / (len(x) - 1)
    values, vectors = np.linalg.eigh(gram)
    values, vectors = np.maximum(values[::-1], 0), vectors[:, ::-1]
    basis = (x.T @ vectors[:, :components].astype(np.float32)).T.astype(np.float64) / np.sqrt(len(x) - 1)
    peak = np.take_along_axis(basis, np.abs(basis).argmax(1)[:, None], 1)
    return mean, basis * np.sign(peak), values


def build_identity(source: MakeHumanSource, head: Head, root: np.ndarray, root_share: np.ndarray) -> dict:
    """Return the identity space as a dict.

    `mean` (V,3) with its root joint at the origin, `basis` (K,V,3) in metres per standard deviation, `stats`,
    `variance_share` (K,), `sex_direction` (K,): half the difference of the mean coefficients, men minus women, and
    `age_direction` (K,): the coefficients' regression on age in standard deviations.

    `root` (V,) regresses the root joint; `root_share` (V,) is the root's skinning weight. Components do not move that
    joint (a shift of the head is translation, not shape), so variances are those of the head frame.
    """
    people, drawn = calibrated_population(source, head, PopulationConfig(), root_share)
    people -= np.einsum("v,nvd->nd", root.astype(np.float32), people)[:, None]
    mean, basis, values = pca(people.reshape(len(people), -1), COMPONENTS)
    mean = mean.reshape(-1, 3)
    scores = (people.reshape(len(people), -1) - mean.reshape(-1).astype(np.float32)) @ basis.T.astype(np.float32)
    scores = scores / (basis**2).sum(1)
    male, age = drawn["male"], (drawn["age"] - drawn["age"].mean()) / drawn["age"].std()
    skin = head.part == 0
    cumulative = np.cumsum(values) / values.sum()
    spread = (people - mean.astype(np.float32))[:, skin]
    stats = {
        "skin_std_mm": float(1e3 * np.sqrt(np.square(spread, dtype=np.float64).sum(2).mean())),
        "components_for": {str(q): int(np.searchsorted(cumulative, q) + 1) for q in (0.9, 0.95, 0.99, 0.999)},
        "variance_kept": float(cumulative[COMPONENTS - 1]),
        "first_share": float(cumulative[0]),
    }
    return {
        "mean": mean,
        "basis": basis.reshape(COMPONENTS, -1, 3),
        "variance_share": (values / values.sum())[:COMPONENTS],
        "sex_direction": (scores[male].mean(0) - scores[~male].mean(0)) / 2,
        "age_direction": (scores * age[:, None]).mean(0),
        "stats": stats,
    }
