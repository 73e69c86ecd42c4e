"""FLAME coefficients of a photo or a person, from .npz files as registrations of public data sets have them."""

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
"""FLAME's whole pose: 5 joints of 3 numbers, root, neck, jaw and eyes, of which 6 to 8 are the jaw."""
FULL_POSE, JAW_OF_POSE = 15, slice(6, 9)


@dataclass
class CoefficientReader:
    """Reads files for a head of S identity and E expression coefficients; remembers what it cut."""

    num_betas: int
    num_expression: int
    with_motion: bool
    """Whether expression and jaw are needed."""
    cut: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Field -> how many coefficients files had, at most, and how many of them are taken."""

    def read(self, path: Path) -> tuple[np.ndarray, np.ndarray | None]:
        """(S,) betas, and (E + 3,) expression and jaw (radians) where they are needed.

        Raises:
          HeadFileError: it cannot be read, or lacks a field, or has too few coefficients.
        """
        found = read_npz_members(path, (*BETAS, *EXPRESSION, *JAW, *POSE))
        betas = self._components(path, found, BETAS, self.num_betas, "identity")
        if not self.with_motion:
            return betas, None
        expression = self._components(path, found, EXPRESSION, self.num_expression, "expression")
        return betas, np.concatenate([expression, _jaw(path, found)])

    def _components(
        self, path: Path, found: Mapping[str, np.ndarray], names: tuple[str, ...], count: int, what: str
    ) -> np.ndarray:
        """The first `count` coefficients under one of the names."""
        values = _vector(path, found, names, what)
        if len(values) < count:
            raise HeadFileError(f"{path}: {len(values)} {what} coefficients, but the head has {count}.")
        if len(values) > count:
            self.cut[what] = max(len(values), self.cut.get(what, (0, 0))[0]), count
        return values[:count]


def _jaw(path: Path, found: Mapping[str, np.ndarray]) -> np.ndarray:
    """(3,) axis-angle, radians."""
    values = _vector(path, found, (*JAW, *POSE), "jaw")
    if not any(name in found for name in JAW):
        if len(values) != FULL_POSE:
            raise HeadFileError(
                f"{path}: a pose of {len(values)} numbers. One of {FULL_POSE} (root, neck, jaw, eyes) says where the "
                f"jaw is; otherwise give it by itself, as 'jaw'."
            )
        return values[JAW_OF_POSE]
    if len(values) != 3:
        raise HeadFileError(f"{path}: a jaw of {len(values)} numbers, not 3 (axis-angle, radians).")
    return values


def _vector(path: Path, found: Mapping[str, np.ndarray], names: tuple[str, ...], what: str) -> np.ndarray:
    """(n,) float32 of the first name that is there; leading axes of 1 are dropped."""
    name = next((name for name in names if name in found), None)
    if name is None:
        raise HeadFileError(f"{path}: has no {what} ({', '.join(names)}).")
    values = np.asarray(found[name])
    if values.dtype.kind not in "fiu" or values.size != (values.shape[-1] if values.ndim else 0):
        raise HeadFileError(f"{path}: '{name}' is no vector of numbers, but {values.dtype} {values.shape}.")
    if not np.isfinite(values).all():
        raise HeadFileError(f"{path}: '{name}' holds numbers that are not finite.")
    return values.reshape(-1).astype(np.float32)
