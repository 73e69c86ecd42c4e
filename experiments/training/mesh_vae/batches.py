"""Batches of the training heads."""

from __future__ import annotations

from typing import Any

import numpy as np

from experiments.training.batches import endless


class _Rows:
    """Random access for grain: the heads themselves stay in one array that all threads read."""

    def __init__(self, vertices: np.ndarray):
        self.vertices = vertices

    def __len__(self) -> int:
        return len(self.vertices)

    def __getitem__(self, index: int) -> np.ndarray:
        return self.vertices[index]


def batches(vertices: np.ndarray, size: int, seed: int) -> Any:
    """An iterator of (size, V, 3); `get_state()` and `set_state(state)` say and change where it is.

    Raises:
      ValueError: there are fewer heads than a batch needs.
    """
    if len(vertices) < size:
        raise ValueError(f"{len(vertices)} training heads are fewer than a batch takes from them ({size}).")
    return endless(_Rows(vertices), size, seed)
