"""Losses and validation errors of a run, in memory and, in its folder, as metrics.jsonl and tensorboard's files (with
tensorboardX)."""

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
    """Losses and validation errors of a training run."""

    losses: dict[str, np.ndarray]
    """`step` (N,) from 1, and each loss by its name (N,). One entry per step; in a resumed run, earlier entries are
    read from metrics.jsonl, which has means over `log_every` steps."""
    validation: dict[str, float] = field(default_factory=dict)
    """The last errors on validation data, by name; empty where there are no such data."""


class MetricsLogger:
    """Collects rows of metrics, and appends them to the files of `workdir` if there is one.

    A run resumed from step `start` first drops the rows that an earlier run wrote beyond it.
    """

    def __init__(self, workdir: Path | None, start: int):
        self.workdir, self._board = workdir, None
        self._rows: dict[str, list[dict[str, Any]]] = {"train": [], "validation": []}
        if workdir is None:
            return
        self.path = workdir / "metrics.jsonl"
        workdir.mkdir(parents=True, exist_ok=True)
        rows = _read_rows(self.path, start)
        for row in rows:
            self._rows[row["kind"]].append({k: v for k, v in row.items() if k not in ("kind", "last_total")})
        write_text(self.path, "".join(json.dumps(row) + "\n" for row in rows))
        self._board = _summary_writer(workdir / "tensorboard", start)

    def add_losses(self, last: int, losses: list[dict[str, float]]) -> dict[str, float]:
        """Add the losses of consecutive steps up to `last`; write their means to the files. Returns the means."""
        first = last - len(losses) + 1
        self._rows["train"] += [{"step": first + k, **row} for k, row in enumerate(losses)]
        means = {name: float(np.mean([row[name] for row in losses])) for name in losses[0]}
        self._write(last, "train", {**means, "last_total": losses[-1]["total"]})
        return means

    def add_errors(self, step: int, errors: dict[str, float], picture: np.ndarray | None) -> None:
        """Add errors on validation data, and a picture (H, W, 3) uint8 of the network's results."""
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

    def training_record(self) -> TrainingRecord:
        """Returns all rows so far."""
        rows, errors = self._rows["train"], self._rows["validation"]
        losses = {name: np.array([row.get(name, np.nan) for row in rows]) for name in (rows[0] if rows else ())}
        return TrainingRecord(losses, {k: v for k, v in errors[-1].items() if k != "step"} if errors else {})

    def close(self) -> None:
        """Flush everything to disk."""
        if self._board is not None:
            self._board.close()


def _read_rows(path: Path, last: int) -> list[dict[str, Any]]:
    """Returns the rows up to step `last`; damaged lines, such as one cut short by a kill, are dropped."""
    rows = []
    for line in path.read_text(errors="replace").splitlines() if path.is_file() else []:
        try:
            row = json.loads(line)
            if row["step"] <= last and row["kind"] in ("train", "validation"):
                rows.append(row)
        except (ValueError, KeyError, TypeError):
            continue
    return rows


def _summary_writer(folder: Path, start: int) -> Any:
    try:
        from tensorboardX import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder), purge_step=start + 1 if start else None)
