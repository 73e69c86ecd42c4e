"""Fits and hypotheses of photos by the five methods of Diverse3DFace's Table 2, cached on disk so that runs resume."""

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
from experiments.tables.diverse_cases import Case, VisibilityMasks, visibility_masks
from experiments.tables.runs import Tick, batches, head_id, load_or_compute, no_tick, run_folder
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
"""Number of photos fitted at once; hypotheses are drawn for one photo at a time."""
FIT_CODE_PATHS = ("flamejax", "fitting", "experiments/cache.py", "experiments/tables/diverse_runs.py")
"""Code that the fit of a given observation depends on."""
CODE_PATHS = (*FIT_CODE_PATHS, "models", "sampling")
"""Code that hypotheses depend on."""
LOCAL = "global+local"


@dataclass(frozen=True)
class Method:
    """A row of Table 2."""

    model_name: str
    """Name of the fitted model: global, or global+local."""
    vae: bool
    """Whether hypotheses are latents of the Mesh-VAE; else (single-stage) they are copies of the fit's coefficients."""
    dpp: bool
    """Whether Algorithm 2 diversifies them."""


METHODS = {
    "flame+dpp": Method("global", vae=False, dpp=True),
    "global+local+dpp": Method(LOCAL, vae=False, dpp=True),
    "global+local+vae": Method(LOCAL, vae=True, dpp=False),
    "flame+vae+dpp": Method("global", vae=True, dpp=True),
    "global+local+vae+dpp": Method(LOCAL, vae=True, dpp=True),
}
OURS = "global+local+vae+dpp"
"""Diverse3DFace itself. The open head's global model takes the place of the paper's FLAME."""


@dataclass(frozen=True)
class Settings:
    """Settings of hypotheses that all methods share."""

    config: DiversifyConfig
    """Settings of Algorithm 2."""
    num_samples: int = 16
    fit_preset: str = "fast"
    seed: int = 0


@dataclass(frozen=True)
class DrawnHypotheses:
    """Hypotheses of one photo by one method."""

    heads: np.ndarray
    """(M, V, 3) float32 metres in the head frame, best first. All are transformed by the fit's rotation and root joint.
    This includes single-stage methods, whose coefficients each have a slightly different root joint: they share the
    fit's camera, in whose frame they were compared with the photo."""
    latents: np.ndarray | None
    """(M, L, C) latents of the Mesh-VAE."""
    score: np.ndarray
    """(M,)"""
    seconds: float
    """Duration of drawing, without the fit and compilation."""


class Runner:
    """Fits photos and draws hypotheses; each result is cached in a file under a digest of its inputs."""

    def __init__(self, head: HeadModel, vae: MeshVAE, settings: Settings, folder: Path | None = None):
        """folder: of the cache, by default the data folder's `evaluate`."""
        self.head, self.vae, self.settings, self.folder = head, vae, settings, folder
        self.model = functools.cache(self._prepare)
        self._weights = functools.cache(lambda: digest_of_weights(vae))
        self._id = functools.cache(lambda: head_id(head))

    def fits(self, model_name: str, cases: Sequence[Case], tick: Tick = no_tick) -> list[Fit]:
        """Returns a fit of each case (NumPy, no batch axes) by the model of that name, computed or cached."""
        preset = PRESETS[self.settings.fit_preset]
        folder = run_folder(self.folder, "fits", FIT_CODE_PATHS, model_name, preset, self._id())

        def compute(missing: list[int]) -> Iterator[Fit]:
            for indices, new in batches(len(missing), BATCH):
                observations = [cases[missing[k]].observation for k in indices]
                batch = jax.tree.map(lambda *leaves: np.stack(leaves), *observations)
                fits = jax.device_get(fitting.fit(self.model(model_name), batch, preset))
                for index in range(new):
                    yield jax.tree.map(lambda leaf: np.asarray(leaf[index]), fits)  # noqa: B023

        return load_or_compute([folder / case.file for case in cases], Fit, compute, tick)

    def visibility_masks(self, cases: Sequence[Case], tick: Tick = no_tick) -> list[VisibilityMasks]:
        """Returns the masks of visible and occluded vertices of each case."""
        fits = self.fits(LOCAL, cases, tick)
        return [visibility_masks(case, self.head, fit) for case, fit in zip(cases, fits, strict=True)]

    def fitted_heads(self, model_name: str, cases: Sequence[Case]) -> np.ndarray:
        """Returns the fits in the head frame, (N, V, 3) metres."""
        model = self.model(model_name)
        return np.stack([np.asarray(_to_head_frame(model, fit)[0]) for fit in self.fits(model_name, cases)])

    def hypotheses(
        self, name: str, cases: Sequence[Case], tick: Tick = no_tick, **changes: Any
    ) -> list[DrawnHypotheses]:  # fmt: skip
        """Returns hypotheses of each case by a method of `METHODS`. changes: fields of the configuration of Algorithm
        2, such as k and n_sigma."""
        method = METHODS[name]
        changes |= {} if method.dpp else {"iterations": 0}
        config = dataclasses.replace(self.settings.config, **changes)
        vae, count = self.vae if method.vae else None, self.settings.num_samples

        def draw(model: FitModel, fit: Fit, observation: Observation, key: jax.Array) -> Hypotheses:
            return diversify(vae, model, fit, observation, key, num_samples=count, config=config)

        settings = method, config, self._weights() if method.vae else None
        return self.draw_hypotheses(method.model_name, draw, settings, cases, tick)

    def draw_hypotheses(
        self, model_name: str, draw: Callable[[FitModel, Fit, Observation, jax.Array], Hypotheses], settings: object,
        cases: Sequence[Case], tick: Tick = no_tick,
    ) -> list[DrawnHypotheses]:  # fmt: skip
        """Returns hypotheses of each case, computed by `draw` from the fit by the named model and a key, or cached.

        Args:
          settings: settings that the draws depend on, besides `self.settings`.
        """
        common = self.settings
        all_settings = settings, PRESETS[common.fit_preset], common.num_samples, common.seed, self._id()
        folder = run_folder(self.folder, "hypotheses", CODE_PATHS, *all_settings)

        def compute(missing: list[int]) -> Iterator[DrawnHypotheses]:
            model = self.model(model_name)
            for case in (cases[k] for k in missing):
                (fit,) = self.fits(model_name, [case])
                start = time.perf_counter()
                with compile_clock() as clock:
                    drawn = jax.block_until_ready(draw(model, fit, case.observation, case_key(case, common.seed)))
                yield _in_head_frame(model, fit, drawn, max(time.perf_counter() - start - clock.seconds, 0.0))

        return load_or_compute([folder / case.file for case in cases], DrawnHypotheses, compute, tick)

    def _prepare(self, model_name: str) -> FitModel:
        return fitting.prepare(self.head, load_local_model(self.head) if model_name == LOCAL else None)


def _in_head_frame(model: FitModel, fit: Fit, drawn: Hypotheses, seconds: float) -> DrawnHypotheses:
    _, rotation, root = (np.asarray(part, np.float64) for part in _to_head_frame(model, fit))
    heads = (np.asarray(drawn.vertices, np.float64) - root) @ rotation
    latents = None if drawn.latents is None else np.asarray(drawn.latents, np.float32)
    return DrawnHypotheses(heads.astype(np.float32), latents, np.asarray(drawn.score, np.float32), seconds)


def case_key(case: Case, seed: int) -> jax.Array:
    """Returns a case's random key, which is the same for all methods and does not depend on other cases."""
    return jax.random.fold_in(jax.random.key(seed), zlib.crc32(case.key.encode()))


_to_head_frame = jax.jit(to_head_frame)
