"""The configs of `flamejax train --config NAME`: a summary and the options of each name.

For CPUs; their weights ship. Times are for two CPU cores that had other work besides. Errors on validation data are
those recorded in the weights' files; models/assets/MODEL_CARD.md has errors on test data:
  mesh_vae_small: --output models/assets/open_head_mesh_vae.npz; 29 minutes. Median errors on 120 validation heads with
    25 to 40 % hidden: visible 0.056 mm, hidden 0.42 mm; with nothing hidden 0.075 mm.
  idgen_small: --output models/assets/open_head_idgen.npz; 23 minutes. 256 validation examples: samples 3.17 mm from the
    truth (RMS, front of the face, after the best similarity), their mean 2.28 mm, spread 2.29 mm.
  expgen_small: --output models/assets/open_head_expgen.npz; 22 minutes. 256 validation examples: samples 1.59 mm from
    the truth (RMS, front of the face, jaw left out), their mean 1.17 mm, spread 1.20 mm.
  idrank_small: --output models/assets/open_head_idrank.npz; 17 minutes. It ranks the candidates of the shipped
    IdGen, or of --idgen. 256 validation examples (candidates of 10 steps): mean absolute error of a coordinate 1.39 mm,
    of the top-ranked 1.20 mm, of the best 0.95 mm; the top-ranked is among the best fifth for 54 %.
  local_pca: --output fitting/assets/open_head_local.npz, and with --variant full open_head_local_full.npz; 9 to 16
    minutes each, evaluation included. The paper's variant: 454 shape and 206 expression components, 5.1 MB; on 60 test
    scans the face's median error is 1.43 mm with its own global components, 0.27 mm with all global ones, 0.15 mm
    with the local models. The variant full: 387 and 201 components, 4.3 MB; 0.08 mm on 30 test scans.

At the papers' sizes, for a GPU or TPU:
  mesh_vae: --head FLAME.pkl --scans DIR --workdir W. Never run to its end here for lack of
    licensed scans, so its time and errors are unknown; the paper states none for the network by itself.
  idgen, expgen: no options for the open faces' photos; --head FLAME.pkl --photos DIR --dataset famos for others.
  idrank: --idgen output/idgen/idgen.npz, and for other photos --head FLAME.pkl --photos DIR.
  The last three need the image encoders' weights (docs/how-to/encoders.md). Data sets: docs/how-to/training-ofer.md.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from experiments.training.local_models.command import LocalOptions
from experiments.training.mesh_vae.settings import MeshVAEOptions, MeshVAETraining
from experiments.training.ofer.architectures import paper, paper_rank, small, small_rank
from experiments.training.ofer.settings import GeneratorOptions, GeneratorTraining, RankOptions, RankTraining
from models.mesh_vae import PAPER, SMALL

_SMALL_GENERATOR = GeneratorTraining(
    batch_size=128, draws=4, learning_rate=1e-3, encoder_rate=1e-3, warmup=500, even=True
)
_PAPER_GENERATOR = GeneratorTraining(
    steps=18_000,  # 400 epochs of the open faces' photos
    batch_size=128, draws=1, learning_rate=1e-3, encoder_rate=1e-4, warmup=500, even=False, ema=0.0,
)  # fmt: skip

CONFIGS: dict[str, tuple[str, MeshVAEOptions | LocalOptions | GeneratorOptions | RankOptions]] = {
    "mesh_vae_small": (
        "the small Mesh-VAE, for CPUs; half an hour on two cores",
        MeshVAEOptions(
            workdir=Path("output/mesh_vae_small"),
            architecture=SMALL,
            training=MeshVAETraining(steps=3_000, batch_size=8, learning_rate=3e-3, warmup=100, spread_weight=0.5),
        ),
    ),
    "mesh_vae": (
        "the Mesh-VAE of Diverse3DFace (Tables 5 and 6); wants a GPU or TPU",
        MeshVAEOptions(
            workdir=Path("output/mesh_vae"),
            architecture=PAPER,
            training=MeshVAETraining(steps=100_000, batch_size=16, learning_rate=1e-3, warmup=500, spread_weight=0.0),
        ),
    ),
    "local_pca": (
        "local PCA models of the head's regions, from registered scans; 9 to 16 minutes with the evaluation",
        LocalOptions(),
    ),
    "idgen_small": (
        "the small IdGen of OFER, for CPUs; under half an hour on two cores",
        GeneratorOptions(
            workdir=Path("output/idgen_small"),
            architecture=small("identity"),
            training=replace(_SMALL_GENERATOR, steps=6_000),
        ),
    ),
    "expgen_small": (
        "the small ExpGen of OFER, for CPUs; under half an hour on two cores",
        GeneratorOptions(
            workdir=Path("output/expgen_small"),
            architecture=small("expression"),
            training=replace(_SMALL_GENERATOR, steps=5_000),
        ),
    ),
    "idrank_small": (
        "the small IdRank of OFER, for CPUs; under half an hour on two cores",
        RankOptions(
            workdir=Path("output/idrank_small"),
            architecture=small_rank(),
            training=RankTraining(
                steps=1_500, batch_size=16, learning_rate=1e-4, encoder_rate=3e-5, warmup=100, sampler_steps=10,
                sharpness=10.0,
            ),
        ),
    ),
    "idgen": (
        "OFER's IdGen, on photos through ArcFace, for GPUs",
        GeneratorOptions(
            workdir=Path("output/idgen"), architecture=paper("identity"), training=_PAPER_GENERATOR
        ),
    ),
    "expgen": (
        "OFER's ExpGen, on photos through ArcFace and FaRL, for GPUs",
        GeneratorOptions(
            workdir=Path("output/expgen"), architecture=paper("expression"), training=_PAPER_GENERATOR
        ),
    ),
    "idrank": (
        "OFER's IdRank, on photos through ArcFace and FaRL, for GPUs",
        RankOptions(
            workdir=Path("output/idrank"),
            architecture=paper_rank(),
            training=RankTraining(
                steps=21_600,  # 120 epochs of the open faces' photos
                batch_size=32, learning_rate=1e-3, encoder_rate=1e-4, warmup=500, ema=0.0,
            ),
        ),
    ),
}  # fmt: skip
"""Config name -> its summary and its options with their defaults. `options.run(console)` trains; it raises OSError,
ValueError, RuntimeError or ModuleNotFoundError with a message for the user."""
