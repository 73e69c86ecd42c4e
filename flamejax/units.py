"""Units of length of mesh files."""

from typing import Literal

Unit = Literal["m", "cm", "mm"]
UNITS: dict[Unit, float] = {"m": 1.0, "cm": 1e-2, "mm": 1e-3}
"""Unit -> metres."""
