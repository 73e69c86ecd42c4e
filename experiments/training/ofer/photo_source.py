"""What a source of training photos is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from flamejax.types import Observation

SIZE = 256
"""Side of the crop that an encoder is shown, pixels: as `reconstruct` takes it from a photo."""


class PhotoSource(Protocol):
    """Photos of a split and the coefficients of what they show: N of them."""

    title: str
    """For progress bars."""
    identity: np.ndarray
    """(N,) labels."""
    betas: np.ndarray
    """(N, S)"""

    @property
    def motion(self) -> np.ndarray | None:
        """(N, E + 3) expression and jaw; None where only identities are known."""

    @property
    def digests(self) -> Sequence[str]:
        """Of each photo and all that its crop and landmarks depend on."""

    def observe(self, index: int, landmarks: np.ndarray | None = None) -> Observation:
        """A photo's crop of `SIZE` and its landmarks. Safe to call from several threads.

        Args:
          landmarks: (68, 3) of an earlier call, pixels of the whole photo and confidence, not to be found again.

        Raises:
          ValueError: it shows no face, or cannot be read. OSError: likewise.
        """
