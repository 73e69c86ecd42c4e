"""Training IdGen and ExpGen on arrays of coefficients and of what photos show of them."""

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

from experiments.training.checkpoints import Checkpoints, Place
from experiments.training.devices import device_mesh
from experiments.training.loop import Evaluator, MakeStep, train_network
from experiments.training.ofer.architectures import small
from experiments.training.ofer.data import Data, ExampleRows, known_data
from experiments.training.ofer.examples import Kind
from experiments.training.ofer.judge import GeneratorEvaluator
from experiments.training.ofer.settings import GeneratorTraining, OferTraining
from experiments.training.ofer.step import make_step, optimizer_of
from experiments.training.record import TrainingRecord
from flamejax.head import HeadModel
from models.encoders.landmark import reference_landmarks, similarity_aligned
from models.encoders.parts import Conditioned, base_digests
from models.generator import Generator, GeneratorConfig

Network = TypeVar("Network", bound=Conditioned)
SMALLEST_DEVIATION = 0.02
"""A jaw that never rolls must not be divided by zero."""


def train_generator(
    head: HeadModel | None, coefficients: np.ndarray, landmarks: np.ndarray, config: GeneratorTraining | None = None, *,
    kind: Kind = "identity", visible: np.ndarray | None = None, validation: tuple[np.ndarray, ...] | None = None,
    architecture: GeneratorConfig | None = None, workdir: Path | str | None = None, restart: bool = False,
    console: Console | None = None,
) -> tuple[Generator, TrainingRecord]:  # fmt: skip
    """Train a generator like OFER's IdGen or ExpGen, or go on with it. There is a progress bar on stderr.

    Args:
      head: whose coefficients they are; None for those of any other model of faces.
      coefficients: (N, S) identity coefficients in standard deviations; of the kind `expression`, (N, E + 3) expression
        coefficients and the jaw's axis-angle, radians.
      landmarks: (N, 68, 2) of a photo of each, any unit, x right, y down: the condition.
      config: how; the small network's settings, for CPUs, when left out.
      visible: (N, 68) in [0, 1], 0 = hidden; all are seen when left out.
      validation: coefficients, landmarks and, if some are hidden, visible, of other people: errors on them are
        recorded, in millimetres over the front of the face, or in the coefficients' units without a head.
      architecture: sees landmarks alone; its widest level becomes the number of coefficients. The small one when left
        out.
      workdir, restart, console: as those of `train_mesh_vae`.

    Returns:
      The network, and the losses and validation errors.

    Raises:
      ValueError: arrays of the wrong shape, fewer than a batch has, an architecture that does not fit, or a folder with
        a run of other settings. RuntimeError: the loss is no number any more; the last good checkpoint is kept.
        OSError: the folder cannot be written.
    """
    config, console = config or GeneratorTraining(), console or Console(stderr=True)
    training = _rows("", kind, head, coefficients, landmarks, visible)
    held_out = None if validation is None else _rows("validation ", kind, head, *validation)
    data = known_data(training, held_out, config)
    size = training.betas.shape[1] + training.motion.shape[1]
    if architecture is not None and architecture.kind != kind:
        raise ValueError(f"the architecture is of the kind {architecture.kind}, not {kind}.")
    wanted = fitted_to(architecture or small(kind), size, config)
    reference = reference_landmarks(head) if head is not None else mean_landmarks(training.points, training.visible)
    facts = {**config.fingerprint(), "architecture": asdict(wanted)}
    place = Place(None if workdir is None else Path(workdir), restart, facts)
    return train_on(head, reference, data, config, wanted, place, console)


def mean_landmarks(points: np.ndarray, visible: np.ndarray) -> Array:
    """(68, 2) mean of landmarks (N, 68, 2), each moved onto the one that shows most by the best similarity; visible
    (N, 68) in [0, 1]."""
    best = int(visible.sum(axis=1).argmax())
    target = np.broadcast_to(points[best], points.shape)
    both = jnp.asarray(visible * visible[best])
    moved = np.asarray(similarity_aligned(jnp.asarray(points), jnp.asarray(target), both))
    weight = visible.sum(axis=0)[:, None]
    mean = (visible[..., None] * moved).sum(axis=0) / np.maximum(weight, 1e-6)
    return jnp.asarray(np.where(weight > 0, mean, points[best]))


