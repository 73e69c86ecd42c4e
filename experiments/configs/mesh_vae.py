"""The Mesh-VAE of Diverse3DFace's Tables 5 and 6, for a GPU or TPU.

python -m experiments.train --config mesh_vae --head FLAME.pkl --scans DIR --workdir W

Never run to its end here, where there is no GPU and no licensed scan: neither its time nor its errors are known, and
the paper states none of the network alone.
"""

from pathlib import Path

from experiments.training.mesh_vae.settings import MeshVAEOptions, MeshVAETraining
from models.mesh_vae import PAPER

SUMMARY = "the Mesh-VAE of Diverse3DFace (Tables 5 and 6); wants a GPU or TPU"
CONFIG = MeshVAEOptions(
    workdir=Path("output/mesh_vae"),
    architecture=PAPER,
    training=MeshVAETraining(steps=100_000, batch_size=16, learning_rate=1e-3, warmup=500, spread_weight=0.0),
)
