"""Time the head model, the renderer and the fit, against references in the same run: `docs/benchmark.md`.

`command.py` prints the table, `timing.py` has the rows and how they are timed; each group of rows has a file of its own
(`head.py`, `render.py`, `memory.py`, `fit.py`) with a function `rows(setting) -> list[Row]`, named in `command.GROUPS`.
Other libraries are in `head_peers.py`, `deodr_scene.py`, `jaxrenderer.py` and imported only when asked for.
"""

from experiments.benchmark.command import main

__all__ = ["main"]
