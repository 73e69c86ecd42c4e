"""Fits and hypotheses of photos by the five methods of Diverse3DFace's Table 2, kept on disk so that a run goes on."""

from __future__ import annotations

import dataclasses
import functools
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

import fitting
from experiments.runtime import compile_clock
from experiments.tables.diverse_cases import Case, Parts, parts_of
from experiments.tables.runs import Tick, batches, head_id, no_tick, resumed, run_folder
from fitting.config import PRESETS
from fitting.fit_model import FitModel
from fitting.local_files import load_local_model
from flamejax.head import HeadModel
from flamejax.types import Fit, Hypotheses, Observation
from models.mesh_vae import MeshVAE
from models.weight_files import digest_of_weights
from sampling import DiversifyConfig, diversify
from sampling._complete import to_head_frame

BATCH = 4
"""Photos fitted at once; hypotheses are drawn for one photo at a time."""
FIT_ROOMS = ("flamejax", "fitting", "experiments/cache.py", "experiments/tables/diverse_runs.py")
"""Code that decides a fit of a given observation, which is in the file's name."""
ROOMS = (*FIT_ROOMS, "models", "sampling")
"""Code that decides hypotheses."""
LOCAL = "global+local"


@dataclass(frozen=True)
class Method:
    """A row of Table 2."""

    fitted: str
    """What is fitted: global, or global+local."""
    vae: bool
    """Hypotheses are latents of the Mesh-VAE; else (single-stage) copies of the fitted model's coefficients."""
    dpp: bool
    """They are driven apart by Algorithm 2; else as they are drawn."""


METHODS = {
    "flame+dpp": Method("global", vae=False, dpp=True),
    "global+local+dpp": Method(LOCAL, vae=False, dpp=True),
    "global+local+vae": Method(LOCAL, vae=True, dpp=False),
    "flame+vae+dpp": Method("global", vae=True, dpp=True),
    "global+local+vae+dpp": Method(LOCAL, vae=True, dpp=True),
}
OURS = "global+local+vae+dpp"
"""Diverse3DFace itself. The paper's FLAME is the open head's global model here."""


@dataclass(frozen=True)
class Settings:
    """What decides the hypotheses of a photo, beside the method."""

    config: DiversifyConfig
    """Of Algorithm 2."""
    num_samples: int = 16
    fit_preset: str = "fast"
    seed: int = 0


@dataclass(frozen=True)
class Found:
    """Hypotheses of one photo by one method."""

    heads: np.ndarray
    """(M, V, 3) float32 metres in the head frame, best first. All are brought there by the fit's own rotation and root
    joint, also those of single-stage methods, whose coefficients would each place the root joint a little elsewhere:
    they share the fit's camera, and in its frame they were compared with the photo."""
    latents: np.ndarray | None
    """(M, L, C) of the Mesh-VAE."""
    score: np.ndarray
    """(M,)"""
    seconds: float
    """That drawing took, the fit and compiling left out."""


