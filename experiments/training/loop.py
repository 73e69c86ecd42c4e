"""The loop of a training run: go on from the last checkpoint, step, log, keep, judge."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import jax
import numpy as np
import optax
from flax import nnx
from jax import Array
from jax.sharding import Mesh, NamedSharding
from rich.console import Console

from experiments.progress import progress_bar
from experiments.training.checkpoints import Checkpoints
from experiments.training.devices import EVERYWHERE, SPLIT, device_mesh
from experiments.training.record import Record, TrainingRecord
from experiments.training.settings import TrainingConfig
from experiments.training.state import TrainState, start_state

Network = TypeVar("Network", bound=nnx.Module)
MakeStep = Callable[[nnx.GraphDef, Any, Mesh], Callable[..., tuple[TrainState, dict[str, Array]]]]
"""(graphdef, config, mesh) -> step(state, rest, fixed, batch) -> (state, losses), () each and `total` among
them; `rest` is what of the network is not trained. Memoised, so that a second training compiles nothing."""


class Evaluator(Protocol):
    """Says what a network is worth on validation data; one that can show it has `picture(model)` besides."""

    def errors(self, model: Any) -> dict[str, float]:
        """By name."""


def train_network(
    model: Network, make_step: MakeStep, optimizer: optax.GradientTransformation, config: TrainingConfig, *,
    fixed: Any, batches: Any, checkpoints: Checkpoints, judge: Evaluator | None, console: Console, shown: str,
    averaged: bool = False,
) -> tuple[Network, TrainingRecord]:  # fmt: skip
    """All steps that are still to be done, from `model` or from the last checkpoint.

    Args:
      model: not changed.
      fixed: what a step reads besides the network and the batch.
      batches: an iterator of batches with `get_state` and `set_state`.
      checkpoints: are closed in the end.
      shown: how the progress bar says what the last losses were, a format of their names.
      averaged: whether the network that is kept is the moving average of those of all steps.

    Returns:
      The trained network, and how it went.

    Raises:
      RuntimeError: a loss is no number any more, or a checkpoint cannot be read. OSError: disk trouble.
    """
    graphdef, state = nnx.split(model)
    params, rest = nnx.split_state(state, nnx.Param, ...)

    def merged(state: TrainState) -> Network:
        return nnx.merge(graphdef, jax.device_put(state.kept, jax.devices()[0]), rest)

    record = None
    try:
        mesh = device_mesh(config.devices)
        step = make_step(graphdef, config, mesh)
        now = jax.device_put(start_state(params, optimizer, averaged), NamedSharding(mesh, EVERYWHERE))
        start = checkpoints.latest() or 0
        if start:
            now = checkpoints.restore(now, batches)
            console.print(f"going on from step {start} of {config.steps}")
        record, waiting = Record(checkpoints.workdir, start), []
        with progress_bar(console, "loss") as progress:
            task = progress.add_task("training", total=config.steps, completed=start, loss="compiling")
            for done in range(start + 1, config.steps + 1):
                now, losses = step(now, rest, fixed, jax.device_put(next(batches), NamedSharding(mesh, SPLIT)))
                waiting.append(losses)
                last = done == config.steps
                checkpoint = last or done % config.checkpoint_every == 0
                if checkpoint or done % config.log_every == 0:
                    row = _logged(record, checkpoints, done, waiting)
                    progress.update(task, completed=done, loss=shown.format(**row))
                if checkpoint:
                    checkpoints.save(done, now, batches)
                if judge is not None and (last or done % config.eval_every == 0):
                    _judge(record, done, judge, merged(now), console)
    finally:
        if record is not None:
            record.close()
        checkpoints.close()
    return merged(now), record.found()


def _logged(record: Record, checkpoints: Checkpoints, done: int, waiting: list[Any]) -> dict[str, float]:
    """Record the losses since the last time. Returns their means. Raises: RuntimeError, one is no number."""
    found = [{k: float(v) for k, v in losses.items()} for losses in jax.device_get(waiting)]
    waiting.clear()
    if not all(np.isfinite(value) for one in found for value in one.values()):
        checkpoints.wait()
        kept = checkpoints.latest()
        raise RuntimeError(
            f"the loss is no number any more, before step {done}. "
            + (f"The checkpoint of step {kept} is good. " if kept else "")
            + "Train with a smaller --learning-rate in another --workdir."
        )
    return record.add_losses(done, found)


def _judge(record: Record, done: int, judge: Evaluator, model: Any, console: Console) -> None:
    errors, picture = judge.errors(model), getattr(judge, "picture", None)
    record.add_errors(done, errors, None if picture is None or record.workdir is None else picture(model))
    said = ", ".join(f"{name.removesuffix('_mm')} {value:.3f}" for name, value in errors.items())
    unit = ", mm" if all(name.endswith("_mm") for name in errors) else ""
    console.print(f"step {done}: errors on validation data{unit}: {said}")
