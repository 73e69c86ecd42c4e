"""The options of `flamejax evaluate`, one dataclass for each table. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

import tyro

from experiments.command_line import OptionalFile, OptionalFolder, Subcommands, UsageError

DIVERSE = ("diversity", "hyperparameters", "moving-occlusion")
"""Tables of Algorithm 2's hypotheses."""
OFER = ("identity", "samples", "ranking")
"""Tables of OFER's identities."""


@dataclass(frozen=True)
class TableOutputOptions:
    """Files to write, besides what is printed."""

    json: OptionalFile = None
    """The rows as a list of objects; other tables in a .more.json."""
    markdown: OptionalFile = None
    """The tables as Markdown."""
    csv: OptionalFile = None
    """The rows as CSV."""


@dataclass(frozen=True)
class FigureOutputOptions(TableOutputOptions):
    """Files to write, besides what is printed."""

    figure: OptionalFile = None
    """A PNG or JPG of the table's figure."""


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Options of all tables; each subclass is one table of `flamejax evaluate`."""

    table: ClassVar[str]
    limit: int
    """Photos, spread over subjects and occluders; 0 for all."""
    split: Annotated[Literal["test", "validation"], tyro.conf.arg(metavar="NAME")] = "test"
    """test, or validation, on which settings are chosen."""
    seed: int = 0
    """Seed of everything that is drawn."""
    output: TableOutputOptions = field(default_factory=TableOutputOptions)

    @property
    def max_cases(self) -> int | None:
        """The largest number of photos, scans or people; None for all."""
        return self.limit or None

    @property
    def data(self) -> Literal["test", "full"]:
        """The config of the open scans that has the split."""
        return "test" if self.split == "test" else "full"


@dataclass(frozen=True, kw_only=True)
class EvaluatePhotosConfig(EvaluateConfig):
    """Options of the tables that fit photos."""

    preset: Annotated[Literal["fast", "paper", "code"], tyro.conf.arg(metavar="NAME")] = "fast"
    """fast: ours. paper, code: Algorithm 1 as in the paper or in its released code, slow."""
    landmarks: Annotated[Literal["exact", "detected"], tyro.conf.arg(metavar="NAME")] = "exact"
    """exact: the true ones. detected: those of the default detector."""


@dataclass(frozen=True, kw_only=True)
class EvaluateFittingConfig(EvaluatePhotosConfig):
    """Mean head, global and global+local fit of occluded photos (Diverse3DFace, Table 1)."""

    table: ClassVar[str] = "fitting"
    limit: int = 96
    """Photos, spread over subjects and occluders; 0 for all 360."""
    robustness: bool = True
    """Also fit the clean photos and compute masks: the tables of robustness and of masks."""
    output: FigureOutputOptions = field(default_factory=FigureOutputOptions)


@dataclass(frozen=True, kw_only=True)
class EvaluateCompletionConfig(EvaluateConfig):
    """Heads completed from their visible vertices by linear models and the Mesh-VAE."""

    table: ClassVar[str] = "completion"
    limit: int = 120
    """Scans, spread over subjects; 0 for all."""
    weights: OptionalFile = None
    """A Mesh-VAE's weights; the shipped ones unless given."""
    output: FigureOutputOptions = field(default_factory=FigureOutputOptions)


@dataclass(frozen=True, kw_only=True)
class EvaluateHypothesesConfig(EvaluatePhotosConfig):
    """Options of the tables of hypotheses."""

    num_samples: int = 16
    """Hypotheses of each photo."""
    diversify_preset: Annotated[Literal["fast", "paper"], tyro.conf.arg(metavar="NAME")] = "fast"
    """Settings of Algorithm 2: fast or paper."""
    weights: OptionalFile = None
    """A Mesh-VAE's weights; the shipped ones unless given."""

    def __post_init__(self) -> None:
        if not 1 <= self.num_samples <= 100:
            raise UsageError(f"--num-samples is between 1 and 100, not {self.num_samples}.")


@dataclass(frozen=True, kw_only=True)
class EvaluateDiversityConfig(EvaluateHypothesesConfig):
    """Hypotheses by Diverse3DFace and its baselines (Tables 2 and 3)."""

    table: ClassVar[str] = "diversity"
    limit: int = 24
    """Photos, spread over subjects and occluders; 0 for all 360."""
    photos: OptionalFolder = None
    """Your own photos instead; their true heads are unknown, so errors are not measured."""
    output: FigureOutputOptions = field(default_factory=FigureOutputOptions)