class Runner:
    """Fits photos and draws hypotheses; each result is a file of its own, under a digest of what decides it."""

    def __init__(self, head: HeadModel, vae: MeshVAE, settings: Settings, folder: Path | None = None):
        """folder: keeps what is made, by default in the data folder's `evaluate`."""
        self.head, self.vae, self.settings, self.folder = head, vae, settings, folder
        self.model = functools.cache(self._prepare)
        self._weights = functools.cache(lambda: digest_of_weights(vae))
        self._id = functools.cache(lambda: head_id(head))

    def fits(self, fitted: str, cases: Sequence[Case], tick: Tick = no_tick) -> list[Fit]:
        """A fit of each case (NumPy, no batch axes) by the model `fitted`, made or taken from an earlier run."""
        preset = PRESETS[self.settings.fit_preset]
        folder = run_folder(self.folder, "fits", FIT_ROOMS, fitted, preset, self._id())

        def make(missing: list[int]) -> Iterator[Fit]:
            for places, new in batches(len(missing), BATCH):
                part = [cases[missing[k]].observation for k in places]
                batch = jax.tree.map(lambda *leaves: np.stack(leaves), *part)
                made = jax.device_get(fitting.fit(self.model(fitted), batch, preset))
                for place in range(new):
                    yield jax.tree.map(lambda leaf: np.asarray(leaf[place]), made)  # noqa: B023

        return resumed([folder / case.file for case in cases], Fit, make, tick)

    def parts(self, cases: Sequence[Case], tick: Tick = no_tick) -> list[Parts]:
        """What each case shows and hides: the same for all methods."""
        return [parts_of(case, self.head, fit) for case, fit in zip(cases, self.fits(LOCAL, cases, tick), strict=True)]

    def fitted_heads(self, fitted: str, cases: Sequence[Case]) -> np.ndarray:
        """(N, V, 3) metres: the fits in the head frame."""
        model = self.model(fitted)
        return np.stack([np.asarray(_to_head_frame(model, fit)[0]) for fit in self.fits(fitted, cases)])

    def hypotheses(self, name: str, cases: Sequence[Case], tick: Tick = no_tick, **changes: Any) -> list[Found]:
        """Hypotheses of each case by a method of `METHODS`. changes: fields of the configuration of Algorithm 2, such
        as k and n_sigma."""
        method = METHODS[name]
        changes |= {} if method.dpp else {"iterations": 0}
        config = dataclasses.replace(self.settings.config, **changes)
        vae, count = self.vae if method.vae else None, self.settings.num_samples

        def draw(model: FitModel, fit: Fit, observation: Observation, key: jax.Array) -> Hypotheses:
            return diversify(vae, model, fit, observation, key, num_samples=count, config=config)

        settings = method, config, self._weights() if method.vae else None
        return self.drawn(method.fitted, draw, settings, cases, tick)

    def drawn(
        self, fitted: str, draw: Callable[[FitModel, Fit, Observation, jax.Array], Hypotheses], settings: object,
        cases: Sequence[Case], tick: Tick = no_tick,
    ) -> list[Found]:  # fmt: skip
        """Hypotheses of each case, made by `draw` for its fit by the model `fitted` and a random key, or taken from an
        earlier run. settings: what decides the draws, beside `self.settings`."""
        ours = self.settings
        wanted = settings, PRESETS[ours.fit_preset], ours.num_samples, ours.seed, self._id()
        folder = run_folder(self.folder, "hypotheses", ROOMS, *wanted)

        def make(missing: list[int]) -> Iterator[Found]:
            model = self.model(fitted)
            for case in (cases[k] for k in missing):
                (fit,) = self.fits(fitted, [case])
                start = time.perf_counter()
                with compile_clock() as clock:
                    made = jax.block_until_ready(draw(model, fit, case.observation, case_key(case, ours.seed)))
                yield _found(model, fit, made, max(time.perf_counter() - start - clock.seconds, 0.0))

        return resumed([folder / case.file for case in cases], Found, make, tick)

    def _prepare(self, fitted: str) -> FitModel:
        return fitting.prepare(self.head, load_local_model(self.head) if fitted == LOCAL else None)


def _found(model: FitModel, fit: Fit, made: Hypotheses, seconds: float) -> Found:
    _, rotation, root = (np.asarray(part, np.float64) for part in _to_head_frame(model, fit))
    heads = (np.asarray(made.vertices, np.float64) - root) @ rotation
    latents = None if made.latents is None else np.asarray(made.latents, np.float32)
    return Found(heads.astype(np.float32), latents, np.asarray(made.score, np.float32), seconds)


def case_key(case: Case, seed: int) -> jax.Array:
    """The random key of a case: the same for all methods and whatever cases are beside it."""
    return jax.random.fold_in(jax.random.key(seed), zlib.crc32(case.key.encode()))


_to_head_frame = jax.jit(to_head_frame)
