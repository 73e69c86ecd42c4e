"""The runs that train IdGen and ExpGen."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from rich.console import Console

import flamejax
from experiments.ofer.coefficients import scan_coefficients
from experiments.ofer.examples import Source, draw_examples, make_source
from experiments.ofer.judge import GeneratorJudge
from experiments.ofer.settings import GeneratorSettings, OferSettings, smoke_settings
from experiments.ofer.step import Losses, TrainState, make_step, optimizer_of, share_of, start_state
from experiments.training.checkpoints import Checkpoints, check_settings
from experiments.training.devices import device_mesh
from experiments.training.loop import Endless, Loop
from flamejax.head import HeadModel
from flamejax.io.files import write_text
from models.generator import Generator, GeneratorConfig
from models.ofer_weights import NETWORKS, build_generator, load_generator, write_generator

JUDGED, JUDGED_AT_END = 64, 256
STATISTICS, SMALLEST_DEVIATION = 4096, 0.02
"""Examples that coefficients are scaled by; a jaw that never rolls must not be divided by zero."""


def train(settings: GeneratorSettings, architecture: GeneratorConfig, console: Console) -> dict[str, float]:
    """Train, or go on with it. Returns the errors on validation examples at the end.

    Raises:
      ValueError: settings or scans that cannot be used. RuntimeError: the loss is no number any more; the last good
        checkpoint is kept. OSError: the folder cannot be written.
    """
    settings = smoke_settings(settings) if settings.smoke else settings
    started = time.perf_counter()
    head = flamejax.load_head(settings.head)
    architecture = fitted_to(head, architecture, settings)
    mesh = device_mesh(settings.devices)
    share_of(settings, mesh)
    check_settings(settings, asdict(architecture))
    training, validation = sources(settings, head, console)
    model = build_generator(head, architecture, settings.seed, *scale_of(architecture, training))
    graphdef, state = nnx.split(model)
    params, rest = nnx.split_state(state, nnx.Param, ...)
    optimizer = optimizer_of(settings)
    introduce(console, settings, model, mesh.devices.size)
    checkpoints = Checkpoints(settings, asdict(architecture))
    try:
        judge = GeneratorJudge(head, validation, architecture, 8 if settings.smoke else JUDGED)
        step = make_step(graphdef, settings, optimizer, mesh)
        everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
        start = jax.device_put(start_state(params, optimizer), everywhere)

        def merged(state: TrainState) -> Generator:
            return nnx.merge(graphdef, jax.device_put(state.average, jax.devices()[0]), rest)

        def go_on(state: TrainState, _: Any) -> tuple[TrainState, Losses]:
            return step(state, rest, training)

        loop = Loop(settings, checkpoints, console, lambda row: f"{settings.loss} {row['total']:.4f}")
        state = loop.run(start, go_on, Endless(), lambda state: (judge.errors(merged(state)), None), "validation: ")
        final = GeneratorJudge(head, validation, architecture, 8 if settings.smoke else JUDGED_AT_END)
        output = settings.output or settings.workdir / f"{NETWORKS[architecture.kind].lower()}.npz"
        return finish(settings, head, merged(state), final, output, console, time.perf_counter() - started)
    finally:
        checkpoints.close()


def fitted_to(head: HeadModel, architecture: GeneratorConfig, settings: GeneratorSettings) -> GeneratorConfig:
    """The architecture with the head's number of coefficients at its widest level."""
    size = head.num_betas if architecture.kind == "identity" else head.num_expression + 3
    unet = replace(architecture.unet, widths=(size, *architecture.unet.widths[1:]))
    return replace(architecture, unet=unet, unconditional=settings.dropped > 0)


def sources(settings: OferSettings, head: HeadModel, console: Console) -> tuple[Source, Source]:
    """What training and validation examples are drawn from: the expressions of either split's scans."""
    found = [
        scan_coefficients(head, split, settings.scans, settings.unit, settings.every, settings.smoke, console)
        for split in ("train", "validation")
    ]
    return make_source(head, found[0]), make_source(head, found[1])


def scale_of(architecture: GeneratorConfig, source: Source) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Mean and deviation of the coefficients; none of identities, which are in standard deviations."""
    if architecture.kind == "identity":
        return None, None
    drawn = jax.jit(draw_examples, static_argnums=2)(source, jax.random.key(7), STATISTICS).motion
    mean, deviation = (np.asarray(a, np.float64) for a in (jnp.mean(drawn, axis=0), jnp.std(drawn, axis=0)))
    return mean, np.maximum(deviation, SMALLEST_DEVIATION)


def introduce(console: Console, settings: OferSettings, model: nnx.Module, devices: int) -> None:
    """One line on what is trained."""
    count = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))
    console.print(
        f"{count / 1e6:.2f} million parameters; {settings.steps} steps of {settings.batch_size} examples, drawn "
        f"afresh; {devices} device{'s' * (devices > 1)}",
        markup=False,
    )


def finish(
    settings: GeneratorSettings, head: HeadModel, model: Generator, judge: GeneratorJudge, output: Any,
    console: Console, seconds: float,
) -> dict[str, float]:  # fmt: skip
    """Write the weights and what they are worth, judged as they are kept, in half precision."""
    output.parent.mkdir(parents=True, exist_ok=True)
    write_generator(output, head, model)
    errors = judge.errors(load_generator(head, model.config.kind, output))
    write_generator(output, head, model, notes_of(settings, errors))
    report(settings, output, errors, console, seconds)
    return errors


def notes_of(settings: OferSettings, errors: dict[str, float]) -> dict[str, str]:
    """Provenance."""
    own = settings.scans is not None
    return {
        "made_with": f"flamejax {flamejax.__version__}; python -m experiments.train",
        "settings": json.dumps(settings.numbers()),
        "validation": json.dumps(errors),
        "data": "own scans" if own else "drawn online: the open head, expressions of the open scans, CC0",
        "licence": "that of the head and the scans" if own else "CC0-1.0",
    }


def report(settings: OferSettings, output: Any, errors: dict[str, float], console: Console, seconds: float) -> None:
    """results.json and the closing line."""
    results = {**errors, "seconds_of_last_start": round(seconds, 1)}
    write_text(settings.workdir / "results.json", json.dumps(results, indent=1) + "\n")
    said = ", ".join(f"{name} {value:.3f}" for name, value in errors.items())
    console.print(f"{output}: {output.stat().st_size / 1e6:.1f} MB; {said}; {seconds:.0f} s", markup=False)
