"""The small Mesh-VAE, for CPUs; its weights ship.

python -m experiments.train --config mesh_vae_small --output models/assets/open_head_mesh_vae.npz

29 minutes on two CPU cores that had other work besides. Expected, median errors on 120 validation heads of which 25 to
40 % is hidden: visible 0.056 mm, hidden 0.42 mm; given whole 0.075 mm (models/assets/MODEL_CARD.md).
"""

from pathlib import Path

from experiments.training.mesh_vae.settings import MeshVAEOptions, MeshVAETraining
from models.mesh_vae import SMALL

SUMMARY = "the small Mesh-VAE, for CPUs; half an hour on two cores"
CONFIG = MeshVAEOptions(
    workdir=Path("output/mesh_vae_small"),
    architecture=SMALL,
    training=MeshVAETraining(steps=3_000, batch_size=8, learning_rate=3e-3, warmup=100, spread_weight=0.5),
)
