"""Checkpoints of a run, through orbax: all that the next step depends on, so that a killed run goes on as if nothing
had happened."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from flamejax.files import write_text


@dataclass(frozen=True)
class Place:
    """Where a run keeps what it does; without a folder it keeps nothing."""

    workdir: Path | None = None
    restart: bool = False
    """Delete the folder's checkpoints and start anew."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """JSON values by name: a run can only go on with the same."""

    def goes_on(self) -> bool:
        """Whether there are checkpoints to go on from."""
        if self.workdir is None or self.restart:
            return False
        return any(path.name.isdigit() for path in (self.workdir / "checkpoints").glob("*"))

    def check(self) -> None:
        """Refuse to go on with other facts than those of the folder's checkpoints; facts that are not known yet may
        still be missing.

        Raises:
          ValueError: a run with others lies there.
        """
        if self.workdir is None or not self.goes_on() or not (self.workdir / "settings.json").is_file():
            return
        before = json.loads((self.workdir / "settings.json").read_text())
        now = json.loads(json.dumps(self.facts))
        changed = [f"{k} {before.get(k)!r} -> {v!r}" for k, v in now.items() if before.get(k) != v]
        if changed:
            raise ValueError(
                f"{self.workdir}: holds a run with other settings ({'; '.join(changed)}). Give another --workdir, "
                "or --restart to delete it."
            )


class Checkpoints:
    """The checkpoints of a place. Opened once nothing can be refused any more: with `restart` that deletes the earlier
    ones."""

    def __init__(self, place: Place, keep: int):
        place.check()
        self.workdir, self._manager = place.workdir, None
        if place.workdir is None:
            return
        self.folder = place.workdir.absolute() / "checkpoints"
        if place.restart:
            shutil.rmtree(self.folder, ignore_errors=True)
        place.workdir.mkdir(parents=True, exist_ok=True)
        write_text(place.workdir / "settings.json", json.dumps(dict(place.facts), indent=1) + "\n")
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, create=True, enable_async_checkpointing=True)
        self._manager = ocp.CheckpointManager(self.folder, options=options)

    def save(self, step: int, state: Any, data: Any) -> None:
        """Keep a state and its place in the data. Written beside the training; an unfinished one does not count."""
        if self._manager is not None:
            position = ocp.args.JsonSave({"iterator": data.get_state()})
            self._manager.save(step, args=ocp.args.Composite(state=ocp.args.StandardSave(state), data=position))

    def latest(self) -> int | None:
        """The last complete one's step."""
        return None if self._manager is None else self._manager.latest_step()

    def restore(self, state: Any, data: Any) -> Any:
        """The last state; `data` is set to its place. `state` gives shapes and places.

        Raises:
          RuntimeError: the checkpoint cannot be read.
        """
        step = self.latest()
        like = jax.tree.map(ocp.utils.to_shape_dtype_struct, state)
        args = ocp.args.Composite(state=ocp.args.StandardRestore(like), data=ocp.args.JsonRestore())
        try:
            assert self._manager is not None
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
        if self._manager is not None:
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Wait, and let go."""
        if self._manager is not None:
            self._manager.close()
