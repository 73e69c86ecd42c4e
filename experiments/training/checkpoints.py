"""Checkpoints of a run, through orbax: all that the next step depends on, so that a killed run goes on as if nothing
had happened."""

from __future__ import annotations

import json
import shutil
from typing import Any

import jax
import orbax.checkpoint as ocp

from experiments.training.settings import RunSettings
from flamejax.files import write_text


class Checkpoints:
    """The checkpoints of one working folder. Opened once nothing can be refused any more: with --restart that deletes
    the earlier ones. `architecture` is the model's, as numbers and names; `data` says what else must be the same."""

    def __init__(self, settings: RunSettings, architecture: dict[str, Any], data: dict[str, Any] | None = None):
        self.folder = settings.workdir.absolute() / "checkpoints"
        check_settings(settings, architecture, data)
        if settings.restart:
            shutil.rmtree(self.folder, ignore_errors=True)
        settings.workdir.mkdir(parents=True, exist_ok=True)
        record = json.dumps(_record(settings, architecture, data), indent=1)
        write_text(settings.workdir / "settings.json", record + "\n")
        options = ocp.CheckpointManagerOptions(max_to_keep=settings.keep, create=True, enable_async_checkpointing=True)
        self._manager = ocp.CheckpointManager(self.folder, options=options)

    def save(self, step: int, state: Any, data: Any) -> None:
        """Keep a state and its place in the data. Written beside the training; an unfinished one does not count."""
        args = ocp.args.Composite(
            state=ocp.args.StandardSave(state), data=ocp.args.JsonSave({"iterator": data.get_state()})
        )
        self._manager.save(step, args=args)

    def latest(self) -> int | None:
        """The last complete one's step."""
        return self._manager.latest_step()

    def restore(self, state: Any, data: Any) -> Any:
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


def check_settings(settings: RunSettings, architecture: dict[str, Any], data: dict[str, Any] | None = None) -> None:
    """Refuse to go on with other settings than those of the folder's checkpoints; `data` is left out where it is not
    known yet.

    Raises:
      ValueError: a run with other settings lies there.
    """
    path = settings.workdir / "settings.json"
    if settings.restart or not path.is_file() or not has_checkpoints(settings):
        return
    before, now = json.loads(path.read_text()), _record(settings, architecture, data)
    changed = [f"{k} {before.get(k)!r} -> {v!r}" for k, v in now.items() if before.get(k) != v]
    if changed:
        raise ValueError(
            f"{settings.workdir}: holds a run with other settings ({'; '.join(changed)}). Give another --workdir, "
            "or --restart to delete it."
        )


def has_checkpoints(settings: RunSettings) -> bool:
    """Whether there is one to go on from."""
    return any(path.name.isdigit() for path in (settings.workdir / "checkpoints").glob("*"))


def _record(settings: RunSettings, architecture: dict[str, Any], data: dict[str, Any] | None) -> dict[str, Any]:
    """As JSON gives it back."""
    parts = settings.numbers(), {"architecture": architecture}, data or {}
    whole = {name: value for part in parts for name, value in part.items()}
    if len(whole) < sum(len(part) for part in parts):
        raise KeyError("two parts of a run's record share a name, so that it could never go on")
    return json.loads(json.dumps(whole))
