"""IdGen as the paper has it, on photos through ArcFace, for GPUs.

python -m experiments.train --config idgen                                            # the open faces' photos
python -m experiments.train --config idgen --head FLAME.pkl --photos DIR --dataset famos

It needs the image encoders' weights (docs/encoders.md); data sets are described in docs/ofer-training.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from experiments.training.ofer.architectures import paper
from experiments.training.ofer.settings import GeneratorSettings

SUMMARY = "OFER's IdGen, on photos through ArcFace, for GPUs"


@dataclass(frozen=True)
class Config(GeneratorSettings):
    __doc__ = GeneratorSettings.__doc__

    workdir: Path = Path("output/idgen")
    steps: int = 18_000  # 400 epochs of the open faces' photos
    ema: float = 0.0


def run(config: Config, console: Console) -> dict[str, float]:
    """Do what `config` asks. Returns the errors on validation photos."""
    from experiments.training.ofer.train import train

    return train(config, paper("identity"), console)
