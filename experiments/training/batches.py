"""Batches through grain: shuffled anew in each epoch, endless, and resumable exactly."""

from __future__ import annotations

from typing import Any, Protocol

import grain


class Rows(Protocol):
    """Random access to examples, such as an array of them; examples are arrays or trees of arrays. All threads read
    it."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


class Endless:
    """Batches of a run that draws them inside the step: nothing to read, and no place to remember."""

    def __next__(self) -> None:
        return None

    def get_state(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def set_state(self, state: dict[str, Any]) -> None:
        """Nothing."""


def endless(rows: Rows, size: int, seed: int) -> Any:
    """An iterator of `size` examples with a leading axis; `get_state()` and `set_state(state)` say and change where it
    is."""
    data = grain.MapDataset.source(rows).shuffle(seed=seed).repeat().batch(size, drop_remainder=True)
    return iter(data.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=4)))
