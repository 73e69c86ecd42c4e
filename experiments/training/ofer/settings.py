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
SMOKE_BATCH, SMOKE_EVAL_EXAMPLES = 8, 8
SMOKE_PHOTOS = 32
"""Number of photos of each of training and validation."""
PATH_OPTIONS = ("photos", "arcface", "farl")
"""Paths that may change if the files' contents, which digests identify, are the same."""
WORKDIR_HELP = """

    The same command continues a run that was stopped. Ctrl-C saves a checkpoint first. WORKDIR gets checkpoints/,
    metrics.jsonl, tensorboard/, settings.json and, at the end, the weights and results.json.
    """


@dataclass(frozen=True)
class OferTraining(TrainingConfig):
    """Settings of training that IdGen, ExpGen and IdRank share."""

    batch_size: int = 128
    eval_examples: int = 64
    log_every: int = 50
    encoder_rate: float = 1e-3
    """Peak learning rate of the encoders."""
    weight_decay: float = 1e-4
    """Weight decay of AdamW."""
    ema: float = 0.999
    """Decay per step of the moving average of the weights, which is saved at the end; 0: save the last weights."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.ema < 1:
            raise ValueError("--ema must be at least 0 and below 1.")


@dataclass(frozen=True)
class GeneratorTraining(OferTraining):
    """Settings of training a generator; the defaults are for the small ones, for CPUs."""

    steps: int = 5000
    draws: int = 4
    """Number of diffusion steps per example; its context is computed once for all."""
    loss: Literal["l1", "l2"] = "l1"
    """Norm of the noise error; l1 in the paper (Eqs. 2 and 6)."""
    even: Annotated[bool, tyro.conf.FlagCreatePairsOff] = True
    """For `preconditioned` generators: divide the noise error by alpha_t, so that the noisiest steps, which depend most
    on the photo, count as much as the others."""
    schedule: ScheduleName = "ho"
    """Noise schedule: Ho et al.'s, or OFER's own, whose samples are biased."""
    dropped: float = 0.0
    """Share of the examples without context, for classifier-free guidance."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.draws < 1 or not 0 <= self.dropped < 1:
            raise ValueError("--draws must be at least 1, and --dropped a share below 1.")


@dataclass(frozen=True)
class RankTraining(OferTraining):
    """Settings of training a ranker."""

    candidates: int = 100
    """Number of candidates per photo (N)."""
    sampler_steps: int = 10
    """Steps of the sampler that draws candidates."""
    sharpness: float = 1.0
    """1 / mm; the target is softmax(-sharpness * error). 1 in the paper; 10 distinguishes candidates that differ by
    tenths of a millimetre."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.candidates < 2 or self.sampler_steps < 1:
            raise ValueError("--candidates must be at least 2, and --sampler-steps at least 1.")


@dataclass(frozen=True)
class OferOptions(RunOptions):
    """Options that IdGen, ExpGen and IdRank have in common."""

    workdir: Path = Path("output/ofer")
    photos: Path | None = None
    """Folder of data sets of photos with coefficients, DIR/<data set>/<identity>/..., for networks that see photos
    (docs/how-to/training-ofer.md). Without it: the open faces' photos, which are rendered if they are missing."""
    dataset: str | None = None
    """Names of data sets in --photos, such as stirling,famos; all in the folder unless given."""
    arcface: Path | None = None
    """File of ArcFace from `flamejax convert FILE --to arcface`; the one in $FLAMEJAX_DATA/encoders unless given."""
    farl: Path | None = None
    """File of FaRL, likewise."""

    def fingerprint(self) -> dict[str, Any]:
        """Returns the fingerprint of `RunOptions` without `PATH_OPTIONS`."""
        return {k: v for k, v in super().fingerprint().items() if k not in PATH_OPTIONS}

    def encoder_files(self) -> dict[str, Path]:
        """Returns the given files by the encoder's name."""
        files = {"arcface": self.arcface, "farl": self.farl}
        return {name: path for name, path in files.items() if path is not None}


@dataclass(frozen=True)
class GeneratorOptions(OferOptions):
    __doc__ = "Train IdGen or ExpGen (OFER, sections 3.2 and 3.4)." + WORKDIR_HELP

    command = "experiments.training.ofer.command:run_generator"
    training: Annotated[GeneratorTraining, tyro.conf.arg(name="")] = GeneratorTraining()
    architecture: tyro.conf.Suppress[GeneratorConfig] = SMALL_IDGEN


@dataclass(frozen=True)
class RankOptions(OferOptions):
    __doc__ = "Train IdRank (OFER, section 3.3)." + WORKDIR_HELP

    command = "experiments.training.ofer.command:run_rank"
    idgen: Path | None = None
    """Weights of the IdGen whose candidates are ranked; the shipped ones unless given."""
    training: Annotated[RankTraining, tyro.conf.arg(name="")] = RankTraining()
    architecture: tyro.conf.Suppress[IdRankConfig] = SMALL_IDRANK
