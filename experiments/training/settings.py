"""Options that all training runs have."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

import tyro

from experiments.datasets.registered_scans import Unit

UNSEEN = ("workdir", "output", "smoke", "restart", "checkpoint_every", "judge_every", "log_every", "keep", "devices")
"""Options that leave a run's numbers alone: a run may go on with others."""


@dataclass(frozen=True)
class RunSettings:
    """Options of any training run."""

    workdir: Path = Path("output/train")
    """Folder of the run."""
    head: Path | None = None
    """Head model file; the embedded open head unless given."""
    scans: Path | None = None
    """Folder of registered scans in the head's topology (CoMA, D3DFACS): DIR/<subject>/<expression>/*.ply|obj|npy|npz.
    Without it: the open faces, which are built when they are missing."""
    unit: Unit = "m"
    """Of the scans' coordinates."""
    every: int = 1
    """Take every n-th scan of a folder."""
    output: Path | None = None
    """File of the trained weights; in WORKDIR unless given."""
    steps: int = 100_000
    """Steps in all."""
    batch_size: int = 16
    """Heads or photos a step, over all devices."""
    learning_rate: float = 1e-3
    """Highest; linear warm-up, cosine decay."""
    warmup: int = 500
    """Steps of the learning rate's warm-up."""
    clip: float = 1.0
    """Largest norm of the gradient."""
    seed: int = 0
    """Of weights, order and draws."""
    devices: int | None = None
    """Devices to share a batch; all unless given."""
    checkpoint_every: int = 1000
    """Steps between checkpoints."""
    keep: int = 3
    """Checkpoints that are kept."""
    judge_every: int = 2000
    """Steps between errors on validation data."""
    log_every: int = 20
    """Steps between lines of metrics.jsonl."""
    restart: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Delete WORKDIR's checkpoints and start anew."""
    smoke: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """A few small steps on little data, in WORKDIR/smoke: does it run?"""

    def __post_init__(self) -> None:
        intervals = self.checkpoint_every, self.judge_every, self.log_every
        if min(self.steps, self.batch_size, self.every, self.keep, *intervals) < 1:
            raise ValueError("--steps, --batch-size, --every, --keep and the intervals are at least 1.")

    def numbers(self) -> dict[str, Any]:
        """The options that decide what a run computes; a run can only go on with the same."""
        values = {k: v for k, v in dataclasses.asdict(self).items() if k not in UNSEEN}
        return {k: str(v) if isinstance(v, Path) else v for k, v in values.items()}


Settings = TypeVar("Settings", bound=RunSettings)


def smoke_settings(settings: Settings, largest_batch: int) -> Settings:
    """What --smoke makes of options: in a folder of its own, so that neither a run nor weights are touched."""
    return dataclasses.replace(
        settings,
        workdir=settings.workdir / "smoke",
        output=None,
        steps=20,
        batch_size=min(settings.batch_size, largest_batch),
        warmup=5,
        checkpoint_every=10,
        judge_every=20,
        log_every=5,
    )
