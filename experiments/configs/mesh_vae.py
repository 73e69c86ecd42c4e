"""The Mesh-VAE of Diverse3DFace's Tables 5 and 6, for a GPU or TPU.

python -m experiments.train --config mesh_vae --head FLAME.pkl --scans DIR --workdir W

Never run to its end here, where there is no GPU and no licensed scan: neither its time nor its errors are known, and
the paper states none of the network alone.
"""

from __future__ import annotations

from dataclasses import dataclass

from rich.console import Console

from experiments.training.mesh_vae.settings import TrainSettings
from models.mesh_vae import PAPER

SUMMARY = "the Mesh-VAE of Diverse3DFace (Tables 5 and 6); wants a GPU or TPU"


@dataclass(frozen=True)
class Config(TrainSettings):
    __doc__ = TrainSettings.__doc__


def run(config: Config, console: Console) -> dict[str, float]:
    """Do what `config` asks. Returns the errors on validation heads."""
    from experiments.training.mesh_vae.train import train

    return train(config, PAPER, console)
