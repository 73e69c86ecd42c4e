"""Fits of 256 x 256 photos (renders with exact landmarks), warm: seconds per photo, and the compile time apart.

A gradient preset takes minutes: a twentieth of its iterations, in its own proportions, is timed and scaled up.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import fitting
from experiments.benchmark.timing import SQUARE_GEMM, Row, Setting, Timed, square_gemm, time_row
from experiments.datasets.renders import exact_observation, render_scenes, sample_scenes
from fitting.fit_model import FitModel
from fitting.global_fit import fit_batch
from fitting.local_files import shipped_local_model
from fitting.occlusion import OcclusionConfig, masks_batch

PART = 20
"""One of so many iterations of a gradient preset is timed."""


def rows(setting: Setting) -> list[Row]:
    """Fits against a square product: `fast` without and with local models, `paper`, and the automatic masks."""
    head = setting.head
    models = {"global": fitting.prepare(head)}
    if (local := shipped_local_model(head)) is not None:
        models["global+local"] = fitting.prepare(head, local)
    best = "global+local" if "global+local" in models else "global"
    found = [_fit_row(setting, f"fit 256 px, fast, {name}", models[name], "fast", b) for name in models for b in (1, 4)]
    found += [_fit_row(setting, f"fit 256 px, fast, {best}", models[best], "fast", 16)]
    found += [_fit_row(setting, f"fit 256 px, paper, {best}", models[best], "paper", b) for b in (1, 16)]
    config, occlusion = fitting.FitConfig(), OcclusionConfig()
    found += [
        _row(setting, "automatic masks", b, lambda h, o: masks_batch(h, o, config, occlusion), head) for b in (1, 4)
    ]
    return found


def _fit_row(setting: Setting, name: str, model: FitModel, preset: str, batch: int) -> Row:
    config, factor = fitting.PRESETS[preset], 1
    if isinstance(config, fitting.GradientFitConfig):
        parts = {n: getattr(config, n) // PART for n in ("iterations", "rigid_iterations", "global_iterations")}
        config, factor = dataclasses.replace(config, **parts), PART
    return _row(setting, name, batch, lambda m, o: fit_batch(m, o, config), model, factor)


def _row(setting: Setting, name: str, batch: int, program: Callable, model: object, factor: int = 1) -> Row:
    images, points, _ = render_scenes(setting.head, sample_scenes(setting.head, setting.key, batch), setting.key)
    timed = Timed(program, model, exact_observation(images, points))
    reference = f"{SQUARE_GEMM}^3 GEMM"
    row = time_row(name, batch, timed, None, square_gemm(setting.key), None, reference, setting.few)
    ms = factor * row.forward_ms
    return dataclasses.replace(
        row, forward_ms=ms, ratio_forward=factor * row.ratio_forward, seconds_per_photo=ms / 1e3 / batch
    )
