"""Test cases of OFER's identity tables: landmarks of people whom neither training nor any linear model knows."""

from __future__ import annotations

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from experiments.cache import array_digest
from experiments.training.ofer.coefficients import ScanCoefficients, rest_coefficients
from experiments.training.ofer.examples import Source, draw_params, make_source, photographed_points
from flamejax.head import HeadModel, ShapedHead, landmarks_from_vertices, pose_shaped

COVERED = (("none", 0.1), ("up to half", 0.5), ("over half", 1.0))
"""Rows by the share of landmarks that are hidden, up to and with these; a tenth is what is missing for no reason."""
AT_ONCE = 50


@dataclasses.dataclass(frozen=True)
class OferCase:
    """One person with an expression, a pose and an occluder, as landmarks; numpy."""

    key: str
    subject: int
    """Who: intervals draw people, not cases."""
    points: np.ndarray
    """(68, 2) as `experiments.training.ofer.examples.Examples.points`."""
    visible: np.ndarray
    """(68,) 1 = visible."""
    neutral: np.ndarray
    """(V, 3) metres: the true neutral face at rest, the root joint at the origin."""

    @property
    def covered(self) -> float:
        """Share of hidden landmarks."""
        return 1.0 - float(self.visible.mean())

    @property
    def occluder(self) -> str:
        """The row of `COVERED`."""
        return next(name for name, most in COVERED if self.covered <= most)

    @property
    def digest(self) -> str:
        """A short name of all that is in it."""
        return array_digest(np.concatenate([self.points.ravel(), self.visible, self.neutral.ravel()]))


def case_source(head: HeadModel, split: str) -> Source:
    """What cases are drawn from: the expressions of a split's scans, which are built when they are missing."""
    from experiments.datasets.open_faces import load_scans

    scans = load_scans(split, "test" if split == "test" else "full")
    _, expression = rest_coefficients(head, scans.unposed)
    betas = np.zeros((len(expression), head.num_betas), np.float32)
    return make_source(head, ScanCoefficients(betas, expression, scans.joint_rotations[:, 2], scans.subject))


def draw_cases(head: HeadModel, source: Source, people: np.ndarray, limit: int | None, seed: int) -> list[OferCase]:
    """A case of each of the first people (N, V, 3), metres, neutral faces at rest in the head's topology (all where
    there are not so many, or limit is None). It depends on the person's number and the seed alone."""
    people = people[:limit]
    root = np.asarray(head.J_regressor[0], np.float32)
    people = (people - np.einsum("v,nvd->nd", root, people)[:, None]).astype(np.float32)
    cases = []
    for start in range(0, len(people), AT_ONCE):
        places = np.minimum(np.arange(start, start + AT_ONCE), len(people) - 1)
        keys = jax.vmap(partial(jax.random.fold_in, jax.random.key(seed)))(places)
        points, visible = map(np.asarray, _photographed(head, source, people[places], keys))
        for k, number in enumerate(range(start, min(start + AT_ONCE, len(people)))):
            cases.append(OferCase(f"person_{number:04d}", number, points[k], visible[k], people[number]))
    return cases


@jax.jit
def _photographed(head: HeadModel, source: Source, people: Array, keys: Array) -> tuple[Array, Array]:
    params = jax.vmap(lambda key: draw_params(source, jax.random.fold_in(key, 0)))(keys)
    joints = jax.vmap(lambda rest: jnp.matmul(head.J_regressor, rest, precision="highest"))(people)
    # The head's basis moves them; `params.betas` is not looked at.
    verts = pose_shaped(head, ShapedHead(people, joints), params)
    points = landmarks_from_vertices(head, verts, params)
    return photographed_points(source, points, jax.vmap(lambda key: jax.random.fold_in(key, 1))(keys))
