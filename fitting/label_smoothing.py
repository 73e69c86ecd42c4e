"""Binary labels of an image's pixels: mean-field smoothing that stops at edges, and clean-up of holes and specks.

All of one image; `vmap` for more. Shapes are static, so that everything compiles once.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

NEIGHBOURS = tuple((dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if (dy, dx) > (0, 0))
REACHES = (1, 3)
"""Neighbours one and three pixels away: the far ones carry a label over noise and thin lines."""
DAMPING = 0.5
"""Share of the last belief that a parallel update keeps: without it two-coloured patterns swing for ever."""


def _shifted(image: Array, dy: int, dx: int) -> Array:
    """The value `dy` rows below and `dx` columns to the right; beyond the border 0. image (H, W, ...)."""
    height, width = image.shape[:2]
    margin = [(abs(dy), abs(dy)), (abs(dx), abs(dx))] + [(0, 0)] * (image.ndim - 2)
    top, left = abs(dy) + dy, abs(dx) + dx
    return jnp.pad(image, margin)[top : top + height, left : left + width]


def edge_weights(colours: Array, active: Array, contrast: float, floor: float) -> list[tuple[int, int, Array]]:
    """How strongly each pixel is tied to its neighbours: (dy, dx, weight (H, W)) for half of the directions; the other
    half are the same ties seen from the other end.

    Args:
      colours: (H, W, C); active: (H, W) in [0, 1], pixels outside have no ties.
      contrast: colour difference at which a tie has lost 1 - 1/e of its strength.
      floor: share of the strength that stays across any edge.
    """
    ties = []
    for reach in REACHES:
        for dy, dx in NEIGHBOURS:
            other = _shifted(colours, reach * dy, reach * dx)
            squared = sum((colours[..., k] - other[..., k]) ** 2 for k in range(colours.shape[-1]))
            strength = floor + (1.0 - floor) * jnp.exp(-squared / contrast**2)
            length = (dy * dy + dx * dx) ** 0.5
            tie = strength / length * active * _shifted(active, reach * dy, reach * dx)
            ties.append((reach * dy, reach * dx, tie))
    return ties


def mean_field(log_odds: Array, ties: list[tuple[int, int, Array]], strength: float, steps: int) -> Array:
    """Posterior of label 1 under a Potts model, by mean-field iteration (Kraehenbuehl & Koltun 2011, with local ties).

    Args:
      log_odds: (H, W) of label 1 at each pixel alone.
      ties: from `edge_weights`; strength: log odds that one full tie to a certain neighbour is worth.
      steps: damped parallel updates.

    Returns:
      (H, W) in [0, 1].
    """

    def step(_: int, belief: Array) -> Array:
        vote = 2.0 * belief - 1.0
        message = jnp.zeros_like(belief)
        for dy, dx, tie in ties:
            message += tie * _shifted(vote, dy, dx) + _shifted(tie * vote, -dy, -dx)
        return DAMPING * belief + (1.0 - DAMPING) * jax.nn.sigmoid(log_odds + strength * message)

    return jax.lax.fori_loop(0, steps, step, jax.nn.sigmoid(log_odds))


def box_sum(image: Array, radius: int) -> Array:
    """Sum over a square of side 2 radius + 1; beyond the border 0. image (H, W)."""
    return _over_squares(image, radius, 0.0, jax.lax.add)


def dilate(mask: Array, radius: int) -> Array:
    """Greatest value within a square of side 2 radius + 1. mask (H, W)."""
    return _over_squares(mask, radius, -jnp.inf, jax.lax.max)


def _over_squares(image: Array, radius: int, start: float, operation: Callable[[Array, Array], Array]) -> Array:
    window = (2 * radius + 1, 1)
    rows = jax.lax.reduce_window(image, start, operation, window, (1, 1), "SAME")
    return jax.lax.reduce_window(rows, start, operation, window[::-1], (1, 1), "SAME")


def erode(mask: Array, radius: int) -> Array:
    """Least value within a square of side 2 radius + 1; the image's border counts as inside. mask (H, W)."""
    return -dilate(-mask, radius)


def reachable(seeds: Array, free: Array) -> Array:
    """Pixels of `free` that are joined to a seed by free pixels (8 neighbours). seeds, free (H, W) of 0 and 1."""

    def grow(state: tuple[Array, Array]) -> tuple[Array, Array]:
        reached, _ = state
        # Several steps a check: the check is a reduction over the whole image.
        grown = reached
        for _ in range(8):
            grown = dilate(grown, 1) * free
        return grown, jnp.any(grown != reached)

    return jax.lax.while_loop(lambda state: state[1], grow, (seeds * free, jnp.asarray(True)))[0]


def fill_holes(mask: Array, radius: int) -> Array:
    """Set what the mask encloses, unless a square of side 2 radius + 1 fits into it. mask (H, W) of 0 and 1."""
    free = 1.0 - mask
    border = jnp.zeros_like(mask).at[0].set(1.0).at[-1].set(1.0).at[:, 0].set(1.0).at[:, -1].set(1.0)
    return 1.0 - reachable(jnp.maximum(border, erode(free, radius)), free)


def remove_specks(mask: Array, radius: int, inside: Array) -> Array:
    """Drop connected parts into which no square of side 2 radius + 1 fits with its centre inside (H, W); others stay as
    they are. mask (H, W) of 0 and 1."""
    return reachable(erode(mask, radius) * inside, mask)
