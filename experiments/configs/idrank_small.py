"""The small IdRank, for CPUs; its weights ship. It ranks the candidates of the IdGen that ships, or of --idgen.

python -m experiments.train --config idrank_small --output models/assets/open_head_idrank.npz

17 minutes on two CPU cores that had other work besides. Expected, 256 validation examples (candidates of 10 steps):
mean absolute error of a coordinate 1.39 mm, of the first 1.20 mm, of the best 0.95 mm; the first among the best fifth
for 54 % (models/assets/MODEL_CARD.md).
"""

from pathlib import Path

from experiments.training.ofer.architectures import small_rank
from experiments.training.ofer.settings import RankOptions, RankTraining

SUMMARY = "the small IdRank of OFER, for CPUs; under half an hour on two cores"
CONFIG = RankOptions(
    workdir=Path("output/idrank_small"),
    architecture=small_rank(),
    training=RankTraining(
        steps=1_500, batch_size=16, learning_rate=1e-4, encoder_rate=3e-5, warmup=100, sampler_steps=10, sharpness=10.0
    ),
)
