"""Identities of test cases drawn by IdGen, by the head model and by the linear-Gaussian posterior, with their errors;
kept on disk so that a run goes on."""

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
from experiments.tables.runs import Tick, batches, head_id, no_tick, resumed, run_folder
from experiments.training.ofer.examples import Source
from flamejax.head import HeadModel
from flamejax.metrics import identity_errors_mm
from models.generator import Generator
from models.rank import FrontalFace, IdRank, frontal_face, frontal_vertices, rank_errors
from models.weight_files import digest_of_weights
from sampling import SamplerConfig, draw_coefficients

BATCH = 8
"""Cases that IdGen draws for at once."""
ROOMS = (
    "flamejax", "models", "sampling", "experiments/cache.py", "experiments/training/ofer/examples.py",
    "experiments/tables/landmark_posterior.py", "experiments/tables/ofer_runs.py",
)  # fmt: skip
"""Code that decides errors of a given case."""
SOURCES = ("idgen", "random", "linear-gaussian")
"""What identities are drawn from: IdGen given the landmarks, N(0, I) whatever they are, and the posterior of all that
the landmarks depend on if that were linear and normal (`landmark_posterior`)."""


@dataclass(frozen=True)
class Judged:
    """N identities of one case: errors as `flamejax.metrics.identity_errors_mm`, and predicted scores."""

    median: np.ndarray
    """(N,) millimetres, as the next two."""
    mean: np.ndarray
    std: np.ndarray
    of_mean: np.ndarray
    """(3,) median, mean, std of the mean of the N identities."""
    score: np.ndarray
    """(N,) IdRank's, higher is better; NaN where nothing ranks."""
    closeness: np.ndarray
    """(N,) minus the mean absolute distance from the mean of the N, mm."""

    @property
    def errors(self) -> np.ndarray:
        """(N, 3)"""
        return np.stack([self.median, self.mean, self.std], axis=1)


class OferRunner:
    """Draws identities and judges them; each result is a file of its own, under a digest of what decides it."""

    def __init__(
        self, head: HeadModel, source: Source, idgen: Generator, idrank: IdRank | None = None, seed: int = 0,
        folder: Path | None = None,
    ):  # fmt: skip
        """source: what the cases were drawn from. folder: by default the data folder's `evaluate`."""
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

    def judged(
        self, drawn_from: str, cases: Sequence[OferCase], count: int, tick: Tick = no_tick,
        sampler: SamplerConfig | None = None,
    ) -> list[Judged]:  # fmt: skip
        """`count` identities of each case from one of `SOURCES`, made or taken from an earlier run. sampler: of IdGen;
        the default one when left out."""
        sampler = sampler or SamplerConfig()
        wanted: list = [drawn_from, count, self.seed, self._id()]
        if drawn_from == "idgen":
            wanted += [sampler, self._weights()]
        if drawn_from == "linear-gaussian":
            wanted += [array_digest(np.asarray(a)) for a in (self.source.expression, self.source.jaw)]
        folder = run_folder(self.folder, "identities", ROOMS, *wanted)

        def make(missing: list[int]) -> Iterator[Judged]:
            some = [cases[k] for k in missing]
            for case, drawn in zip(some, self._drawn(drawn_from, some, count, sampler), strict=True):
                yield self._judge(case, *drawn)

        return resumed([folder / f"{case.key}-{case.digest}.npz" for case in cases], Judged, make, tick)

    def _drawn(
        self, drawn_from: str, cases: Sequence[OferCase], count: int, sampler: SamplerConfig
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(N, S) identities and (N,) scores of each case."""
        if drawn_from == "idgen":
            yield from self._generated(cases, count, sampler)
            return
        nothing = np.full(count, np.nan, np.float32)
        for case in cases:
            key = _case_key(case, self.seed, drawn_from)
            if drawn_from == "random":
                betas = jax.random.normal(key, (count, self.head.num_betas))
            else:
                # One by one, so that a case's key does not depend on what is beside it.
                seen = jnp.asarray(case.points)[None], jnp.asarray(case.visible)[None]
                betas = posterior_samples(self.source, self._prior(), *seen, key, count)[0]
            yield np.asarray(betas), nothing

    def _generated(
        self, cases: Sequence[OferCase], count: int, sampler: SamplerConfig
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for places, new in batches(len(cases), BATCH):
            part = [cases[k] for k in places]
            points, visible = np.stack([c.points for c in part]), np.stack([c.visible for c in part])
            keys = jnp.stack([_case_key(case, self.seed, "idgen") for case in part])
            found = _generate(self.idgen, self.idrank, count, sampler, self.face, points, visible, keys)
            betas, scores = map(np.asarray, found)
            yield from zip(betas[:new], scores[:new], strict=True)

    def _judge(self, case: OferCase, betas: np.ndarray, score: np.ndarray) -> Judged:
        everyone = np.concatenate([betas, betas.mean(axis=0, keepdims=True)])
        heads = self._mean[None] + (everyone @ self._basis).reshape(len(everyone), -1, 3)
        errors = identity_errors_mm(heads, case.neutral[self.frontal])
        of_mean = np.array([part[-1] for part in (errors.median, errors.mean, errors.std)])
        away = rank_errors(self.face, jnp.asarray(betas), jnp.asarray(everyone[-1]))
        return Judged(errors.median[:-1], errors.mean[:-1], errors.std[:-1], of_mean, score, -np.asarray(away))


@functools.partial(jax.jit, static_argnums=(2, 3))
def _generate(
    idgen: Generator, idrank: IdRank | None, count: int, sampler: SamplerConfig, face: FrontalFace, points: Array,
    visible: Array, keys: Array,
) -> tuple[Array, Array]:  # fmt: skip
    """Identities (B, N, S) of cases and their scores (B, N), NaN without a ranker."""
    contexts = idgen.context(None, points, visible)
    betas = jax.vmap(lambda context, key: draw_coefficients(idgen, context, key, count, sampler))(contexts, keys)
    if idrank is None:
        return betas, jnp.full(betas.shape[:-1], jnp.nan)
    return betas, idrank.of_betas(face, betas, idrank.context(None, points, visible))


def _case_key(case: OferCase, seed: int, drawn_from: str) -> Array:
    """The random key of a case: whatever cases are beside it, and another for each source of identities."""
    return jax.random.fold_in(jax.random.key(seed), zlib.crc32(f"{case.key} {drawn_from}".encode()))
