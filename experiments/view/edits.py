"""The sliders of a fitted head, and the head parameters for their values."""

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
"""Number of leading components of identity and of expression that have a slider."""
COEFFICIENT_LIMIT = 3.0
"""Limit of coefficients, standard deviations, unless the head has an `expression_range`."""
HEAD_ORDER = "YXZ"
"""Intrinsic Euler angles: turn, then nod, then tilt."""
ROTATIONS = (
    ("head turn", "global_orient", 0, -90.0, 90.0),
    ("head nod", "global_orient", 1, -60.0, 60.0),
    ("head tilt", "global_orient", 2, -60.0, 60.0),
    ("neck nod", "neck_pose", 0, -40.0, 40.0),
    ("neck turn", "neck_pose", 1, -60.0, 60.0),
    ("neck tilt", "neck_pose", 2, -40.0, 40.0),
    ("jaw open", "jaw_pose", 0, -5.0, 35.0),
    ("jaw sideways", "jaw_pose", 1, -15.0, 15.0),
    ("left eye down", "leye_pose", 0, -35.0, 35.0),
    ("left eye to the left", "leye_pose", 1, -40.0, 40.0),
    ("right eye down", "reye_pose", 0, -35.0, 35.0),
    ("right eye to the left", "reye_pose", 1, -40.0, 40.0),
)
"""Name, field, component (of a joint's axis-angle, or of `head_angles`), lower and upper limit in degrees."""


@dataclass(frozen=True)
class Slider:
    """A slider for one number of a head: a coefficient in standard deviations or an angle in degrees."""

    group: str
    """identity, expression or pose."""
    name: str
    """Unique, such as `identity 0`."""
    low: float
    high: float
    step: float
    start: float
    """The fit's value, between `low` and `high`."""


def sliders(model: FitModel, fit: Fit) -> list[Slider]:
    """Return all sliders of a fit, coefficients in standard deviations and rotations in degrees.

    Limits are widened to include the fit's values, so that each slider starts exactly there.
    """
    coefficients, limits = [], np.tile([[-COEFFICIENT_LIMIT], [COEFFICIENT_LIMIT]], model.global_expression)
    if model.head.expression_range is not None:
        limits = np.asarray(model.head.expression_range, np.float64)
    for i in range(min(SHOWN_COMPONENTS, model.global_betas)):
        low, high = -COEFFICIENT_LIMIT, COEFFICIENT_LIMIT
        coefficients.append(_slider("identity", f"identity {i}", low, high, 0.01, fit.params.betas[i]))
    for i in range(min(SHOWN_COMPONENTS, model.global_expression)):
        low, high = limits[:, i]
        coefficients.append(_slider("expression", f"expression {i}", low, high, 0.01, fit.params.expression[i]))
    degrees = _degrees(fit.params)
    rotations = [_slider("pose", name, low, high, 0.1, degrees[field][i]) for name, field, i, low, high in ROTATIONS]
    return coefficients + rotations


def edit_params(model: FitModel, fit: Fit, values: Mapping[str, float]) -> HeadParams:
    """Return the fit's parameters, without batch axes, with the sliders' values (by name) put in."""
    # NumPy: in JAX each change of one number would compile a program.
    params = jax.tree.map(lambda leaf: np.array(leaf, np.float32), fit.params)
    for name, numbers, count in (
        ("identity", params.betas, model.global_betas),
        ("expression", params.expression, model.global_expression),
    ):
        for i in range(min(SHOWN_COMPONENTS, count)):
            numbers[i] = values.get(f"{name} {i}", numbers[i])
    angles = head_angles(params.global_orient)
    for name, field, i, _, _ in ROTATIONS:
        if name in values and field == "global_orient":
            angles[i] = values[name]
        elif name in values:
            getattr(params, field)[i] = np.deg2rad(values[name])
    rotated = Rotation.from_euler(HEAD_ORDER, angles, degrees=True).as_rotvec()
    params = dataclasses.replace(params, global_orient=rotated.astype(np.float32))
    return jax.tree.map(jnp.asarray, params)


def head_angles(global_orient: Array | np.ndarray) -> np.ndarray:
    """Convert an axis-angle (3,) to turn (to the subject's left), nod and tilt: (3,) degrees."""
    rotation = Rotation.from_rotvec(np.asarray(global_orient, np.float64))
    return rotation.as_euler(HEAD_ORDER, degrees=True)


def _degrees(params: HeadParams) -> dict[str, np.ndarray]:
    """Map each field in ROTATIONS to its angles in degrees."""
    degrees = {field: np.rad2deg(np.asarray(getattr(params, field), np.float64)) for _, field, *_ in ROTATIONS}
    return degrees | {"global_orient": head_angles(params.global_orient)}


def _slider(group: str, name: str, low: float, high: float, step: float, start: float | Array) -> Slider:
    start = float(start)
    # Rounded to tenths: the page displays the limits.
    low, high = (float(limit) for limit in (np.floor(10 * min(low, start)) / 10, np.ceil(10 * max(high, start)) / 10))
    return Slider(group, name, low, high, step, start)
