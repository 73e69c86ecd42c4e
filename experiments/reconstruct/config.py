"""The command's options: groups that methods share, and one dataclass for each method. Imports nothing heavy."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import tyro

from experiments.command_line import OptionalFile, OptionalFolder, Subcommands, UsageError, flag

RANGES = {
    "batch_size": (1, 100_000),
    "size": (64, 1024),
    "num_samples": (1, 100),
    "seed": (0, 2**32 - 1),
    "k": (0.01, 10),
    "n_sigma": (0.5, 10),
    "candidates": (1, 10_000),
    "sampler_steps": (1, 1000),
    "iterations": (0, 1_000_000),
}
"""Smallest and largest value of each numeric option."""

Switch = Annotated[bool, tyro.conf.FlagCreatePairsOff, tyro.conf.arg(help_behavior_hint="")]


@dataclass(frozen=True)
class OptionGroup:
    """Options under one heading of the help; checks that numbers lie in their range."""

    def __post_init__(self) -> None:
        for each in dataclasses.fields(self):
            value = getattr(self, each.name)
            if each.name in RANGES and value not in (None, "auto"):
                least, most = RANGES[each.name]
                if not least <= value <= most:
                    raise UsageError(f"{flag(each.name)} is between {least} and {most}, not {value}.")


@dataclass(frozen=True)
class OutputOptions(OptionGroup):
    """Where results are written."""

    output: Annotated[Path, tyro.conf.arg(metavar="OUT")]
    """Folder to write; made if missing."""
    resume: Switch = False
    """Reconstruct only photos without a result in OUT, or whose result has other settings."""
    overwrite: Switch = False
    """Delete earlier results in OUT first, and nothing else there."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.resume and self.overwrite:
            raise UsageError("--resume keeps earlier results and --overwrite deletes them: give one of the two.")


@dataclass(frozen=True)
class InputOptions(OptionGroup):
    """What is known about photos, in files named after them; without a file: as without the option."""

    landmarks: OptionalFolder = None
    """68 iBUG points <photo>.npy, .json or .pts, in pixels."""
    masks: Annotated[str, tyro.conf.arg(metavar="DIR|auto|none")] = "auto"
    """Occlusion masks <photo>.png (white = hidden), or auto."""
    face_masks: OptionalFolder = None
    """Face masks <photo>.png, white = face."""
    boxes: OptionalFile = None
    """JSON {"<photo>": [x0, y0, x1, y1]}: the face, in pixels."""
    detector: Annotated[str | None, tyro.conf.arg(metavar="MODULE:CLASS", help_behavior_hint="")] = None
    """Your own detector of 68 iBUG points; see `fitting.FaceDetector`."""
    all_faces: Switch = False
    """Reconstruct all faces of each photo rather than the largest."""

    @property
    def mask_folder(self) -> Path | None:
        """The folder of occlusion masks; None for 'auto' and 'none'."""
        return None if self.masks in ("none", "auto") else Path(self.masks)


@dataclass(frozen=True)
class FitOptions(OptionGroup):
    """How one head is fitted to each face."""

    head: OptionalFile = None
    """Head model; the open head unless given."""
    preset: Annotated[Literal["fast", "paper", "code"], tyro.conf.arg(metavar="NAME")] = "fast"
    """fast: ours. paper, code: gradient descent as in the paper or its code, over 20 s a photo."""
    local: Annotated[str, tyro.conf.arg(metavar="FILE|auto|none")] = "auto"
    """Local models from `train --config local_pca`; auto: shipped ones."""
    size: int = 256
    """Side of the square crop that is fitted, pixels."""
    iterations: Annotated[int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="")] = None
    """Photometric steps, rounded up to whole intervals; preset fast only."""
    batch_size: Annotated[int | Literal["auto"], tyro.conf.arg(metavar="INT|auto")] = "auto"
    """Faces fitted together."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.iterations is not None and self.preset != "fast":
            raise UsageError(f"--iterations goes with --preset fast; the preset '{self.preset}' has a fixed number.")


@dataclass(frozen=True)
class DrawingOptions(OptionGroup):
    """How many hypotheses are drawn for each face."""

    num_samples: int = 16
    """Heads per face."""
    seed: int = 0
    """Seed of the draws; other photos do not change them."""


@dataclass(frozen=True)
class MeshVAEFileOptions(OptionGroup):
    """The network that hypotheses are drawn from."""

    mesh_vae: OptionalFile = None
    """Weights from `train --config mesh_vae`; otherwise the shipped ones."""


@dataclass(frozen=True)
class SimilarityOptions(OptionGroup):
    """How different the hypotheses are (Diverse3DFace)."""

    k: float = 0.5
    """How fast similarity falls with distance (Eq. 8)."""


@dataclass(frozen=True)
class DiversityOptions(SimilarityOptions):
    """How different the hypotheses are (Diverse3DFace, Algorithm 2)."""

    n_sigma: float = 3.0
    """How unusual heads may be, in standard deviations."""
    diversify: Literal["fast", "paper"] = "fast"
    """fast: 60 iterations. paper: 300, on all latents."""


@dataclass(frozen=True)
class NetworkOptions(OptionGroup):
    """OFER's networks. Unless given: the shipped ones, and the encoders in the data folder."""

    idgen: OptionalFile = None
    """Weights from `train --config idgen`: draws identities."""
    expgen: OptionalFile = None
    """Weights from `train --config expgen`: draws expressions."""
    idrank: OptionalFile = None
    """Weights from `train --config idrank`: ranks identities."""
    arcface: OptionalFile = None
    """Image encoder from `convert --to arcface`."""
    farl: OptionalFile = None
    """Image encoder from `convert --to farl`."""


