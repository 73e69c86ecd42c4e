"""Training IdGen and ExpGen on arrays of coefficients and landmarks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array
from rich.console import Console

from experiments.command_line import message_console
from experiments.training.checkpoints import Checkpoints, RunFolder
from experiments.training.devices import device_mesh
from experiments.training.loop import Evaluator, MakeStep, train_network
from experiments.training.ofer.architectures import small
from experiments.training.ofer.data import ExampleRows, TrainingData, stored_data
from experiments.training.ofer.evaluation import GeneratorEvaluator
from experiments.training.ofer.examples import Kind
from experiments.training.ofer.settings import GeneratorTraining, OferTraining
from experiments.training.ofer.step import make_step, optimizer_of
from experiments.training.record import TrainingRecord
from flamejax.head import HeadModel
from models.encoders.conditioned import Conditioned, base_digests
from models.encoders.landmark import align_by_similarity, reference_landmarks
from models.generator import Generator, GeneratorConfig

Network = TypeVar("Network", bound=Conditioned)
MIN_DEVIATION = 0.02
"""Smallest scale of a coefficient, since the roll of a jaw may always be zero."""


def train_generator(
    head: HeadModel | None, coefficients: np.ndarray, landmarks: np.ndarray, config: GeneratorTraining | None = None, *,
    kind: Kind = "identity", visible: np.ndarray | None = None, validation: tuple[np.ndarray, ...] | None = None,
    architecture: GeneratorConfig | None = None, workdir: Path | str | None = None, restart: bool = False,
    console: Console | None = None,
) -> tuple[Generator, TrainingRecord]:  # fmt: skip
    """Train a generator like OFER's IdGen or ExpGen, or resume its training. Shows a progress bar on stderr.

    Args:
      head: the head model of the coefficients; None for any other model of faces.
      coefficients: (N, S) identity coefficients in standard deviations; for the kind `expression`, (N, E + 3)
        expression coefficients and the jaw's axis-angle, radians.
      landmarks: (N, 68, 2) of one photo each, any unit, x right, y down: the condition.
      config: training settings; the small network's settings, for CPUs, when left out.
      visible: (N, 68) in [0, 1], 0 = hidden; all are visible when left out.
      validation: (coefficients, landmarks) or (coefficients, landmarks, visible) of other people. Errors on them are
        recorded, in millimetres over the front of the face, or in the coefficients' units without a head.
      architecture: with the landmark encoder only; its widest level becomes the number of coefficients. The small one
        when left out.
      workdir, restart, console: as those of `train_mesh_vae`.

    Returns:
      The network, and the losses and validation errors.

    Raises:
      ValueError: arrays of the wrong shape, fewer examples than a batch has, an architecture that does not fit, or a
        folder with a run of other settings. RuntimeError: the loss is not finite any more; the last good checkpoint is
        kept. OSError: the folder cannot be written.
    """
    config, console = config or GeneratorTraining(), console or message_console()
    training = _example_rows("", kind, head, coefficients, landmarks, visible)
    validation_rows = None if validation is None else _example_rows("validation ", kind, head, *validation)
    data = stored_data(training, validation_rows, config)
    size = training.betas.shape[1] + training.motion.shape[1]
    if architecture is not None and architecture.kind != kind:
        raise ValueError(f"the architecture is of the kind {architecture.kind}, not {kind}.")
    architecture = resize_architecture(architecture or small(kind), size, config)
    reference = reference_landmarks(head) if head is not None else mean_landmarks(training.points, training.visible)
    fingerprint = {**config.fingerprint(), "architecture": asdict(architecture)}
    run_folder = RunFolder(None if workdir is None else Path(workdir), restart, fingerprint)
    return train_generator_on(head, reference, data, config, architecture, run_folder, console)


def mean_landmarks(points: np.ndarray, visible: np.ndarray) -> Array:
    """Returns the mean (68, 2) of landmarks (N, 68, 2), each aligned by the best similarity to the most visible one;
    visible (N, 68) in [0, 1]."""
    best = int(visible.sum(axis=1).argmax())
    target = np.broadcast_to(points[best], points.shape)
    visible_in_both = jnp.asarray(visible * visible[best])
    aligned = np.asarray(align_by_similarity(jnp.asarray(points), jnp.asarray(target), visible_in_both))
    weight = visible.sum(axis=0)[:, None]
    mean = (visible[..., None] * aligned).sum(axis=0) / np.maximum(weight, 1e-6)
    return jnp.asarray(np.where(weight > 0, mean, points[best]))


def _example_rows(
    name: str, kind: str, head: HeadModel | None, coefficients: np.ndarray, landmarks: np.ndarray,
    visible: np.ndarray | None = None,
) -> ExampleRows:  # fmt: skip
    """Returns the arrays as examples, without coefficients of the other kind. Raises: ValueError, wrong shapes."""
    values, points = np.asarray(coefficients, np.float32), np.asarray(landmarks, np.float32)
    visibility = np.ones(points.shape[:2], np.float32) if visible is None else np.asarray(visible, np.float32)
    count = values.shape[-1] if head is None else head.num_betas if kind == "identity" else head.num_expression + 3
    if values.ndim != 2 or values.shape[1] != count:
        raise ValueError(f"{name}coefficients are (N, {count}), not {values.shape}.")
    for what, array, shape in (("landmarks", points, (len(values), 68, 2)), ("visible", visibility, (len(values), 68))):
        if array.shape != shape:
            raise ValueError(f"{name}{what} are {shape}, not {array.shape}.")
    empty = np.zeros((len(values), 0), np.float32)
    betas, motion = (values, empty) if kind == "identity" else (empty, values)
    return ExampleRows(betas, motion, points, visibility)


def resize_architecture(architecture: GeneratorConfig, size: int, config: GeneratorTraining) -> GeneratorConfig:
    """Returns the architecture with `size` coefficients at its widest level and the config's noise schedule.

    Raises:
      ValueError: the loss does not suit this architecture.
    """
    if config.even and not architecture.preconditioned:
        raise ValueError("--even is for preconditioned networks, such as --config idgen_small.")
    unet = replace(architecture.unet, widths=(size, *architecture.unet.widths[1:]))
    return replace(architecture, unet=unet, schedule=config.schedule, unconditional=config.dropped > 0)


def train_generator_on(
    head: HeadModel | None, reference: Array, data: TrainingData, config: GeneratorTraining,
    architecture: GeneratorConfig, run_folder: RunFolder, console: Console, encoders: Mapping[Any, Any] | None = None,
) -> tuple[Generator, TrainingRecord]:  # fmt: skip
    """Train a generator like `train_generator`, on data of any kind.

    Args:
      reference: (68, 2) landmarks of the mean face. architecture: of `resize_architecture`. encoders: the image
        encoders that it names.
    """
    scale: dict[str, Any] = {}
    if architecture.kind != "identity":  # identities are in standard deviations
        motions = data.motions().astype(np.float64)
        scale = {"mean": motions.mean(axis=0), "deviation": np.maximum(motions.std(axis=0), MIN_DEVIATION)}
    model = Generator(architecture, reference, rngs=nnx.Rngs(config.seed), encoders=encoders, **scale)
    evaluator = None
    if data.validation is not None:
        evaluator = GeneratorEvaluator(head, data.validation(config.eval_examples), architecture)
    text = config.loss + " {total:.4f}"
    return train_conditioned(model, make_step, data.source, evaluator, data, config, run_folder, console, text)


def train_conditioned(
    model: Network, make_step: MakeStep, constants: Any, evaluator: Evaluator | None, data: TrainingData,
    config: OferTraining, run_folder: RunFolder, console: Console, progress_format: str,
) -> tuple[Network, TrainingRecord]:  # fmt: skip
    """Print a summary, and train. A run can only be resumed with the same image encoders and data."""
    count = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))
    devices = device_mesh(config.devices).devices.size
    console.print(
        f"{count / 1e6:.2f} million parameters; {data.description}; {devices} device{'s' * (devices > 1)}",
        markup=False,
    )
    digests = base_digests(model)
    encoder_digests = {"encoder_digests": digests} if digests else {}
    fingerprint = {**run_folder.fingerprint, **encoder_digests, **data.fingerprint}
    return train_network(
        model, make_step, optimizer_of(config), config, constants=constants, batches=data.batches,
        checkpoints=Checkpoints(replace(run_folder, fingerprint=fingerprint), config.keep), evaluator=evaluator,
        console=console, progress_format=progress_format, averaged=True,
    )  # fmt: skip
