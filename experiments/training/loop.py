"""The loop of a training run: resume from the last checkpoint, step, log, save checkpoints, evaluate, stop."""

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
from experiments.training.devices import REPLICATED, SHARDED, device_mesh
from experiments.training.record import MetricsLogger, TrainingRecord
from experiments.training.settings import TrainingConfig
from experiments.training.state import TrainState, initial_state
from experiments.training.stop_signals import TrainingStopped, catch_stop_signals

Network = TypeVar("Network", bound=nnx.Module)
MakeStep = Callable[[nnx.GraphDef, Any, Mesh], Callable[..., tuple[TrainState, dict[str, Array]]]]
"""(graphdef, config, mesh) -> step(state, rest, constants, batch) -> (state, losses). Losses are scalars, `total` among
them; `rest` is the part of the network that is not trained. Memoised, so that a second training compiles nothing."""


class Evaluator(Protocol):
    """Measures a network on validation data. It may also have `picture(model)`, which returns (H, W, 3) uint8."""

    def errors(self, model: Any) -> dict[str, float]:
        """Returns the errors by name."""


def train_network(
    model: Network, make_step: MakeStep, optimizer: optax.GradientTransformation, config: TrainingConfig, *,
    constants: Any, batches: Any, checkpoints: Checkpoints, evaluator: Evaluator | None, console: Console,
    progress_format: str, averaged: bool = False,
) -> tuple[Network, TrainingRecord]:  # fmt: skip
    """Train from `model`, or from the newest readable checkpoint, to the last step.

    Args:
      model: not changed.
      constants: arrays that a step reads besides the network and the batch.
      batches: an iterator of batches with `get_state` and `set_state`.
      checkpoints: closed at the end.
      evaluator: measures the network every `eval_every` steps and at the end.
      progress_format: text of the progress bar, a format string with the names of losses.
      averaged: whether to return the moving average of the parameters over all steps.

    Returns:
      The trained network, and the record of losses and errors.

    Raises:
      RuntimeError: a loss is not finite, or no checkpoint can be read. OSError: disk trouble. TrainingStopped: Ctrl-C
        or SIGTERM; the step was finished and its checkpoint saved. A second Ctrl-C stops at once.
    """
    graphdef, network_state = nnx.split(model)
    params, rest = nnx.split_state(network_state, nnx.Param, ...)

    def merged(state: TrainState) -> Network:
        return nnx.merge(graphdef, jax.device_put(state.eval_params, jax.devices()[0]), rest)

    logger = None
    try:
        mesh = device_mesh(config.devices)
        step = make_step(graphdef, config, mesh)
        state = jax.device_put(initial_state(params, optimizer, averaged), NamedSharding(mesh, REPLICATED))
        start = checkpoints.latest() or 0
        if start:
            state, start = checkpoints.restore(state, batches, console)
            console.print(f"resuming from step {start} of {config.steps}")
        elif checkpoints.started_before:
            console.print("no checkpoint yet: starting at step 0")
        logger, pending, done = MetricsLogger(checkpoints.workdir, start), [], start
        with catch_stop_signals() as stop, progress_bar(console, "loss") as progress:
            task = progress.add_task("training", total=config.steps, completed=start, loss="compiling")
            for done in range(start + 1, config.steps + 1):
                batch = jax.device_put(next(batches), NamedSharding(mesh, SHARDED))
                state, losses = step(state, rest, constants, batch)
                pending.append(losses)
                last = done == config.steps
                stopping = stop.signal_number is not None
                checkpoint = last or stopping or done % config.checkpoint_every == 0
                if checkpoint or done % config.log_every == 0:
                    means = _log_losses(logger, checkpoints, done, pending)
                    progress.update(task, completed=done, loss=progress_format.format(**means))
                if checkpoint:
                    checkpoints.save(done, state, batches)
                if evaluator is not None and (last or done % config.eval_every == 0):
                    _evaluate(logger, done, evaluator, merged(state), console)
                if stopping:
                    break
        if stop.signal_number is not None:
            remedy = "the same command continues" if checkpoints.workdir else "nothing is saved without a workdir"
            raise TrainingStopped(f"Stopped at step {done}; {remedy}.", stop.signal_number)
    finally:
        if logger is not None:
            logger.close()
        checkpoints.close()
    return merged(state), logger.training_record()


def _log_losses(
    logger: MetricsLogger, checkpoints: Checkpoints, step: int, pending: list[Any]
) -> dict[str, float]:  # fmt: skip
    """Log the pending losses and empty the list. Returns their means. Raises: RuntimeError, one is not finite."""
    rows = [{k: float(v) for k, v in losses.items()} for losses in jax.device_get(pending)]
    pending.clear()
    if not all(np.isfinite(value) for row in rows for value in row.values()):
        checkpoints.wait()
        last_good = checkpoints.latest()
        raise RuntimeError(
            f"the loss is not finite by step {step}. "
            + (f"The checkpoint of step {last_good} is good. " if last_good else "")
            + "Train with a smaller --learning-rate in another --workdir."
        )
    return logger.add_losses(step, rows)


def _evaluate(logger: MetricsLogger, step: int, evaluator: Evaluator, model: Any, console: Console) -> None:
    errors, picture = evaluator.errors(model), getattr(evaluator, "picture", None)
    logger.add_errors(step, errors, None if picture is None or logger.workdir is None else picture(model))
    summary = ", ".join(f"{name.removesuffix('_mm')} {value:.3f}" for name, value in errors.items())
    unit = ", mm" if all(name.endswith("_mm") for name in errors) else ""
    console.print(f"step {step}: errors on validation data{unit}: {summary}")
