"""Checkpoints of a run, through orbax: all that the next step depends on, so that a killed run goes on as if nothing
had happened."""

from __future__ import annotations

import json
import shutil
from typing import Any

import jax
import orbax.checkpoint as ocp

from experiments.mesh_vae.settings import TrainSettings
from experiments.mesh_vae.step import TrainState
from flamejax.io.files import write_text


class Checkpoints:
    """The checkpoints of one working folder."""

    def __init__(self, settings: TrainSettings):
        self.folder = settings.workdir.absolute() / "checkpoints"
        if settings.restart:
            shutil.rmtree(self.folder, ignore_errors=True)
        check_settings(settings)
        options = ocp.CheckpointManagerOptions(max_to_keep=settings.keep, create=True, enable_async_checkpointing=True)
        self._manager = ocp.CheckpointManager(self.folder, options=options)

    def save(self, step: int, state: TrainState, data: Any) -> None:
        """Keep a state and its place in the data. Written beside the training; an unfinished one does not count."""
        args = ocp.args.Composite(
            state=ocp.args.StandardSave(state), data=ocp.args.JsonSave({"iterator": data.get_state()})
        )
        self._manager.save(step, args=args)

    def latest(self) -> int | None:
        """The last complete one's step."""
        return self._manager.latest_step()

    def restore(self, state: TrainState, data: Any) -> TrainState:
        """The last state; `data` is set to its place. `state` gives shapes and places.

        Raises:
          RuntimeError: the checkpoint cannot be read.
        """
        step = self.latest()
        like = jax.tree.map(ocp.utils.to_shape_dtype_struct, state)
        args = ocp.args.Composite(state=ocp.args.StandardRestore(like), data=ocp.args.JsonRestore())
        try:
            found = self._manager.restore(step, args=args)
        except Exception as error:
            raise RuntimeError(
                f"{self.folder / str(step)}: the checkpoint cannot be read ({type(error).__name__}). Delete that "
                "folder to go on from the one before, or give --restart."
            ) from error
        data.set_state(found["data"]["iterator"])
        return found["state"]

    def wait(self) -> None:
        """Until all is on disk."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Wait, and let go."""
        self._manager.close()


def check_settings(settings: TrainSettings) -> None:
    """Keep the settings in the folder; refuse to go on with others.

    Raises:
      ValueError: a run with other settings lies there.
    """
    path, now = settings.workdir / "settings.json", settings.numbers()
    if path.is_file() and not settings.restart and (settings.workdir / "checkpoints").is_dir():
        before = json.loads(path.read_text())
        changed = [f"{k} {before.get(k)!r} -> {v!r}" for k, v in now.items() if before.get(k) != v]
        if changed:
            raise ValueError(
                f"{settings.workdir}: holds a run with other settings ({'; '.join(changed)}). Give another --workdir, "
                "or --restart to delete it."
            )
    settings.workdir.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(now, indent=1) + "\n")
