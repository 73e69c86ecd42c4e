"""The output folder: earlier results, checks before writing, and the files about all photos."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from experiments.photos import Failure, PhotoFile
from experiments.reconstruct.folders import delete_file, delete_result, is_complete, is_result_folder, recorded_head
from experiments.reconstruct.lock import FolderLock
from experiments.results import UsageError
from flamejax.files import is_file, is_folder, open_regular, remove_unfinished, write_text
from flamejax.io.records import LISTS, THUMBNAILS, is_output, parse_json, read_all_metrics
from flamejax.io.results import HeadIdentity

MAX_LIST_BYTES = 2**28
"""Longer lists of failures are read up to here."""


class Store:
    """The output folder of a run.

    A result is a folder in it with a readable metrics.json and every other file of a result. The lists are rewritten
    from the results, so they agree with the folders after any number of killed and resumed runs.

    Only files that such runs write are replaced or deleted. Paths are made of names of entries of the folder; names and
    paths in files are never used. Links are not followed.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._lock = FolderLock(folder)
        self._deleted: set[str] = set()
        """Names of deleted results. Their folders remain if the user's files are in them."""
        self._checked: dict[str, tuple[int, int, bool]] = {}
        """Name -> inode and time of a result's metrics.json, and whether the result was complete then."""

    def lock(self) -> None:
        """Make the folder if it is missing, and lock it until `close`. Nothing in it is changed.

        Raises:
            UsageError: another run writes to it, it is not a folder or cannot be written, or it has files of the user
                under the names of ours.
        """
        with self.refuse_unwritable():
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock.acquire()
            self._check_lists()

    def prepare(self, overwrite: bool) -> None:
        """Remove what killed runs have left. overwrite: delete earlier results. Raises: UsageError."""
        with self.refuse_unwritable():
            thumbnails = self.folder / THUMBNAILS
            if thumbnails.is_symlink():
                thumbnails.unlink()
            remove_unfinished(self.folder)
            remove_unfinished(thumbnails)
            if overwrite:
                self._delete_results()
            thumbnails.mkdir(exist_ok=True)

    def close(self) -> None:
        """Release the lock, and delete the folder if nothing was written to it."""
        if self._lock.release():
            with contextlib.suppress(OSError):
                self.folder.rmdir()

    @contextlib.contextmanager
    def refuse_unwritable(self) -> Iterator[None]:
        """Turn an OSError into a UsageError: the folder is read-only, the disk is full, or a folder is in the way."""
        try:
            yield
        except OSError as error:
            raise UsageError(f"--output {self.folder}: {error.strerror or error}.") from error

    def results(self) -> dict[str, dict[str, Any]]:
        """Return name -> metrics of every complete result, sorted by name."""
        return {name: metrics for name, metrics in self.records().items() if self._is_complete(name, metrics)}

    def records(self) -> dict[str, dict[str, Any]]:
        """Return name -> metrics of every result with a readable metrics.json, also if other files are missing."""
        metrics, _ = read_all_metrics(self.folder)
        return {name: each for name, each in metrics.items() if is_result_folder(self.folder / name)}

    def foreign_names(self) -> set[str]:
        """Return the names in the folder that no result may have: the lists, and the user's own files and folders."""
        entries = self.folder.iterdir() if is_folder(self.folder) else ()
        foreign = {each.name for each in entries if not (is_result_folder(each) or _is_empty_folder(each))}
        return {THUMBNAILS, *LISTS, *(foreign - self._deleted)}

    def delete(self, name: str) -> None:
        """Delete a result and its thumbnail, but no file of the user's. Raises: OSError."""
        if Path(name).name != name or not is_result_folder(self.folder / name):
            return
        delete_result(self.folder / name)
        self._deleted.add(name)
        delete_file(self.folder / THUMBNAILS / f"{name}.jpg")

    def old_failures(self, photos: Sequence[PhotoFile]) -> list[Failure]:
        """Return failures of earlier runs with photos that are not part of this run."""
        current = {str(photo.path) for photo in photos}
        failures = [failure for line in self._lines("failures.jsonl") if (failure := _failure(line)) is not None]
        return [failure for failure in failures if failure.photo not in current and failure.stage != "find"]

    def write_lists(self, results: dict[str, dict[str, Any]], failures: Sequence[Failure]) -> None:
        """Rewrite summary.jsonl and failures.jsonl. Raises: OSError."""
        write_text(self.folder / "summary.jsonl", "".join(map(summary_line, results.values())))
        write_text(self.folder / "failures.jsonl", "".join(map(failure_line, failures)))

    def write_run(self, record: dict[str, Any]) -> None:
        """Rewrite run.json. Raises: OSError."""
        write_text(self.folder / "run.json", json.dumps(record, indent=1) + "\n")

    def check_head(self, head: HeadIdentity) -> None:
        """Raise UsageError if the folder holds results of another head."""
        for name, metrics in self.records().items():
            other = metrics["head"]
            if other["sha256"] != head.sha256 and recorded_head(self.folder / name) != head.sha256:
                raise UsageError(
                    f"{self.folder / name} was made with the head {other['name']!r} version {other['version']}, "
                    f"this run uses {head.name!r} version {head.version} ({_difference(other, head)}). "
                    "Heads are not mixed in one folder: give the same --head, another --output, or --overwrite."
                )

    def _check_lists(self) -> None:
        """Raise UsageError if the folder is not ours, but has files with the names of ours."""
        for name in LISTS:
            if is_folder(self.folder / name):
                raise UsageError(f"--output {self.folder}: {name} is a folder. Choose another --output.")
        names = [name for name in LISTS if is_file(self.folder / name)]
        is_ours = is_output(self.folder) or any(map(is_result_folder, self.folder.iterdir()))
        if names and not is_ours and not is_folder(self.folder / THUMBNAILS):
            raise UsageError(
                f"--output {self.folder}: it has {names[0]}, which flamejax did not write and would replace. "
                "Choose another --output."
            )

    def _delete_results(self) -> None:
        """Delete only what earlier runs have written here."""
        for entry in list(self.folder.iterdir()):
            self.delete(entry.name)
        for name in LISTS:
            delete_file(self.folder / name)

    def _is_complete(self, name: str, metrics: dict[str, Any]) -> bool:
        try:
            status = (self.folder / name / "metrics.json").stat()
        except OSError:
            return False
        inode, time, complete = self._checked.get(name, (0, 0, False))
        if (inode, time) != (status.st_ino, status.st_mtime_ns):
            complete = is_complete(self.folder / name, metrics)
            self._checked[name] = status.st_ino, status.st_mtime_ns, complete
        return complete

    def _lines(self, name: str) -> list[str]:
        """Return the lines of a list; none if it is missing or unreadable."""
        try:
            with open_regular(self.folder / name) as file:
                return file.read(MAX_LIST_BYTES).decode(errors="replace").splitlines()
        except OSError:
            return []


def summary_line(metrics: dict[str, Any]) -> str:
    """Return a result's line of summary.jsonl."""
    return json.dumps({key: value for key, value in metrics.items() if key != "settings"}) + "\n"


def failure_line(failure: Failure) -> str:
    """Return a failure's line of failures.jsonl."""
    return json.dumps(dataclasses.asdict(failure)) + "\n"


def _failure(line: str) -> Failure | None:
    """Return the failure that a line states; None for a damaged line."""
    try:
        row = parse_json(line)
    except ValueError:
        return None
    if not isinstance(row, dict):
        return None
    values = [row.get(field.name) for field in dataclasses.fields(Failure)]
    texts = [value for value in values if isinstance(value, str)]
    return Failure(*texts) if len(texts) == len(values) else None


def _is_empty_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink() and not any(path.iterdir())


def _difference(other: dict[str, Any], head: HeadIdentity) -> str:
    same_label = (other["name"], other["version"]) == (head.name, head.version)
    return f"same name, but another file: {other['sha256'][:8]}, {head.sha256[:8]}" if same_label else "another model"
