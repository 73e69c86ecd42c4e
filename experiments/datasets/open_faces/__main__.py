"""Build the open scans: `python -m experiments.datasets.open_faces`."""

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
class OpenFacesConfig:
    """Build the open scans and their photos in $FLAMEJAX_DATA/open_faces; an interrupted build is continued."""

    config: Literal["full", "test", "slice"] = "full"
    """full: 300 subjects; test: the 30 of its test split; slice: 4 subjects x 3 expressions."""
    workers: int | None = None
    """Number of worker processes; by default one per processor."""
    meshes_only: bool = False
    """Build the meshes without photos."""
    preview: Path | None = None
    """Image to write: a contact sheet of random photos."""
    preview_seed: int = 0
    preview_scans: Path | None = None
    """Image to write: renders of scans without texture."""


def main(args: Sequence[str] | None = None, prog: str = "python -m experiments.datasets.open_faces") -> int:
    """Run the command. Returns the exit status: 1 when the data cannot be built."""
    options = tyro.cli(OpenFacesConfig, args=args, prog=prog)
    started = time.perf_counter()
    try:
        build = read.ensure_scans if options.meshes_only else read.ensure_photos
        folder = build(options.config, options.workers)
        if options.preview:
            preview(options.preview, options.config, seed=options.preview_seed)
        if options.preview_scans:
            preview_scans(options.preview_scans, options.config)
    except (OSError, ValueError, RuntimeError, ImportError) as error:
        print(f"{prog}: {error}", file=sys.stderr)
        return 1
    size = sum(f.stat().st_size for f in store.folder().rglob("*") if f.is_file())
    print(f"{folder} ({size / 1e6:.0f} MB), {time.perf_counter() - started:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
