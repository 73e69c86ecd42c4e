"""Times fits and hypotheses of 256 x 256 photos (renders with exact landmarks), without compiling: seconds per photo.

Of programs that take minutes, a part with the same proportions is timed and scaled up.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

import fitting
from experiments.benchmark.timing import CompiledCall, Row, Setting, gemm_row
from experiments.datasets.renders import exact_observation, render_scenes, sample_scenes
from fitting.fit_model import FitModel
from fitting.global_fit import fit_batch
from fitting.local_files import shipped_local_model
from fitting.occlusion import OcclusionConfig, masks_batch
from flamejax.head import HeadFileError
from flamejax.types import Observation
from models.pretrained import load_mesh_vae
from sampling import DIVERSIFY_PRESETS
from sampling._diversify import diversify_batch
from sampling._ofer import load_networks, ofer
from sampling._ofer_dpp import ofer_dpp

FIT_PART, ALGORITHM_PART = 20, 10
"""One in this many iterations is timed: of a gradient fit, and of the preset `paper` of Algorithm 2."""
SAMPLES = 16
METHODS: dict[str, tuple[Any, int]] = {
    "100 identities, ranking, 15 expressions": (ofer, 15),
    "ofer+dpp, 16 heads": (ofer_dpp, 16),
}
"""Label of OFER's rows -> function and number of hypotheses."""


def fit_rows(setting: Setting) -> list[Row]:
    """Time the presets `fast` (without and with local models) and `paper`, and automatic masks."""
    head, local = setting.head, shipped_local_model(setting.head)
    models = {"global": fitting.prepare(head)}
    if local is not None:
        models["global+local"] = fitting.prepare(head, local)
    largest = list(models)[-1]
    rows = [_fit_row(setting, "fast", name, models[name], batch) for name in models for batch in (1, 4)]
    rows += [_fit_row(setting, "fast", largest, models[largest], 16)]
    rows += [_fit_row(setting, "paper", largest, models[largest], batch) for batch in (1, 16)]
    config, occlusion = fitting.FitConfig(), OcclusionConfig()
    for batch in (1, 4):
        program, observation = lambda h, o: masks_batch(h, o, config, occlusion), _render_observation(setting, batch)
        timed = CompiledCall(program, head, observation)
        rows.append(_row(setting, "automatic masks", timed, batch))
    return rows


def _fit_row(setting: Setting, preset: str, name: str, model: FitModel, batch: int) -> Row:
    config, factor = fitting.PRESETS[preset], 1
    if isinstance(config, fitting.GradientFitConfig):
        parts = {n: getattr(config, n) // FIT_PART for n in ("iterations", "rigid_iterations", "global_iterations")}
        config, factor = dataclasses.replace(config, **parts), FIT_PART
    timed = CompiledCall(lambda m, o: fit_batch(m, o, config), model, _render_observation(setting, batch))
    return _row(setting, f"fit 256 px, {preset}, {name}", timed, batch, factor)


def algorithm_rows(setting: Setting) -> list[Row]:
    """Time Algorithm 2 for one photo, if the head has a Mesh-VAE."""
    vae = _load(setting, load_mesh_vae, "Algorithm 2 is")
    if vae is None:
        return []
    model = fitting.prepare(setting.head, shipped_local_model(setting.head))
    observation, rows = _render_observation(setting, 1), []
    fit = fitting.fit(model, observation, devices=(jax.devices()[0],))
    for preset, config in DIVERSIFY_PRESETS.items():
        factor = 1
        if preset == "paper":
            config, factor = dataclasses.replace(config, iterations=config.iterations // ALGORITHM_PART), ALGORITHM_PART
        program = functools.partial(diversify_batch, count=SAMPLES, config=config)
        dpp_params = jnp.asarray([config.k, config.n_sigma])
        timed = CompiledCall(program, vae, model, dpp_params, fit, observation, setting.key[None])
        rows.append(_row(setting, f"Algorithm 2, {SAMPLES} heads, {preset}", timed, 1, factor, memory=True))
    return rows


def ofer_rows(setting: Setting) -> list[Row]:
    """Time OFER's hypotheses for one photo, if the head has its networks."""
    networks = _load(setting, load_networks, "OFER's hypotheses are")
    if networks is None:
        return []
    observation, device, rows = _render_observation(setting, 1), (jax.devices()[0],), []
    fit = fitting.fit(fitting.prepare(setting.head), observation, devices=device)
    for name, (method, count) in METHODS.items():
        draw = functools.partial(method, num_samples=count, devices=device)
        timed = CompiledCall(draw, networks, setting.head, fit, observation, setting.key[None])
        rows.append(_row(setting, f"OFER: {name}", timed, memory=True))
    return rows


def _load(setting: Setting, load: Callable[[Any], Any], subject: str) -> Any:
    """Load networks of the head; if it has none, report that (`subject` with its verb) and return None."""
    try:
        return load(setting.head)
    except (HeadFileError, OSError) as error:
        setting.report(f"{subject} left out: {error}")
        return None


def _render_observation(setting: Setting, batch: int) -> Observation:
    images, points, _ = render_scenes(setting.head, sample_scenes(setting.head, setting.key, batch), setting.key)
    return exact_observation(images, points)


def _row(
    setting: Setting, name: str, timed: CompiledCall, batch: int = 1, factor: int = 1, *, memory: bool = False
) -> Row:
    """Time a program and scale its time by `factor`, where only a part of it is timed."""
    row = gemm_row(setting, name, batch, timed, None, setting.slow_limit)
    ms, ratio = factor * row.forward_ms, factor * row.ratio_forward
    row = dataclasses.replace(row, forward_ms=ms, ratio_forward=ratio, seconds_per_photo=ms / 1e3 / batch)
    return dataclasses.replace(row, memory_mb=timed.memory_mb()) if memory else row
