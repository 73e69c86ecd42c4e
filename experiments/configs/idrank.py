"""IdRank as the paper has it, on photos through ArcFace and FaRL, for GPUs.

python -m experiments.train --config idrank --idgen output/idgen/idgen.npz            # the open faces' photos
python -m experiments.train --config idrank --idgen IDGEN.npz --head FLAME.pkl --photos DIR

It needs the image encoders' weights (docs/encoders.md); data sets are described in docs/ofer-training.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from experiments.training.ofer.architectures import paper_rank
from experiments.training.ofer.settings import RankSettings

SUMMARY = "OFER's IdRank, on photos through ArcFace and FaRL, for GPUs"


@dataclass(frozen=True)
class Config(RankSettings):
    __doc__ = RankSettings.__doc__

    workdir: Path = Path("output/idrank")
    steps: int = 21_600  # 120 epochs of the open faces' photos
    batch_size: int = 32
    ema: float = 0.0


def run(config: Config, console: Console) -> dict[str, float]:
    """Do what `config` asks. Returns the errors on validation photos."""
    from experiments.training.ofer.train_rank import train_rank

    return train_rank(config, paper_rank(), console)
