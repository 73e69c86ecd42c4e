"""A lock on an output folder, so that two runs do not write to it at once."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import stat
import time
from pathlib import Path
from typing import Any

from experiments.command_line import UsageError

LOCK = ".lock"
"""Name of the file. It holds the process, host, boot and start time of the run as JSON."""
MAX_BYTES = 4096


class FolderLock:
    """The lock of one run. The system releases it when the process ends, however it ends.

    Other hosts may not see the system's locks, so the file's content tells which run made it.
    """

    def __init__(self, folder: Path):
        self.path = folder / LOCK
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Take the lock, also one that an ended run on this host has left.

        Raises:
            UsageError: another run has it, or a run on another host may have it.
            OSError: the file cannot be written.
        """
        while self._descriptor is None:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o644)
            try:
                self._lock(descriptor)
                if self._is_current(descriptor):
                    self._write(descriptor)
                    self._descriptor = descriptor
            finally:
                if self._descriptor is None:
                    os.close(descriptor)

    def release(self) -> bool:
        """Delete the file, if this run has the lock. Returns whether it had."""
        if self._descriptor is None:
            return False
        self.path.unlink(missing_ok=True)
        os.close(self._descriptor)
        self._descriptor = None
        return True

    def _is_current(self, descriptor: int) -> bool:
        """Return whether the open file still has its name: the run that had the lock may just have deleted it."""
        try:
            return os.path.samestat(os.fstat(descriptor), self.path.lstat())
        except FileNotFoundError:
            return False

    def _write(self, descriptor: int) -> None:
        try:
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, json.dumps(_this_run()).encode() + b"\n", 0)
        except OSError:
            self.path.unlink(missing_ok=True)
            raise

    def _lock(self, descriptor: int) -> None:
        """Lock the open file. Raises: UsageError."""
        folder = self.path.parent
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, f"{self.path.name} is not a regular file; delete it")
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            is_locked = True
        except BlockingIOError:
            raise UsageError(
                f"another run{_description(_read(descriptor))} is writing to {folder}. Wait for it, stop it, or choose "
                "another --output."
            ) from None
        except OSError:  # a file system without locks
            is_locked = False
        other = _read(descriptor)
        if other is None:
            return
        if not _is_this_host(other):
            raise UsageError(
                f"{folder} is in use by a run{_description(other)}, another host. If that run has ended, delete "
                f"{self.path} and try again."
            )
        if not is_locked and other.get("boot") == _boot() and _is_running(other["process"]):
            raise UsageError(
                f"another run{_description(other)} is writing to {folder}. If it has ended, delete {self.path}."
            )


def _this_run() -> dict[str, Any]:
    started = time.strftime("%Y-%m-%dT%H:%M:%S%z")
    return {"process": os.getpid(), "host": socket.gethostname(), "boot": _boot(), "started": started}


def _read(descriptor: int) -> dict[str, Any] | None:
    """Return the run that wrote the file; None if it is empty or not ours."""
    from flamejax.io.records import parse_json  # late: it imports JAX

    try:
        record = parse_json(os.pread(descriptor, MAX_BYTES, 0).decode())
    except (OSError, ValueError):
        return None
    texts = [record.get(name) for name in ("host", "boot", "started")] if isinstance(record, dict) else [None]
    is_valid = all(isinstance(text, str) and text.isprintable() for text in texts)
    return record if is_valid and isinstance(record.get("process"), int) else None


def _description(run: dict[str, Any] | None) -> str:
    return "" if run is None else f" (process {run['process']} on {run['host']}, since {run['started']})"


def _is_this_host(run: dict[str, Any]) -> bool:
    return run["host"] == socket.gethostname() or (bool(run["boot"]) and run["boot"] == _boot())


def _boot() -> str:
    """Return the identity of the running system, the same in all its containers; empty where there is none."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return ""


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        return True
    return True
