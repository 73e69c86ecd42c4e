"""The small ExpGen, for CPUs; its weights ship.

python -m experiments.train --config expgen_small --output models/assets/open_head_expgen.npz
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from experiments.ofer.architectures import small
from experiments.ofer.settings import GeneratorSettings

SUMMARY = "the small ExpGen of OFER, for CPUs"


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
    from experiments.ofer.train import train

    return train(config, small("expression"), console)
