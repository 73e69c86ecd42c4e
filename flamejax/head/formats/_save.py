"""Writing of head models in flamejax's format."""

import io
import os
from collections.abc import Mapping

import numpy as np

from flamejax.files import write_bytes

FORMAT_VERSION = 1


def write_head(path: str | os.PathLike[str], arrays: Mapping[str, np.ndarray]) -> None:
    """Write a head model's arrays, as from `read_head`, atomically.

    Raises:
      OSError: the folder is missing or the disk refuses.
    """
    content = io.BytesIO()
    # Not compressed: a shape space hardly shrinks, and decompression would take most of the loading time.
    np.savez(content, allow_pickle=False, format_version=np.int32(FORMAT_VERSION), **dict(arrays))
    write_bytes(path, content.getvalue())
