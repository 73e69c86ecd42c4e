"""Builds the open scans: `python -m experiments.datasets.open_faces`."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from experiments.datasets.open_faces import read, store
from experiments.datasets.open_faces.preview import preview, preview_scans


@dataclass(frozen=True)
class Build:
    """Build the open scans (registered heads, photos, occluders) in $FLAMEJAX_DATA/open_faces; goes on where it was."""

    config: Literal["full", "test", "slice"] = "full"
    """full: 300 subjects; test: the 30 of its test split; slice: 4 subjects x 3 expressions."""
    workers: int | None = None
    """Worker processes; one for each processor unless given."""
    meshes_only: bool = False
    """No photos."""
    preview: Path | None = None
    """Write a contact sheet of random photos there."""
    preview_seed: int = 0
    preview_scans: Path | None = None
    """Write scans as plain shapes there."""


def main(args: Sequence[str] | None = None, prog: str = "python -m experiments.datasets.open_faces") -> int:
    """Returns the exit status; 1 when the data cannot be built."""
    options = tyro.cli(Build, args=args, prog=prog)
    began = time.perf_counter()
    try:
        make = read.ensure_scans if options.meshes_only else read.ensure
        folder = make(options.config, options.workers)
        if options.preview:
            preview(options.preview, options.config, seed=options.preview_seed)
        if options.preview_scans:
            preview_scans(options.preview_scans, options.config)
    except (OSError, ValueError, RuntimeError, ImportError) as error:
        print(f"{prog}: {error}", file=sys.stderr)
        return 1
    size = sum(f.stat().st_size for f in store.folder().rglob("*") if f.is_file())
    print(f"{folder} ({size / 1e6:.0f} MB), {time.perf_counter() - began:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
