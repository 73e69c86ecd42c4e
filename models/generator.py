"""IdGen and ExpGen of OFER (sections 3.2 and 3.4): an encoder of the photo, and a denoiser conditioned on it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from models.encoders.landmark import LandmarkEncoderConfig
from models.encoders.parts import Conditioned, check_names, make_encoders
from models.noise_schedule import ScheduleName, make_schedule
from models.unet1d import UNet1D, UNet1DConfig, added, multiplied

KINDS = ("identity", "expression")


@dataclasses.dataclass(frozen=True)
class GeneratorConfig:
    """A `Generator`'s parts."""

    kind: str
    """identity: betas. expression: expression coefficients and 3 of the jaw."""
    unet: UNet1DConfig
    encoders: tuple[str, ...] = ("landmark",)
    """landmark, arcface, farl; contexts of several are joined."""
    landmark: LandmarkEncoderConfig = dataclasses.field(default_factory=LandmarkEncoderConfig)
    schedule: ScheduleName = "ho"
    """Of the noise (`sampling.diffusion.make_schedule`)."""
    preconditioned: bool = False
    """The U-Net says how the noise differs from sigma_t x_t, in units of alpha_t: sigma_t x_t is the best guess where
    the data are N(0, I) and the photo says nothing; what is left is of one size at all steps (the "v" of Salimans & Ho
    2022), so that errors at the noisiest steps are not blown up by 1 / alpha_t. False, as in the paper: all of it."""
    unconditional: bool = False
    """Trained with the context left out at times, so that it can be guided."""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"a generator's kind is {' or '.join(KINDS)}, not {self.kind!r}.")
        check_names(self.encoders)


class Scale(nnx.Variable):
    """Statistics of the training data: fixed, and kept with the weights."""


class Generator(Conditioned):
    """Denoises coefficients under the condition of a photo. Samplers are in `sampling.diffusion`."""

    def __init__(
        self, config: GeneratorConfig, reference: Array, *, rngs: nnx.Rngs,
        mean: Array | None = None, deviation: Array | None = None, encoders: Mapping[Any, Any] | None = None,
    ):  # fmt: skip
        """Args:
        reference: (68, 2) of the head, for the landmark encoder (`reference_landmarks`).
        mean, deviation: (S,) of the training coefficients, by which they are centred and scaled: the jaw's radians are
          no standard deviations. 0 and 1 when left out, as in the paper.
        encoders: the image encoders that `config.encoders` names (`load_image_encoders`).

        Raises:
          ValueError: one is missing, or they do not give as many numbers as the U-Net's context has.
        """
        self.config = config
        size = config.unet.size
        self.mean = Scale(jnp.zeros(size) if mean is None else jnp.asarray(mean, jnp.float32))
        self.deviation = Scale(jnp.ones(size) if deviation is None else jnp.asarray(deviation, jnp.float32))
        self.encoders = make_encoders(
            config.encoders, config.unet.context, config.landmark, reference, encoders or {}, rngs
        )
        self.nothing = nnx.Param(jnp.zeros(config.unet.context)) if config.unconditional else None
        self.unet = UNet1D(config.unet, rngs=rngs)

    def noise(self, x: Array, time: Array, context: Array) -> Array:
        """The noise in scaled coefficients; shapes as those of `UNet1D`."""
        found = self.unet(x, time, context)
        if not self.config.preconditioned:
            return found
        alpha, sigma = (part[..., None] for part in make_schedule(self.config.schedule).alpha_sigma(time))
        return added(multiplied(x, sigma), multiplied(found, alpha))

    def sometimes_without(self, context: Array, keys: Array, share: float) -> Array:
        """Contexts (B, D), a share of them replaced by that of no photo, for classifier-free guidance; keys (B,)."""
        if self.nothing is None or not share:
            return context
        left_out = jax.vmap(lambda key: jax.random.uniform(key, ()) < share)(keys)
        return jnp.where(left_out[:, None], jnp.broadcast_to(self.nothing[...], context.shape), context)

    def scaled(self, coefficients: Array) -> Array:
        """(*b, S) as the denoiser sees them."""
        mean, deviation = (jnp.broadcast_to(v[...], coefficients.shape) for v in (self.mean, self.deviation))
        return (coefficients - mean) / deviation

    def coefficients(self, scaled: Array) -> Array:
        """The way back."""
        mean, deviation = (jnp.broadcast_to(v[...], scaled.shape) for v in (self.mean, self.deviation))
        return mean + deviation * scaled
