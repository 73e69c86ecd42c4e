"""The training run: resume, steps, checkpoints, judging, and the weights at the end."""

from __future__ import annotations

import io
import json
import time
from dataclasses import asdict, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

import flamejax
from experiments.data.vertex_masks import mask_maker
from experiments.mesh_vae.batches import batches
from experiments.mesh_vae.checkpoints import Checkpoints, Frames, check_settings, kept_frames, write_frames
from experiments.mesh_vae.heads import (
    generator,
    load_split,
    mirror_map,
    principal_components,
    statistics,
    training_parts,
)  # fmt: skip
from experiments.mesh_vae.judge import Judge, judge_of
from experiments.mesh_vae.record import Record
from experiments.mesh_vae.settings import TrainSettings, smoke_settings
from experiments.mesh_vae.step import (
    Fixed,
    Losses,
    TrainState,
    batch_sharding,
    device_mesh,
    make_step,
    optimizer_of,
    synthetic_count,
)  # fmt: skip
from flamejax.head import HeadModel
from flamejax.io.files import write_bytes, write_text
from models.mesh_hierarchy import MeshHierarchy
from models.mesh_vae import MeshVAE, MeshVAEConfig, hierarchy_for, num_parameters, without_linear_branch
from models.pretrained import build_mesh_vae, load_mesh_vae, write_mesh_vae

JUDGED, JUDGED_AT_END = 48, 120


def train(settings: TrainSettings, architecture: MeshVAEConfig, console: Console) -> dict[str, float]:
    """Train, or go on with it. Returns the errors on validation heads at the end.

    Raises:
      ValueError: settings or scans that cannot be used. RuntimeError: the loss is no number any more; the last good
        checkpoint is kept. OSError: the folder cannot be written.
    """
    settings = smoke_settings(settings) if settings.smoke else settings
    architecture = without_linear_branch(architecture) if settings.no_linear_branch else architecture
    started = time.perf_counter()
    head = flamejax.load_head(settings.head)
    mesh = device_mesh(settings.devices)
    synthetic = synthetic_count(settings, mesh.devices.size)
    check_settings(settings, architecture)
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
    checkpoints = Checkpoints(settings, architecture)
    try:
        write_frames(settings, frames)
        if frames.components is not None:
            architecture = replace(architecture, linear_rank=len(frames.components))
        hierarchy = hierarchy_for(architecture, np.asarray(head.faces), np.asarray(head.v_template))
        model = build_mesh_vae(head, architecture, frames.mean, frames.spread, frames.components, settings.seed)
        _introduce(console, settings, hierarchy, model, len(training.vertices), synthetic, mesh.devices.size)
        masks = mask_maker(head, settings.seed)
        run = _Run(settings, head, model, hierarchy, checkpoints, console)
        run.fixed = Fixed(
            run.rest, hierarchy.graph(), masks, source, None if mirror is None else jnp.asarray(mirror)
        )
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
        start = self.checkpoints.latest() or 0
        if start:
            state = self.checkpoints.restore(state, data)
            self.console.print(f"going on from step {start} of {self.settings.steps}")
        record = Record(self.settings.workdir, start)
        step = make_step(self.graphdef, self.settings, self.optimizer, mesh)
        sharding, waiting = batch_sharding(mesh), []
        try:
            with _progress(self.console) as progress:
                task = progress.add_task("training", total=self.settings.steps, completed=start, loss="compiling")
                for done in range(start + 1, self.settings.steps + 1):
                    heads = jax.device_put(next(data), sharding)
                    state, losses = step(state, self.fixed, heads)
                    waiting.append(losses)
                    last = done == self.settings.steps
                    checkpoint = last or done % self.settings.checkpoint_every == 0
                    if checkpoint or done % self.settings.log_every == 0:
                        row = self._log(record, done, waiting)
                        progress.update(task, completed=done, loss=f"l1 {row['l1_mm']:.3f} mm")
                    if checkpoint:
                        self.checkpoints.save(done, state, data)
                    if last or done % self.settings.judge_every == 0:
                        self._judge(record, done, state, judge)
        finally:
            record.close()
        self.checkpoints.wait()
        return state

    def _log(self, record: Record, done: int, waiting: list[Losses]) -> dict[str, float]:
        """Write the mean of the steps since the last row. Raises: RuntimeError, one is no number."""
        found = [{k: float(v) for k, v in asdict(losses).items()} for losses in jax.device_get(waiting)]
        waiting.clear()
        row = {name: float(np.mean([one[name] for one in found])) for name in found[0]}
        if not all(np.isfinite(value) for value in row.values()):
            self.checkpoints.wait()
            kept = self.checkpoints.latest()
            raise RuntimeError(
                f"the loss is no number any more, before step {done}. "
                + (f"The checkpoint of step {kept} is good. " if kept else "")
                + "Train with a smaller --learning-rate in another --workdir."
            )
        record.add(done, "train", {**row, "last_total": found[-1]["total"]})
        return row

    def _judge(self, record: Record, done: int, state: TrainState, judge: Judge) -> None:
        model = self._model(state)
        errors = judge.errors(model)
        record.add(done, "validation", errors)
        said = ", ".join(f"{name.removesuffix('_mm')} {value:.3f}" for name, value in errors.items())
        self.console.print(f"step {done}: median errors on validation heads, mm: {said}")
        picture = judge.picture(model)
        record.picture(done, np.asarray(picture))
        self._write_picture(picture, f"step-{done:06d}.jpg")

    def _write_picture(self, picture: Any, name: str) -> None:
        buffer = io.BytesIO()
        picture.save(buffer, format="JPEG", quality=85)
        (self.settings.workdir / "pictures").mkdir(exist_ok=True)
        write_bytes(self.settings.workdir / "pictures" / name, buffer.getvalue())

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
            "data": "the open scans (experiments.data.open_faces), CC0" if self.settings.scans is None else "own scans",
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


def _progress(console: Console) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[loss]}"))
    return Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console)
