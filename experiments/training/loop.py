"""The loop of a training run: go on from the last checkpoint, step, log, keep, judge."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import jax
import numpy as np
from rich.console import Console

from experiments.progress import progress_bar
from experiments.training.checkpoints import Checkpoints
from experiments.training.record import Record
from experiments.training.settings import RunSettings
from flamejax.files import write_bytes

Step = Callable[[Any, Any], tuple[Any, Any]]
"""(state, batch) -> (state, losses), a dataclass of () arrays with `total`."""
Judge = Callable[[Any], tuple[dict[str, float], Any]]
"""state -> errors on validation data by name, and a picture (PIL) or None."""


class Endless:
    """Data of a run whose batches are drawn inside the step: nothing to read, and no place to remember."""

    def __next__(self) -> None:
        return None

    def get_state(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def set_state(self, state: dict[str, Any]) -> None:
        """Nothing."""


class Loop:
    """Runs the steps of one run."""

    def __init__(self, settings: RunSettings, checkpoints: Checkpoints, console: Console, shown: Callable[[dict], str]):
        """shown: the means of the losses since the last row -> what the progress bar says."""
        self.settings, self.checkpoints, self.console, self.shown = settings, checkpoints, console, shown

    def run(self, state: Any, step: Step, data: Any, judge: Judge, unit: str = "") -> Any:
        """All steps that are still to be done, from `state` or the last checkpoint. Returns the last state.

        Args:
          data: an iterator of batches with `get_state` and `set_state`. unit: of the judge's errors, for its line.

        Raises:
          RuntimeError: a loss is no number any more, or a checkpoint cannot be read. OSError: disk trouble.
        """
        start = self.checkpoints.latest() or 0
        if start:
            state = self.checkpoints.restore(state, data)
            self.console.print(f"going on from step {start} of {self.settings.steps}")
        record, waiting = Record(self.settings.workdir, start), []
        try:
            with progress_bar(self.console, "loss") as progress:
                task = progress.add_task("training", total=self.settings.steps, completed=start, loss="compiling")
                for done in range(start + 1, self.settings.steps + 1):
                    state, losses = step(state, next(data))
                    waiting.append(losses)
                    last = done == self.settings.steps
                    checkpoint = last or done % self.settings.checkpoint_every == 0
                    if checkpoint or done % self.settings.log_every == 0:
                        row = self._log(record, done, waiting)
                        progress.update(task, completed=done, loss=self.shown(row))
                    if checkpoint:
                        self.checkpoints.save(done, state, data)
                    if last or done % self.settings.judge_every == 0:
                        self._judge(record, done, *judge(state), unit)
        finally:
            record.close()
        self.checkpoints.wait()
        return state

    def _log(self, record: Record, done: int, waiting: list[Any]) -> dict[str, float]:
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

    def _judge(self, record: Record, done: int, errors: dict[str, float], picture: Any, unit: str) -> None:
        record.add(done, "validation", errors)
        said = ", ".join(f"{name.removesuffix('_mm')} {value:.3f}" for name, value in errors.items())
        self.console.print(f"step {done}: {unit}{said}")
        if picture is None:
            return
        record.picture(done, np.asarray(picture))
        buffer = io.BytesIO()
        picture.save(buffer, format="JPEG", quality=85)
        (self.settings.workdir / "pictures").mkdir(exist_ok=True)
        write_bytes(self.settings.workdir / "pictures" / f"step-{done:06d}.jpg", buffer.getvalue())
