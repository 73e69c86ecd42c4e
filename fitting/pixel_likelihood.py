"""Likelihoods of a pixel's colour under the fitted face and under histograms of other colours."""

import math

import jax.numpy as jnp
import numpy as np
from jax import Array

DARK = 0.05
"""Added to colours before the logarithm: darker values are dominated by sensor noise."""
BINS = (12, 8, 8)
"""Numbers of the histogram's bins: log intensity, red-green, blue-yellow."""
LOW, HIGH = (math.log(DARK), -1.0, -1.0), (math.log(1.0 + DARK), 1.0, 1.0)
"""The histogram's range of `log_opponent` colours; values beyond it fall into the outermost bins."""
DEGREES_OF_FREEDOM = 4.0
"""Degrees of freedom of the t distributions of the face's colours: heavy tails for moles, pores and highlights."""


def log_opponent(image: Array) -> Array:
    """Convert RGB to log-opponent colours: log intensity, log red over green, log blue over their geometric mean.

    A shadow changes only the first. image (..., 3) in [0, 1] -> (..., 3).
    """
    logs = jnp.log(jnp.clip(image, 0.0, 1.0) + DARK)
    red, green, blue = logs[..., 0], logs[..., 1], logs[..., 2]
    return jnp.stack([(red + green + blue) / 3.0, red - green, blue - 0.5 * (red + green)], axis=-1)


def face_log_likelihood(difference: Array, scales: Array) -> Array:
    """Return the log density of a photo's colour, given the fitted face's.

    It is a Student's t for log intensity times a bivariate one for the two log ratios.

    Args:
      difference: (..., 3) `log_opponent` colours of the photo minus those of the face.
      scales: (..., 2) standard deviations of intensity and of colour.

    Returns:
      (...).
    """
    intensity, colour = scales[..., 0], scales[..., 1]
    intensity_squared = (difference[..., 0] / intensity) ** 2
    colour_squared = (difference[..., 1] ** 2 + difference[..., 2] ** 2) / colour**2
    return t_log_density(intensity_squared, intensity, 1) + t_log_density(colour_squared, colour, 2)


def t_log_density(squared: Array, scale: Array, dimensions: int) -> Array:
    """Return the log density of an isotropic Student's t in `dimensions` dimensions.

    squared: squared length of (value - mean) / scale, of the shape of `scale`."""
    constant = math.lgamma((DEGREES_OF_FREEDOM + dimensions) / 2) - math.lgamma(DEGREES_OF_FREEDOM / 2)
    constant -= 0.5 * dimensions * math.log(DEGREES_OF_FREEDOM * math.pi)
    power = 0.5 * (DEGREES_OF_FREEDOM + dimensions)
    return constant - dimensions * jnp.log(scale) - power * jnp.log1p(squared / DEGREES_OF_FREEDOM)


def robust_scale(squared: Array, weights: Array, previous: Array, dimensions: int) -> Array:
    """Estimate the scale of a t distribution by one step of its EM algorithm (Lange, Little & Taylor 1989).

    Args:
      squared: (N,) squared lengths of differences; weights: (N,); previous: () scale.
      dimensions: dimension of the differences.

    Returns:
      ().
    """
    robust = (DEGREES_OF_FREEDOM + dimensions) / (DEGREES_OF_FREEDOM + squared / previous**2)
    return jnp.sqrt(jnp.sum(weights * robust * squared) / (dimensions * jnp.maximum(jnp.sum(weights), 1e-6)) + 1e-8)


def soft_bins(values: Array) -> tuple[Array, Array]:
    """Return the eight bins round each log-opponent colour and its trilinear weights in them.

    values (N, 3) -> indices (8, N) int32 into the flat histogram, shares (8, N) that sum to 1 over the first axis.
    """
    low, span, bins = (np.asarray(a, np.float32)[None] for a in (LOW, np.subtract(HIGH, LOW), BINS))
    position = jnp.clip((values - low) / span * bins - 0.5, 0.0, bins - 1.0)
    lower = jnp.minimum(jnp.floor(position), bins - 2.0)
    fraction = position - lower
    corner = np.stack(np.unravel_index(np.arange(8), (2, 2, 2)), axis=-1)
    corner = corner[:, None, ::-1]  # the first component varies fastest
    i, j, k = jnp.moveaxis(lower.astype(jnp.int32)[None] + corner, -1, 0)
    shares = jnp.prod(jnp.where(corner == 1, fraction[None], 1.0 - fraction[None]), axis=-1)
    return (i * BINS[1] + j) * BINS[2] + k, shares


def histogram(bins: tuple[Array, Array], weights: Array) -> Array:
    """Return the colour density (bins,) of pixels with weights (N,). It integrates to 1, or is 0 if all weights are.

    bins: result of `soft_bins`."""
    indices, shares = bins
    counts = jnp.zeros(math.prod(BINS)).at[indices].add(shares * weights[None])
    volume = math.prod((HIGH[axis] - LOW[axis]) / BINS[axis] for axis in range(3))
    return counts / (volume * jnp.maximum(jnp.sum(weights), 1e-6))


def look_up(density: Array, bins: tuple[Array, Array]) -> Array:
    """Interpolate the density (bins,) at each pixel: (N,)."""
    indices, shares = bins
    return jnp.sum(density[indices] * shares, axis=0)


def uniform_density() -> float:
    """Return the density of a uniform distribution over the histogram's range."""
    return 1.0 / math.prod(HIGH[axis] - LOW[axis] for axis in range(3))