@dataclass(frozen=True)
class SamplerOptions(OptionGroup):
    """How the networks draw by diffusion."""

    candidates: int = 100
    """Identities that are drawn and ranked."""
    sampler: Annotated[Literal["dpm", "ddim", "ancestral"], tyro.conf.arg(metavar="NAME")] = "dpm"
    """dpm (DPM-Solver++ 2M), ddim, or ancestral (all steps)."""
    sampler_steps: int = 20
    """Steps of dpm and ddim."""
    guidance: float = 1.0
    """Classifier-free guidance; other than 1 only if trained with --dropped."""


@dataclass(frozen=True, kw_only=True)
class ReconstructConfig:
    """Options of all methods; each subclass is one method of `flamejax reconstruct`."""

    method: ClassVar[str]
    """The method's name in results."""
    photos: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="PHOTOS...", help_behavior_hint="")]
    """Image files, folders, and quoted globs such as 'trip/**/*.jpg'."""
    output: OutputOptions
    input: InputOptions = field(default_factory=InputOptions)
    fit: FitOptions = field(default_factory=FitOptions)

    def __post_init__(self) -> None:
        if not self.photos:
            name = next((name for name in (self.method.replace("+", "-"), self.method) if Path(name).exists()), None)
            hint = f" {name!r} was read as the method; write ./{name} for the file or folder." if name else ""
            raise UsageError(f"no photos were given: name image files, folders or globs.{hint}")
        for photo in self.photos:
            if photo in METHODS and not Path(photo).exists():
                raise UsageError(
                    f"no file or folder {photo!r}. The method comes first: `reconstruct {photo} PHOTOS...`."
                )

    def options(self) -> dict[str, Any]:
        """Return option name -> value of all groups, and the method."""
        return {"method": self.method, **_flatten(self)}

    def check_inputs(self) -> None:
        """Raise UsageError if a folder or file is missing: once, rather than once per photo."""
        folders = {"masks": self.input.mask_folder, "landmarks": self.input.landmarks}
        for name, folder in (folders | {"face_masks": self.input.face_masks}).items():
            if folder is not None and not folder.is_dir():
                raise UsageError(f"{flag(name)} {folder}: no such folder.")
        for name, value in self.options().items():
            if isinstance(value, Path) and name not in (*folders, "face_masks", "output") and not value.exists():
                raise UsageError(f"{flag(name)} {value}: no such file.")


@dataclass(frozen=True, kw_only=True)
class ReconstructFitConfig(ReconstructConfig):
    """Fit one head to each face (Diverse3DFace, Algorithm 1, with local models)."""

    method: ClassVar[str] = "fit"


@dataclass(frozen=True, kw_only=True)
class ReconstructDrawingConfig(ReconstructConfig):
    """Options of all methods that draw hypotheses beside the fit."""

    drawing: DrawingOptions = field(default_factory=DrawingOptions)


@dataclass(frozen=True, kw_only=True)
class ReconstructCompleteConfig(ReconstructDrawingConfig):
    """Fit a head, and draw several from a Mesh-VAE that agree with what the photo shows.

    They are written to hypotheses/00, 01, ..., best first."""

    method: ClassVar[str] = "complete"
    model: MeshVAEFileOptions = field(default_factory=MeshVAEFileOptions)


@dataclass(frozen=True, kw_only=True)
class ReconstructDiverseConfig(ReconstructCompleteConfig):
    """Fit a head, and draw several from a Mesh-VAE that differ where the face is hidden (Algorithm 2).

    They are written to hypotheses/00, 01, ..., best first."""

    method: ClassVar[str] = "diverse"
    diversity: DiversityOptions = field(default_factory=DiversityOptions)


