"""IdRank as the paper has it, on photos through ArcFace and FaRL, for GPUs.

python -m experiments.train --config idrank --idgen output/idgen/idgen.npz            # the open faces' photos
python -m experiments.train --config idrank --idgen IDGEN.npz --head FLAME.pkl --photos DIR

It needs the image encoders' weights (docs/encoders.md); data sets are described in docs/ofer-training.md.
"""

from pathlib import Path

from experiments.training.ofer.architectures import paper_rank
from experiments.training.ofer.settings import RankOptions, RankTraining

SUMMARY = "OFER's IdRank, on photos through ArcFace and FaRL, for GPUs"
CONFIG = RankOptions(
    workdir=Path("output/idrank"),
    architecture=paper_rank(),
    training=RankTraining(
        steps=21_600,  # 120 epochs of the open faces' photos
        batch_size=32, learning_rate=1e-3, encoder_rate=1e-4, warmup=500, ema=0.0,
    ),
)  # fmt: skip
