"""IdGen and ExpGen of OFER (sections 3.2 and 3.4): encoders of a photo, and a denoiser conditioned on their output."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from models.encoders.conditioned import Conditioned, check_names, make_encoders
from models.encoders.landmark import LandmarkEncoderConfig
from models.noise_schedule import ScheduleName, make_schedule
from models.unet1d import UNet1D, UNet1DConfig, broadcast_add, broadcast_multiply

KINDS = ("identity", "expression")


@dataclasses.dataclass(frozen=True)
class GeneratorConfig:
    """Architecture of a `Generator`."""

    kind: str
    """The generated coefficients. identity: betas. expression: expression and the jaw's axis-angle (3), radians."""
    unet: UNet1DConfig
    encoders: tuple[str, ...] = ("landmark",)
    """One or more of landmark, arcface, farl; their contexts are concatenated."""
    landmark: LandmarkEncoderConfig = dataclasses.field(default_factory=LandmarkEncoderConfig)
    schedule: ScheduleName = "ho"
    """Noise schedule (`models.make_schedule`)."""
    preconditioned: bool = False
    """True: the U-Net predicts (noise - sigma_t x_t) / alpha_t (the "v" of Salimans & Ho 2022). sigma_t x_t is the best
    prediction if the data are N(0, I) and independent of the photo. The rest has the same scale at all steps, so that
    errors at the noisiest steps are not amplified by 1 / alpha_t. False, as in the paper: it predicts the noise."""
    unconditional: bool = False
    """Trained with randomly dropped contexts, so that classifier-free guidance works."""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"a generator's kind is {' or '.join(KINDS)}, not {self.kind!r}.")
        check_names(self.encoders)


class Scale(nnx.Variable):
    """Mean and deviation of the training coefficients: saved with the weights, but not trained."""


class Generator(Conditioned):
    """Denoises coefficients conditioned on a photo. Samplers are in `sampling.diffusion`."""

    def __init__(
        self, config: GeneratorConfig, reference: Array, *, rngs: nnx.Rngs,
        mean: Array | None = None, deviation: Array | None = None, encoders: Mapping[Any, Any] | None = None,
    ):  # fmt: skip
        """Args:
        reference: (68, 2) of the head, for the landmark encoder (`reference_landmarks`).
        mean, deviation: (S,) of the training coefficients, which normalise them, because the jaw is in radians and not
          in standard deviations. 0 and 1 by default, as in the paper.
        encoders: the image encoders named in `config.encoders` (`load_image_encoders`).

        Raises:
          ValueError: one is missing, or their outputs do not match the width of the U-Net's context.
        """
        self.config = config
        size = config.unet.size
        self.mean = Scale(jnp.zeros(size) if mean is None else jnp.asarray(mean, jnp.float32))
        self.deviation = Scale(jnp.ones(size) if deviation is None else jnp.asarray(deviation, jnp.float32))
        self.encoders = make_encoders(
            config.encoders, config.unet.context, config.landmark, reference, encoders or {}, rngs
        )
        # The context of classifier-free guidance, learned.
        self.nothing = nnx.Param(jnp.zeros(config.unet.context)) if config.unconditional else None
        self.unet = UNet1D(config.unet, rngs=rngs)

    def predict_noise(self, x: Array, time: Array, context: Array) -> Array:
        """Predict the noise (*b, S) in normalised coefficients; arguments as those of `UNet1D`."""
        prediction = self.unet(x, time, context)
        if not self.config.preconditioned:
            return prediction
        alpha, sigma = (part[..., None] for part in make_schedule(self.config.schedule).alpha_sigma(time))
        return broadcast_add(broadcast_multiply(x, sigma), broadcast_multiply(prediction, alpha))

    def drop_contexts(self, context: Array, keys: Array, share: float) -> Array:
        """Replace a random share of the contexts (B, D) by the unconditional one, to train guidance; keys (B,)."""
        if self.nothing is None or not share:
            return context
        dropped = jax.vmap(lambda key: jax.random.uniform(key, ()) < share)(keys)
        return jnp.where(dropped[:, None], jnp.broadcast_to(self.nothing[...], context.shape), context)

    def normalize(self, coefficients: Array) -> Array:
        """Normalise coefficients (*b, S) for the denoiser."""
        mean, deviation = (jnp.broadcast_to(v[...], coefficients.shape) for v in (self.mean, self.deviation))
        return (coefficients - mean) / deviation

    def denormalize(self, scaled: Array) -> Array:
        """Return the coefficients (*b, S) of normalised ones; inverse of `normalize`."""
        mean, deviation = (jnp.broadcast_to(v[...], scaled.shape) for v in (self.mean, self.deviation))
        return mean + deviation * scaled
