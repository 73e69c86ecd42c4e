"""Identify the kind of a file by its content, and refuse wrong files with a helpful message."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Literal, NoReturn

from flamejax.head import HeadFileError

FileKind = Literal[
    "torch", "onnx", "npz", "missing", "folder", "empty", "html", "lfs", "torchscript", "legacy", "pickle", "tar",
    "cut", "zip", "unknown",
]  # fmt: skip

_LEGACY_MAGIC = b"\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19"
"""First bytes of files that torch.save wrote before torch 1.6."""
_SAVE_AGAIN = (
    'save it again with PyTorch: python -c "import torch; torch.save(torch.load('
    "'{path}', map_location='cpu', weights_only=True), 'again.pth')\"."
)
REASONS: dict[FileKind, str] = {
    "missing": "no such file.",
    "folder": "a folder; give the file of weights in it.",
    "empty": "an empty file. Fetch it again.",
    "html": "a web page, not weights: the download asks for a confirmation or a login. Open its address in a browser.",
    "lfs": "a Git LFS pointer, not the weights. Run `git lfs pull`, or fetch the file by its web address.",
    "torchscript": "a TorchScript archive, which is a program; take the checkpoint of weights (state_dict) instead.",
    "legacy": f"in PyTorch's format from before 1.6, which is not read here; {_SAVE_AGAIN}",
    "pickle": "a pickle that PyTorch did not write; FLAME's models convert without --to.",
    "tar": "a tar archive; unpack it, and give the file of weights in it.",
    "cut": "a zip archive that is damaged or cut off. Fetch it again.",
    "zip": "a zip archive without weights; unpack it, and give the file of weights in it.",
    "npz": "an .npz archive of arrays.",
    "torch": "a PyTorch checkpoint.",
    "onnx": "an ONNX model.",
    "unknown": "neither a PyTorch checkpoint nor an ONNX model.",
}


def identify_file(path: Path) -> FileKind:
    """Return the kind of a file. Raises HeadFileError if it cannot be read."""
    if not path.exists():
        return "missing"
    if path.is_dir():
        return "folder"
    try:
        with path.open("rb") as file:
            start = file.read(1024)
    except OSError as error:
        raise HeadFileError(f"{path}: cannot be read ({error}).") from error
    if start[:2] == b"PK":
        return _identify_zip(path)
    if start[:1] == b"\x80" and start[1:2] <= b"\x05":
        return "legacy" if start[2:].startswith(_LEGACY_MAGIC) else "pickle"
    if start.lstrip().lower().startswith((b"<!doctype", b"<html", b"<head", b"<?xml")):
        return "html"
    if start.startswith(b"version https://git-lfs"):
        return "lfs"
    if start[257:262] == b"ustar":
        return "tar"
    # An ONNX model starts with its field 1, the version of the format.
    if start[:1] == b"\x08" or path.suffix == ".onnx":
        return "onnx"
    return "unknown" if start else "empty"


def refuse_file(path: Path, kind: FileKind, wanted: str) -> NoReturn:
    """Raise a HeadFileError that says what the file is, and what was wanted."""
    reason = REASONS[kind].replace("{path}", str(path))
    raise HeadFileError(f"{path}: {reason}" if kind == "missing" else f"{path}: {reason} Wanted: {wanted}.")


def _identify_zip(path: Path) -> FileKind:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, EOFError, NotImplementedError):
        return "cut"
    if any(name.endswith("/constants.pkl") for name in names):
        return "torchscript"
    if any(name.endswith("/data.pkl") for name in names):
        return "torch"
    return "npz" if names and all(name.endswith(".npy") for name in names) else "zip"
