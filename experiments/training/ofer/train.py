"""The runs that train IdGen and ExpGen."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import jax
import numpy as np
from flax import nnx
from rich.console import Console

import flamejax
from experiments.training.checkpoints import Checkpoints, check_settings
from experiments.training.devices import device_mesh
from experiments.training.loop import Loop
from experiments.training.ofer.data import Data, training_data
from experiments.training.ofer.examples import Kind
from experiments.training.ofer.judge import GeneratorJudge
from experiments.training.ofer.settings import SMOKE_BATCH, GeneratorSettings, OferSettings
from experiments.training.ofer.step import Losses, TrainState, make_step, optimizer_of, share_of, start_state
from experiments.training.settings import smoke_settings
from flamejax.files import write_text
from flamejax.head import HeadModel
from models.encoders.parts import Conditioned, base_digests, image_encoders, load_image_encoders
from models.generator import Generator, GeneratorConfig
from models.ofer_weights import NETWORKS, build_generator, load_generator, write_generator
from models.rank import frontal_vertices

JUDGED, JUDGED_AT_END = 64, 256
SMALLEST_DEVIATION = 0.02
"""A jaw that never rolls must not be divided by zero."""


def train(settings: GeneratorSettings, architecture: GeneratorConfig, console: Console) -> dict[str, float]:
    """Train, or go on with it. Returns the errors on validation examples at the end.

    Examples are drawn online if the encoder is the landmark encoder alone, and come from photos otherwise.

    Raises:
      ValueError: settings, scans, photos or a head that cannot be used. RuntimeError: the loss is no number any more;
        the last good checkpoint is kept. FileNotFoundError: there is no file of an image encoder. OSError: the folder
        cannot be written, or a photo not be read.
    """
    settings = smoke_settings(settings, SMOKE_BATCH) if settings.smoke else settings
    if settings.even and not architecture.preconditioned:
        raise ValueError("--even is for preconditioned networks, such as --config idgen_small.")
    started = time.perf_counter()
    head = flamejax.load_head(settings.head)
    frontal_vertices(head)  # A head without a front of the face could be trained for, and not be used.
    architecture = fitted_to(head, architecture, settings)
    mesh = device_mesh(settings.devices)
    share_of(settings, mesh)
    check_settings(settings, asdict(architecture))
    encoders = load_image_encoders(architecture.encoders, settings.encoder_files())
    kind: Kind = "identity" if architecture.kind == "identity" else "expression"
    data = training_data(settings, head, kind, encoders, console)
    model = build_generator(head, architecture, settings.seed, *scale_of(architecture, data), encoders)
    graphdef, state = nnx.split(model)
    params, rest = nnx.split_state(state, nnx.Param, ...)
    optimizer = optimizer_of(settings)
    introduce(console, settings, model, data, mesh.devices.size)
    checkpoints = Checkpoints(settings, asdict(architecture), record_of(model, data))
    try:
        judge = GeneratorJudge(head, data.held_out(8 if settings.smoke else JUDGED), architecture)
        step = make_step(graphdef, settings, optimizer, mesh, data.online)
        everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
        start = jax.device_put(start_state(params, optimizer), everywhere)

        def merged(state: TrainState) -> Generator:
            return nnx.merge(graphdef, jax.device_put(state.average, jax.devices()[0]), rest)

        def go_on(state: TrainState, batch: Any) -> tuple[TrainState, Losses]:
            return step(state, rest, data.feed(batch, mesh))

        loop = Loop(settings, checkpoints, console, lambda row: f"{settings.loss} {row['total']:.4f}")
        state = loop.run(start, go_on, data.batches, lambda state: (judge.errors(merged(state)), None), "validation: ")
        final = GeneratorJudge(head, data.held_out(8 if settings.smoke else JUDGED_AT_END), architecture)
        output = settings.output or settings.workdir / f"{NETWORKS[architecture.kind].lower()}.npz"
        seconds = time.perf_counter() - started
        return finish(settings, head, merged(state), final, output, encoders, console, seconds)
    finally:
        checkpoints.close()


def fitted_to(head: HeadModel, architecture: GeneratorConfig, settings: GeneratorSettings) -> GeneratorConfig:
    """The architecture with the head's number of coefficients at its widest level."""
    size = head.num_betas if architecture.kind == "identity" else head.num_expression + 3
    unet = replace(architecture.unet, widths=(size, *architecture.unet.widths[1:]))
    return replace(architecture, unet=unet, schedule=settings.schedule, unconditional=settings.dropped > 0)


def scale_of(architecture: GeneratorConfig, data: Data) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Mean and deviation of the coefficients; none of identities, which are in standard deviations."""
    if architecture.kind == "identity":
        return None, None
    motions = data.motions().astype(np.float64)
    mean, deviation = motions.mean(axis=0), motions.std(axis=0)
    return mean, np.maximum(deviation, SMALLEST_DEVIATION)


def record_of(model: Conditioned, data: Data) -> dict[str, Any]:
    """What a run can only go on with, beside the same settings: the same image encoders and photos."""
    bases = base_digests(model)
    return {**({"encoder_digests": bases} if bases else {}), **data.record()}


def introduce(console: Console, settings: OferSettings, model: nnx.Module, data: Data, devices: int) -> None:
    """One line on what is trained."""
    count = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))
    console.print(
        f"{count / 1e6:.2f} million parameters; {data.said(settings)}; {devices} device{'s' * (devices > 1)}",
        markup=False,
    )


def finish(
    settings: GeneratorSettings, head: HeadModel, model: Generator, judge: GeneratorJudge, output: Any,
    encoders: Mapping[Any, Any], console: Console, seconds: float,
) -> dict[str, float]:  # fmt: skip
    """Write the weights and what they are worth, judged as they are kept, in half precision."""
    output.parent.mkdir(parents=True, exist_ok=True)
    write_generator(output, head, model)
    errors = judge.errors(load_generator(head, model.config.kind, output, encoders))
    write_generator(output, head, model, notes_of(settings, errors, model.config.encoders))
    report(settings, output, errors, console, seconds)
    return errors


def notes_of(settings: OferSettings, errors: dict[str, float], encoders: Sequence[str]) -> dict[str, str]:
    """Provenance."""
    data = "drawn online: the open head, expressions of the open scans, CC0"
    licence = "CC0-1.0"
    if image_encoders(encoders):
        data = "photos of the open scans, CC0" if settings.photos is None else "own photos"
        licence = f"that of the photos and of the weights of {' and '.join(image_encoders(encoders))}"
    elif settings.scans is not None:
        data, licence = "own scans", "that of the head and the scans"
    return {
        "made_with": f"flamejax {flamejax.__version__}; python -m experiments.train",
        "settings": json.dumps(settings.numbers()),
        "validation": json.dumps(errors),
        "data": data,
        "licence": licence,
    }


def report(settings: OferSettings, output: Any, errors: dict[str, float], console: Console, seconds: float) -> None:
    """results.json and the closing line."""
    results = {**errors, "seconds_of_last_start": round(seconds, 1)}
    write_text(settings.workdir / "results.json", json.dumps(results, indent=1) + "\n")
    said = ", ".join(f"{name} {value:.3f}" for name, value in errors.items())
    console.print(f"{output}: {output.stat().st_size / 1e6:.1f} MB; {said}; {seconds:.0f} s", markup=False)