@dataclass(frozen=True, kw_only=True)
class EvaluateHyperparametersConfig(EvaluateDiversityConfig):
    """Hypotheses by k and n_sigma (Table 4)."""

    table: ClassVar[str] = "hyperparameters"
    limit: int = 4
    """Photos, spread over subjects and occluders; 0 for all 360."""


@dataclass(frozen=True, kw_only=True)
class EvaluateMovingOcclusionConfig(EvaluateDiversityConfig):
    """Hypotheses behind a patch at five places (Fig. 8)."""

    table: ClassVar[str] = "moving-occlusion"
    limit: int = 4
    """Photos, the most frontal ones; 0 for all."""


@dataclass(frozen=True, kw_only=True)
class EvaluateSamplesConfig(EvaluateConfig):
    """The best of n identities that OFER's IdGen draws, and other samplers (OFER, Table 8)."""

    table: ClassVar[str] = "samples"
    limit: int = 240
    """People; 0 for all 300."""
    idgen: OptionalFile = None
    """Weights of IdGen; the shipped ones unless given."""


@dataclass(frozen=True, kw_only=True)
class EvaluateIdentityConfig(EvaluateSamplesConfig):
    """The identities that OFER's IdGen draws for new people, and that IdRank picks (OFER, Table 1)."""

    table: ClassVar[str] = "identity"
    idrank: OptionalFile = None
    """Weights of IdRank; the shipped ones unless given."""


@dataclass(frozen=True, kw_only=True)
class EvaluateRankingConfig(EvaluateIdentityConfig):
    """The order that IdRank gives identities (OFER, Tables 9 and 10)."""

    table: ClassVar[str] = "ranking"


@dataclass(frozen=True, kw_only=True)
class EvaluateExpressionConfig(EvaluateHypothesesConfig):
    """Hypotheses by Diverse3DFace, OFER, and both together (OFER, Tables 3 to 5)."""

    table: ClassVar[str] = "expression"
    limit: int = 24
    """Photos, spread over subjects and occluders; 0 for all 360."""
    frames: OptionalFolder = None
    """Frames that `experiments.datasets.occluded_frames` made, instead of photos."""
    idgen: OptionalFile = None
    """Weights of IdGen; the shipped ones unless given."""
    idrank: OptionalFile = None
    """Weights of IdRank; the shipped ones unless given."""
    expgen: OptionalFile = None
    """Weights of ExpGen; the shipped ones unless given."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.frames is not None and self.landmarks != "exact":
            raise UsageError(f"--frames goes with the true landmarks, not with --landmarks {self.landmarks}.")


TABLES: Mapping[str, type[EvaluateConfig]] = {
    config.table: config
    for config in (
        EvaluateFittingConfig,
        EvaluateCompletionConfig,
        EvaluateDiversityConfig,
        EvaluateHyperparametersConfig,
        EvaluateMovingOcclusionConfig,
        EvaluateIdentityConfig,
        EvaluateSamplesConfig,
        EvaluateRankingConfig,
        EvaluateExpressionConfig,
    )
}
SUBCOMMANDS = Subcommands(
    command="evaluate",
    selector="--table",
    configs=TABLES,
    summaries={name: str(config.__doc__) for name, config in TABLES.items()},
)
FOOTER = """Each table is computed on the open scans, which are built when missing, in up to 45 minutes on 2 cores.
Fits are cached in $FLAMEJAX_DATA/evaluate: a stopped run continues where it was."""


def parse(args: Sequence[str], prog: str) -> EvaluateConfig:
    """Return the command line as options. Raises: UsageError. Other wrong calls end with SystemExit(2)."""
    return SUBCOMMANDS.parse(args, prog)


def usage(prog: str) -> str:
    """Return the help of the command without a table."""
    return (
        f"usage: {prog} TABLE [OPTIONS]\n\nPrint one of the papers' tables:\n\n{SUBCOMMANDS.listing()}\n\n{FOOTER}\n"
        f"`{prog} TABLE --help` lists the table's options."
    )
