"""Batches through grain: shuffled anew in each epoch, endless, and exactly resumable."""

from __future__ import annotations

from typing import Any

import grain


class NoBatches:
    """Iterator of None, for runs that draw their examples inside the step; it has no state to save."""

    def __next__(self) -> None:
        return None

    def get_state(self) -> dict[str, Any]:
        """Returns an empty state."""
        return {}

    def set_state(self, state: dict[str, Any]) -> None:
        """Does nothing."""


def shuffled_batches(rows: Any, size: int, seed: int) -> Any:
    """Returns an endless iterator over batches of `size` examples; `get_state()` and `set_state(state)` resume it.

    Args:
      rows: random access to examples, arrays or trees of arrays, such as one array. A background thread reads it.
    """
    data = grain.MapDataset.source(rows).shuffle(seed=seed).repeat().batch(size, drop_remainder=True)
    return iter(data.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=4)))
