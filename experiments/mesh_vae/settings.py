"""Options of the training command, shared by its configs."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from experiments.data.registered_scans import Unit
from experiments.training.settings import UNSEEN


@dataclass(frozen=True)
class TrainSettings:
    """Train a Mesh-VAE for completing heads (Diverse3DFace, section 4.2), from the open faces unless --scans is given.

    A run that was stopped, or killed, goes on from its last checkpoint when the same command is given again. WORKDIR
    gets checkpoints/, metrics.jsonl, tensorboard/, pictures/, settings.json and, at the end, mesh_vae.npz and
    results.json.
    """

    workdir: Path = Path("output/mesh_vae")
    """Folder of the run."""
    head: Path | None = None
    """Head model file; the embedded open head unless given."""
    scans: Path | None = None
    """Folder of registered scans in the head's topology (CoMA, D3DFACS): DIR/<subject>/<expression>/*.ply|obj|npy|npz.
    Without it: the open faces, which are built when they are missing."""
    unit: Unit = "m"
    """Of the scans' coordinates."""
    every: int = 1
    """Take every n-th scan of a folder."""
    output: Path | None = None
    """File of the trained weights; WORKDIR/mesh_vae.npz unless given."""
    steps: int = 100_000
    """Steps in all."""
    batch_size: int = 16
    """Heads a step, over all devices."""
    synthetic: float = 0.25
    """Share of a batch drawn afresh from the head model (with its local models where they ship), not from scans."""
    mirrored: float = 0.5
    """Share of the scans that are shown as their mirror images, where the head is symmetric."""
    learning_rate: float = 1e-3
    """Highest; Adam, linear warm-up, cosine decay."""
    warmup: int = 500
    """Steps of the learning rate's warm-up."""
    clip: float = 1.0
    """Largest norm of the gradient."""
    laplacian_weight: float = 1.0
    """Of the l1 error of Laplacians, mm, beside that of vertices."""
    spread_weight: float = 0.0
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
    seed: int = 0
    """Of weights, order, masks and draws."""
    devices: int | None = None
    """Devices to share a batch; all unless given."""
    checkpoint_every: int = 1000
    """Steps between checkpoints."""
    keep: int = 3
    """Checkpoints that are kept."""
    judge_every: int = 2000
    """Steps between errors on validation heads, with a picture."""
    log_every: int = 20
    """Steps between lines of metrics.jsonl."""
    no_linear_branch: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Convolutions alone, for comparisons; the config `mesh_vae` has no linear branch anyway."""
    restart: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Delete WORKDIR's checkpoints and start anew."""
    smoke: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """A few small steps on a few scans, in WORKDIR/smoke: does it run?"""

    def __post_init__(self) -> None:
        if min(self.steps, self.batch_size, self.every, self.checkpoint_every, self.judge_every, self.log_every) < 1:
            raise ValueError("--steps, --batch-size, --every and the intervals are at least 1.")
        if not all(0 <= share <= 1 for share in (self.synthetic, self.turned_away, self.mirrored)):
            raise ValueError("--synthetic, --mirrored and --turned-away are shares, from 0 to 1.")
        if not 0 < self.largest_mask < 0.9:
            raise ValueError("--largest-mask is a share of the vertices, above 0 and below 0.9.")

    def numbers(self) -> dict[str, object]:
        """The options that decide what a run computes; a run can only go on with the same."""
        values = {k: v for k, v in dataclasses.asdict(self).items() if k not in UNSEEN}
        return {k: str(v) if isinstance(v, Path) else v for k, v in values.items()}


def smoke_settings(settings: TrainSettings) -> TrainSettings:
    """What --smoke makes of them: in a folder of its own, so that neither a run nor weights are touched."""
    return dataclasses.replace(
        settings,
        workdir=settings.workdir / "smoke",
        output=None,
        steps=20,
        batch_size=4,
        warmup=5,
        checkpoint_every=10,
        judge_every=20,
        log_every=5,
    )
