"""Moves a random population to published head measurements, along the shape changes the population itself knows.

The change of shape that goes with one measurement, the others held, is the regression of the vertices on the
measurements within a sex. Adding it in the right amount to every person corrects a sex's means and standard deviations
and keeps everybody's other traits, asymmetry included. Nobody is moved further than the limits ask for.
"""

from __future__ import annotations

import numpy as np

from experiments.datasets.open_people.anthropometry import AGEING, NAMES, SEXES, measure, survey

MEAN_SLACK = 0.3  # survey standard deviations a sex's mean may keep of its own deviation
STD_SLACK = 0.12  # share of the survey's standard deviation that ours may keep of its own
AGE_CORRELATION = 0.25  # of the measurements in AGEING with age, within a sex


def wanted(own: np.ndarray, age: np.ndarray, sex: str) -> np.ndarray:
    """Measurements (n, 11) that the people of one sex, measuring `own`, should have; `age` (n,) of any scale."""
    mean, std = survey(sex)
    centre, spread = own.mean(0), own.std(0)
    z = (own - centre) / spread
    years = (age - age.mean()) / age.std()
    for k, name in enumerate(NAMES):
        if name in AGEING:
            rest = z[:, k] - (z[:, k] @ years) / len(years) * years
            z[:, k] = AGE_CORRELATION * years + np.sqrt(1 - AGE_CORRELATION**2) * rest / rest.std()
    mean = mean + np.clip(centre - mean, -MEAN_SLACK * std, MEAN_SLACK * std)
    return mean + z * np.clip(spread, (1 - STD_SLACK) * std, (1 + STD_SLACK) * std)


def calibrate(people: np.ndarray, male: np.ndarray, age: np.ndarray, rounds: int = 3) -> None:
    """Corrects `people` (n, V, 3) in place; `male` (n,) bool, `age` (n,)."""
    flat = people.reshape(len(people), -1)
    for _ in range(rounds):
        now = measure(people)
        centred, change = now.copy(), now.copy()
        for sex, members in zip(SEXES, (male, ~male), strict=True):
            centred[members] -= now[members].mean(0)
            change[members] = wanted(now[members], age[members], sex) - now[members]
        gain = np.linalg.solve(centred.T @ centred, centred.T).astype(np.float32)  # (11, n)
        fields = np.zeros((gain.shape[0], flat.shape[1]), np.float32)
        for members in (male, ~male):  # vertices about their own sex's mean
            fields += gain[:, members] @ (flat[members] - flat[members].mean(0))
        flat += change.astype(np.float32) @ fields
