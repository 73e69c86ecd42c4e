"""Checkpoints of a run, through orbax: all that the next step depends on, so that a killed run resumes exactly."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from rich.console import Console

from flamejax.files import write_text
from flamejax.io.records import parse_json


@dataclass(frozen=True)
class RunFolder:
    """The folder that a run writes to; with `workdir` None it writes nothing."""

    workdir: Path | None = None
    restart: bool = False
    """Delete the folder's checkpoints and start anew."""
    fingerprint: Mapping[str, Any] = field(default_factory=dict)
    """JSON values by name; a run can only be resumed with the same ones."""

    def has_checkpoints(self) -> bool:
        """Whether there are checkpoints to resume from."""
        if self.workdir is None or self.restart:
            return False
        return any(path.name.isdigit() for path in (self.workdir / "checkpoints").glob("*"))

    def check_fingerprint(self) -> None:
        """Check the fingerprint against that of the folder's checkpoints. Values that are not known yet may be missing.

        Raises:
          ValueError: the folder has checkpoints of a run with another fingerprint, or its settings.json is damaged.
        """
        if self.workdir is None or not self.has_checkpoints() or not (self.workdir / "settings.json").is_file():
            return
        before = _read_settings(self.workdir / "settings.json")
        now = json.loads(json.dumps(self.fingerprint))
        changed = [f"{k} {before.get(k)!r} -> {v!r}" for k, v in now.items() if before.get(k) != v]
        if changed:
            raise ValueError(
                f"{self.workdir}: holds a run with other settings ({'; '.join(changed)}). Give another --workdir, "
                "or --restart to delete it."
            )


class Checkpoints:
    """The checkpoints in a run's folder. Opening them with `restart` deletes the earlier ones, so validate first."""

    def __init__(self, run_folder: RunFolder, keep: int):
        run_folder.check_fingerprint()
        self.workdir, self._manager = run_folder.workdir, None
        self.started_before = False
        """Whether an earlier run was started in the folder, and is not to be deleted."""
        if run_folder.workdir is None:
            return
        self.started_before = not run_folder.restart and (run_folder.workdir / "settings.json").is_file()
        self.folder = run_folder.workdir.absolute() / "checkpoints"
        if run_folder.restart:
            shutil.rmtree(self.folder, ignore_errors=True)
        run_folder.workdir.mkdir(parents=True, exist_ok=True)
        write_text(run_folder.workdir / "settings.json", json.dumps(dict(run_folder.fingerprint), indent=1) + "\n")
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, create=True, enable_async_checkpointing=True)
        self._manager = ocp.CheckpointManager(self.folder, options=options)

    def save(self, step: int, state: Any, data: Any) -> None:
        """Write a state and the position in the data, in the background; an unfinished checkpoint is ignored."""
        if self._manager is not None:
            position = ocp.args.JsonSave({"iterator": data.get_state()})
            self._manager.save(step, args=ocp.args.Composite(state=ocp.args.StandardSave(state), data=position))

    def latest(self) -> int | None:
        """Returns the step of the last complete checkpoint; None if there is none."""
        return None if self._manager is None else self._manager.latest_step()

    def restore(self, state: Any, data: Any, console: Console) -> tuple[Any, int]:
        """Returns the newest state that can be read, and its step, and sets `data` to its position.

        Newer checkpoints that cannot be read are renamed to unreadable-STEP, which makes room for new ones.

        Args:
          state: gives shapes and shardings.

        Raises:
          RuntimeError: no checkpoint can be read; nothing is renamed then. OSError: renaming failed.
        """
        assert self._manager is not None
        like = jax.tree.map(ocp.utils.to_shape_dtype_struct, state)
        args = ocp.args.Composite(state=ocp.args.StandardRestore(like), data=ocp.args.JsonRestore())
        errors: dict[int, Exception] = {}
        for step in sorted(self._manager.all_steps(), reverse=True):
            try:
                checkpoint = self._manager.restore(step, args=args)
                data.set_state(checkpoint["data"]["iterator"])
            except Exception as error:  # orbax and its storage raise many kinds
                errors[step] = error
                continue
            for unreadable, error in errors.items():
                path = self._set_aside(unreadable)
                console.print(
                    f"the checkpoint of step {unreadable} cannot be read ({type(error).__name__}): skipped, now {path}",
                    markup=False, soft_wrap=True,
                )  # fmt: skip
            return checkpoint["state"], step
        newest = max(errors)
        raise RuntimeError(
            f"{self.folder}: no checkpoint can be read; steps {', '.join(map(str, sorted(errors)))} "
            f"({type(errors[newest]).__name__}). Give --restart to delete them and start anew, or another --workdir."
        ) from errors[newest]

    def _set_aside(self, step: int) -> Path:
        """Rename a step's folder, so that orbax can save the step again. Returns its new path."""
        assert self._manager is not None
        path = self.folder / f"unreadable-{step}"
        shutil.rmtree(path, ignore_errors=True)
        (self.folder / str(step)).rename(path)
        self._manager.reload()
        return path

    def wait(self) -> None:
        """Wait until all checkpoints are on disk."""
        if self._manager is not None:
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Wait for writes to finish, and release the folder."""
        if self._manager is not None:
            self._manager.close()


def _read_settings(path: Path) -> dict[str, Any]:
    """Returns the values of a settings.json. Raises: ValueError, it is damaged. OSError: it cannot be opened."""
    try:
        settings = parse_json(path.read_bytes().decode(), check_numbers=False)
    except ValueError:
        settings = None
    if isinstance(settings, dict):
        return settings
    raise ValueError(
        f"{path} is damaged, so the settings of its checkpoints are unknown. Delete that file to continue them without "
        "comparing settings, or give another --workdir, or --restart to delete them."
    )
