"""Determinantal point processes over heads: the diversity loss of Diverse3DFace (section 4.3), and exact sampling.

A DPP gives a subset A of M items a probability proportional to det(L_A), with L_ij = q_i S_ij q_j from qualities q and
similarities S (Kulesza & Taskar, Determinantal Point Processes for Machine Learning, 2012). It is large for diverse
items of high quality.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from einops import rearrange
from jax import Array

from flamejax._checks import check_shapes

EQUAL_THRESHOLD = 1e-12
"""Squared distance, relative to the largest norm, below which shapes count as equal and distances have no gradient."""


def pairwise_distances(shapes: Array) -> Array:
    """Return the root mean square distances between shapes.

    They are computed from the Gram matrix of the centred shapes, so that the gradient is one matrix product. The
    differences of all pairs would take M^2 V memory. Without centring, digits would cancel in float32.

    Args:
      shapes: (*b, M, V, 3).

    Returns:
      (*b, M, M) in the unit of `shapes`: Frobenius norms over sqrt(V). Value and gradient are zero on the diagonal and
      between equal shapes.
    """
    flat = rearrange(shapes, "... m v c -> ... m (v c)")
    flat = flat - jnp.mean(flat, axis=-2, keepdims=True)
    gram = jnp.matmul(flat, jnp.swapaxes(flat, -1, -2), precision="highest")
    norms = jnp.diagonal(gram, axis1=-2, axis2=-1)
    squared = norms[..., :, None] + norms[..., None, :] - 2 * gram
    off_diagonal = jnp.broadcast_to(~jnp.eye(gram.shape[-1], dtype=bool), squared.shape)
    differs = off_diagonal & (squared > EQUAL_THRESHOLD * jnp.max(norms, axis=-1)[..., None, None])
    return jnp.where(differs, jnp.sqrt(jnp.where(differs, squared, 1) / shapes.shape[-2]), 0)


def similarity(distances: Array, k: float | Array = 0.5) -> Array:
    """Return S_ij = exp(-k d_ij / median d) (Diverse3DFace, Eq. 8).

    The median over pairs i != j is a constant of the gradient. Otherwise Eq. 8 would be invariant to the shapes' scale,
    and the loss would not push them apart.

    Args:
      distances: (*b, M, M). k: the paper's scaling factor, 0.5 there.

    Returns:
      (*b, M, M) in [0, 1], ones on the diagonal.
    """
    count = distances.shape[-1]
    if count < 2:
        return jnp.ones_like(distances)
    upper = distances[(..., *jnp.triu_indices(count, 1))]
    median = jax.lax.stop_gradient(jnp.median(upper, axis=-1))[..., None, None]
    return jnp.exp(-k * distances / jnp.where(median > 0, median, 1))


def shell_radius(dimensions: int, n_sigma: float | Array = 3.0) -> Array:
    """Return the radius that a standard normal vector's norm exceeds with about the one-sided tail probability of
    `n_sigma` standard deviations: ().

    |z|^2 in d dimensions has mean d and variance 2 d, which gives sqrt(d + n_sigma sqrt(2 d)). The paper's Eq. 9
    compares z^T z with 3 sqrt(d), which a normal vector of many dimensions always exceeds (z^T z is about d).
    """
    return jnp.sqrt(dimensions + n_sigma * jnp.sqrt(2.0 * dimensions))


def quality(latents: Array, n_sigma: float | Array = 3.0, *, each: bool = False) -> Array:
    """Return q = exp(-max(0, |z| - r)) with r = `shell_radius` (Diverse3DFace, Eq. 9).

    Norms are used, as in the authors' code, because with the squares of Eq. 9 typical values are e^-500.

    Args:
      latents: (*b, M, D), standard normal for plausible heads.
      n_sigma: larger is more diverse, smaller is more realistic.
      each: also bound each latent: the sum of max(0, |z_i| - n_sigma) is added to max(0, |z| - r).

    Returns:
      (*b, M) in (0, 1].
    """
    penalty = excess(latents, n_sigma)
    if each:
        penalty = penalty + jnp.sum(jnp.maximum(jnp.abs(latents) - n_sigma, 0), axis=-1)
    return jnp.exp(-penalty)


def excess(latents: Array, n_sigma: float | Array = 3.0) -> Array:
    """Return max(0, |z| - r) of latents (*b, M, D), their distances beyond the shell: (*b, M)."""
    squared = jnp.sum(latents**2, axis=-1)
    norms = jnp.where(squared > 0, jnp.sqrt(jnp.where(squared > 0, squared, 1)), 0)
    return jnp.maximum(norms - shell_radius(latents.shape[-1], n_sigma), 0)


def kernel(qualities: Array, similarities: Array) -> Array:
    """Return L_ij = q_i S_ij q_j: (*b, M), (*b, M, M) -> (*b, M, M)."""
    return qualities[..., :, None] * similarities * qualities[..., None, :]


def dpp_loss(likelihood_kernel: Array) -> Array:
    """Return -tr(I - (L + I)^-1), minus the expected size of a subset (Diverse3DFace, Eq. 10).

    Args:
      likelihood_kernel: (*b, M, M) L, symmetric and positive semi-definite.

    Returns:
      (*b,) between -M and 0; lower for larger and more diverse sets.

    Raises:
      ValueError: the kernel is not square.
    """
    count = jnp.shape(likelihood_kernel)[-1]
    check_shapes(likelihood_kernel=(likelihood_kernel, (..., count, count)))
    unit = jnp.broadcast_to(jnp.eye(count, dtype=likelihood_kernel.dtype), likelihood_kernel.shape)
    return _trace_of_inverse(likelihood_kernel + unit) - count


@jax.custom_jvp
def _trace_of_inverse(matrix: Array) -> Array:
    return jnp.trace(_inverse(matrix), axis1=-2, axis2=-1)


@_trace_of_inverse.defjvp
def _trace_of_inverse_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    """Differentiate by d tr(A^-1) = -<A^-2, dA>: one product, instead of differentiating the Cholesky factorisation."""
    inverse = _inverse(primals[0])
    squared = jnp.matmul(inverse, inverse, precision="highest")
    return jnp.trace(inverse, axis1=-2, axis2=-1), -jnp.sum(squared * tangents[0], axis=(-2, -1))


def _inverse(matrix: Array) -> Array:
    """Invert symmetric positive definite matrices (*b, M, M)."""
    unit = jnp.broadcast_to(jnp.eye(matrix.shape[-1], dtype=matrix.dtype), matrix.shape)
    half = jax.lax.linalg.triangular_solve(jnp.linalg.cholesky(matrix), unit, left_side=True, lower=True)
    return jnp.matmul(jnp.swapaxes(half, -1, -2), half, precision="highest")


def diversity_loss(
    shapes: Array, latents: Array, *, k: float | Array = 0.5, n_sigma: float | Array = 3.0, each: bool = False
) -> Array:
    """Return the DPP loss of a set of heads (Diverse3DFace, Eqs. 8-10).

    Args:
      shapes: (*b, M, V, 3), which the loss makes diverse.
      latents: (*b, M, D), standard normal for plausible heads.
      each: as in `quality`.

    Returns:
      (*b,).

    Raises:
      ValueError: the shapes' last axis is not 3, or there are not as many latents as shapes.
    """
    check_shapes(shapes=(shapes, (..., None, None, 3)), latents=(latents, (*shapes.shape[:-2], None)))
    return dpp_loss(kernel(quality(latents, n_sigma, each=each), similarity(pairwise_distances(shapes), k)))


@jax.jit
def sample_dpp(key: Array, likelihood_kernel: Array) -> Array:
    """Draw an exact sample of the DPP, a subset of random size: (M,) bool (Kulesza & Taskar 2012, Algorithm 1).

    Args:
      likelihood_kernel: (M, M) L.

    Raises:
      ValueError: the kernel is not square.
    """
    check_shapes(likelihood_kernel=(likelihood_kernel, (likelihood_kernel.shape[-1],) * 2))
    eigenvector_key, item_key = jax.random.split(key)
    values, vectors = jnp.linalg.eigh(likelihood_kernel)
    values = jnp.maximum(values, 0)
    selected = jax.random.uniform(eigenvector_key, values.shape) < values / (1 + values)
    order = _sample_projection(item_key, vectors * selected[None, :], likelihood_kernel.shape[-1])
    chosen = jnp.arange(len(values)) < jnp.sum(selected)
    return jnp.zeros(len(values), bool).at[order].max(chosen)


@functools.partial(jax.jit, static_argnums=2)
def sample_k_dpp(key: Array, likelihood_kernel: Array, count: int) -> Array:
    """Draw an exact sample of the k-DPP, k = `count`: (count,) int32, ascending (Kulesza & Taskar 2012, Algorithm 8).

    Args:
      likelihood_kernel: (M, M) L. If its rank is below `count`, arbitrary items complete the subset.

    Raises:
      ValueError: `count` is not between 1 and M, or the kernel is not square.
    """
    size = likelihood_kernel.shape[-1]
    check_shapes(likelihood_kernel=(likelihood_kernel, (size, size)))
    if not 1 <= count <= size:
        raise ValueError(f"a subset of {size} items has between 1 and {size} items, not {count}.")
    eigenvector_key, item_key = jax.random.split(key)
    values, vectors = jnp.linalg.eigh(likelihood_kernel)
    logs = jnp.log(jnp.maximum(values, 1e-7 * values[-1] + jnp.finfo(values.dtype).tiny))
    polynomials = _log_elementary_polynomials(logs, count)

    def select(remaining: Array, inputs: tuple[Array, Array, Array]) -> tuple[Array, Array]:
        index, log_value, uniform = inputs
        log_probability = (
            log_value + polynomials[index, jnp.maximum(remaining - 1, 0)] - polynomials[index + 1, remaining]
        )
        is_selected = (remaining > 0) & (jnp.log(uniform) < log_probability)
        return remaining - is_selected.astype(remaining.dtype), is_selected

    indices = jnp.arange(size - 1, -1, -1)
    inputs = indices, logs[::-1], jax.random.uniform(eigenvector_key, (size,))
    _, selected = jax.lax.scan(select, jnp.asarray(count), inputs)
    return jnp.sort(_sample_projection(item_key, vectors * selected[::-1][None, :], count))


def _log_elementary_polynomials(logs: Array, count: int) -> Array:
    """Return the logs (M + 1, count + 1) of the elementary symmetric polynomials e_l: row n is for the first n of the
    numbers exp(logs), column l is the degree."""

    def add(row: Array, log_value: Array) -> tuple[Array, Array]:
        new = row.at[1:].set(jnp.logaddexp(row[1:], log_value + row[:-1]))
        return new, new

    first = jnp.full(count + 1, -jnp.inf, logs.dtype).at[0].set(0)
    return jnp.concatenate([first[None], jax.lax.scan(add, first, logs)[1]])


def _sample_projection(key: Array, basis: Array, count: int) -> Array:
    """Sample `count` items of the DPP with marginal kernel B B^T, where the columns of B are orthonormal or zero. Items
    beyond the rank are arbitrary."""

    def draw(marginal: Array, key: Array) -> tuple[Array, Array]:
        probabilities = jnp.maximum(jnp.diagonal(marginal), 0)
        item = jax.random.categorical(key, jnp.log(probabilities))
        column = marginal[:, item]
        conditioned = marginal - column[:, None] * column[None, :] / jnp.maximum(column[item], 1e-12)
        # Rounding errors must not let an item be drawn again.
        return conditioned.at[item].set(0).at[:, item].set(0), item

    marginal = jnp.matmul(basis, basis.T, precision="highest")
    return jax.lax.scan(draw, marginal, jax.random.split(key, count))[1].astype(jnp.int32)
