"""Writes the photos of a soak test: variations of one portrait, and broken files of 17 kinds."""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

SIDE = 256
LFS_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 12345\n"
HUGE_PNG = bytes.fromhex("89504e470d0a1a0a0000000d4948445200030d4000030d4008020000001a1e6a1f")


def write_photos(
    folder: Path, portrait: np.ndarray, count: int, broken: float, seed: int
) -> tuple[list[Path], list[Path]]:
    """Write photos and, spread among them, broken files.

    Args:
      portrait: (H, W, 3) uint8 with one face; each photo is a crop of it of random place, size and brightness.
      count: number of files in all. broken: share of them that is broken, each kind in turn.

    Returns:
      The paths of the photos and of the broken files, sorted.
    """
    rng = np.random.default_rng(seed)
    is_broken = np.zeros(count, bool)
    is_broken[rng.permutation(count)[: round(broken * count)]] = True
    photos: list[Path] = []
    broken_files: list[Path] = []
    kinds = list(BROKEN)
    for index in range(count):
        if is_broken[index]:
            kind = kinds[len(broken_files) % len(kinds)]
            path = folder / f"{index:05d}_{kind}{SUFFIXES.get(kind, '.jpg')}"
            BROKEN[kind](path, rng)
            broken_files.append(path)
        else:
            path = folder / f"{index:05d}.jpg"
            vary(portrait, rng).save(path, quality=90)
            photos.append(path)
    return photos, broken_files


def vary(portrait: np.ndarray, rng: np.random.Generator) -> Image.Image:
    """Return a square crop of the portrait with another brightness, `SIDE` pixels a side."""
    side = min(portrait.shape[:2]) - int(rng.integers(0, 60))
    left, top = (int(rng.integers(0, length - side + 1)) for length in (portrait.shape[1], min(portrait.shape[:2])))
    crop = np.clip(portrait[top : top + side, left : left + side] * rng.uniform(0.7, 1.2), 0, 255).astype(np.uint8)
    return Image.fromarray(crop).resize((SIDE, SIDE), Image.Resampling.LANCZOS)


def _encode(picture: Image.Image, image_format: str) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format=image_format)
    return buffer.getvalue()


def _grey(side: int) -> Image.Image:
    return Image.new("RGB", (side, side), (128, 128, 128))


def _noise(rng: np.random.Generator) -> Image.Image:
    return Image.fromarray(rng.integers(0, 256, (64, 64, 3), np.uint8))


def _write_nan(path: Path, rng: np.random.Generator) -> None:
    Image.fromarray(np.full((64, 64), np.nan, np.float32)).save(path)


def _write_zip(path: Path, rng: np.random.Generator) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("photo.jpg", b"not here")


BROKEN: dict[str, Callable[[Path, np.random.Generator], object]] = {
    "empty": lambda path, rng: path.write_bytes(b""),
    "truncated_jpeg": lambda path, rng: path.write_bytes(_encode(_noise(rng), "JPEG")[:900]),
    "truncated_png": lambda path, rng: path.write_bytes(_encode(_noise(rng), "PNG")[:900]),
    "text": lambda path, rng: path.write_text("This is not a photo.\n"),
    "html": lambda path, rng: path.write_text("<!doctype html><title>404 Not Found</title>"),
    "zip": _write_zip,
    "random_bytes": lambda path, rng: path.write_bytes(rng.bytes(5000)),
    "zeros": lambda path, rng: path.write_bytes(bytes(5000)),
    "tiny": lambda path, rng: path.write_bytes(_encode(_grey(8), "PNG")),
    "no_face": lambda path, rng: path.write_bytes(_encode(_grey(SIDE), "JPEG")),
    "nan": _write_nan,
    "heic_header": lambda path, rng: path.write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + rng.bytes(500)),
    "lfs_pointer": lambda path, rng: path.write_bytes(LFS_POINTER),
    "symlink_loop": lambda path, rng: path.symlink_to(path.name),
    "dangling_symlink": lambda path, rng: path.symlink_to("nowhere.jpg"),
    "fifo": lambda path, rng: os.mkfifo(path),
    "huge_header": lambda path, rng: path.write_bytes(HUGE_PNG),
}
"""Kind of broken file -> function that writes one."""
SUFFIXES = {"truncated_png": ".png", "tiny": ".png", "nan": ".tiff", "heic_header": ".heic", "huge_header": ".png"}
