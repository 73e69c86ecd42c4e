"""Fits and hypotheses of photos by the five methods of Diverse3DFace's Table 2, kept on disk so that a run goes on."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

import fitting
from experiments.cache import read_arrays, read_fit, write_tree
from experiments.runtime import compile_clock, data_folder
from experiments.tables.diverse_cases import Case, Parts, Tick, parts_of
from experiments.tables.fits import code_version
from experiments.tables.masked_heads import batches
from fitting.config import PRESETS
from fitting.fit_model import FitModel
from fitting.local_files import load_local_model
from flamejax.head import HeadModel, geometry_hash
from flamejax.types import Fit, Hypotheses, Observation
from models.mesh_vae import MeshVAE
from models.weight_files import digest_of_weights
from sampling._complete import to_head_frame
from sampling._diversify import DiversifyConfig, diversify

BATCH = 4
"""Photos fitted at once; hypotheses are drawn for one photo at a time."""
FIT_ROOMS = ("flamejax", "fitting", "experiments/evaluate/diverse_runs.py", "experiments/cache.py")
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


Draw = Callable[[MeshVAE | None, FitModel, Fit, Observation, jax.Array, int, Any], Hypotheses]


def draw(
    vae: MeshVAE | None, model: FitModel, fit: Fit, observation: Observation, key: jax.Array, count: int, config: Any
) -> Hypotheses:
    """Algorithm 2, or its single-stage baseline where `vae` is None: the only call of it here."""
    return diversify(vae, model, fit, observation, key, num_samples=count, config=config)


class Runner:
    """Fits photos and draws hypotheses; each result is a file of its own, under a digest of what decides it."""

    def __init__(
        self, head: HeadModel, vae: MeshVAE, settings: Settings, folder: Path | None = None, drawing: Draw | None = None
    ):  # fmt: skip
        """folder: keeps what is made, by default in the data folder's `evaluate`. drawing: `draw` when left out."""
        self.head, self.vae, self.settings, self._draw = head, vae, settings, drawing or draw
        self.folder = folder or data_folder() / "evaluate"
        self.model = functools.cache(self._prepare)
        self._weights = functools.cache(lambda: digest_of_weights(vae))

    def fits(self, fitted: str, cases: Sequence[Case], tick: Tick = lambda count: None) -> list[Fit]:
        """A fit of each case (NumPy, no batch axes) by the model `fitted`, made or taken from an earlier run."""
        paths = [self._fit_folder(fitted) / f"{case.key}-{case.digest}.npz" for case in cases]
        found = {path: read_fit(path) for path in paths}
        missing = [k for k, path in enumerate(paths) if found[path] is None]
        tick(len(cases) - len(missing))
        for places, new in batches(len(missing), BATCH):
            part = [cases[missing[k]].observation for k in places]
            batch = jax.tree.map(lambda *leaves: np.stack(leaves), *part)
            made = jax.device_get(fitting.fit(self.model(fitted), batch, PRESETS[self.settings.fit_preset]))
            for place, k in enumerate(places[:new]):
                one: Fit = jax.tree.map(lambda leaf: np.asarray(leaf[place]), made)  # noqa: B023
                write_tree(paths[missing[k]], one)
                found[paths[missing[k]]] = one
            tick(new)
        return [fit for path in paths if (fit := found[path]) is not None]

    def parts(self, cases: Sequence[Case], tick: Tick = lambda count: None) -> list[Parts]:
        """What each case shows and hides: the same for all methods."""
        return [parts_of(case, self.head, fit) for case, fit in zip(cases, self.fits(LOCAL, cases, tick), strict=True)]

    def fitted_heads(self, fitted: str, cases: Sequence[Case]) -> np.ndarray:
        """(N, V, 3) metres: the fits in the head frame."""
        model = self.model(fitted)
        return np.stack([np.asarray(_to_head_frame(model, fit)[0]) for fit in self.fits(fitted, cases)])

    def hypotheses(
        self, name: str, cases: Sequence[Case], tick: Tick = lambda count: None, **changes: Any
    ) -> list[Found]:
        """Hypotheses of each case by a method, made or taken from an earlier run.

        Args:
          name: of `METHODS`. changes: fields of the configuration of Algorithm 2, such as k and n_sigma.
        """
        method = METHODS[name]
        config = dataclasses.replace(self.settings.config, **changes)
        if not method.dpp:
            config = dataclasses.replace(config, iterations=0)
        folder = self._folder(method, config)
        paths = [folder / f"{case.key}-{case.digest}.npz" for case in cases]
        found = [self._read(path) for path in paths]
        tick(sum(one is not None for one in found))
        for k, (case, path) in enumerate(zip(cases, paths, strict=True)):
            if found[k] is None:
                (fit,) = self.fits(method.fitted, [case])
                found[k] = self._make(method, config, case, fit)
                write_tree(path, found[k])
                tick(1)
        return [one for one in found if one is not None]

    def _make(self, method: Method, config: Any, case: Case, fit: Fit) -> Found:
        model, key = self.model(method.fitted), case_key(case, self.settings.seed)
        vae = self.vae if method.vae else None
        start = time.perf_counter()
        with compile_clock() as clock:
            made = self._draw(vae, model, fit, case.observation, key, self.settings.num_samples, config)
            made = jax.block_until_ready(made)
        return found_of(model, fit, made, max(time.perf_counter() - start - clock.seconds, 0.0))

    def _read(self, path: Path) -> Found | None:
        return read_found(path, (self.settings.num_samples, self.head.num_vertices, 3))

    def _fit_folder(self, fitted: str) -> Path:
        preset = self.settings.fit_preset
        wanted = [fitted, preset, dataclasses.asdict(PRESETS[preset]), self.head_name()]
        return self.folder / code_version(FIT_ROOMS) / f"fits-{digest_of_settings(wanted)}"

    def _folder(self, method: Method, config: Any) -> Path:
        settings = [dataclasses.asdict(each) for each in (method, config, PRESETS[self.settings.fit_preset])]
        weights = self._weights() if method.vae else None
        wanted = [*settings, self.settings.num_samples, self.settings.seed, self.head_name(), weights]
        return self.folder / code_version(ROOMS) / f"hypotheses-{digest_of_settings(wanted)}"

    def head_name(self) -> list[str]:
        """What names the head in settings."""
        return [self.head.name, self.head.version, geometry_hash(self.head)]

    def _prepare(self, fitted: str) -> FitModel:
        return fitting.prepare(self.head, load_local_model(self.head) if fitted == LOCAL else None)


