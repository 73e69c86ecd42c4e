"""Fits, observations and hypotheses on disk: one .npz each, without pickle, written whole or not at all."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from experiments.kept_arrays import DAMAGED, read_arrays, write_arrays
from flamejax.camera import CropTransform, OrthographicCamera
from flamejax.head import HeadParams
from flamejax.types import Fit, Observation


def flat(tree: Any, prefix: str = "") -> dict[str, np.ndarray]:
    """A tree of dataclasses and dictionaries as arrays under dotted names; None is left out."""
    if tree is None:
        return {}
    if dataclasses.is_dataclass(tree) and not isinstance(tree, type):
        inner = {field.name: getattr(tree, field.name) for field in dataclasses.fields(tree)}
    elif isinstance(tree, dict):
        inner = tree
    else:
        return {prefix: np.asarray(tree)}
    found: dict[str, np.ndarray] = {}
    for name, value in inner.items():
        found |= flat(value, f"{prefix}.{name}" if prefix else name)
    return found


def write_tree(path: Path, tree: Any) -> None:
    """Keep a tree, and make its folder."""
    write_arrays(path, flat(tree))


def read_fit(path: Path) -> Fit | None:
    """A kept fit as NumPy arrays; None as `read_arrays`."""
    arrays = read_arrays(path)
    try:
        return None if arrays is None else _fit(arrays)
    except DAMAGED:
        return None


def read_observation(path: Path) -> Observation | None:
    """A kept observation; None as `read_arrays`."""
    arrays = read_arrays(path)
    try:
        if arrays is None:
            return None
        crop = CropTransform(**_below(arrays, "crop"))
        return Observation(**{name: value for name, value in arrays.items() if "." not in name}, crop=crop)  # type: ignore[arg-type]
    except DAMAGED:
        return None


def _fit(arrays: dict[str, np.ndarray]) -> Fit:
    whole: dict[str, Any] = {name: value for name, value in arrays.items() if "." not in name}
    return Fit(
        **whole,
        params=HeadParams(**_below(arrays, "params")),
        camera=OrthographicCamera(**_below(arrays, "camera")),
        losses=_below(arrays, "losses"),
    )


def _below(arrays: dict[str, np.ndarray], name: str) -> dict[str, Any]:
    start = f"{name}."
    return {key.removeprefix(start): value for key, value in arrays.items() if key.startswith(start)}
