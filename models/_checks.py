"""Checks of shapes at public entrances, in words that name the argument."""

from __future__ import annotations

from types import EllipsisType
from typing import Any

import chex
import jax.numpy as jnp

Shape = tuple[int | EllipsisType | None, ...]
"""Sizes; None: any; an ellipsis: any number of leading axes."""


def check_shapes(**arguments: tuple[Any, Shape]) -> None:
    """Check arrays, traced ones too, by their names: `check_shapes(visible=(visible, (..., 5023)))`.

    Raises:
      ValueError: an array has another shape. The message names it, its shape and the wanted one.
    """
    for name, (array, shape) in arguments.items():
        try:
            chex.assert_shape(array, shape)
        except AssertionError:
            wanted = ", ".join("..." if size is ... else "any" if size is None else str(size) for size in shape)
            raise ValueError(f"`{name}` has the shape {jnp.shape(array)}, but ({wanted}) is wanted.") from None
