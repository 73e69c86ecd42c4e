"""The small ExpGen, for CPUs; its weights ship.

python -m experiments.train --config expgen_small --output models/assets/open_head_expgen.npz

22 minutes on two CPU cores that had other work besides. Expected, 256 validation examples: samples 1.59 mm from the
truth (RMS, front of the face, jaw left out), their mean 1.17 mm, spread 1.20 mm (models/assets/MODEL_CARD.md).
"""

from pathlib import Path

from experiments.training.ofer.architectures import small
from experiments.training.ofer.settings import GeneratorOptions, GeneratorTraining

SUMMARY = "the small ExpGen of OFER, for CPUs; under half an hour on two cores"
CONFIG = GeneratorOptions(
    workdir=Path("output/expgen_small"),
    architecture=small("expression"),
    training=GeneratorTraining(
        steps=5_000, batch_size=128, draws=4, learning_rate=1e-3, encoder_rate=1e-3, warmup=500, even=True
    ),
)
