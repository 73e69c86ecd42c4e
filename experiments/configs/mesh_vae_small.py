"""The small Mesh-VAE, for CPUs; its weights ship.

python -m experiments.train --config mesh_vae_small --output models/assets/open_head_mesh_vae.npz

29 minutes on two CPU cores that had other work besides. Expected, median errors on 120 validation heads of which 25 to
40 % is hidden: visible 0.056 mm, hidden 0.42 mm; given whole 0.075 mm (models/assets/MODEL_CARD.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from experiments.training.mesh_vae.settings import TrainSettings
from models.mesh_vae import SMALL

SUMMARY = "the small Mesh-VAE, for CPUs; half an hour on two cores"


@dataclass(frozen=True)
class Config(TrainSettings):
    __doc__ = TrainSettings.__doc__

    workdir: Path = Path("output/mesh_vae_small")
    steps: int = 3_000
    batch_size: int = 8
    learning_rate: float = 3e-3
    warmup: int = 100
    spread_weight: float = 0.5


def run(config: Config, console: Console) -> dict[str, float]:
    """Do what `config` asks. Returns the errors on validation heads."""
    from experiments.training.mesh_vae.train import train

    return train(config, SMALL, console)
