"""Time head model, renderer, fit and networks against references in the same run: docs/results/benchmark.md.

`command.py` prints the table, `timing.py` has the rows and how they are timed; each group of rows is a function
`(setting) -> list[Row]`, named in `command.GROUPS`. Other libraries are in `head_peers.py` and `render_peers.py`, and
imported only when asked for.
"""

import sys
from collections.abc import Sequence

from experiments.benchmark.config import parse
from experiments.command_line import UsageError, print_error

__all__ = ["main"]


def main(args: Sequence[str] | None = None, prog: str = "python -m experiments.benchmark") -> int:
    """Print the table. Returns the exit status: 2 when the command could not start."""
    try:
        config = parse(sys.argv[1:] if args is None else args, prog)
        from experiments.benchmark.command import run  # late: help and wrong calls need not wait for JAX

        return run(config)
    except UsageError as error:
        print_error(error)
        return 2
