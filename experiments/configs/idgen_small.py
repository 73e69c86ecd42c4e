"""The small IdGen, for CPUs; its weights ship.

python -m experiments.train --config idgen_small --output models/assets/open_head_idgen.npz

23 minutes on two CPU cores that had other work besides. Expected, 256 validation examples: samples 3.17 mm from the
truth (RMS, front of the face, without what a similarity can do), their mean 2.28 mm, spread 2.30 mm
(models/assets/MODEL_CARD.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from experiments.training.ofer.architectures import small
from experiments.training.ofer.settings import GeneratorSettings

SUMMARY = "the small IdGen of OFER, for CPUs; under half an hour on two cores"


@dataclass(frozen=True)
class Config(GeneratorSettings):
    __doc__ = GeneratorSettings.__doc__

    workdir: Path = Path("output/idgen_small")
    steps: int = 6_000
    batch_size: int = 128
    draws: int = 4
    learning_rate: float = 1e-3
    encoder_rate: float = 1e-3
    even: bool = True


def run(config: Config, console: Console) -> dict[str, float]:
    """Do what `config` asks. Returns the errors on validation examples."""
    from experiments.training.ofer.train import train

    return train(config, small("identity"), console)
