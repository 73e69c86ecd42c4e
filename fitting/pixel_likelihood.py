"""How likely a pixel's colour is under the fitted face, and under everything else."""

import math

import jax.numpy as jnp
import numpy as np
from jax import Array

DARK = 0.05
"""Added to colours before the logarithm: below it sensor noise, not light, makes the differences."""
BINS = (12, 8, 8)
"""Of the histogram: log intensity, red-green, blue-yellow."""
LOW, HIGH = (math.log(DARK), -1.0, -1.0), (math.log(1.0 + DARK), 1.0, 1.0)
"""The range of `tones`: beyond it the last bin counts."""
FREEDOM = 4.0
"""Of the t distributions of the face's colours: their tails allow for moles, pores and highlights."""


def tones(image: Array) -> Array:
    """Colours as log intensity, red over green, and blue over both: a shadow changes the first only.

    image (..., 3) in [0, 1] -> (..., 3).
    """
    logs = jnp.log(jnp.clip(image, 0.0, 1.0) + DARK)
    red, green, blue = logs[..., 0], logs[..., 1], logs[..., 2]
    return jnp.stack([(red + green + blue) / 3.0, red - green, blue - 0.5 * (red + green)], axis=-1)


def face_log_likelihood(difference: Array, scales: Array) -> Array:
    """Log density of tones about the fitted face's: Student's t of the intensity times one of the two colours.

    Args:
      difference: (..., 3) tones of the photo minus those of the face.
      scales: (..., 2) standard deviations of intensity and of colour.

    Returns:
      (...).
    """
    intensity, colour = scales[..., 0], scales[..., 1]
    first = (difference[..., 0] / intensity) ** 2
    second = (difference[..., 1] ** 2 + difference[..., 2] ** 2) / colour**2

    return t_log_density(first, intensity, 1) + t_log_density(second, colour, 2)


def t_log_density(squared: Array, scale: Array, dimensions: int) -> Array:
    """Of Student's t in one or more dimensions, for the squared length of a difference over `scale`. Shapes alike."""
    constant = math.lgamma((FREEDOM + dimensions) / 2) - math.lgamma(FREEDOM / 2)
    constant -= 0.5 * dimensions * math.log(FREEDOM * math.pi)
    return constant - dimensions * jnp.log(scale) - 0.5 * (FREEDOM + dimensions) * jnp.log1p(squared / FREEDOM)


def robust_scale(squared: Array, weights: Array, previous: Array, dimensions: int) -> Array:
    """Scale of a t distribution by one step of its EM algorithm (Lange, Little & Taylor 1989).

    Args:
      squared: (N,) squared lengths of differences; weights: (N,); previous: () scale.
      dimensions: of the differences.

    Returns:
      ().
    """
    say = (FREEDOM + dimensions) / (FREEDOM + squared / previous**2)
    return jnp.sqrt(jnp.sum(weights * say * squared) / (dimensions * jnp.maximum(jnp.sum(weights), 1e-6)) + 1e-8)


def soft_bins(values: Array) -> tuple[Array, Array]:
    """The eight bins round each tone and its shares in them (trilinear).

    values (N, 3) -> indices (8, N) int32 into the flat histogram, shares (8, N) that sum to 1 over the first axis.
    """
    low, span, bins = (np.asarray(a, np.float32)[None] for a in (LOW, np.subtract(HIGH, LOW), BINS))
    place = jnp.clip((values - low) / span * bins - 0.5, 0.0, bins - 1.0)
    first = jnp.minimum(jnp.floor(place), bins - 2.0)
    upper = place - first
    corner = np.stack(np.unravel_index(np.arange(8), (2, 2, 2)), axis=-1)
    corner = corner[:, None, ::-1]  # the first tone varies fastest
    red, green, blue = jnp.moveaxis(first.astype(jnp.int32)[None] + corner, -1, 0)
    shares = jnp.prod(jnp.where(corner == 1, upper[None], 1.0 - upper[None]), axis=-1)
    return (red * BINS[1] + green) * BINS[2] + blue, shares


def histogram(bins: tuple[Array, Array], weights: Array) -> Array:
    """Density of tones (bins,) from pixels of weights (N,); integrates to 1, or is 0 where nothing weighs anything."""
    indices, shares = bins
    counts = jnp.zeros(math.prod(BINS)).at[indices].add(shares * weights[None])
    volume = math.prod((HIGH[axis] - LOW[axis]) / BINS[axis] for axis in range(3))
    return counts / (volume * jnp.maximum(jnp.sum(weights), 1e-6))


def look_up(density: Array, bins: tuple[Array, Array]) -> Array:
    """The density (bins,) at each pixel: (N,)."""
    indices, shares = bins
    return jnp.sum(density[indices] * shares, axis=0)


def uniform_density() -> float:
    """Of tones anywhere in their range."""
    return 1.0 / math.prod(HIGH[axis] - LOW[axis] for axis in range(3))
