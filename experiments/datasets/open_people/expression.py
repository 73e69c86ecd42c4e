"""Load the CC0 face units and MakeHuman's expression units as displacements of the open head.

`jawOpen` and the eye-look units are joint rotations in our model and `mouthClose` only cancels `jawOpen`; `tongueOut`
moves nothing on the cut head.
"""

from __future__ import annotations

import numpy as np

from experiments.datasets.open_people.geometry import Head, smoothstep
from experiments.datasets.open_people.sources import FACE_UNITS, MPFB, MakeHumanSource

EXPRESSIONS = MPFB + "targets/expression/units/"
EXCLUDED_UNITS = ("jawOpen", "mouthClose", "tongueOut", "eyeLook", "unit-mouth-open")  # the last is a jaw rotation too


def load_units(source: MakeHumanSource, head: Head) -> dict[str, np.ndarray]:
    """Load displacements (V, 3) by name; expression units are the mean over the three ethnicities."""
    units = {}
    for path in source.names(FACE_UNITS, ".target"):
        name = path.rsplit("/", 1)[1].removesuffix(".target")
        if not name.startswith(EXCLUDED_UNITS):
            units[name] = head.to_head(source.target(path))
    for path in source.names(EXPRESSIONS + "caucasian/", ".target.gz"):
        name = path.rsplit("/", 1)[1].removesuffix(".target.gz")
        fields = [source.target(path.replace("caucasian", e)) for e in ("african", "asian", "caucasian")]
        if not f"unit-{name}".startswith(EXCLUDED_UNITS):
            units["unit-" + name] = head.to_head(np.mean(fields, axis=0))
    for field in units.values():
        field[head.part > 0] = 0  # gaze is a joint rotation
    return units


def neck_fade(template: np.ndarray, head: Head) -> np.ndarray:
    """Returns weights (V,) from 0 at the neck's border to 1 above it, so that expressions do not move the cut."""
    low = template[head.neck_loop, 1].max()
    return smoothstep((template[:, 1] - low) / 0.03)
