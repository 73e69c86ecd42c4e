"""Converts the command's options to the library's models, networks and settings of the fit and of the draws."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from experiments.reconstruct.config import (
    FitOptions,
    InputOptions,
    MeshVAEFileOptions,
    ReconstructAutoConfig,
    ReconstructCompleteConfig,
    ReconstructConfig,
    ReconstructDiverseConfig,
    ReconstructDrawingConfig,
    ReconstructFitConfig,
    ReconstructOferConfig,
    ReconstructOferDppConfig,
    convert,
)
from experiments.results import UsageError, short_digest
from fitting import DetectorError, FaceDetector, LiteRTDetector, load_detector
from fitting.config import PRESETS, AnyFitConfig, FitConfig
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
    load_networks,
)

DRAWING_SETTINGS = ("method", "num_samples", "seed", "mesh_vae", "diversify", "idgen", "expgen", "idrank", "arcface",
                    "farl", "ofer", "candidates", "sampler", "sampler_steps", "guidance")  # fmt: skip
"""Settings that the fit does not depend on, also those of earlier versions."""
INPUT_SETTINGS = ("landmarks", "masks", "face_masks", "boxes")
"""Settings that name folders and files; `GivenInputs.record` says what these gave for one photo."""


def resolve_auto(config: ReconstructConfig, head: HeadModel) -> ReconstructConfig:
    """Return the options with the method that `auto` stands for."""
    if not isinstance(config, ReconstructAutoConfig):
        return config
    diverse = config.model.mesh_vae is not None or has_shipped_mesh_vae(head)
    return convert(config, ReconstructDiverseConfig if diverse else ReconstructFitConfig)


def make_detector(options: InputOptions) -> FaceDetector:
    """Return the face detector of --detector, by default the shipped one. Raises: UsageError, it cannot be used."""
    try:
        return LiteRTDetector() if options.detector is None else load_detector(options.detector)
    except DetectorError as error:
        raise UsageError(f"--detector: {error}") from error


def load_local(options: FitOptions, head: HeadModel) -> LocalModel | None:
    """Load the local models to fit with, if any. Raises: UsageError, the file cannot be used or is another head's."""
    if options.local == "none":
        return None
    try:
        if options.local == "auto":
            return shipped_local_model(head)
        return load_local_model(head, Path(options.local))
    except (HeadFileError, OSError) as error:
        raise UsageError(f"--local: {error}") from error


def local_digest(options: FitOptions) -> str | None:
    """Return --local and the first digits of its file's SHA-256; None if the file cannot be read."""
    if options.local == "none":
        return "none"
    digest = short_digest(local_model_path() if options.local == "auto" else Path(options.local))
    return None if digest is None else f"{options.local} {digest}"


def load_vae(options: MeshVAEFileOptions, head: HeadModel) -> MeshVAE:
    """Load the Mesh-VAE to draw from. Raises: UsageError, the file cannot be used or is another head's."""
    try:
        return load_mesh_vae(head, options.mesh_vae)
    except (HeadFileError, OSError) as error:
        raise UsageError(f"--mesh-vae: {error}") from error


def load_ofer(config: ReconstructOferConfig, head: HeadModel) -> OferNetworks:
    """Load OFER's networks. Raises: UsageError, a file cannot be used or is another head's, or lacks guidance."""
    files = config.networks
    encoders = {"arcface": files.arcface, "farl": files.farl}
    try:
        networks = load_networks(head, files.idgen, files.expgen, files.idrank, encoders)
    except (HeadFileError, OSError) as error:
        raise UsageError(f"method {config.method}: {error}") from error
    if config.sampling.guidance != 1 and None in (networks.idgen.nothing, networks.expgen.nothing):
        raise UsageError("--guidance other than 1 needs an IdGen and an ExpGen that were trained with --dropped.")
    return networks


def fit_config(options: FitOptions) -> AnyFitConfig:
    """Return the settings of the fit."""
    if options.iterations is None:
        return PRESETS[options.preset]
    interval = FitConfig().visibility_interval
    return FitConfig(photometric_steps=-(-options.iterations // interval) * interval)


def diversify_config(config: ReconstructCompleteConfig) -> DiversifyConfig:
    """Return the settings of Algorithm 2; without iterations for the method `complete`."""
    if not isinstance(config, ReconstructDiverseConfig):
        return dataclasses.replace(DIVERSIFY_PRESETS["fast"], iterations=0)
    options = config.diversity
    return dataclasses.replace(DIVERSIFY_PRESETS[options.diversify], k=options.k, n_sigma=options.n_sigma)


def ofer_config(config: ReconstructOferConfig) -> OferConfig:
    """Return the settings of OFER's draws."""
    options = config.sampling
    sampler = SamplerConfig(options.sampler, options.sampler_steps, guidance=options.guidance)
    return OferConfig(options.candidates, sampler)


def ofer_dpp_config(config: ReconstructOferDppConfig) -> OferDppConfig:
    """Return the settings of the method `ofer+dpp`."""
    pool = max(2 * config.drawing.num_samples, OferDppConfig().pool)
    return OferDppConfig(ofer_config(config), k=config.diversity.k, pool=pool)


def result_settings(config: ReconstructConfig) -> dict[str, object]:
    """Return the settings that a result depends on, for metrics.json; --resume redoes results of other settings."""
    fit, given = config.fit, config.input
    files = {name: getattr(given, name) for name in INPUT_SETTINGS}
    return {
        "method": config.method,
        **_drawing_settings(config),
        "size": fit.size,
        "preset": fit.preset,
        "local": local_digest(fit),
        "fit": dataclasses.asdict(fit_config(fit)),
        "all_faces": given.all_faces,
        **({} if given.detector is None else {"detector": given.detector}),
        **{name: None if path is None else str(path) for name, path in files.items()},
    }


def _drawing_settings(config: ReconstructConfig) -> dict[str, Any]:
    """Return the settings among DRAWING_SETTINGS, without the method."""
    if not isinstance(config, ReconstructDrawingConfig):
        return {}
    settings: dict[str, Any] = dataclasses.asdict(config.drawing)
    if isinstance(config, ReconstructCompleteConfig):
        settings["mesh_vae"] = short_digest(config.model.mesh_vae or mesh_vae_path())
    if isinstance(config, ReconstructDiverseConfig):
        settings["diversify"] = dataclasses.asdict(diversify_config(config))
        del settings["diversify"]["single_stage"]  # only the baselines use it
    if isinstance(config, ReconstructOferConfig):
        files = config.networks
        for name in ("IdGen", "ExpGen", "IdRank"):
            settings[name.lower()] = short_digest(getattr(files, name.lower()) or ofer_path(name))
        encoders = {"arcface": files.arcface, "farl": files.farl}
        settings |= {name: short_digest(file) for name, file in encoders.items() if file is not None}
        method_config = ofer_dpp_config(config) if isinstance(config, ReconstructOferDppConfig) else ofer_config(config)
        settings["ofer"] = dataclasses.asdict(method_config)
    return settings
