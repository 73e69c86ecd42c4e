"""Sets of plausible heads for one photo: completion, determinantal point processes, diffusion, ranking.

Each sampler takes a `fitting.Fit` and returns `Hypotheses`, sorted best first. Nothing is read from disk before
`load_networks` or `models.load_mesh_vae` is called.
"""
# ruff: noqa: E402

from flamejax._shadow import check_packages

check_packages("models", "fitting")  # must run before imports from these packages

from flamejax.types import Hypotheses
from sampling._complete import complete
from sampling._diversify import diversify
from sampling._interpolate import midpoints
from sampling._ofer import OferNetworks, load_networks, ofer
from sampling._ofer_dpp import ofer_dpp
from sampling._refine import refine_latents
from sampling.config import (
    DIVERSIFY_PRESETS,
    DiversifyConfig,
    OferConfig,
    OferDppConfig,
    SamplerConfig,
    SamplerName,
    SingleStageConfig,
)
from sampling.diffusion import add_noise, draw_coefficients, noise_error
from sampling.dpp import diversity_loss, dpp_loss, sample_dpp, sample_k_dpp

__all__ = [
    "DIVERSIFY_PRESETS",
    "DiversifyConfig",
    "Hypotheses",
    "OferConfig",
    "OferDppConfig",
    "OferNetworks",
    "SamplerConfig",
    "SamplerName",
    "SingleStageConfig",
    "add_noise",
    "complete",
    "diversify",
    "diversity_loss",
    "dpp_loss",
    "draw_coefficients",
    "load_networks",
    "midpoints",
    "noise_error",
    "ofer",
    "ofer_dpp",
    "refine_latents",
    "sample_dpp",
    "sample_k_dpp",
]
