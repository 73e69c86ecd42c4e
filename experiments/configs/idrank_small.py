"""The small IdRank, for CPUs; its weights ship. It ranks the candidates of the IdGen that ships, or of --idgen.

python -m experiments.train --config idrank_small --output models/assets/open_head_idrank.npz

17 minutes on two CPU cores that had other work besides. Expected, 256 validation examples (candidates of 10 steps):
mean absolute error of a coordinate 1.39 mm, of the first 1.20 mm, of the best 0.95 mm; the first among the best fifth
for 54 % (models/assets/MODEL_CARD.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from experiments.training.ofer.architectures import small_rank
from experiments.training.ofer.settings import RankSettings

SUMMARY = "the small IdRank of OFER, for CPUs; under half an hour on two cores"


@dataclass(frozen=True)
class Config(RankSettings):
    __doc__ = RankSettings.__doc__

    workdir: Path = Path("output/idrank_small")
    steps: int = 1_500
    batch_size: int = 16
    learning_rate: float = 1e-4
    encoder_rate: float = 3e-5
    warmup: int = 100
    sampler_steps: int = 10
    sharpness: float = 10.0


def run(config: Config, console: Console) -> dict[str, float]:
    """Do what `config` asks. Returns the errors on validation examples."""
    from experiments.training.ofer.train_rank import train_rank

    return train_rank(config, small_rank(), console)
