"""Check of derivatives by finite differences, in two compiled programs; `jax.test_util.check_grads` compiles dozens."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def check_gradients(
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
    *,
    eps: float = 1e-2,
    rtol: float = 0.03,
    atol: float | None = None,
) -> None:
    """Compare forward and reverse derivatives with central differences along a random direction.

    Args:
      function: maps trees of float32 arrays to a tree of arrays.
      arguments: point at which to differentiate.
      eps: step of the differences, along normal deviates.
      rtol, atol: tolerances of the forward derivatives, and of reverse derivatives times random weights. By default
        atol is a thousandth of the largest difference.
    """
    rng = np.random.default_rng(0)
    arguments = jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), arguments)
    direction = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), arguments)
    value = jax.jit(function)
    above, below = (
        value(*jax.tree.map(lambda leaf, step, sign=sign: leaf + np.float32(sign * eps) * step, arguments, direction))
        for sign in (1, -1)
    )
    difference = jax.tree.map(lambda a, b: (np.asarray(a, np.float64) - b) / (2 * eps), above, below)
    if atol is None:
        atol = 1e-3 * max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(difference))
    weights = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), difference)

    @jax.jit
    def derivatives(arguments: Any, direction: Any, weights: Any) -> tuple[Any, Any]:
        _, forward = jax.jvp(function, arguments, direction)
        _, vjp = jax.vjp(function, *arguments)
        return forward, vjp(weights)

    forward, reverse = derivatives(arguments, direction, weights)
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves((forward, reverse)))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=atol), forward, difference)

    def dot(first: Any, second: Any) -> float:
        pairs = zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True)
        return sum(float(np.vdot(np.asarray(a, np.float64), b)) for a, b in pairs)

    np.testing.assert_allclose(dot(reverse, direction), dot(weights, difference), rtol=rtol, atol=atol)
