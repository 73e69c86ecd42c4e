"""The command's options."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from experiments.results import UsageError, digest_of
from fitting.config import PRESETS, AnyFitConfig, FitConfig
from fitting.detector import FaceDetector, LiteRTDetector
from fitting.local_files import load_local_model, local_model_path, shipped_local_model
from fitting.local_model import LocalModel
from flamejax.head import HeadFileError, HeadModel
from models.mesh_vae import MeshVAE
from models.ofer_weights import ofer_path
from models.pretrained import has_shipped_mesh_vae, load_mesh_vae, mesh_vae_path
from sampling import (
    DIVERSIFY_PRESETS,
    DiversifyConfig,
    OferConfig,
    OferDppConfig,
    OferNetworks,
    SamplerConfig,
    SamplerName,
    load_networks,
)

MOST_SAMPLES = 100
OFER = ("ofer", "ofer+dpp")
DRAWING = ("method", "num_samples", "seed", "mesh_vae", "diversify", "idgen", "expgen", "idrank", "arcface", "farl",
           "ofer", "candidates", "sampler", "sampler_steps", "guidance")  # fmt: skip
"""Settings that the fit does not depend on."""


@dataclass(frozen=True)
class Config:
    """Reconstruct 3D heads from photos of faces.

    Writes one folder per photo (mesh.obj with mesh.mtl and mesh.png, mesh.glb, params.npz, camera.json, landmarks.json,
    overlay.png, occlusion_mask.png, face_mask.png, metrics.json; hypotheses/ and, to look at them, index.html with
    every --method but fit) and, over all photos, index.html, contact_sheet.png, summary.jsonl, failures.jsonl and
    run.json.
    A photo that fails is listed in failures.jsonl with the reason, and the others go on.

    Exit status: 0 when the output holds at least one head, 1 when it holds none, 2 when the command could not start.
    """

    photos: tyro.conf.Positional[tuple[str, ...]]
    """Image files, folders (searched through) and quoted globs such as 'trip/**/*.jpg'."""
    output: Path
    """Folder to write; made if missing."""
    head: Path | None = None
    """Head model file; the embedded open head unless given."""
    method: Literal["auto", "fit", "complete", "diverse", "ofer", "ofer+dpp"] = "auto"
    """fit: one head per face, by Algorithm 1 with local models. complete: beside it, several whole heads that agree
    with what the photo shows of it, drawn from a Mesh-VAE; they are written to hypotheses/00, 01, ..., best first.
    diverse: such heads moved apart where the photo shows nothing, by Algorithm 2. ofer: heads drawn by diffusion from
    the landmarks that the photo shows, one ranked identity with several expressions. ofer+dpp: such heads of several
    identities, weighed by the photo, picked to differ where it shows nothing, and brought onto what it shows. auto:
    diverse if there is a Mesh-VAE of the head, else fit."""
    num_samples: int = 16
    """Heads per face, of all methods but fit."""
    k: float = 0.5
    """diverse and ofer+dpp: how fast similarity falls with distance (Eq. 8)."""
    n_sigma: float = 3.0
    """diverse: how unusual heads may be, in standard deviations: more is more diverse and less realistic."""
    diversify: Literal["fast", "paper"] = "fast"
    """diverse: 60 iterations along what is hidden; or 300 on all latents, as the paper has it."""
    mesh_vae: Path | None = None
    """Mesh-VAE of the head, a file that `experiments.train --config mesh_vae` made; the shipped one of the open head
    unless given."""
    idgen: Path | None = None
    """ofer and ofer+dpp: weights that `experiments.train --config idgen` made; the shipped ones of the open head unless
    given."""
    expgen: Path | None = None
    """As --idgen, of `--config expgen`."""
    idrank: Path | None = None
    """As --idgen, of `--config idrank`."""
    arcface: Path | None = None
    """ofer and ofer+dpp: what `flamejax convert --to arcface` made, for networks that look at photos through it; that
    in the data folder unless given."""
    farl: Path | None = None
    """As --arcface, of `--to farl`."""
    candidates: int = 100
    """ofer and ofer+dpp: identities that are drawn and ranked."""
    sampler: SamplerName = "dpm"
    """ofer and ofer+dpp: dpm (DPM-Solver++ 2M), ddim, or ancestral: all 1000 steps, as in the paper."""
    sampler_steps: int = 20
    """ofer and ofer+dpp: steps of dpm and ddim."""
    guidance: float = 1.0
    """ofer and ofer+dpp: weight of what the photo says over what it does not, of networks that were trained for it
    (--dropped)."""
    seed: int = 0
    """Of the draws. A face gets the same ones whatever photos are beside it."""
    preset: Literal["fast", "paper", "code"] = "fast"
    """How to fit: ours, or gradient descent as in the paper or in its released code (minutes per photo on a CPU)."""
    local: str = "auto"
    """Local models: a file that `experiments.train --config local_pca` made for the head, 'none', or 'auto' for those
    that are shipped for the open head."""
    batch_size: int | Literal["auto"] = "auto"
    """Faces fitted together."""
    landmarks: Path | None = None
    """Folder of <photo>.npy, .json or .pts: 68 iBUG points in pixels of the photo, instead of a detector."""
    masks: str = "auto"
    """Folder of <photo>.png occlusion masks (white = hidden); 'auto' to find what hides each face; or 'none'."""
    face_masks: Path | None = None
    """Folder of <photo>.png face masks (white = face)."""
    boxes: Path | None = None
    """JSON file {"<photo>": [x0, y0, x1, y1]}: the face to take, in pixels of the photo."""
    detector: str | None = None
    """A face detector of your own, 'package.module:Class', instead of the one that ships; see `fitting.FaceDetector`.
    What it finds is taken to be 68 iBUG points."""
    all_faces: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """All faces of each photo rather than the largest."""
    resume: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Do only what is missing in OUTPUT. Faces of other settings count as missing, so do those without hypotheses if
    --method asks for some."""
    overwrite: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Delete earlier results in OUTPUT first (nothing else that lies there)."""
    size: int = 256
    """Side of the square crop that is fitted, pixels."""
    iterations: int | None = None
    """Steps of the fit's photometric stage (rounded up to a whole number of its intervals); preset fast only."""

    def __post_init__(self) -> None:
        if not self.photos:
            raise UsageError("no photos were given: name image files, folders or globs.")
        if self.resume and self.overwrite:
            raise UsageError("--resume keeps earlier results and --overwrite deletes them: give one of the two.")
        if self.batch_size != "auto" and self.batch_size < 1:
            raise UsageError(f"--batch-size is at least 1, not {self.batch_size}.")
        if not 64 <= self.size <= 1024:
            raise UsageError(f"--size is between 64 and 1024 pixels, not {self.size}.")
        if not 1 <= self.num_samples <= MOST_SAMPLES:
            raise UsageError(f"--num-samples is between 1 and {MOST_SAMPLES}, not {self.num_samples}.")
        if not 0 <= self.seed < 2**32:
            raise UsageError(f"--seed is between 0 and 2^32 - 1, not {self.seed}.")
        if not 0.01 <= self.k <= 10 or not 0.5 <= self.n_sigma <= 10:
            raise UsageError(f"--k is between 0.01 and 10, --n-sigma between 0.5 and 10, not {self.k}, {self.n_sigma}.")
        if self.method in ("fit", "complete", "ofer") and (self.k, self.n_sigma, self.diversify) != (0.5, 3.0, "fast"):
            raise UsageError("--k, --n-sigma and --diversify go with --method diverse (--k with ofer+dpp, too).")
        if self.method == "ofer+dpp" and (self.n_sigma, self.diversify) != (3.0, "fast"):
            raise UsageError("--n-sigma and --diversify go with --method diverse; ofer+dpp knows --k.")
        if self.mesh_vae is not None and self.method in ("fit", *OFER):
            raise UsageError("--mesh-vae goes with --method diverse or complete.")
        drawing = (*self.networks, self.arcface, self.farl)
        sampling = self.candidates, self.sampler, self.sampler_steps, self.guidance
        if self.method not in OFER and (any(drawing) or sampling != (100, "dpm", 20, 1.0)):
            raise UsageError(
                "--idgen, --expgen, --idrank, --arcface, --farl, --candidates, --sampler, --sampler-steps and "
                "--guidance go with --method ofer or ofer+dpp."
            )
        if not 1 <= self.candidates <= 10_000 or not 1 <= self.sampler_steps <= 1000:
            raise UsageError("--candidates is between 1 and 10000, --sampler-steps between 1 and 1000.")
        if self.iterations is not None and self.iterations < 0:
            raise UsageError(f"--iterations is at least 0, not {self.iterations}.")
        if self.iterations is not None and self.preset != "fast":
            raise UsageError(f"--iterations goes with --preset fast; '{self.preset}' has a number of its own.")

    @property
    def networks(self) -> tuple[Path | None, Path | None, Path | None]:
        """Files of OFER's networks that were given: IdGen, ExpGen, IdRank."""
        return self.idgen, self.expgen, self.idrank

    @property
    def mask_folder(self) -> Path | None:
        """Where occlusion masks lie, if anywhere."""
        return None if self.masks in ("none", "auto") else Path(self.masks)

    def load_detector(self) -> FaceDetector:
        """The detector that finds faces. Raises: UsageError, the one that was named cannot be used."""
        if self.detector is None:
            return LiteRTDetector()
        from fitting import load_detector

        try:
            return load_detector(self.detector)
        except ValueError as error:
            raise UsageError(f"--detector: {error}") from error

    def local_model(self, head: HeadModel) -> LocalModel | None:
        """The local models to fit with. Raises: UsageError if the file cannot be used or is another head's."""
        if self.local == "none":
            return None
        try:
            if self.local == "auto":
                return shipped_local_model(head)
            return load_local_model(head, Path(self.local))
        except (HeadFileError, OSError) as error:
            raise UsageError(f"--local: {error}") from error

    def local_digest(self) -> str | None:
        """The option, and the first digits of the SHA-256 of the file of local models; None where it cannot be read."""
        if self.local == "none":
            return "none"
        digest = digest_of(local_model_path() if self.local == "auto" else Path(self.local))
        return None if digest is None else f"{self.local} {digest}"

    def load_mesh_vae(self, head: HeadModel) -> MeshVAE:
        """The Mesh-VAE to complete with. Raises: UsageError if the file cannot be used or is another head's."""
        try:
            return load_mesh_vae(head, self.mesh_vae)
        except (HeadFileError, OSError) as error:
            raise UsageError(f"--mesh-vae: {error}") from error

    def load_networks(self, head: HeadModel) -> OferNetworks:
        """OFER's networks. Raises: UsageError if a file cannot be used or is another head's."""
        try:
            found = load_networks(head, *self.networks, {"arcface": self.arcface, "farl": self.farl})
        except (HeadFileError, OSError) as error:
            raise UsageError(f"--method {self.method}: {error}") from error
        if self.guidance != 1 and None in (found.idgen.nothing, found.expgen.nothing):
            raise UsageError("--guidance needs an IdGen and an ExpGen that were trained with --dropped.")
        return found

    def with_method(self, head: HeadModel) -> Config:
        """The same with the method that `auto` stands for."""
        if self.method != "auto":
            return self
        known = self.mesh_vae is not None or has_shipped_mesh_vae(head)
        return dataclasses.replace(self, method="diverse" if known else "fit")

    def diversify_config(self) -> DiversifyConfig:
        """The settings of Algorithm 2."""
        return dataclasses.replace(DIVERSIFY_PRESETS[self.diversify], k=self.k, n_sigma=self.n_sigma)

    def ofer_config(self) -> OferConfig:
        """The settings of ofer."""
        sampler = SamplerConfig(self.sampler, self.sampler_steps, guidance=self.guidance)
        return OferConfig(self.candidates, sampler)

    def ofer_dpp_config(self) -> OferDppConfig:
        """The settings of ofer+dpp."""
        return OferDppConfig(self.ofer_config(), k=self.k, pool=max(2 * self.num_samples, OferDppConfig().pool))

    def fit_config(self) -> AnyFitConfig:
        """The settings of the fit."""
        if self.iterations is None:
            return PRESETS[self.preset]
        interval = FitConfig().visibility_interval
        return FitConfig(photometric_steps=-(-self.iterations // interval) * interval)

    def settings(self) -> dict[str, object]:
        """The options that change a photo's result; earlier results made with others are done again by --resume."""
        paths = {
            "landmarks": self.landmarks,
            "masks": self.masks,
            "face_masks": self.face_masks,
            "boxes": self.boxes,
        }
        drawn: dict[str, Any] = {}
        if self.method != "fit":
            drawn = {"num_samples": self.num_samples, "seed": self.seed}
        if self.method in ("complete", "diverse"):
            drawn["mesh_vae"] = digest_of(self.mesh_vae or mesh_vae_path())
        if self.method == "diverse":
            drawn["diversify"] = dataclasses.asdict(self.diversify_config())
            del drawn["diversify"]["single_stage"]  # of the baselines
        if self.method in OFER:
            for name, given in zip(("IdGen", "ExpGen", "IdRank"), self.networks, strict=True):
                drawn[name.lower()] = digest_of(given or ofer_path(name))
            encoders = ((n, digest_of(p)) for n, p in (("arcface", self.arcface), ("farl", self.farl)) if p is not None)
            drawn |= dict(encoders)
            drawing = self.ofer_dpp_config() if self.method == "ofer+dpp" else self.ofer_config()
            drawn["ofer"] = dataclasses.asdict(drawing)
        return {
            "method": self.method,
            **drawn,
            "size": self.size,
            "preset": self.preset,
            "local": self.local_digest(),
            "fit": dataclasses.asdict(self.fit_config()),
            "all_faces": self.all_faces,
            **({} if self.detector is None else {"detector": self.detector}),
            **{name: None if path is None else str(path) for name, path in paths.items()},
        }

    def check_inputs(self) -> None:
        """Refuse a missing folder or file at once rather than once per photo. Raises: UsageError."""
        for flag, folder in (
            ("--landmarks", self.landmarks),
            ("--masks", self.mask_folder),
            ("--face-masks", self.face_masks),
        ):
            if folder is not None and not folder.is_dir():
                raise UsageError(f"{flag} {folder}: no such folder.")
        files = (self.head, self.boxes, self.mesh_vae, *self.networks, self.arcface, self.farl)
        flags = ("head", "boxes", "mesh-vae", "idgen", "expgen", "idrank", "arcface", "farl")
        for flag, file in zip(flags, files, strict=True):
            if file is not None and not file.exists():
                raise UsageError(f"--{flag} {file}: no such file.")
