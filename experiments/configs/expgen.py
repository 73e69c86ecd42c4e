"""ExpGen as the paper has it, on photos through ArcFace and FaRL, for GPUs.

python -m experiments.train --config expgen                                            # the open faces' photos
python -m experiments.train --config expgen --head FLAME.pkl --photos DIR --dataset famos

It needs the image encoders' weights (docs/encoders.md); data sets are described in docs/ofer-training.md.
"""

from pathlib import Path

from experiments.training.ofer.architectures import paper
from experiments.training.ofer.settings import GeneratorOptions, GeneratorTraining

SUMMARY = "OFER's ExpGen, on photos through ArcFace and FaRL, for GPUs"
CONFIG = GeneratorOptions(
    workdir=Path("output/expgen"),
    architecture=paper("expression"),
    training=GeneratorTraining(
        steps=18_000,  # 400 epochs of the open faces' photos
        batch_size=128, draws=1, learning_rate=1e-3, encoder_rate=1e-4, warmup=500, even=False, ema=0.0,
    ),
)  # fmt: skip
