"""Adjust a random population to published head measurements, by shape changes estimated from the population itself.

The shape change of one measurement, with the others constant, is the regression of the vertices on the measurements
within a sex. Multiples of these changes correct the means and standard deviations of each sex. They preserve all other
traits of a person, including asymmetry. People are moved no further than the limits require.
"""

from __future__ import annotations

import numpy as np

from experiments.datasets.open_people.anthropometry import AGEING, NAMES, SEXES, measure, survey

MEAN_SLACK = 0.3  # allowed deviation of a sex's mean, in the survey's standard deviations
STD_SLACK = 0.12  # allowed relative deviation from the survey's standard deviation
AGE_CORRELATION = 0.25  # correlation of the measurements in AGEING with age, within a sex


def target_measurements(measured: np.ndarray, age: np.ndarray, sex: str) -> np.ndarray:
    """Compute target measurements (n, 11) for the people of one sex from those measured; `age` (n,) in any unit."""
    mean, std = survey(sex)
    centre, spread = measured.mean(0), measured.std(0)
    z = (measured - centre) / spread
    years = (age - age.mean()) / age.std()
    for k, name in enumerate(NAMES):
        if name in AGEING:
            residual = z[:, k] - (z[:, k] @ years) / len(years) * years
            z[:, k] = AGE_CORRELATION * years + np.sqrt(1 - AGE_CORRELATION**2) * residual / residual.std()
    mean = mean + np.clip(centre - mean, -MEAN_SLACK * std, MEAN_SLACK * std)
    return mean + z * np.clip(spread, (1 - STD_SLACK) * std, (1 + STD_SLACK) * std)


def calibrate(people: np.ndarray, male: np.ndarray, age: np.ndarray, rounds: int = 3) -> None:
    """Adjust `people` (n, V, 3) in place; `male` (n,) bool, `age` (n,)."""
    flat = people.reshape(len(people), -1)
    for _ in range(rounds):
        measured = measure(people)
        centred, change = measured.copy(), measured.copy()
        for sex, members in zip(SEXES, (male, ~male), strict=True):
            centred[members] -= measured[members].mean(0)
            change[members] = target_measurements(measured[members], age[members], sex) - measured[members]
        gain = np.linalg.solve(centred.T @ centred, centred.T).astype(np.float32)  # (11, n)
        fields = np.zeros((gain.shape[0], flat.shape[1]), np.float32)
        for members in (male, ~male):  # vertices relative to the mean of their sex
            fields += gain[:, members] @ (flat[members] - flat[members].mean(0))
        flat += change.astype(np.float32) @ fields
