"""Additional smooth shape changes, for proportions that MakeHuman's targets vary too little or only together.

In MakeHuman's heads, the breadths of skull, cheekbones and jaw vary together (correlation 0.98 between skull and
cheekbones, far more than in people), and face lengths vary two thirds as much as in the survey. Fields are
displacements (V, 3) in metres for one standard deviation, as functions of the position relative to the sellion.
"""

from __future__ import annotations

import numpy as np

from experiments.datasets.open_people.anthropometry import SELLION
from experiments.datasets.open_people.geometry import smoothstep

MM = 1e-3


def _bump(t: np.ndarray, centre: float, width: float) -> np.ndarray:
    """Gaussian bump; centre and width in millimetres."""
    return np.exp(-0.5 * ((t / MM - centre) / width) ** 2)


def _ramp(t: np.ndarray, start: float, end: float) -> np.ndarray:
    """`smoothstep` with start and end in millimetres."""
    return smoothstep(t / MM, start, end)


def warp_fields(template: np.ndarray) -> dict[str, np.ndarray]:
    """Compute fields (V, 3) by name. All are mirror symmetric and zero at the base of the neck."""
    x, y, z = (template - [0.0, *template[SELLION, 1:]]).T
    out = {name: np.zeros_like(template) for name in SIGMA}
    side = x / (75 * MM)
    jaw = _ramp(z, -95, -60)  # in front of the nape
    throat = _ramp(y, -150, -112)
    out["skull breadth"][:, 0] = side * _ramp(y, -10, 35) * _ramp(z, -5, -60)
    out["cheekbone breadth"][:, 0] = side * _bump(y, -15, 22) * _bump(z, -70, 40)
    out["jaw breadth"][:, 0] = side * _bump(y, -78, 24) * _bump(z, -75, 45)
    out["forehead breadth"][:, 0] = side * _bump(y, 30, 22) * _ramp(z, -60, -10)
    out["nose length"][:, 1] = -_ramp(y, -5, -45) * jaw * throat
    out["lower face length"][:, 1] = -_ramp(y, -60, -105) * jaw * throat
    out["skull length"][:, 2] = -_ramp(z, -70, -170) * _ramp(y, -70, 0)
    out["nose projection"][:, 2] = _bump(y, -38, 13) * _bump(x, 0, 10) * _ramp(z, -12, 8)
    return {name: SIGMA[name] * field for name, field in out.items()}


SIGMA = {
    "skull breadth": 2.0 * MM,
    "cheekbone breadth": 2.0 * MM,
    "jaw breadth": 3.4 * MM,
    "forehead breadth": 1.8 * MM,
    "nose length": 2.2 * MM,
    "lower face length": 2.8 * MM,
    "skull length": 2.5 * MM,
    "nose projection": 1.0 * MM,
}
