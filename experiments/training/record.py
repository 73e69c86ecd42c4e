"""What a run says of itself: metrics.jsonl and, where tensorboardX is installed, tensorboard's files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from flamejax.files import write_text


class Record:
    """Appends rows; a run that goes on from step n first drops what an earlier one wrote beyond."""

    def __init__(self, workdir: Path, start: int):
        self.path = workdir / "metrics.jsonl"
        workdir.mkdir(parents=True, exist_ok=True)
        write_text(self.path, "".join(_kept(self.path, start)))
        self._board = _board(workdir / "tensorboard", start)

    def add(self, step: int, kind: str, values: dict[str, float]) -> None:
        """A row: kind is train or validation."""
        with self.path.open("a") as file:
            file.write(json.dumps({"step": step, "kind": kind, **values}) + "\n")
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(f"{kind}/{name}", value, step)

    def picture(self, step: int, image: Any) -> None:
        """(H, W, 3) uint8 for tensorboard."""
        if self._board is not None:
            self._board.add_image("heads", image, step, dataformats="HWC")

    def close(self) -> None:
        """Everything to disk."""
        if self._board is not None:
            self._board.close()


def _kept(path: Path, start: int) -> list[str]:
    """Lines up to step `start`; a line cut short by a kill is dropped."""
    kept = []
    for line in path.read_text().splitlines() if path.is_file() else []:
        try:
            if json.loads(line)["step"] <= start:
                kept.append(line + "\n")
        except (ValueError, KeyError, TypeError):
            continue
    return kept


def _board(folder: Path, start: int) -> Any:
    try:
        from tensorboardX import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder), purge_step=start + 1 if start else None)