@dataclass(frozen=True, kw_only=True)
class ReconstructAutoConfig(ReconstructDiverseConfig):
    """The method `diverse` if the head has a Mesh-VAE, else `fit`."""

    method: ClassVar[str] = "auto"


@dataclass(frozen=True, kw_only=True)
class ReconstructOferConfig(ReconstructDrawingConfig):
    """Fit a head, and draw heads by diffusion: the best-ranked identity with several expressions.

    They are written to hypotheses/00, 01, ..., best first."""

    method: ClassVar[str] = "ofer"
    networks: NetworkOptions = field(default_factory=NetworkOptions)
    sampling: SamplerOptions = field(default_factory=SamplerOptions)


@dataclass(frozen=True, kw_only=True)
class ReconstructOferDppConfig(ReconstructOferConfig):
    """Fit a head, and draw heads of several identities by diffusion that differ where the face is hidden.

    They are fitted to what the photo shows and written to hypotheses/00, 01, ..., best first."""

    method: ClassVar[str] = "ofer+dpp"
    diversity: SimilarityOptions = field(default_factory=SimilarityOptions)


METHODS: Mapping[str, type[ReconstructConfig]] = {
    "fit": ReconstructFitConfig,
    "complete": ReconstructCompleteConfig,
    "diverse": ReconstructDiverseConfig,
    "ofer": ReconstructOferConfig,
    "ofer-dpp": ReconstructOferDppConfig,
}
SUBCOMMANDS = Subcommands(
    command="reconstruct",
    selector="--method",
    configs=METHODS,
    summaries={
        "fit": "one head per face (Diverse3DFace, Algorithm 1)",
        "complete": "a fit, and several heads from a Mesh-VAE that agree with the photo",
        "diverse": "the same, but heads that differ where the face is hidden (Algorithm 2)",
        "ofer": "a fit, and heads drawn by diffusion: one identity, several expressions (OFER)",
        "ofer-dpp": "a fit, and heads drawn by diffusion that differ where the face is hidden",
    },
    default=ReconstructAutoConfig,
    default_name=ReconstructAutoConfig.method,
    aliases={"ofer+dpp": "ofer-dpp"},
)
DESCRIPTION = f"""Reconstruct 3D heads from photos of faces: `reconstruct [METHOD] PHOTOS... --output OUT`.

METHOD comes first; its options: `reconstruct METHOD --help`. A folder of that name is written ./fit.
{SUBCOMMANDS.listing()}
  (none)    diverse if the head has a Mesh-VAE, else fit

Files of each photo: mesh.obj with mesh.mtl and mesh.png, mesh.glb, params.npz, camera.json,
landmarks.json, overlay.png, occlusion_mask.png, face_mask.png, metrics.json; with hypotheses also
hypotheses/ and index.html. For all photos: index.html, contact_sheet.png, *.jsonl, run.json.
Exit status: 0 when OUT holds a head, 1 when it holds none, 2 when the command could not start."""


def parse(args: Sequence[str], prog: str) -> ReconstructConfig:
    """Return the command line as options. Raises: UsageError. Other wrong calls end with SystemExit(2)."""
    return SUBCOMMANDS.parse(args, prog, DESCRIPTION)


def reconstruct_config(
    photos: Sequence[str], output: str | Path, method: str = "auto", **options: Any
) -> ReconstructConfig:
    """Return the options of a method from the flat names that the command line has, such as num_samples=4.

    Raises:
        UsageError: the method is unknown or does not have an option, or a value is out of range.
    """
    name, _ = SUBCOMMANDS.split(["--method", method])
    SUBCOMMANDS.check_options(name, [flag(option) for option in options])
    values = {"photos": tuple(photos), "output": Path(output), **options}
    config = _build(ReconstructAutoConfig if name is None else METHODS[name], values)
    if values:
        raise UsageError(f"unknown options: {', '.join(map(flag, values))}.")
    return config


def convert(config: ReconstructConfig, to: type[ReconstructConfig]) -> ReconstructConfig:
    """Return the options as those of another method, which must not have more groups of options."""
    return to(**{each.name: getattr(config, each.name) for each in dataclasses.fields(to)})


def _build(kind: Any, values: dict[str, Any]) -> Any:
    """Make a dataclass from flat values; those that it has fields for are removed from `values`."""
    hints, given = typing.get_type_hints(kind), {}
    for each in dataclasses.fields(kind):
        if dataclasses.is_dataclass(hints[each.name]):
            given[each.name] = _build(hints[each.name], values)
        elif each.name in values:
            given[each.name] = values.pop(each.name)
    return kind(**given)


def _flatten(group: Any) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for each in dataclasses.fields(group):
        value = getattr(group, each.name)
        values |= _flatten(value) if dataclasses.is_dataclass(value) else {each.name: value}
    return values
