"""Options of training Mesh-VAEs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from experiments.training.settings import RunOptions, TrainingConfig
from models.mesh_vae import SMALL, MeshVAEConfig


@dataclass(frozen=True)
class MeshVAETraining(TrainingConfig):
    """How a Mesh-VAE is trained; the defaults are those of the small one, for CPUs."""

    learning_rate: float = 3e-3
    synthetic: float = 0.25
    """Share of a batch drawn afresh from the head model (with its local models where they ship), not from scans."""
    mirrored: float = 0.5
    """Share of the scans that are shown as their mirror images, where the head is symmetric."""
    laplacian_weight: float = 1.0
    """Of the l1 error of Laplacians, mm, beside that of vertices."""
    spread_weight: float = 0.5
    """Of the mean absolute difference between two draws of a head, mm, which is taken off the error. 0.5 makes the l1
    error a proper score of each coordinate (CRPS: Gneiting & Raftery 2007); at 0, as in the paper, it pays to be
    surer of what is hidden than one can be."""
    kl_weight: float = 1e-5
    """Of the KL divergence, nats a head, against a millimetre of error."""
    kl_warmup: float = 0.3
    """Share of the steps over which the KL's weight grows from zero."""
    curriculum: float = 0.5
    """Share of the steps over which the largest mask grows from nothing; 0: full size from the start."""
    largest_mask: float = 0.4
    """Share of the vertices that masks hide at most."""
    turned_away: float = 0.25
    """Share of heads of which also all is hidden that is turned away from a camera before the face."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not all(0 <= share <= 1 for share in (self.synthetic, self.turned_away, self.mirrored)):
            raise ValueError("--synthetic, --mirrored and --turned-away are shares, from 0 to 1.")
        if not 0 < self.largest_mask < 0.9:
            raise ValueError("--largest-mask is a share of the vertices, above 0 and below 0.9.")


@dataclass(frozen=True)
class MeshVAEOptions(RunOptions):
    """Train a Mesh-VAE for completing heads (Diverse3DFace, section 4.2), from the open faces unless --scans is given.

    A run that was stopped, or killed, goes on from its last checkpoint when the same command is given again. WORKDIR
    gets checkpoints/, metrics.jsonl, tensorboard/, pictures/, settings.json and, at the end, mesh_vae.npz and
    results.json.
    """

    command = "experiments.training.mesh_vae.command:run"
    workdir: Path = Path("output/mesh_vae")
    judged_at_end: int = 120
    no_linear_branch: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Convolutions alone, for comparisons; the config `mesh_vae` has no linear branch anyway."""
    training: Annotated[MeshVAETraining, tyro.conf.arg(name="")] = MeshVAETraining()
    architecture: tyro.conf.Suppress[MeshVAEConfig] = SMALL
