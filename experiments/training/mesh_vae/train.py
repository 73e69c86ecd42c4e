"""The training run: resume, steps, checkpoints, judging, and the weights at the end."""

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
from experiments.datasets.vertex_masks import mask_maker
from experiments.training.checkpoints import Checkpoints, check_settings
from experiments.training.devices import batch_sharding, device_mesh
from experiments.training.loop import Loop
from experiments.training.mesh_vae.batches import batches
from experiments.training.mesh_vae.frames import Frames, kept_frames, write_frames
from experiments.training.mesh_vae.heads import (  # fmt: skip
    generator,
    load_split,
    mirror_map,
    principal_components,
    statistics,
    training_parts,
)
from experiments.training.mesh_vae.judge import Judge, judge_of
from experiments.training.mesh_vae.settings import SMOKE_BATCH, TrainSettings
from experiments.training.mesh_vae.step import (  # fmt: skip
    Fixed,
    Losses,
    TrainState,
    make_step,
    optimizer_of,
    synthetic_count,
)
from experiments.training.settings import smoke_settings
from flamejax.files import write_text
from flamejax.head import HeadModel
from models.hierarchy import MeshHierarchy
from models.mesh_vae import MeshVAE, MeshVAEConfig, hierarchy_for, num_parameters, without_linear_branch
from models.pretrained import build_mesh_vae, load_mesh_vae, write_mesh_vae

JUDGED, JUDGED_AT_END = 48, 120


def train(settings: TrainSettings, architecture: MeshVAEConfig, console: Console) -> dict[str, float]:
    """Train, or go on with it. Returns the errors on validation heads at the end.

    Raises:
      ValueError: settings or scans that cannot be used. RuntimeError: the loss is no number any more; the last good
        checkpoint is kept. OSError: the folder cannot be written.
    """
    settings = smoke_settings(settings, SMOKE_BATCH) if settings.smoke else settings
    architecture = without_linear_branch(architecture) if settings.no_linear_branch else architecture
    started = time.perf_counter()
    head = flamejax.load_head(settings.head)
    mesh = device_mesh(settings.devices)
    synthetic = synthetic_count(settings, mesh.devices.size)
    check_settings(settings, asdict(architecture))
    training = load_split(settings, head, "train", console)
    held_out = load_split(settings, head, "validation", console)
    data = batches(training.vertices, settings.batch_size - synthetic, settings.seed)
    source, mirror = generator(head, training), mirror_map(head)

    def make_frames() -> Frames:
        parts = training_parts(training, mirror, source, settings)
        mean, spread = statistics(parts)
        # A few scans have few components.
        most = sum(len(heads) for heads, _ in parts) - 1 if settings.smoke else architecture.linear_rank
        return Frames(mean, spread, principal_components(parts, mean, min(architecture.linear_rank, most)))

    frames = kept_frames(settings, make_frames)
    checkpoints = Checkpoints(settings, asdict(architecture))
    try:
        write_frames(settings, frames)
        if frames.components is not None:
            architecture = replace(architecture, linear_rank=len(frames.components))
        hierarchy = hierarchy_for(architecture, np.asarray(head.faces), np.asarray(head.v_template))
        model = build_mesh_vae(head, architecture, frames.mean, frames.spread, frames.components, settings.seed)
        _introduce(console, settings, hierarchy, model, len(training.vertices), synthetic, mesh.devices.size)
        masks = mask_maker(head, settings.seed)
        run = _Run(settings, head, model, hierarchy, checkpoints, console)
        run.fixed = Fixed(run.rest, hierarchy.graph(), masks, source, None if mirror is None else jnp.asarray(mirror))
        judge = judge_of(head, held_out.vertices, masks, 4 if settings.smoke else JUDGED)
        state = run.go(data, judge, mesh)
        final = judge_of(head, held_out.vertices, masks, 4 if settings.smoke else JUDGED_AT_END)
        return run.finish(state, final, time.perf_counter() - started)
    finally:
        checkpoints.close()


class _Run:
    """A run's parts, and its loop."""

    fixed: Fixed

    def __init__(
        self, settings: TrainSettings, head: HeadModel, model: MeshVAE, hierarchy: MeshHierarchy,
        checkpoints: Checkpoints, console: Console,
    ):  # fmt: skip
        self.settings, self.head, self.checkpoints, self.console = settings, head, checkpoints, console
        self.graphdef, state = nnx.split(model)
        self.params, self.rest = nnx.split_state(state, nnx.Param, ...)
        self.optimizer = optimizer_of(settings)

    def go(self, data: Any, judge: Judge, mesh: jax.sharding.Mesh) -> TrainState:
        """All steps that are still to be done."""
        state = TrainState(self.params, self.optimizer.init(self.params), jnp.zeros((), jnp.int32))
        state = jax.device_put(state, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec()))
        step, sharding = make_step(self.graphdef, self.settings, self.optimizer, mesh), batch_sharding(mesh)

        def go_on(state: TrainState, heads: Any) -> tuple[TrainState, Losses]:
            return step(state, self.fixed, jax.device_put(heads, sharding))

        def judged(state: TrainState) -> tuple[dict[str, float], Any]:
            model = self._model(state)
            return judge.errors(model), judge.picture(model)

        loop = Loop(self.settings, self.checkpoints, self.console, lambda row: f"l1 {row['l1_mm']:.3f} mm")
        return loop.run(state, go_on, data, judged, "median errors on validation heads, mm: ")

    def _model(self, state: TrainState) -> MeshVAE:
        params = jax.device_put(state.params, jax.devices()[0])
        return nnx.merge(self.graphdef, params, self.rest)

    def finish(self, state: TrainState, judge: Judge, seconds: float) -> dict[str, float]:
        """Write the weights and what they are worth."""
        model = self._model(state)
        output = self.settings.output or self.settings.workdir / "mesh_vae.npz"
        output.parent.mkdir(parents=True, exist_ok=True)
        # Judged as it is kept, in half precision.
        write_mesh_vae(output, self.head, model)
        errors = judge.errors(load_mesh_vae(self.head, output))
        notes = {
            "made_with": f"flamejax {flamejax.__version__}; python -m experiments.train",
            "architecture": json.dumps(asdict(model.config)),
            "settings": json.dumps(self.settings.numbers()),
            "validation": json.dumps(errors),
            "data": "the open scans (experiments.datasets.open_faces), CC0"
            if self.settings.scans is None
            else "own scans",
            "licence": "CC0-1.0" if self.settings.scans is None else "that of the head and the scans",
        }
        write_mesh_vae(output, self.head, model, notes)
        results = {**errors, "parameters": num_parameters(model), "seconds_of_last_start": round(seconds, 1)}
        write_text(self.settings.workdir / "results.json", json.dumps(results, indent=1) + "\n")
        said = ", ".join(f"{name} {value:.3f}" for name, value in errors.items())
        self.console.print(f"{output}: {output.stat().st_size / 1e6:.1f} MB; {said}; {seconds:.0f} s", markup=False)
        return errors


def _introduce(
    console: Console, settings: TrainSettings, hierarchy: MeshHierarchy, model: MeshVAE, heads: int, synthetic: int,
    devices: int,
) -> None:  # fmt: skip
    console.print(
        f"{heads} training heads; levels of {' -> '.join(map(str, hierarchy.num_vertices))} vertices; "
        f"{num_parameters(model) / 1e6:.2f} million parameters; batches of {settings.batch_size}, {synthetic} of them "
        f"drawn afresh; {devices} device{'s' * (devices > 1)}",
        markup=False,
    )
