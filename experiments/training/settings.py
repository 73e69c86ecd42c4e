"""Options that all training runs share."""

from __future__ import annotations

import dataclasses
import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

import tyro
from rich.console import Console

from experiments.datasets.scans import ScanOptions

NON_SEMANTIC_FIELDS = {"checkpoint_every", "eval_every", "log_every", "keep", "devices", "judged"}
"""Settings that leave a run's numbers alone: a run may go on with others."""
APART = {"workdir", "output", "smoke", "restart", "judged_at_end", "training", "architecture"}
"""Options that are no numbers of a run, or are recorded under their own names."""


@dataclass(frozen=True)
class TrainingConfig:
    """How a network is trained; the data are not its matter."""

    steps: int = 3000
    """Steps in all."""
    batch_size: int = 8
    """Examples a step, over all devices."""
    learning_rate: float = 1e-3
    """Highest; linear warm-up, cosine decay."""
    warmup: int = 100
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
    eval_every: int = 2000
    """Steps between errors on validation data."""
    judged: int = 48
    """Validation examples that are judged then, at most."""
    log_every: int = 20
    """Steps between lines of metrics.jsonl, and between looks at the losses."""

    def __post_init__(self) -> None:
        intervals = self.checkpoint_every, self.eval_every, self.log_every
        if min(self.steps, self.batch_size, self.keep, self.judged, *intervals) < 1:
            raise ValueError("--steps, --batch-size, --keep, --judged and the intervals are at least 1.")

    def numbers(self) -> dict[str, Any]:
        """The settings that decide what a run computes; a run can only go on with the same."""
        return {k: v for k, v in dataclasses.asdict(self).items() if k not in NON_SEMANTIC_FIELDS}


@dataclass(frozen=True)
class RunOptions(ScanOptions):
    """Options of any command that trains a network."""

    command: ClassVar[str]
    """Module and function that does what the options ask, "module:function"; imported only for that."""
    workdir: Path = Path("output/train")
    """Folder of the run."""
    output: Path | None = None
    """File of the trained weights; in WORKDIR unless given."""
    judged_at_end: int = 256
    """Validation examples that the weights are judged on, at most."""
    restart: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Delete WORKDIR's checkpoints and start anew."""
    training: Annotated[TrainingConfig, tyro.conf.arg(name="")] = TrainingConfig()
    architecture: tyro.conf.Suppress[Any] = None

    def run(self, console: Console) -> dict[str, float]:
        """Do what the options ask. Returns the errors on validation examples; raises what `command` says."""
        module, function = self.command.split(":")
        return getattr(importlib.import_module(module), function)(self, console)

    def numbers(self) -> dict[str, Any]:
        """What decides what a run computes, its architecture aside; JSON."""
        names = [field.name for field in dataclasses.fields(self) if field.name not in APART]
        values = {name: getattr(self, name) for name in names}
        return {**{k: str(v) if isinstance(v, Path) else v for k, v in values.items()}, **self.training.fingerprint()}

    def smoked(self, largest_batch: int, judged: int) -> Self:
        """What --smoke makes of options: in a folder of its own, so that neither a run nor weights are touched. The
        same where it is not given."""
        if not self.smoke:
            return self
        training = dataclasses.replace(
            self.training, steps=20, batch_size=min(self.training.batch_size, largest_batch), warmup=5,
            checkpoint_every=10, eval_every=20, log_every=5, judged=judged,
        )  # fmt: skip
        return dataclasses.replace(
            self, workdir=self.workdir / "smoke", output=None, judged_at_end=judged, training=training
        )
