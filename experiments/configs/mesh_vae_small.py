"""The small Mesh-VAE, for CPUs. Not trained to its end yet: no time and no errors are known.

python -m experiments.train --config mesh_vae_small --output models/assets/open_head_mesh_vae.npz
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from experiments.mesh_vae.settings import TrainSettings
from models.mesh_vae import SMALL

SUMMARY = "a small Mesh-VAE, for CPUs (no weights ship yet)"


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
    from experiments.mesh_vae.train import train

    return train(config, SMALL, console)
