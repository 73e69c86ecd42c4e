"""The output folder: earlier results, checks before writing, and the files about all photos."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.photos import Failure, PhotoFile
from experiments.reconstruct.results import VIEWER, hypothesis_files
from experiments.results import UsageError
from flamejax.files import remove_unfinished, write_text
from flamejax.io.results import HYPOTHESES, RESULT_FILES, HeadIdentity, result_records

THUMBNAILS = "thumbnails"
LISTS = ("index.html", "contact_sheet.png", "summary.jsonl", "failures.jsonl", "run.json")
"""Files about all photos."""


class Store:
    """The output folder of a run.

    A result is a folder in it with a readable metrics.json and every other file of a result. The lists are rewritten
    from the results, so they agree with the folders after any number of killed and resumed runs.
    """

    def __init__(self, folder: Path):
        self.folder = folder

    def open(self, overwrite: bool) -> None:
        """Prepare the folder for writing. overwrite: delete earlier results.

        Raises:
            UsageError: it is not a folder or cannot be written.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            remove_unfinished(self.folder)
            remove_unfinished(self.folder / THUMBNAILS)
            if overwrite:
                self._delete_results()
            (self.folder / THUMBNAILS).mkdir(exist_ok=True)
        except OSError as error:
            raise UsageError(f"--output {self.folder}: {error.strerror or error}.") from error

    def results(self) -> dict[str, dict[str, Any]]:
        """Return name -> metrics of every complete result, sorted by name."""
        complete = {}
        for name, metrics in self.records().items():
            files = [*RESULT_FILES, *hypothesis_files(metrics.get("hypotheses", 0))]
            if all((self.folder / name / file).is_file() for file in files):
                complete[name] = metrics
        return complete

    def records(self) -> dict[str, dict[str, Any]]:
        """Return name -> metrics of every result, also of those with missing files."""
        return result_records(self.folder)

    def foreign_names(self) -> set[str]:
        """Return the names in the folder that are not results: the lists, and the user's own files."""
        # A folder with nothing but files of a result is a result whose metrics.json was deleted.
        known, records = {*RESULT_FILES, HYPOTHESES, VIEWER}, self.records()
        existing = self.folder.iterdir() if self.folder.is_dir() else ()
        entries = (entry for entry in existing if entry.name not in records)
        foreign = (e.name for e in entries if not (e.is_dir() and {inner.name for inner in e.iterdir()} <= known))
        return {THUMBNAILS, *LISTS, *foreign}

    def old_failures(self, photos: Sequence[PhotoFile]) -> list[Failure]:
        """Return failures of earlier runs with photos that are not part of this run."""
        current = {str(photo.path) for photo in photos}
        path = self.folder / "failures.jsonl"
        if not path.is_file():
            return []
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        return [Failure(**row) for row in rows if row["photo"] not in current and row["stage"] != "find"]

    def write_lists(self, results: dict[str, dict[str, Any]], failures: Sequence[Failure]) -> None:
        """Rewrite summary.jsonl and failures.jsonl. Raises: OSError."""
        summary = [{key: value for key, value in m.items() if key != "settings"} for m in results.values()]
        for name, rows in (("summary", summary), ("failures", [dataclasses.asdict(f) for f in failures])):
            write_text(self.folder / f"{name}.jsonl", "".join(json.dumps(row) + "\n" for row in rows))

    def write_run(self, record: dict[str, Any]) -> None:
        """Rewrite run.json. Raises: OSError."""
        write_text(self.folder / "run.json", json.dumps(record, indent=1) + "\n")

    def check_head(self, head: HeadIdentity) -> None:
        """Raise UsageError if the folder holds results of another head."""
        for name, metrics in self.records().items():
            other = metrics["head"]
            if other["sha256"] != head.sha256:
                raise UsageError(
                    f"{self.folder / name} was made with the head {other['name']!r} version {other['version']}, "
                    f"this run uses {head.name!r} version {head.version} ({_difference(other, head)}). "
                    "Heads are not mixed in one folder: give the same --head, another --output, or --overwrite."
                )

    def _delete_results(self) -> None:
        """Delete only what earlier runs have written here."""
        for name in self.records():
            shutil.rmtree(self.folder / name)
        shutil.rmtree(self.folder / THUMBNAILS, ignore_errors=True)
        for name in LISTS:
            (self.folder / name).unlink(missing_ok=True)


def _difference(other: dict[str, Any], head: HeadIdentity) -> str:
    same_label = (other["name"], other["version"]) == (head.name, head.version)
    return f"same name, but another file: {other['sha256'][:8]}, {head.sha256[:8]}" if same_label else "another model"
