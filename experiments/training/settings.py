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

NON_SEMANTIC_FIELDS = {"checkpoint_every", "eval_every", "log_every", "keep", "devices", "eval_examples"}
"""Settings that do not change what a run computes: it may be resumed with other values."""
NON_FINGERPRINT_OPTIONS = {"workdir", "output", "smoke", "restart", "final_eval_examples", "training", "architecture"}
"""Options that do not change what a run computes, or that are recorded under their own names."""


@dataclass(frozen=True)
class TrainingConfig:
    """How a network is trained, apart from its data."""

    steps: int = 3000
    """Number of training steps; a run can't be extended."""
    batch_size: int = 8
    """Examples per step, over all devices."""
    learning_rate: float = 1e-3
    """Peak learning rate; linear warm-up, cosine decay."""
    warmup: int = 100
    """Warm-up steps of the learning rate."""
    clip: float = 1.0
    """Largest norm of the gradient; larger ones are scaled down."""
    seed: int = 0
    """Random seed of the weights, the order of examples and random draws."""
    devices: int | None = None
    """Number of devices that share a batch; all unless given."""
    checkpoint_every: int = 1000
    """Steps between checkpoints."""
    keep: int = 3
    """Number of checkpoints to keep."""
    eval_every: int = 2000
    """Steps between evaluations on validation data."""
    eval_examples: int = 48
    """Number of validation examples in these evaluations, at most."""
    log_every: int = 20
    """Steps between lines of metrics.jsonl, and between checks that the losses are finite."""

    def __post_init__(self) -> None:
        intervals = self.checkpoint_every, self.eval_every, self.log_every
        if min(self.steps, self.batch_size, self.keep, self.eval_examples, *intervals) < 1:
            raise ValueError("--steps, --batch-size, --keep, --eval-examples and the intervals are at least 1.")

    def fingerprint(self) -> dict[str, Any]:
        """Returns the settings that decide what a run computes; it can only be resumed with the same ones."""
        return {k: v for k, v in dataclasses.asdict(self).items() if k not in NON_SEMANTIC_FIELDS}


@dataclass(frozen=True)
class RunOptions(ScanOptions):
    """Options of any command that trains a network."""

    command: ClassVar[str]
    """Function that runs the command, "module:function"; imported on use."""
    workdir: Path = Path("output/train")
    """Folder of the run."""
    output: Path | None = None
    """File for the trained weights; in WORKDIR unless given."""
    final_eval_examples: int = 256
    """Number of validation examples in the evaluation of the final weights, at most."""
    restart: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Delete WORKDIR's checkpoints and start anew."""
    training: Annotated[TrainingConfig, tyro.conf.arg(name="")] = TrainingConfig()
    architecture: tyro.conf.Suppress[Any] = None

    def run(self, console: Console) -> dict[str, float]:
        """Train. Returns the errors on validation examples; raises as the function in `command`."""
        module, function = self.command.split(":")
        return getattr(importlib.import_module(module), function)(self, console)

    def fingerprint(self) -> dict[str, Any]:
        """Returns the options and settings that decide what a run computes, without the architecture; JSON values."""
        names = [field.name for field in dataclasses.fields(self) if field.name not in NON_FINGERPRINT_OPTIONS]
        values = {name: getattr(self, name) for name in names}
        return {**{k: str(v) if isinstance(v, Path) else v for k, v in values.items()}, **self.training.fingerprint()}

    def with_smoke_settings(self, largest_batch: int, eval_examples: int) -> Self:
        """With --smoke, returns options of a short run in a folder of its own, so that no run or weights are touched.
        Without it, returns the options unchanged."""
        if not self.smoke:
            return self
        training = dataclasses.replace(
            self.training, steps=20, batch_size=min(self.training.batch_size, largest_batch), warmup=5,
            checkpoint_every=10, eval_every=20, log_every=5, eval_examples=eval_examples,
        )  # fmt: skip
        return dataclasses.replace(
            self, workdir=self.workdir / "smoke", output=None, final_eval_examples=eval_examples,
            training=training,
        )  # fmt: skip
