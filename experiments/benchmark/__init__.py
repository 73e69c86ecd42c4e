"""Time head model, renderer, fit and networks against references in the same run: docs/results/benchmark.md.

`command.py` prints the table, `timing.py` has the rows and how they are timed; each group of rows is a function
`(setting) -> list[Row]`, named in `command.GROUPS`. Other libraries are in `head_peers.py` and `render_peers.py`, and
imported only when asked for.
"""

from experiments.benchmark.command import main

__all__ = ["main"]
