"""Batches through grain: shuffled anew in each epoch, endless, and resumable exactly."""

from __future__ import annotations

from typing import Any

import grain


class Endless:
    """Batches of a run that draws them inside the step: nothing to read, and no place to remember."""

    def __next__(self) -> None:
        return None

    def get_state(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def set_state(self, state: dict[str, Any]) -> None:
        """Nothing."""


def endless(rows: Any, size: int, seed: int) -> Any:
    """An iterator of `size` examples with a leading axis; `get_state()` and `set_state(state)` say and set where it is.

    Args:
      rows: random access to examples, arrays or trees of arrays, such as an array of them; all threads read it.
    """
    data = grain.MapDataset.source(rows).shuffle(seed=seed).repeat().batch(size, drop_remainder=True)
    return iter(data.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=4)))
