"""What the shared parts of training ask of a run's options."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

UNSEEN = ("workdir", "output", "smoke", "restart", "checkpoint_every", "judge_every", "log_every", "keep", "devices")
"""Options that leave a run's numbers alone: a run may go on with others."""


class RunSettings(Protocol):
    """Options of any training run."""

    @property
    def workdir(self) -> Path:
        """Folder of the run."""

    @property
    def steps(self) -> int:
        """Steps in all."""

    @property
    def restart(self) -> bool:
        """Delete the checkpoints and start anew."""

    @property
    def keep(self) -> int:
        """Checkpoints that are kept."""

    @property
    def checkpoint_every(self) -> int:
        """Steps between checkpoints."""

    @property
    def judge_every(self) -> int:
        """Steps between errors on validation data."""

    @property
    def log_every(self) -> int:
        """Steps between lines of metrics.jsonl."""

    def numbers(self) -> dict[str, Any]:
        """The options that decide what a run computes; a run can only go on with the same."""
