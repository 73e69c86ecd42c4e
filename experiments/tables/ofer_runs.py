"""Errors of identities drawn for test cases from IdGen, the head model and the linear-Gaussian posterior; cached on
disk so that a run resumes."""

from __future__ import annotations

import functools
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from experiments.cache import array_digest
from experiments.tables.landmark_posterior import learn_prior, posterior_samples
from experiments.tables.ofer_cases import OferCase
from experiments.tables.runs import Tick, batches, head_id, load_or_compute, no_tick, run_folder
from experiments.training.ofer.examples import ExampleSource
from flamejax.head import HeadModel
from flamejax.metrics import identity_errors_mm
from models.generator import Generator
from models.rank import FrontalFace, IdRank, frontal_face, frontal_vertices, rank_errors
from models.weight_files import digest_of_weights
from sampling import SamplerConfig, draw_coefficients

BATCH = 8
"""Number of cases that IdGen draws for at once."""
CODE_PATHS = (
    "flamejax", "models", "sampling", "experiments/cache.py", "experiments/training/ofer/examples.py",
    "experiments/tables/landmark_posterior.py", "experiments/tables/ofer_runs.py",
)  # fmt: skip
"""Code that the errors of a given case depend on."""
SOURCES = ("idgen", "random", "linear-gaussian")
"""Distributions of identities: IdGen given the landmarks, N(0, I) regardless of them, and the linear-Gaussian posterior
given them (`landmark_posterior`)."""


@dataclass(frozen=True)
class DrawErrors:
    """Errors of N identities drawn for one case, as `flamejax.metrics.identity_errors_mm`, and predicted scores."""

    median: np.ndarray
    """(N,) millimetres, like `mean` and `std`."""
    mean: np.ndarray
    std: np.ndarray
    of_mean: np.ndarray
    """(3,) median, mean, std of the mean of the N identities."""
    score: np.ndarray
    """(N,) IdRank's score, higher is better; NaN without a ranker."""
    closeness: np.ndarray
    """(N,) negative mean absolute distance from the mean of the N, mm."""

    @property
    def errors(self) -> np.ndarray:
        """(N, 3) median, mean, std."""
        return np.stack([self.median, self.mean, self.std], axis=1)


class OferRunner:
    """Draws identities and evaluates them; each result is cached in a file under a digest of its inputs."""

    def __init__(
        self, head: HeadModel, source: ExampleSource, idgen: Generator, idrank: IdRank | None = None, seed: int = 0,
        folder: Path | None = None,
    ):  # fmt: skip
        """source: the source of the cases. folder: of the cache, by default the data folder's `evaluate`."""
        self.head, self.source, self.idgen, self.idrank, self.seed = head, source, idgen, idrank, seed
        self.folder = folder
        self.face = frontal_face(head)
        self.frontal = frontal_vertices(head)
        front = np.asarray(head.basis[: head.num_betas]).swapaxes(1, 2)[:, self.frontal]
        self._mean, self._basis = np.asarray(head.v_template)[self.frontal], front.reshape(len(front), -1)
        self._id = functools.cache(lambda: head_id(head))
        self._prior = functools.cache(lambda: learn_prior(source))
        networks = (idgen, idrank)
        self._weights = functools.cache(lambda: [None if n is None else digest_of_weights(n) for n in networks])

    def evaluate(
        self, drawn_from: str, cases: Sequence[OferCase], count: int, tick: Tick = no_tick,
        sampler: SamplerConfig | None = None,
    ) -> list[DrawErrors]:  # fmt: skip
        """Returns the errors of `count` identities of each case drawn from one of `SOURCES`, or cached ones. sampler:
        of IdGen; the default one when left out."""
        sampler = sampler or SamplerConfig()
        settings: list = [drawn_from, count, self.seed, self._id()]
        if drawn_from == "idgen":
            settings += [sampler, self._weights()]
        if drawn_from == "linear-gaussian":
            settings += [array_digest(np.asarray(a)) for a in (self.source.expression, self.source.jaw)]
        folder = run_folder(self.folder, "identities", CODE_PATHS, *settings)

        def compute(missing: list[int]) -> Iterator[DrawErrors]:
            new_cases = [cases[k] for k in missing]
            for case, drawn in zip(new_cases, self._draw(drawn_from, new_cases, count, sampler), strict=True):
                yield self._evaluate(case, *drawn)

        return load_or_compute([folder / f"{case.key}-{case.digest}.npz" for case in cases], DrawErrors, compute, tick)

    def _draw(
        self, drawn_from: str, cases: Sequence[OferCase], count: int, sampler: SamplerConfig
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yields identities (N, S) and scores (N,) of each case."""
        if drawn_from == "idgen":
            yield from self._draw_from_idgen(cases, count, sampler)
            return
        no_scores = np.full(count, np.nan, np.float32)
        for case in cases:
            key = _case_key(case, self.seed, drawn_from)
            if drawn_from == "random":
                betas = jax.random.normal(key, (count, self.head.num_betas))
            else:
                # One by one, so that a case's key does not depend on the other cases.
                points, visible = jnp.asarray(case.points)[None], jnp.asarray(case.visible)[None]
                betas = posterior_samples(self.source, self._prior(), points, visible, key, count)[0]
            yield np.asarray(betas), no_scores

    def _draw_from_idgen(
        self, cases: Sequence[OferCase], count: int, sampler: SamplerConfig
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for indices, new in batches(len(cases), BATCH):
            part = [cases[k] for k in indices]
            points, visible = np.stack([c.points for c in part]), np.stack([c.visible for c in part])
            keys = jnp.stack([_case_key(case, self.seed, "idgen") for case in part])
            drawn = _generate(self.idgen, self.idrank, count, sampler, self.face, points, visible, keys)
            betas, scores = map(np.asarray, drawn)
            yield from zip(betas[:new], scores[:new], strict=True)

    def _evaluate(self, case: OferCase, betas: np.ndarray, score: np.ndarray) -> DrawErrors:
        with_mean = np.concatenate([betas, betas.mean(axis=0, keepdims=True)])
        heads = self._mean[None] + (with_mean @ self._basis).reshape(len(with_mean), -1, 3)
        errors = identity_errors_mm(heads, case.neutral[self.frontal])
        of_mean = np.array([part[-1] for part in (errors.median, errors.mean, errors.std)])
        distance = rank_errors(self.face, jnp.asarray(betas), jnp.asarray(with_mean[-1]))
        return DrawErrors(errors.median[:-1], errors.mean[:-1], errors.std[:-1], of_mean, score, -np.asarray(distance))


@functools.partial(jax.jit, static_argnums=(2, 3))
def _generate(
    idgen: Generator, idrank: IdRank | None, count: int, sampler: SamplerConfig, face: FrontalFace, points: Array,
    visible: Array, keys: Array,
) -> tuple[Array, Array]:  # fmt: skip
    """Draw identities (B, N, S) for cases (B,), and their scores (B, N), NaN without a ranker."""
    contexts = idgen.context(None, points, visible)
    betas = jax.vmap(lambda context, key: draw_coefficients(idgen, context, key, count, sampler))(contexts, keys)
    if idrank is None:
        return betas, jnp.full(betas.shape[:-1], jnp.nan)
    return betas, idrank.score_betas(face, betas, idrank.context(None, points, visible))


def _case_key(case: OferCase, seed: int, drawn_from: str) -> Array:
    """Returns a case's random key, which differs by source of identities and does not depend on other cases."""
    return jax.random.fold_in(jax.random.key(seed), zlib.crc32(f"{case.key} {drawn_from}".encode()))
