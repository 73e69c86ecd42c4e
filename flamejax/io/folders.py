"""Where data lies that is not part of the package."""

from __future__ import annotations

import os
from pathlib import Path


def data_folder() -> Path:
    """Where data made or fetched lies: $FLAMEJAX_DATA, by default ~/.cache/flamejax. It may not exist yet."""
    return Path(os.environ.get("FLAMEJAX_DATA") or "~/.cache/flamejax").expanduser()
