"""Shape checks of arguments. They look at shapes only, so they work under jit and cost nothing at run time."""

from types import EllipsisType
from typing import Any

import chex
import jax.numpy as jnp
from jax.typing import ArrayLike


def check_shape(name: str, array: ArrayLike, *axes: int | str, batched: bool = True) -> None:
    """Check an array's axes: a number is a length, a name stands for any length.

    Args:
      name: name of the argument, for the message.
      batched: whether any leading axes may come before these.

    Raises:
      ValueError: the axes differ. The message names the argument and the expected shape.
    """
    expected_axes = ("*b", *axes) if batched else axes
    message = f"{name} should be ({', '.join(map(str, expected_axes))}), not {jnp.shape(array)}."
    lengths = tuple(axis if isinstance(axis, int) else None for axis in axes)
    lengths = (..., *lengths) if batched else lengths
    try:
        chex.assert_shape(array, lengths)
    except AssertionError:  # chex's message speaks of "input 0"
        raise ValueError(message) from None


def check_shapes(**arguments: tuple[Any, tuple[int | EllipsisType | None, ...]]) -> None:
    """Check several arrays: `check_shapes(visible=(visible, (..., 5023)))`. `...`: any leading axes; None: any length.

    Raises:
      ValueError: as `check_shape`.
    """
    for name, (array, shape) in arguments.items():
        batched = bool(shape) and shape[0] is ...
        axes = ["any" if axis is None or axis is ... else axis for axis in (shape[1:] if batched else shape)]
        check_shape(name, array, *axes, batched=batched)
