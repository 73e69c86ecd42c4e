"""Settings of the samplers: frozen dataclasses, hashable, so that a compiled program can be kept for each."""

from __future__ import annotations

import dataclasses
from typing import Literal

from fitting.config import FitConfig

SamplerName = Literal["dpm", "ddim", "ancestral"]


@dataclasses.dataclass(frozen=True)
class SingleStageConfig:
    """Of the single-stage baselines alone; chosen for the smallest closest-sample error (docs/results/diversity.md)."""

    fit: FitConfig = dataclasses.field(default_factory=FitConfig)
    """The loss of Eq. 11 as our fits minimise it: weights and noise levels."""
    spread: float = 0.1
    """Standard deviation of the copies about the fit's coefficients at the start."""
    dpp_weight: float = 30.0
    """lambda_3 beside Eq. 11 in nats."""
    learning_rate: float = 0.1
    """Of coefficients, standard deviations."""


@dataclasses.dataclass(frozen=True)
class DiversifyConfig:
    """Algorithm 2. Losses are sums over the hypotheses of means: over visible coordinates (metres), over pixels."""

    k: float = 0.5
    """Scaling of distances in the similarity (Eq. 8). Near 0 and beyond about 10 all heads are as alike as any."""
    n_sigma: float = 3.0
    """How plausible heads must be (Eq. 9): larger is more diverse and less realistic. Below about 0.5 nearly every draw
    lies outside, where qualities vanish and with them the gradient of the DPP: heads stay as drawn."""
    iterations: int = 60
    """0: the draws as they are, `complete`."""
    space: Literal["directions", "latents"] = "directions"
    """What is optimised. latents: z, all of them, as in the paper. directions: the coordinates of each draw along the
    `directions` leading directions of the Mesh-VAE's posterior that move hidden vertices; along others it stays as
    drawn. Visible vertices hardly move along them, so that few and long steps are enough; and n_sigma says how
    plausible a head is given what is seen."""
    directions: int = 64
    """Of `space` directions."""
    width: float = 1.6
    """Of `space` directions: standard deviation of real heads along them, in those of the Mesh-VAE's posterior, which
    is too sure of what it does not see (docs/results/diversity.md)."""
    optimiser: Literal["adam", "sgd"] = "adam"
    learning_rate: float = 0.3
    """Of the variables, in standard deviations; it falls along a cosine."""
    shape_weight: float = 1000.0
    """lambda_1, on the mean l1 distance of visible vertices from the fit, metres."""
    photometric_weight: float = 5.0
    """lambda_2, on the mean colour difference over visible skin, colours in [0, 1]."""
    dpp_weight: float = 1.0
    """lambda_3."""
    photometric_interval: int = 4
    """Iterations after which the photo is looked at again: in between the gradient of its photometric loss stays as it was."""
    photometric_scale: float | None = 0.15
    """Colour difference at which the colours' loss levels off; None: it does not (Eq. 12)."""
    render_size: int = 128
    """Side of the image that is compared, pixels."""
    settled: float = 2e-5
    """Metres: heads that move less in an iteration, root mean square over hidden vertices, are left as they are, and
    the loop ends when all photos' are."""
    single_stage: SingleStageConfig = dataclasses.field(default_factory=SingleStageConfig)
    """What else the single-stage baselines need."""

    def __post_init__(self) -> None:
        if self.iterations < 0 or self.photometric_interval < 1 or self.iterations % self.photometric_interval:
            raise ValueError(
                f"iterations ({self.iterations}) must be a multiple of photometric_interval "
                f"({self.photometric_interval})."
            )
        scale = 1.0 if self.photometric_scale is None else self.photometric_scale
        if min(self.k, self.n_sigma) < 0 or min(self.width, scale, self.learning_rate) <= 0:
            raise ValueError("k and n_sigma must not be negative; width, photometric_scale, learning_rate positive.")
        if self.render_size < 16 or self.directions < 1:
            raise ValueError("render_size is at least 16 and directions at least 1.")


DIVERSIFY_PRESETS: dict[str, DiversifyConfig] = {
    "fast": DiversifyConfig(),
    "paper": DiversifyConfig(
        iterations=300,
        space="latents",
        learning_rate=1e-2,
        photometric_interval=1,
        photometric_scale=None,
        settled=0.0,
    ),
}
"""fast: ours. paper: 300 iterations on the latents themselves with a look at the photo in each; by Adam with the step
of the released code, as the SGD of the paper's appendix moves a Mesh-VAE of standard normal latents nowhere."""


@dataclasses.dataclass(frozen=True)
class SamplerConfig:
    """How to draw samples."""

    method: SamplerName = "dpm"
    """dpm: DPM-Solver++(2M) (Lu et al. 2022); ddim (Song et al. 2021); ancestral, step by step, as in the paper."""
    steps: int = 20
    """Of dpm and ddim; ancestral makes all T."""
    eta: float = 0.0
    """ddim: share of the noise that is drawn anew in each step; 0 is deterministic, 1 as noisy as ancestral."""
    guidance: float = 1.0
    """Weight of the context over none (Ho & Salimans 2022); 1: as trained."""

    def __post_init__(self) -> None:
        if self.method not in ("dpm", "ddim", "ancestral"):
            raise ValueError(f"method is dpm, ddim or ancestral, not {self.method!r}.")
        if self.steps < 1 or not 0 <= self.eta <= 1:
            raise ValueError("a sampler makes at least 1 step, and eta is from 0 to 1.")


@dataclasses.dataclass(frozen=True)
class OferConfig:
    """How hypotheses are drawn."""

    candidates: int = 100
    """Identities that are ranked (N = 100 in the paper)."""
    sampler: SamplerConfig = dataclasses.field(default_factory=SamplerConfig)
    fit: FitConfig = dataclasses.field(default_factory=FitConfig)
    """Noise levels of the landmarks that heads are placed by."""

    def __post_init__(self) -> None:
        if self.candidates < 1:
            raise ValueError("candidates is at least 1.")


@dataclasses.dataclass(frozen=True)
class OferDppConfig:
    """How hypotheses are drawn, picked and refined."""

    ofer: OferConfig = dataclasses.field(default_factory=OferConfig)
    pool: int = 128
    """Heads that are drawn to pick from."""
    identities: int = 32
    """Of the ranked candidates, so many of the best are used."""
    kept: int = 32
    """Of the pool, so many that the photo speaks for most are refined and picked from; at least twice as many as are
    asked for, if there are."""
    k: float = 0.5
    """Scaling of distances in the similarity (Diverse3DFace, Eq. 8)."""
    temperature: float = 60.0
    """What the evidence, nats, is divided by: landmarks and pixels err together, so all of them count as fewer."""
    photometric_weight: float = 600.0
    photometric_scale: float = 0.15
    """As in `FitConfig`."""
    render_size: int = 96
    """Side of the image that is compared, pixels."""
    refine_steps: int = 4
    """Gauss-Newton steps that bring a head onto the visible vertices; 0: none."""
    sigma: float = 1e-3
    """Metres: how well the head's global components can follow the visible vertices of a fit."""

    def __post_init__(self) -> None:
        if self.pool < 1 or self.identities < 1 or self.refine_steps < 0 or self.render_size < 16:
            raise ValueError("pool and identities are at least 1, refine_steps 0, render_size 16.")
        if min(self.k, self.temperature, self.photometric_scale, self.sigma) <= 0:
            raise ValueError("k, temperature, photometric_scale and sigma are positive.")
