"""Options of training OFER's networks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from experiments.training.ofer.architectures import small, small_rank
from experiments.training.settings import RunOptions, TrainingConfig
from models.generator import GeneratorConfig
from models.noise_schedule import ScheduleName
from models.rank import IdRankConfig

SMALL_IDGEN, SMALL_IDRANK = small("identity"), small_rank()
SMOKE_BATCH, SMOKE_JUDGED = 8, 8
SMOKE_PHOTOS = 32
"""Of training, and of validation."""
PLACES = ("photos", "arcface", "farl")
"""Options that may change as long as what lies there is the same, which digests tell."""
FOLDER = """

    A run that was stopped, or killed, goes on from its last checkpoint when the same command is given again. WORKDIR
    gets checkpoints/, metrics.jsonl, tensorboard/, settings.json and, at the end, the weights and results.json.
    """


@dataclass(frozen=True)
class OferTraining(TrainingConfig):
    """How IdGen, ExpGen and IdRank are trained."""

    batch_size: int = 128
    judged: int = 64
    log_every: int = 50
    encoder_rate: float = 1e-3
    """Highest learning rate of the encoders."""
    weight_decay: float = 1e-4
    """Of AdamW."""
    ema: float = 0.999
    """The weights that are kept are a moving average, which keeps so much of itself in a step; 0: the last ones."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.ema < 1:
            raise ValueError("--ema is from 0 to below 1.")


@dataclass(frozen=True)
class GeneratorTraining(OferTraining):
    """How a generator is trained; the defaults are those of the small ones, for CPUs."""

    steps: int = 5000
    draws: int = 4
    """Diffusion steps that each example is noised for; its context is computed once for all."""
    loss: Literal["l1", "l2"] = "l1"
    """Of the noise; l1 in the paper (Eqs. 2 and 6)."""
    even: Annotated[bool, tyro.conf.FlagCreatePairsOff] = True
    """Of a generator that is `preconditioned`: the loss in units of alpha_t, as its U-Net gives the noise, so that the
    noisiest steps, where the photo decides, count as much as the others."""
    schedule: ScheduleName = "ho"
    """Of the noise: Ho et al.'s, or OFER's own, whose samples are biased."""
    dropped: float = 0.0
    """Share of the examples whose context is left out, for classifier-free guidance."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.draws < 1 or not 0 <= self.dropped < 1:
            raise ValueError("--draws is at least 1, and --dropped a share below 1.")


@dataclass(frozen=True)
class RankTraining(OferTraining):
    """How a ranker is trained."""

    candidates: int = 100
    """N of a photo."""
    sampler_steps: int = 10
    """Of the candidates' sampler."""
    sharpness: float = 1.0
    """1 / mm: the target is softmax(-sharpness * error). 1 in the paper; candidates that differ by tenths of a
    millimetre are told apart at 10."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.candidates < 2 or self.sampler_steps < 1:
            raise ValueError("--candidates is at least 2, and --sampler-steps at least 1.")


@dataclass(frozen=True)
class OferOptions(RunOptions):
    """Options that IdGen, ExpGen and IdRank have in common."""

    workdir: Path = Path("output/ofer")
    photos: Path | None = None
    """Folder of data sets of photos with coefficients, DIR/<data set>/<identity>/..., for networks that look at photos
    (docs/how-to/training-ofer.md). Without it: the open faces' photos, which are made when they are missing."""
    dataset: str | None = None
    """Data sets of --photos, by name, such as stirling,famos; all in the folder unless given."""
    arcface: Path | None = None
    """ArcFace as `flamejax convert FILE --to arcface` wrote it; the one in $FLAMEJAX_DATA/encoders unless given."""
    farl: Path | None = None
    """FaRL, likewise."""

    def numbers(self) -> dict[str, Any]:
        """As `RunOptions`, without `PLACES`."""
        return {k: v for k, v in super().fingerprint().items() if k not in PLACES}

    def encoder_files(self) -> dict[str, Path]:
        """Those that were given, by the encoder's name."""
        files = {"arcface": self.arcface, "farl": self.farl}
        return {name: path for name, path in files.items() if path is not None}


@dataclass(frozen=True)
class GeneratorOptions(OferOptions):
    __doc__ = "Train IdGen or ExpGen (OFER, sections 3.2 and 3.4)." + FOLDER

    command = "experiments.training.ofer.command:run_generator"
    training: Annotated[GeneratorTraining, tyro.conf.arg(name="")] = GeneratorTraining()
    architecture: tyro.conf.Suppress[GeneratorConfig] = SMALL_IDGEN


@dataclass(frozen=True)
class RankOptions(OferOptions):
    __doc__ = "Train IdRank (OFER, section 3.3)." + FOLDER

    command = "experiments.training.ofer.command:run_rank"
    idgen: Path | None = None
    """Weights of the IdGen whose candidates are ranked; those that ship unless given."""
    training: Annotated[RankTraining, tyro.conf.arg(name="")] = RankTraining()
    architecture: tyro.conf.Suppress[IdRankConfig] = SMALL_IDRANK
