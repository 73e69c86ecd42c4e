"""The sliders of a fitted head: which there are, and the parameters that their values stand for."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from scipy.spatial.transform import Rotation

from fitting.fit_model import FitModel
from flamejax.head import HeadParams
from flamejax.types import Fit

SHOWN_COMPONENTS = 10
"""Leading components of identity and of expression that have a slider."""
COEFFICIENT_LIMIT = 3.0
"""Standard deviations to either side, where the head says nothing else."""
HEAD_ORDER = "YXZ"
"""Turn, then nod, then tilt, each about the axes that the ones before have moved."""
HEAD_TURNS = (("turn", 90.0), ("nod", 60.0), ("tilt", 60.0))
JOINT_TURNS = {
    "neck": ("neck_pose", ((0, "nod", -40.0, 40.0), (1, "turn", -60.0, 60.0), (2, "tilt", -40.0, 40.0))),
    "jaw": ("jaw_pose", ((0, "open", -5.0, 35.0), (1, "sideways", -15.0, 15.0))),
    "left eye": ("leye_pose", ((0, "down", -35.0, 35.0), (1, "to the left", -40.0, 40.0))),
    "right eye": ("reye_pose", ((0, "down", -35.0, 35.0), (1, "to the left", -40.0, 40.0))),
}
"""Joint -> field, and of its axis-angle the components with a slider: index, name, limits in degrees."""


@dataclass(frozen=True)
class Slider:
    """One number of a head that can be changed."""

    group: str
    """identity, expression or pose."""
    name: str
    """Unique."""
    low: float
    high: float
    step: float
    start: float
    """The fit's, between `low` and `high`."""


def sliders(model: FitModel, fit: Fit) -> list[Slider]:
    """All sliders of a fit, coefficients in standard deviations and turns in degrees.

    Limits reach as far as the fit does, so that each starts at the fit's very value.
    """
    return [*_coefficients(model, fit), *_turns(fit)]


def edited(model: FitModel, fit: Fit, values: Mapping[str, float]) -> HeadParams:
    """The fit's parameters with the sliders' values in them.

    Args:
        values: by the sliders' names; what is not named keeps the fit's.

    Returns:
        Parameters of `model.head`, without batch axes.
    """
    # NumPy: in JAX each change of one number would be a program of its own.
    full = jax.tree.map(lambda leaf: np.array(leaf, np.float32), fit.params)
    betas, expression = _count(model)
    for name, numbers, count in (("identity", full.betas, betas), ("expression", full.expression, expression)):
        for i in range(count):
            numbers[i] = values.get(f"{name} {i}", numbers[i])
    for joint, (field, parts) in JOINT_TURNS.items():
        for i, name, _, _ in parts:
            degrees = values.get(f"{joint} {name}")
            if degrees is not None:
                getattr(full, field)[i] = np.deg2rad(degrees)
    start = head_angles(full.global_orient)
    angles = [values.get(f"head {name}", start[i]) for i, (name, _) in enumerate(HEAD_TURNS)]
    turned = Rotation.from_euler(HEAD_ORDER, angles, degrees=True).as_rotvec()
    full = dataclasses.replace(full, global_orient=turned.astype(np.float32))
    return jax.tree.map(jnp.asarray, full)


def head_angles(global_orient: Array | np.ndarray) -> np.ndarray:
    """(3,) degrees of turn (to the subject's left), nod and tilt of an axis-angle (3,)."""
    rotation = Rotation.from_rotvec(np.asarray(global_orient, np.float64))
    return rotation.as_euler(HEAD_ORDER, degrees=True)


def _count(model: FitModel) -> tuple[int, int]:
    """How many components of identity and of expression have a slider: global ones only."""
    return min(SHOWN_COMPONENTS, model.global_betas), min(SHOWN_COMPONENTS, model.global_expression)


def _coefficients(model: FitModel, fit: Fit) -> list[Slider]:
    betas, expression = _count(model)
    limits = np.tile([[-COEFFICIENT_LIMIT], [COEFFICIENT_LIMIT]], expression)
    if model.head.expression_range is not None:
        limits = np.asarray(model.head.expression_range, np.float64)[:, :expression]
    found = [
        _slider("identity", f"identity {i}", -COEFFICIENT_LIMIT, COEFFICIENT_LIMIT, 0.01, fit.params.betas[i])
        for i in range(betas)
    ]
    for i in range(expression):
        low, high = limits[:, i]
        found.append(_slider("expression", f"expression {i}", low, high, 0.01, fit.params.expression[i]))
    return found


def _turns(fit: Fit) -> list[Slider]:
    angles = head_angles(fit.params.global_orient)
    found = [
        _slider("pose", f"head {name}", -limit, limit, 0.1, angle)
        for (name, limit), angle in zip(HEAD_TURNS, angles, strict=True)
    ]
    for joint, (field, parts) in JOINT_TURNS.items():
        degrees = np.rad2deg(np.asarray(getattr(fit.params, field), np.float64))
        found += [_slider("pose", f"{joint} {name}", low, high, 0.1, degrees[i]) for i, name, low, high in parts]
    return found


def _slider(group: str, name: str, low: float, high: float, step: float, start: float | Array) -> Slider:
    start = float(start)
    # Whole tenths: the page writes the limits out.
    low, high = (float(limit) for limit in (np.floor(10 * min(low, start)) / 10, np.ceil(10 * max(high, start)) / 10))
    return Slider(group, name, low, high, step, start)
