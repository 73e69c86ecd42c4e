"""Drawing coefficients from a trained generator."""

from __future__ import annotations

from jax import Array

from models.generator import Generator
from sampling.diffusion import SamplerConfig, draw, guided, make_schedule


def draw_coefficients(
    model: Generator, context: Array, key: Array, num_samples: int, config: SamplerConfig | None = None
) -> Array:
    """Samples of one photo (OFER, section 3.2); `vmap` over contexts and keys for more.

    Args:
      context: (D,) as `model.context` gives it. num_samples: N.

    Returns:
      (N, S) coefficients: betas of IdGen; expression and 3 of the jaw, radians, of ExpGen.

    Raises:
      ValueError: guidance is asked of a generator that was not trained for it.
    """
    config = config or SamplerConfig()

    def predict(x: Array, t: Array) -> Array:
        return model.noise(x, t, context)

    chosen = predict
    if config.guidance != 1.0:
        if model.nothing is None:
            raise ValueError("this generator was trained without guidance (--dropped): give guidance 1.")
        nothing = model.nothing[...]
        chosen = guided(predict, lambda x, t: model.noise(x, t, nothing), config.guidance)
    schedule = make_schedule(model.config.schedule)
    return model.coefficients(draw(chosen, schedule, key, (num_samples, model.config.unet.size), config))
