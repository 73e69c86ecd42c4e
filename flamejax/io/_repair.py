"""Repair of files that viewers show but Pillow refuses: broken or large texts in PNG, and a missing end of JPEG."""

from __future__ import annotations

import io
import zlib
from collections.abc import Iterator

import numpy as np
from PIL import Image

PNG_SIGNATURE, JPEG_START, JPEG_END = b"\x89PNG\r\n\x1a\n", b"\xff\xd8", b"\xff\xd9"
CODES = bytes(range(7, 247, 12)) * 3
RESTARTS = [b"\xff" + bytes([0xD0 + number % 8]) + CODES for number in range(16)]
FILLINGS = (b"", b"\x55" * 64, CODES, *(b"".join(RESTARTS[first : first + 8]) for first in range(8)))
"""Contents of missing image data, also after each restart marker: if all give the same picture, nothing is missing."""


def repaired(data: bytes) -> Iterator[bytes]:
    """Yield versions of a PNG or JPEG that may be read where the file itself is not, the most complete one first.

    Pixels are never guessed: a file whose image data is damaged or cut off has no version that can be read.
    """
    if data.startswith(PNG_SIGNATURE):
        # tRNS is the transparency, without which a cut-out would show what it hides.
        yield _keep_chunks(data, (b"tRNS", b"iCCP", b"eXIf"))
        yield _keep_chunks(data, (b"tRNS",))
    elif data.startswith(JPEG_START):
        # A file that ends in 0xff lacks one byte of the end marker.
        body = data.removesuffix(b"\xff")
        if _has_all_scans(body) and _is_same_for_all_fillings(body):
            yield body + JPEG_END


def _keep_chunks(data: bytes, kinds: tuple[bytes, ...]) -> bytes:
    """Drop a PNG's ancillary chunks, such as texts, except these kinds; of those, chunks with a wrong checksum."""
    parts, position = [PNG_SIGNATURE], len(PNG_SIGNATURE)
    while position < len(data):
        length, kind = int.from_bytes(data[position : position + 4], "big"), data[position + 4 : position + 8]
        end = position + length + 12
        is_critical = not kind[:1].islower()
        checksum = int.from_bytes(data[end - 4 : end], "big")
        is_intact = kind == b"tRNS" or zlib.crc32(data[position + 4 : end - 4]) == checksum
        if is_critical or (kind in kinds and is_intact):
            parts.append(data[position:end])
        position = end
    return b"".join(parts)


def _has_all_scans(data: bytes) -> bool:
    """Returns whether a JPEG's scans cover all coefficients of all components in full precision."""
    position, missing = 2, {}
    while position + 4 <= len(data):
        if data[position] != 0xFF:
            return False
        marker, length = data[position + 1], int.from_bytes(data[position + 2 : position + 4], "big")
        segment = data[position + 4 : position + 2 + length]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # the frame: its components
            missing = {number: np.full(64, True) for number in segment[6::3]}
        position += 2 + length
        if marker == 0xDA:  # a scan: its components, the range of coefficients, and the bits left out
            if len(segment) < 4:
                return False
            first, last, precision = segment[-3:]
            for number in segment[1:-3:2]:
                missing.get(number, np.zeros(64, bool))[first : last + 1] = precision % 16 > 0
            position = _next_marker(data, position)
    return bool(missing) and not any(coefficients.any() for coefficients in missing.values())


def _next_marker(data: bytes, position: int) -> int:
    """Returns the position of the marker after a scan, or the end of the data."""
    while (position := data.find(b"\xff", position)) >= 0 and position + 1 < len(data):
        if data[position + 1] != 0 and not 0xD0 <= data[position + 1] <= 0xD7:  # stuffing, restarts
            return position
        position += 2
    return len(data)


def _is_same_for_all_fillings(data: bytes) -> bool:
    """Returns whether a JPEG without its end gives the same picture, whatever follows: then nothing is missing."""
    try:
        pictures = (_decode(data + filling + JPEG_END) for filling in FILLINGS)
        first = next(pictures)
        return all(np.array_equal(first, other) for other in pictures)
    except Exception:  # Pillow's decoders raise nearly anything on broken bytes
        return False


def _decode(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data), formats=("JPEG",)) as opened:
        return np.asarray(opened)
