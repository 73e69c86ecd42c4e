"""The small ExpGen, for CPUs; its weights ship.

python -m experiments.train --config expgen_small --output models/assets/open_head_expgen.npz

22 minutes on two CPU cores that had other work besides. Expected, 256 validation examples: samples 1.59 mm from the
truth (RMS, front of the face, jaw left out), their mean 1.17 mm, spread 1.20 mm (models/assets/MODEL_CARD.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from experiments.training.ofer.architectures import small
from experiments.training.ofer.settings import GeneratorSettings

SUMMARY = "the small ExpGen of OFER, for CPUs; under half an hour on two cores"


@dataclass(frozen=True)
class Config(GeneratorSettings):
    __doc__ = GeneratorSettings.__doc__

    workdir: Path = Path("output/expgen_small")
    steps: int = 5_000
    batch_size: int = 128
    draws: int = 4
    learning_rate: float = 1e-3
    encoder_rate: float = 1e-3
    even: bool = True


def run(config: Config, console: Console) -> dict[str, float]:
    """Do what `config` asks. Returns the errors on validation examples."""
    from experiments.training.ofer.train import train

    return train(config, small("expression"), console)
