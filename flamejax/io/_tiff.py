"""Reading of TIFFs that Pillow does not know, such as colours stored as floats, with tifffile."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_BITS, _ORIENTATION, _PLANES, _PROFILE = 258, 274, 284, 34675
_GREY, _RGB = 1, 2
_PREMULTIPLIED, _STRAIGHT = 1, 2


def is_misread(picture: Image.Image) -> bool:
    """Returns whether Pillow opens this TIFF but gives wrong pixels: it takes planes of 16 bits for planes of 8."""
    tags = picture.tag_v2  # type: ignore[attr-defined]
    bits = tags.get(_BITS, (1,))
    return tags.get(_PLANES) == 2 and len(bits) > 1 and max(bits) > 8


def read_tiff(path: Path, max_pixels: int) -> tuple[np.ndarray, int, bytes | None]:
    """Read the first picture of a TIFF: its samples, its EXIF orientation and its colour profile.

    Returns:
      samples (H, W) if grey, else (H, W, 2 to 4): grey or RGB, and alpha, which colours are not multiplied by; their
      type and range are the file's. Then the orientation (1 to 8), and the ICC profile if there is one.

    Raises:
      ModuleNotFoundError: tifffile is not installed.
      ValueError, or others of tifffile: the file is damaged, or of a kind that is not read.
      Image.DecompressionBombError: it has more than max_pixels.
    """
    import tifffile

    with tifffile.TiffFile(path) as file:
        page: Any = file.pages[0]
        if page.imagewidth * page.imagelength > max_pixels:
            raise Image.DecompressionBombError(f"{page.imagewidth}x{page.imagelength} px")
        count, kind = page.samplesperpixel, int(page.photometric)
        if page.axes not in ("YX", "YXS", "SYX") or count > 4 or kind not in (_GREY, _RGB):
            raise ValueError(f"{count} samples per pixel of {page.photometric.name}")
        samples = page.asarray()
        orientation, profile = page.tags.valueof(_ORIENTATION, 1), page.tags.valueof(_PROFILE)
        extra = int(page.extrasamples[0]) if page.extrasamples else 0
    if samples.dtype.kind not in "fiu":
        raise ValueError(f"samples of {samples.dtype}")
    samples = np.moveaxis(samples, 0, -1) if page.axes == "SYX" else samples
    if count in (2, 4) and extra == _PREMULTIPLIED:
        alpha = samples[..., -1:].astype(np.float64)
        colours = samples[..., :-1] * (float(alpha.max()) / np.where(alpha > 0, alpha, np.inf))
        samples = np.concatenate([colours, alpha], axis=-1)
    elif count in (2, 4) and extra != _STRAIGHT:
        samples = samples[..., :-1]
    samples = samples[..., 0] if samples.ndim == 3 and samples.shape[-1] == 1 else samples
    return samples, int(orientation), bytes(profile) if profile else None
