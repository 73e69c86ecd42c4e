"""What a run says of itself: losses and validation errors, and in its folder metrics.jsonl and, where tensorboardX is
installed, tensorboard's files."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from flamejax.files import write_bytes, write_text


@dataclass(frozen=True)
class TrainingRecord:
    """How a training went."""

    losses: dict[str, np.ndarray]
    """`step` (N,) from 1, and each loss by its name (N,). One entry a step; of a run that went on, those before are as
    metrics.jsonl has them, means over `log_every` steps."""
    validation: dict[str, float] = field(default_factory=dict)
    """The last errors on validation data, by name; empty where there are no such data."""


class Record:
    """Collects rows, and appends them to the files of a folder, if there is one; a run that goes on from step n first
    drops what an earlier one wrote beyond."""

    def __init__(self, workdir: Path | None, start: int):
        self.workdir, self._board = workdir, None
        self._rows: dict[str, list[dict[str, Any]]] = {"train": [], "validation": []}
        if workdir is None:
            return
        self.path = workdir / "metrics.jsonl"
        workdir.mkdir(parents=True, exist_ok=True)
        kept = _kept(self.path, start)
        for row in kept:
            self._rows[row["kind"]].append({k: v for k, v in row.items() if k not in ("kind", "last_total")})
        write_text(self.path, "".join(json.dumps(row) + "\n" for row in kept))
        self._board = _board(workdir / "tensorboard", start)

    def add_losses(self, last: int, losses: list[dict[str, float]]) -> dict[str, float]:
        """The losses of the steps up to `last`; their means are a row of the files. Returns the means."""
        first = last - len(losses) + 1
        self._rows["train"] += [{"step": first + k, **one} for k, one in enumerate(losses)]
        means = {name: float(np.mean([one[name] for one in losses])) for name in losses[0]}
        self._write(last, "train", {**means, "last_total": losses[-1]["total"]})
        return means

    def add_errors(self, step: int, errors: dict[str, float], picture: np.ndarray | None) -> None:
        """Errors on validation data, and a picture (H, W, 3) uint8 of what the network does with them."""
        self._rows["validation"].append({"step": step, **errors})
        self._write(step, "validation", errors)
        if picture is None or self.workdir is None:
            return
        if self._board is not None:
            self._board.add_image("heads", picture, step, dataformats="HWC")
        (self.workdir / "pictures").mkdir(exist_ok=True)
        buffer = io.BytesIO()
        Image.fromarray(picture).save(buffer, "JPEG", quality=85)
        write_bytes(self.workdir / "pictures" / f"step-{step:06d}.jpg", buffer.getvalue())

    def _write(self, step: int, kind: str, values: dict[str, float]) -> None:
        if self.workdir is None:
            return
        with self.path.open("a") as file:
            file.write(json.dumps({"step": step, "kind": kind, **values}) + "\n")
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(f"{kind}/{name}", value, step)

    def found(self) -> TrainingRecord:
        """All so far."""
        rows, errors = self._rows["train"], self._rows["validation"]
        losses = {name: np.array([row.get(name, np.nan) for row in rows]) for name in (rows[0] if rows else ())}
        return TrainingRecord(losses, {k: v for k, v in errors[-1].items() if k != "step"} if errors else {})

    def close(self) -> None:
        """Everything to disk."""
        if self._board is not None:
            self._board.close()


def _kept(path: Path, start: int) -> list[dict[str, Any]]:
    """Rows up to step `start`; a line cut short by a kill is dropped."""
    kept = []
    for line in path.read_text().splitlines() if path.is_file() else []:
        try:
            row = json.loads(line)
            if row["step"] <= start and row["kind"] in ("train", "validation"):
                kept.append(row)
        except (ValueError, KeyError, TypeError):
            continue
    return kept


def _board(folder: Path, start: int) -> Any:
    try:
        from tensorboardX import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder), purge_step=start + 1 if start else None)
