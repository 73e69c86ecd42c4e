"""Smooth binary pixel labels by mean-field inference that stops at image edges, and remove holes and specks.

The functions take one image; use `vmap` for more. Shapes are static, so each function compiles once.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

NEIGHBOURS = tuple((dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if (dy, dx) > (0, 0))
REACHES = (1, 3)
"""Neighbours one and three pixels away: the far ones carry labels across noise and thin lines."""
DAMPING = 0.5
"""Share of the previous belief in a parallel update: without damping, checkerboard patterns oscillate."""


def _shift(image: Array, dy: int, dx: int) -> Array:
    """Return at each pixel the value `dy` rows below and `dx` columns to the right; 0 beyond the border.

    image (H, W, ...)."""
    height, width = image.shape[:2]
    margin = [(abs(dy), abs(dy)), (abs(dx), abs(dx))] + [(0, 0)] * (image.ndim - 2)
    top, left = abs(dy) + dy, abs(dx) + dx
    return jnp.pad(image, margin)[top : top + height, left : left + width]


def edge_weights(colours: Array, active: Array, contrast: float, floor: float) -> list[tuple[int, int, Array]]:
    """Return the weights of the edges between each pixel and its neighbours: (dy, dx, weight (H, W)).

    Only half of the directions are listed, since edges are symmetric.

    Args:
      colours: (H, W, C); active: (H, W) in [0, 1], pixels where it is 0 have no edges.
      contrast: colour difference at which exp(-1) of the weight above `floor` remains.
      floor: share of the weight that remains across any colour difference.
    """
    edges = []
    for reach in REACHES:
        for dy, dx in NEIGHBOURS:
            other = _shift(colours, reach * dy, reach * dx)
            squared = sum((colours[..., k] - other[..., k]) ** 2 for k in range(colours.shape[-1]))
            strength = floor + (1.0 - floor) * jnp.exp(-squared / contrast**2)
            length = (dy * dy + dx * dx) ** 0.5
            weight = strength / length * active * _shift(active, reach * dy, reach * dx)
            edges.append((reach * dy, reach * dx, weight))
    return edges


def mean_field(log_odds: Array, edges: list[tuple[int, int, Array]], strength: float, steps: int) -> Array:
    """Return the posterior of label 1 under a Potts model, by mean-field iteration.

    Kraehenbuehl & Koltun 2011, with local edges.

    Args:
      log_odds: (H, W) unary log odds of label 1 at each pixel.
      edges: from `edge_weights`; strength: log odds from a certain neighbour over an edge of weight 1.
      steps: number of damped parallel updates.

    Returns:
      (H, W) in [0, 1].
    """

    def step(_: int, belief: Array) -> Array:
        vote = 2.0 * belief - 1.0
        message = jnp.zeros_like(belief)
        for dy, dx, weight in edges:
            message += weight * _shift(vote, dy, dx) + _shift(weight * vote, -dy, -dx)
        return DAMPING * belief + (1.0 - DAMPING) * jax.nn.sigmoid(log_odds + strength * message)

    return jax.lax.fori_loop(0, steps, step, jax.nn.sigmoid(log_odds))


def box_sum(image: Array, radius: int) -> Array:
    """Return the sum over a square of side 2 radius + 1; 0 beyond the border. image (H, W)."""
    return _reduce_squares(image, radius, 0.0, jax.lax.add)


def dilate(mask: Array, radius: int) -> Array:
    """Return the greatest value within a square of side 2 radius + 1. mask (H, W)."""
    return _reduce_squares(mask, radius, -jnp.inf, jax.lax.max)


def _reduce_squares(image: Array, radius: int, start: float, operation: Callable[[Array, Array], Array]) -> Array:
    window = (2 * radius + 1, 1)
    rows = jax.lax.reduce_window(image, start, operation, window, (1, 1), "SAME")
    return jax.lax.reduce_window(rows, start, operation, window[::-1], (1, 1), "SAME")


def erode(mask: Array, radius: int) -> Array:
    """Return the least value within a square of side 2 radius + 1; the image's border counts as inside. mask (H, W)."""
    return -dilate(-mask, radius)


def reachable(seeds: Array, free: Array) -> Array:
    """Return the pixels of `free` connected to a seed through free pixels (8 neighbours), (H, W) of 0 and 1.

    seeds, free: (H, W) of 0 and 1."""

    def grow(state: tuple[Array, Array]) -> tuple[Array, Array]:
        reached, _ = state
        # Several steps between checks: a check is a reduction over the image.
        grown = reached
        for _ in range(8):
            grown = dilate(grown, 1) * free
        return grown, jnp.any(grown != reached)

    return jax.lax.while_loop(lambda state: state[1], grow, (seeds * free, jnp.asarray(True)))[0]


def fill_holes(mask: Array, radius: int) -> Array:
    """Fill the holes of a mask into which no square of side 2 radius + 1 fits. mask (H, W) of 0 and 1."""
    free = 1.0 - mask
    border = jnp.zeros_like(mask).at[0].set(1.0).at[-1].set(1.0).at[:, 0].set(1.0).at[:, -1].set(1.0)
    return 1.0 - reachable(jnp.maximum(border, erode(free, radius)), free)


def remove_specks(mask: Array, radius: int, inside: Array) -> Array:
    """Remove connected parts into which no square of side 2 radius + 1 fits with its centre in `inside` (H, W).

    Other parts stay unchanged. mask (H, W) of 0 and 1."""
    return reachable(erode(mask, radius) * inside, mask)
