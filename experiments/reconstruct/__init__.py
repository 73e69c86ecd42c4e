"""Reconstructs heads from photos: `python -m experiments.reconstruct [METHOD] PHOTOS... --output OUT`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from experiments.command_line import UsageError, message_console, print_error
from experiments.reconstruct.checks import find_checked_photos
from experiments.reconstruct.config import ReconstructConfig, parse, reconstruct_config

__all__ = ["ReconstructConfig", "UsageError", "main", "reconstruct_config"]


def main(args: Sequence[str] | None = None, prog: str = "python -m experiments.reconstruct") -> int:
    """Parse the command line and run. Returns the exit status (see `config.DESCRIPTION`)."""
    console = message_console()
    try:
        config = parse(sys.argv[1:] if args is None else args, prog)
        find_checked_photos(config)  # `run` checks again; a wrong call need not wait for its imports
        from experiments.reconstruct.command import run  # late: it imports JAX

        return run(config, console)
    except UsageError as error:
        print_error(error, console)
        return 2
