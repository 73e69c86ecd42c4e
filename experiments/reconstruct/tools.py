"""The heavy steps of reconstruct, as functions that are made once for a run."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax

import flamejax
from experiments.reconstruct.config import (
    DrawingOptions,
    InputOptions,
    ReconstructCompleteConfig,
    ReconstructConfig,
    ReconstructDrawingConfig,
    ReconstructOferConfig,
    ReconstructOferDppConfig,
)
from experiments.reconstruct.settings import (
    diversify_config,
    fit_config,
    load_local,
    load_ofer,
    load_vae,
    make_detector,
    ofer_dpp_config,
)
from fitting import Fit, Observation, fit, observe_photo, prepare
from fitting.fit_model import FitModel
from fitting.occlusion import auto_masks
from flamejax.head import HeadModel
from flamejax.io.results import vertices_of
from flamejax.types import Hypotheses
from sampling import diversify, midpoints, ofer, ofer_dpp

_render = jax.jit(functools.partial(flamejax.render, antialias=False), static_argnames="size")


@dataclass(frozen=True)
class Tools:
    """The heavy steps of the pipeline; tests replace them by fakes."""

    observe: Callable[..., list[Observation]]
    """`fitting.observe_photo` with a detector."""
    mask: Callable[[Any, Observation], Observation]
    """(head, observation) -> the observation with estimated masks, batched."""
    model: FitModel
    """The head with its local models, which is fitted."""
    fit: Callable[[Observation], Fit]
    """Fits `model` to a batch."""
    vertices: Callable[[Any, Any], jax.Array]
    """(head, params) -> (B, V, 3)."""
    render: Callable[..., jax.Array]
    """`flamejax.render`, compiled once per size."""
    complete: Callable[[Fit, Observation, jax.Array], Hypotheses] | None = None
    """(fit, observation, keys (B,)) -> hypotheses of each face; None for the method `fit`."""
    midpoints: Callable[[Fit, Hypotheses], jax.Array] | None = None
    """(fit, hypotheses) -> heads half-way between any two (B, P, V, 3); None where hypotheses have no latents."""


def default_tools(config: ReconstructConfig, head: HeadModel) -> Tools:
    """Return the real steps. Raises: UsageError, the detector, the local models or weights cannot be used."""
    model = prepare(head, load_local(config.fit, head))
    draw, draw_midpoints = drawing_tools(config, head, model)
    return Tools(
        observe=observe_tool(config.input),
        mask=auto_masks,
        model=model,
        fit=lambda observation: fit(model, observation, fit_config(config.fit)),
        vertices=vertices_of,
        render=_render,
        complete=draw,
        midpoints=draw_midpoints,
    )


def observe_tool(options: InputOptions) -> Callable[..., list[Observation]]:
    """Return `observe` of `Tools`. Raises: UsageError, the detector cannot be used."""
    return functools.partial(observe_photo, detector=make_detector(options))


def drawing_options(config: ReconstructConfig) -> DrawingOptions | None:
    """Return the options of the draws; None for a method that draws none."""
    return config.drawing if isinstance(config, ReconstructDrawingConfig) else None


def drawing_tools(config: ReconstructConfig, head: HeadModel, model: FitModel) -> tuple[Any, Any]:
    """Return `complete` and `midpoints` of `Tools`. Raises: UsageError, weights cannot be used."""
    if isinstance(config, ReconstructCompleteConfig):
        vae, count = load_vae(config.model, head), config.drawing.num_samples
        draw = functools.partial(diversify, vae, model, num_samples=count, config=diversify_config(config))
        return draw, functools.partial(midpoints, vae, model)
    if isinstance(config, ReconstructOferConfig):
        networks, count = load_ofer(config, head), config.drawing.num_samples
        if isinstance(config, ReconstructOferDppConfig):
            dpp_config = ofer_dpp_config(config)
            return functools.partial(ofer_dpp, networks, head, num_samples=count, config=dpp_config), None
        return functools.partial(ofer, networks, head, num_samples=count), None
    return None, None
