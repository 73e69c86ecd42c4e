"""The small IdGen, for CPUs; its weights ship.

python -m experiments.train --config idgen_small --output models/assets/open_head_idgen.npz

23 minutes on two CPU cores that had other work besides. Expected, 256 validation examples: samples 3.17 mm from the
truth (RMS, front of the face, without what a similarity can do), their mean 2.28 mm, spread 2.30 mm
(models/assets/MODEL_CARD.md).
"""

from pathlib import Path

from experiments.training.ofer.architectures import small
from experiments.training.ofer.settings import GeneratorOptions, GeneratorTraining

SUMMARY = "the small IdGen of OFER, for CPUs; under half an hour on two cores"
CONFIG = GeneratorOptions(
    workdir=Path("output/idgen_small"),
    architecture=small("identity"),
    training=GeneratorTraining(
        steps=6_000, batch_size=128, draws=4, learning_rate=1e-3, encoder_rate=1e-3, warmup=500, even=True
    ),
)
