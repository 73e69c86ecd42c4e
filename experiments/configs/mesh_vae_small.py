"""The small Mesh-VAE that ships.

python -m experiments.train --config mesh_vae_small --output models/assets/open_head_mesh_vae.npz
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from experiments.mesh_vae.settings import TrainSettings
from models.mesh_vae import SMALL

SUMMARY = "the small Mesh-VAE that ships, for CPUs"


@dataclass(frozen=True)
class Config(TrainSettings):
    __doc__ = TrainSettings.__doc__

    workdir: Path = Path("output/mesh_vae_small")
    steps: int = 12_000
    batch_size: int = 8
    learning_rate: float = 2e-3
    warmup: int = 100


def run(config: Config, console: Console) -> dict[str, float]:
    """Do what `config` asks. Returns the errors on validation heads."""
    from experiments.mesh_vae.train import train

    return train(config, SMALL, console)
