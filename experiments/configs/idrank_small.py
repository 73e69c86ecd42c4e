"""The small IdRank, for CPUs; its weights ship. It ranks the candidates of the IdGen that ships, or of --idgen.

python -m experiments.train --config idrank_small --output models/assets/open_head_idrank.npz
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from experiments.ofer.architectures import small_rank
from experiments.ofer.settings import RankSettings

SUMMARY = "the small IdRank of OFER, for CPUs"


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
    from experiments.ofer.train_rank import train_rank

    return train_rank(config, small_rank(), console)