def found_of(model: FitModel, fit: Fit, made: Hypotheses, seconds: float) -> Found:
    """Hypotheses of a fit as they are kept."""
    _, rotation, root = (np.asarray(part, np.float64) for part in _to_head_frame(model, fit))
    heads = (np.asarray(made.vertices, np.float64) - root) @ rotation
    latents = None if made.latents is None else np.asarray(made.latents, np.float32)
    return Found(heads.astype(np.float32), latents, np.asarray(made.score, np.float32), seconds)


def read_found(path: Path, shape: tuple[int, int, int]) -> Found | None:
    """What an earlier run kept; None where there is nothing, or something else than heads of this shape."""
    arrays = read_arrays(path)
    if arrays is None or not {"heads", "score", "seconds"} <= set(arrays) or arrays["heads"].shape != shape:
        return None
    return Found(arrays["heads"], arrays.get("latents"), arrays["score"], float(arrays["seconds"]))


def case_key(case: Case, seed: int) -> jax.Array:
    """The random key of a case: the same for all methods and whatever cases are beside it."""
    return jax.random.fold_in(jax.random.key(seed), zlib.crc32(case.key.encode()))


_to_head_frame = jax.jit(to_head_frame)


def digest_of_settings(wanted: object) -> str:
    """A short name of settings."""
    return hashlib.sha256(json.dumps(wanted, sort_keys=True).encode()).hexdigest()[:16]
