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
    """Settings of training a Mesh-VAE; the defaults are for the small one, for CPUs."""

    learning_rate: float = 3e-3
    synthetic: float = 0.25
    """Share of a batch drawn from the head model (with its local models if they ship) instead of from scans."""
    mirrored: float = 0.5
    """Share of the scans replaced by their mirror images, if the head is symmetric."""
    laplacian_weight: float = 1.0
    """Weight of the l1 error of Laplacians, mm, relative to that of vertices."""
    spread_weight: float = 0.5
    """Reward for draws that differ: this times the mean absolute difference between two draws of a head, mm, is
    subtracted from the error. With 0, as in the paper, draws shrink to one head. With 0.5, draws do best that spread
    as far as the truth varies (the CRPS of Gneiting & Raftery 2007)."""
    kl_weight: float = 1e-5
    """Weight of the KL divergence, nats per head, relative to a millimetre of error."""
    kl_warmup: float = 0.3
    """Share of the steps during which the KL's weight grows from zero."""
    curriculum: float = 0.5
    """Share of the steps during which the largest mask grows from zero; 0: full size from the start."""
    largest_mask: float = 0.4
    """Largest share of the vertices that a mask hides."""
    turned_away: float = 0.25
    """Share of heads whose vertices that face away from a camera in front of the face are hidden as well."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not all(0 <= share <= 1 for share in (self.synthetic, self.turned_away, self.mirrored)):
            raise ValueError("--synthetic, --mirrored and --turned-away are shares, from 0 to 1.")
        if not 0 < self.largest_mask < 0.9:
            raise ValueError("--largest-mask is a share of the vertices, above 0 and below 0.9.")


@dataclass(frozen=True)
class MeshVAEOptions(RunOptions):
    """Train a Mesh-VAE for completing heads (Diverse3DFace, section 4.2), from the open faces unless --scans is given.

    The same command continues a run that was stopped. Ctrl-C saves a checkpoint first. WORKDIR gets checkpoints/,
    metrics.jsonl, tensorboard/, pictures/, settings.json and, at the end, mesh_vae.npz and results.json.
    """

    command = "experiments.training.mesh_vae.command:run"
    workdir: Path = Path("output/mesh_vae")
    final_eval_examples: int = 120
    no_linear_branch: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Train the convolutions only, for comparisons; the config `mesh_vae` has no linear branch anyway."""
    training: Annotated[MeshVAETraining, tyro.conf.arg(name="")] = MeshVAETraining()
    architecture: tyro.conf.Suppress[MeshVAEConfig] = SMALL
