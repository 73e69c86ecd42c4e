"""ExpGen as the paper has it, on photos through ArcFace and FaRL, for GPUs.

python -m experiments.train --config expgen                                            # the open faces' photos
python -m experiments.train --config expgen --head FLAME.pkl --photos DIR --dataset famos

It needs the image encoders' weights (docs/encoders.md); data sets are described in docs/ofer-training.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from experiments.training.ofer.architectures import paper
from experiments.training.ofer.settings import GeneratorSettings

SUMMARY = "OFER's ExpGen, on photos through ArcFace and FaRL, for GPUs"


@dataclass(frozen=True)
class Config(GeneratorSettings):
    __doc__ = GeneratorSettings.__doc__

    workdir: Path = Path("output/expgen")
    steps: int = 18_000  # 400 epochs of the open faces' photos
    ema: float = 0.0


def run(config: Config, console: Console) -> dict[str, float]:
    """Do what `config` asks. Returns the errors on validation photos."""
    from experiments.training.ofer.train import train

    return train(config, paper("expression"), console)