def _rows(
    name: str, kind: str, head: HeadModel | None, coefficients: np.ndarray, landmarks: np.ndarray,
    visible: np.ndarray | None = None,
) -> ExampleRows:  # fmt: skip
    """Raises: ValueError, the arrays do not go together."""
    known, points = np.asarray(coefficients, np.float32), np.asarray(landmarks, np.float32)
    seen = np.ones(points.shape[:2], np.float32) if visible is None else np.asarray(visible, np.float32)
    count = known.shape[-1] if head is None else head.num_betas if kind == "identity" else head.num_expression + 3
    if known.ndim != 2 or known.shape[1] != count:
        raise ValueError(f"{name}coefficients are (N, {count}), not {known.shape}.")
    for what, array, wanted in (("landmarks", points, (len(known), 68, 2)), ("visible", seen, (len(known), 68))):
        if array.shape != wanted:
            raise ValueError(f"{name}{what} are {wanted}, not {array.shape}.")
    nothing = np.zeros((len(known), 0), np.float32)
    betas, motion = (known, nothing) if kind == "identity" else (nothing, known)
    return ExampleRows(betas, motion, points, seen)


def fitted_to(architecture: GeneratorConfig, size: int, config: GeneratorTraining) -> GeneratorConfig:
    """The architecture with the number of coefficients at its widest level, and what the config says of it.

    Raises:
      ValueError: the loss is not of this architecture.
    """
    if config.even and not architecture.preconditioned:
        raise ValueError("--even is for preconditioned networks, such as --config idgen_small.")
    unet = replace(architecture.unet, widths=(size, *architecture.unet.widths[1:]))
    return replace(architecture, unet=unet, schedule=config.schedule, unconditional=config.dropped > 0)


def train_on(
    head: HeadModel | None, reference: Array, data: Data, config: GeneratorTraining, architecture: GeneratorConfig,
    place: Place, console: Console, encoders: Mapping[Any, Any] | None = None,
) -> tuple[Generator, TrainingRecord]:  # fmt: skip
    """As `train_generator`, on data of any kind.

    Args:
      reference: (68, 2) landmarks of the mean face. architecture: `fitted_to` the coefficients. encoders: the image
        encoders that it names.
    """
    scale: dict[str, Any] = {}
    if architecture.kind != "identity":  # identities are in standard deviations
        motions = data.motions().astype(np.float64)
        scale = {"mean": motions.mean(axis=0), "deviation": np.maximum(motions.std(axis=0), SMALLEST_DEVIATION)}
    model = Generator(architecture, reference, rngs=nnx.Rngs(config.seed), encoders=encoders, **scale)
    judge = None if data.held_out is None else GeneratorEvaluator(head, data.held_out(config.judged), architecture)
    shown = config.loss + " {total:.4f}"
    return train_conditioned(model, make_step, data.source, judge, data, config, place, console, shown)


def train_conditioned(
    model: Network, make_step: MakeStep, fixed: Any, judge: Evaluator | None, data: Data, config: OferTraining,
    place: Place, console: Console, shown: str,
) -> tuple[Network, TrainingRecord]:  # fmt: skip
    """Say what is trained, and train it; a run can only go on with the same image encoders and data."""
    count = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))
    devices = device_mesh(config.devices).devices.size
    console.print(
        f"{count / 1e6:.2f} million parameters; {data.said}; {devices} device{'s' * (devices > 1)}",
        markup=False,
    )
    bases = base_digests(model)
    facts = {**place.facts, **({"encoder_digests": bases} if bases else {}), **data.facts}
    return train_network(
        model, make_step, optimizer_of(config), config, fixed=fixed, batches=data.batches,
        checkpoints=Checkpoints(replace(place, facts=facts), config.keep), judge=judge, console=console, shown=shown,
        averaged=True,
    )  # fmt: skip
