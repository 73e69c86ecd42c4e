"""Stopping a training run by Ctrl-C or SIGTERM, without losing its last steps."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class TrainingStopped(KeyboardInterrupt):
    """A signal stopped a run after a complete step; the text says how to go on. Not an error, so not an `Exception`."""

    def __init__(self, message: str, signal_number: int = signal.SIGINT):
        super().__init__(message)
        self.exit_status = 128 + signal_number
        """Status for the command to exit with, as shells count them: 130 for Ctrl-C, 143 for SIGTERM."""


@dataclass
class StopRequest:
    """Whether a signal has asked the run to stop."""

    signal_number: int | None = None
    """Number of the signal; None before there is one."""


@contextlib.contextmanager
def catch_stop_signals() -> Iterator[StopRequest]:
    """Record the first Ctrl-C or SIGTERM while the block runs, instead of raising at once.

    The handlers from before are back after the first signal, so a second one stops at once. Outside the main thread,
    which alone may install handlers, nothing is caught.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return

    def record_signal(number: int, frame: Any) -> None:
        request.signal_number = number
        restore_handlers()

    def restore_handlers() -> None:
        for each, handler in previous.items():
            signal.signal(each, handler)

    # A handler that was not installed from Python is None, and could not be put back.
    previous = {each: handler for each in SIGNALS if (handler := signal.getsignal(each)) is not None}
    try:
        for each in previous:
            signal.signal(each, record_signal)
        yield request
    finally:
        restore_handlers()
