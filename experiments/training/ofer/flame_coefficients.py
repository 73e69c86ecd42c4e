"""FLAME coefficients of a photo or a person, from .npz files in the layouts of public data sets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from flamejax.head import HeadFileError
from flamejax.head.formats import read_npz_members

BETAS = ("betas", "shape", "shape_params", "flame.shape_params")
EXPRESSION = ("expression", "exp", "expression_params", "flame.exp")
JAW = ("jaw", "jaw_pose")
POSE = ("pose", "flame.pose")
"""Names of FLAME's full pose: 5 joints of 3 numbers, root, neck, jaw and eyes; numbers 6 to 8 are the jaw."""
FULL_POSE, JAW_OF_POSE = 15, slice(6, 9)


@dataclass
class CoefficientReader:
    """Reads files for a head of S identity and E expression coefficients, and records which it truncated."""

    num_betas: int
    num_expression: int
    with_motion: bool
    """Whether expression and jaw are needed."""
    truncated: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Field -> the largest number of coefficients in a file, and how many of them are used."""

    def read(self, path: Path) -> tuple[np.ndarray, np.ndarray | None]:
        """Returns betas (S,), and expression and jaw (E + 3,), radians, or None if they are not needed.

        Raises:
          HeadFileError: the file cannot be read, lacks a field, or has too few coefficients.
        """
        arrays = read_npz_members(path, (*BETAS, *EXPRESSION, *JAW, *POSE))
        betas = self._components(path, arrays, BETAS, self.num_betas, "identity")
        if not self.with_motion:
            return betas, None
        expression = self._components(path, arrays, EXPRESSION, self.num_expression, "expression")
        return betas, np.concatenate([expression, _jaw(path, arrays)])

    def _components(
        self, path: Path, arrays: Mapping[str, np.ndarray], names: tuple[str, ...], count: int, what: str
    ) -> np.ndarray:
        """Returns the first `count` coefficients under one of the names."""
        values = _vector(path, arrays, names, what)
        if len(values) < count:
            raise HeadFileError(f"{path}: {len(values)} {what} coefficients, but the head has {count}.")
        if len(values) > count:
            self.truncated[what] = max(len(values), self.truncated.get(what, (0, 0))[0]), count
        return values[:count]


def _jaw(path: Path, arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    """Returns the jaw's axis-angle, (3,) radians."""
    values = _vector(path, arrays, (*JAW, *POSE), "jaw")
    if not any(name in arrays for name in JAW):
        if len(values) != FULL_POSE:
            raise HeadFileError(
                f"{path}: a pose of {len(values)} numbers, not {FULL_POSE} (root, neck, jaw, eyes). Give the jaw "
                f"separately, as 'jaw'."
            )
        return values[JAW_OF_POSE]
    if len(values) != 3:
        raise HeadFileError(f"{path}: a jaw of {len(values)} numbers, not 3 (axis-angle, radians).")
    return values


def _vector(path: Path, arrays: Mapping[str, np.ndarray], names: tuple[str, ...], what: str) -> np.ndarray:
    """Returns the array under the first name that exists, (n,) float32; leading axes of 1 are dropped."""
    name = next((name for name in names if name in arrays), None)
    if name is None:
        raise HeadFileError(f"{path}: has no {what} ({', '.join(names)}).")
    values = np.asarray(arrays[name])
    if values.dtype.kind not in "fiu" or values.size != (values.shape[-1] if values.ndim else 0):
        raise HeadFileError(f"{path}: '{name}' is not a vector of numbers, but {values.dtype} {values.shape}.")
    if not np.isfinite(values).all():
        raise HeadFileError(f"{path}: '{name}' has numbers that are not finite.")
    return values.reshape(-1).astype(np.float32)
