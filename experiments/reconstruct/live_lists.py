"""Keeps the lists of an output folder up to date while a run goes on, so that a killed run leaves them too."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.photos import Failure
from experiments.reconstruct.sheet import write_contact_sheet, write_index
from experiments.reconstruct.store import Store, failure_line, summary_line
from flamejax.io.records import ResultError, read_metrics

SECONDS_BETWEEN_UPDATES = 10.0
MAX_TIME_SHARE = 0.05
"""Largest part of the time that updates may take."""


class LiveLists:
    """The lists of one run.

    summary.jsonl and failures.jsonl get a line for each result and each failure. index.html and run.json are rewritten
    now and then. Errors of the disk are ignored until `finish`: they must not end the run.

    Args:
        failures: those known at the start.
        record: the content of run.json.
        todo: number of photos that the run reconstructs.
        note: the line about the run in index.html.
    """

    def __init__(self, store: Store, failures: Sequence[Failure], record: dict[str, Any], todo: int, note: str):
        self.store, self.failures, self.record, self.todo, self.note = store, list(failures), record, todo, note
        self.results: dict[str, dict[str, Any]] = {}
        self.done = 0
        self._is_outdated = False
        self._next_update = time.monotonic() + SECONDS_BETWEEN_UPDATES

    def start(self) -> None:
        """Write the lists of earlier results. Raises: UsageError, the folder cannot be written."""
        self.results = self.store.results()
        with self.store.refuse_unwritable():
            self.store.write_run(self._record_so_far())
            self.store.write_lists(self.results, self.failures)
            self._write_index()

    def add_result(self, name: str) -> None:
        """Add the line of a result that was just written."""
        try:
            metrics = read_metrics(self.store.folder / name)
        except ResultError:
            self._is_outdated = True
            return
        if name in self.results:
            self._is_outdated = True  # its old line must go
        else:
            self._append("summary.jsonl", summary_line(metrics))
        self.results[name] = metrics

    def add_failures(self, failures: Sequence[Failure]) -> None:
        """Add the lines of failures."""
        self.failures += failures
        self._append("failures.jsonl", "".join(map(failure_line, failures)))

    def update(self, done: int) -> None:
        """Rewrite index.html and run.json if that was long ago. done: photos that have succeeded or failed."""
        self.done, began = done, time.monotonic()
        if began < self._next_update:
            return
        with contextlib.suppress(OSError):
            if self._is_outdated:
                self.store.write_lists(dict(sorted(self.results.items())), self.failures)
                self._is_outdated = False
            self.store.write_run(self._record_so_far())
            self._write_index()
        ended = time.monotonic()
        self._next_update = ended + max(SECONDS_BETWEEN_UPDATES, (ended - began) / MAX_TIME_SHARE)

    def finish(self, record: dict[str, Any]) -> dict[str, dict[str, Any]]:
        """Write the final lists, from what is in the folder. Returns name -> metrics of all complete results.

        Raises: UsageError, the folder cannot be written.
        """
        self.results = self.store.results()
        with self.store.refuse_unwritable():
            self.store.write_lists(self.results, self.failures)
            write_index(self.store.folder, self.results, self.failures, self.note)
            write_contact_sheet(self.store.folder, list(self.results))
            self.store.write_run(record | {"heads": len(self.results), "failures": len(self.failures)})
        return self.results

    def _record_so_far(self) -> dict[str, Any]:
        progress = {"status": "running", "photos_done": self.done, "photos_to_do": self.todo}
        return self.record | progress | {"updated": time.strftime("%Y-%m-%dT%H:%M:%S%z")}

    def _write_index(self) -> None:
        note = f"{self.note}; {self.done} of {self.todo} photos of a run that has not ended"
        write_index(self.store.folder, dict(sorted(self.results.items())), self.failures, note)

    def _append(self, name: str, lines: str) -> None:
        path: Path = self.store.folder / name
        try:
            with path.open("ab", buffering=0) as file:  # one write, so that a kill leaves no part of a line
                file.write(lines.encode())
        except OSError:
            self._is_outdated = True
