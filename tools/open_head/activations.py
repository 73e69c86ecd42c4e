"""Which face units people use together: random, mostly symmetric, one-sided activations.

Drawn from no data, but from what is seen in people: smiles narrow the eyes and lift the cheeks, brows rise together
with lids, one side is a little stronger than the other, and a unit is either at rest or active, never negative.
"""

from __future__ import annotations

import numpy as np

from experiments.datasets.open_people.activations import ALONE, ALONE_PEAK, LOPSIDED, side_sign, sides, twin

ALONE_SIDES = 0.9
"""Share of each unit's own activation that both sides have in common."""
# expression -> (share of faces that show it, units at its full strength); `*` stands for both sides
WHOLE: dict[str, tuple[float, dict[str, float]]] = {
    "closed smile": (0.48, {"mouthSmile*": 0.75, "cheekSquint*": 0.35, "eyeSquint*": 0.25, "mouthDimple*": 0.25}),
    "big smile": (0.48, {"mouthSmile*": 0.85, "cheekSquint*": 0.6, "eyeSquint*": 0.4, "mouthUpperUp*": 0.4,
                         "mouthStretch*": 0.15}),
    "laugh": (0.20, {"unit-mouth-corner-puller": 0.7, "cheekSquint*": 0.5, "mouthLowerDown*": 0.5,
                     "mouthUpperUp*": 0.5, "noseSneer*": 0.2}),
    "brows up": (0.50, {"browInnerUp": 0.8, "browOuterUp*": 0.8, "eyeWide*": 0.4, "unit-eyebrows-*-up": 0.4}),
    "worry": (0.20, {"browInnerUp": 0.9, "browDown*": 0.25, "mouthFrown*": 0.35, "unit-eyebrows-*-inner-up": 0.5}),
    "brows down": (0.38, {"browDown*": 0.8, "eyeSquint*": 0.35, "noseSneer*": 0.15, "unit-eyebrows-*-down": 0.3}),
    "mouth down": (0.34, {"mouthFrown*": 0.8, "mouthShrugLower": 0.35, "unit-mouth-depression": 0.2}),
    "pucker": (0.30, {"mouthPucker": 0.8, "unit-mouth-pursing": 0.15}),
    "funnel": (0.22, {"mouthFunnel": 0.7, "mouthPucker": 0.15}),
    "pressed lips": (0.22, {"mouthPress*": 0.6, "mouthRollLower": 0.3, "mouthRollUpper": 0.25}),
    "sneer": (0.20, {"noseSneer*": 0.8, "mouthUpperUp*": 0.5, "browDown*": 0.4, "cheekSquint*": 0.3}),
    "stretch": (0.18, {"mouthStretch*": 0.7, "mouthLowerDown*": 0.3, "unit-neck-platysma": 0.4}),
    "squint": (0.30, {"eyeSquint*": 0.8, "cheekSquint*": 0.6}),
    "cheeks out": (0.08, {"cheekPuff": 0.7, "mouthPress*": 0.2}),
    "chin up": (0.15, {"mouthShrugLower": 0.7, "mouthShrugUpper": 0.4, "mouthPress*": 0.2}),
    "lids low": (0.30, {"eyeBlink*": 0.5}),  # without their closing: both lids a little lower
    "chin out": (0.12, {"jawForward": 0.7}),
}  # fmt: skip


SIDED: dict[str, tuple[float, dict[str, float]]] = {  # on the left; the right is drawn alike
    "half smile": (0.10, {"mouthSmileLeft": 0.6, "cheekSquintLeft": 0.3, "mouthDimpleLeft": 0.4}),
    "one brow": (0.10, {"browOuterUpLeft": 0.8, "unit-eyebrows-left-up": 0.4}),
    "half sneer": (0.06, {"noseSneerLeft": 0.6, "mouthUpperUpLeft": 0.6}),
    "half squint": (0.08, {"eyeSquintLeft": 0.6, "cheekSquintLeft": 0.6}),
    "mouth aside": (0.14, {"mouthLeft": 0.6}),
    "jaw aside": (0.10, {"jawLeft": 0.6}),
}


def full(name: str, names: list[str]) -> np.ndarray:
    """(units,) the activations of one of `WHOLE` at full strength."""
    out = np.zeros(len(names))
    for pattern, strength in WHOLE[name][1].items():
        for side in sides(pattern):
            out[names.index(side)] += strength
    return out


def draw(rng: np.random.Generator, names: list[str], peaks: np.ndarray, count: int) -> np.ndarray:
    """(count, units) activations, none negative. `peaks` (units,) is how far a unit moves a vertex, metres."""
    place = {name: k for k, name in enumerate(names)}
    mirrored = np.array([place[twin(name)] for name in names])
    left = np.array([side_sign(name) for name in names])
    out = np.zeros((count, len(names)))
    for name, (share, _) in WHOLE.items():
        strength = (rng.uniform(size=count) < share) * rng.beta(2.0, 1.3, count)
        uneven = 1 + LOPSIDED * rng.standard_normal(count)[:, None] * left
        out += strength[:, None] * np.maximum(uneven, 0) * full(name, names)
    for share, units in SIDED.values():
        strength = (rng.uniform(size=count) < share) * rng.beta(2.0, 1.3, count)
        one = np.zeros(len(names))
        for name, amount in units.items():
            one[place[name]] = amount
        right = rng.uniform(size=count) < 0.5
        out += strength[:, None] * np.where(right[:, None], one[mirrored], one)
    spread = np.minimum(ALONE, ALONE_PEAK / peaks)
    alone = rng.standard_normal((count, len(names)))
    both = (alone + alone[:, mirrored]) / np.sqrt(np.where(mirrored == np.arange(len(names)), 4.0, 2.0))
    mixed = np.sqrt(ALONE_SIDES) * both + np.sqrt(1 - ALONE_SIDES) * rng.standard_normal((count, len(names)))
    return np.minimum(out + spread * np.abs(mixed), 1.0)  # a unit that several expressions share is active once
