"""Test cases of OFER's identity tables: landmarks of people in neither the training data nor any linear model."""

from __future__ import annotations

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from experiments.cache import array_digest
from experiments.training.ofer.coefficients import ScanCoefficients, rest_coefficients
from experiments.training.ofer.examples import ExampleSource, draw_params, make_example_source, simulate_landmarks
from flamejax.head import HeadModel, ShapedHead, landmarks_from_vertices, pose_shaped

COVERED = (("none", 0.1), ("up to half", 0.5), ("over half", 1.0))
"""Names of rows, and the largest share of hidden landmarks in each; up to a tenth may be missing at random."""
BATCH = 50


@dataclasses.dataclass(frozen=True)
class OferCase:
    """Landmarks of one person with an expression, a pose and an occluder; NumPy."""

    key: str
    subject: int
    """Number of the person; bootstrap intervals draw people, not cases."""
    points: np.ndarray
    """(68, 2) as `experiments.training.ofer.examples.Examples.points`."""
    visible: np.ndarray
    """(68,), 1 = visible."""
    neutral: np.ndarray
    """(V, 3) metres, the true neutral face in the rest pose, with the root joint at the origin."""

    @property
    def covered(self) -> float:
        """Share of hidden landmarks."""
        return 1.0 - float(self.visible.mean())

    @property
    def occluder(self) -> str:
        """Name of the case's row in `COVERED`."""
        return next(name for name, most in COVERED if self.covered <= most)

    @property
    def digest(self) -> str:
        """A digest of the case's arrays."""
        return array_digest(np.concatenate([self.points.ravel(), self.visible, self.neutral.ravel()]))


def case_source(head: HeadModel, split: str) -> ExampleSource:
    """Returns a source with the expressions of a split's scans, which are built if they are missing."""
    from experiments.datasets.open_faces import load_scans

    scans = load_scans(split, "test" if split == "test" else "full")
    _, expression = rest_coefficients(head, scans.unposed)
    betas = np.zeros((len(expression), head.num_betas), np.float32)
    return make_example_source(head, ScanCoefficients(betas, expression, scans.joint_rotations[:, 2], scans.subject))


def draw_cases(
    head: HeadModel, source: ExampleSource, people: np.ndarray, limit: int | None, seed: int
) -> list[OferCase]:  # fmt: skip
    """Draw a case for each of the first `limit` people; for all, if limit is None.

    Each depends only on the person's number and the seed.

    Args:
      people: (N, V, 3) metres, neutral faces in the rest pose, in the head's topology.
    """
    people = people[:limit]
    root = np.asarray(head.J_regressor[0], np.float32)
    people = (people - np.einsum("v,nvd->nd", root, people)[:, None]).astype(np.float32)
    cases = []
    for start in range(0, len(people), BATCH):
        indices = np.minimum(np.arange(start, start + BATCH), len(people) - 1)
        keys = jax.vmap(partial(jax.random.fold_in, jax.random.key(seed)))(indices)
        points, visible = map(np.asarray, _simulate(head, source, people[indices], keys))
        for k, number in enumerate(range(start, min(start + BATCH, len(people)))):
            cases.append(OferCase(f"person_{number:04d}", number, points[k], visible[k], people[number]))
    return cases


@jax.jit
def _simulate(head: HeadModel, source: ExampleSource, people: Array, keys: Array) -> tuple[Array, Array]:
    params = jax.vmap(lambda key: draw_params(source, jax.random.fold_in(key, 0)))(keys)
    joints = jax.vmap(lambda rest: jnp.matmul(head.J_regressor, rest, precision="highest"))(people)
    # The head's pose and expression deform the given shapes; `params.betas` is not used.
    verts = pose_shaped(head, ShapedHead(people, joints), params)
    points = landmarks_from_vertices(head, verts, params)
    return simulate_landmarks(source, points, jax.vmap(lambda key: jax.random.fold_in(key, 1))(keys))
