"""Draw random activations of the face units: non-negative, mostly symmetric, in combinations that people use.

The combinations come from observation, not from data. Smiles narrow the eyes and lift the cheeks, brows rise together
with lids, and one side is a little stronger than the other. Units are at rest or active, never negative.
"""

from __future__ import annotations

import numpy as np

from experiments.datasets.open_people.activations import (
    SIDE_ASYMMETRY,
    UNIT_NOISE,
    UNIT_NOISE_PEAK,
    mirrored_name,
    side_sign,
    sides,
)

SIDES_CORRELATION = 0.9
"""Share of the variance of a unit's individual activation that both sides have in common."""
# expression -> (share of faces that have it, activations at full strength); `*` stands for both sides
EXPRESSIONS: dict[str, tuple[float, dict[str, float]]] = {
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
SIDED: dict[str, tuple[float, dict[str, float]]] = {  # given for the left; left or right is drawn at random
    "half smile": (0.10, {"mouthSmileLeft": 0.6, "cheekSquintLeft": 0.3, "mouthDimpleLeft": 0.4}),
    "one brow": (0.10, {"browOuterUpLeft": 0.8, "unit-eyebrows-left-up": 0.4}),
    "half sneer": (0.06, {"noseSneerLeft": 0.6, "mouthUpperUpLeft": 0.6}),
    "half squint": (0.08, {"eyeSquintLeft": 0.6, "cheekSquintLeft": 0.6}),
    "mouth aside": (0.14, {"mouthLeft": 0.6}),
    "jaw aside": (0.10, {"jawLeft": 0.6}),
}


def full_activations(name: str, names: list[str]) -> np.ndarray:
    """Return the activations (units,) of one of `EXPRESSIONS` at full strength."""
    activations = np.zeros(len(names))
    for pattern, strength in EXPRESSIONS[name][1].items():
        for side in sides(pattern):
            activations[names.index(side)] += strength
    return activations


def draw_activations(rng: np.random.Generator, names: list[str], peaks: np.ndarray, count: int) -> np.ndarray:
    """Draw activations (count, units), none negative. `peaks` (units,): a unit's largest displacement, metres."""
    index = {name: k for k, name in enumerate(names)}
    mirrored = np.array([index[mirrored_name(name)] for name in names])
    left = np.array([side_sign(name) for name in names])
    activations = np.zeros((count, len(names)))
    for name, (share, _) in EXPRESSIONS.items():
        strength = (rng.uniform(size=count) < share) * rng.beta(2.0, 1.3, count)
        asymmetry = 1 + SIDE_ASYMMETRY * rng.standard_normal(count)[:, None] * left
        activations += strength[:, None] * np.maximum(asymmetry, 0) * full_activations(name, names)
    for share, units in SIDED.values():
        strength = (rng.uniform(size=count) < share) * rng.beta(2.0, 1.3, count)
        on_left = np.zeros(len(names))
        for name, amount in units.items():
            on_left[index[name]] = amount
        is_right = rng.uniform(size=count) < 0.5
        activations += strength[:, None] * np.where(is_right[:, None], on_left[mirrored], on_left)
    # In addition to the combinations, each unit has a small activation of its own.
    scale = np.minimum(UNIT_NOISE, UNIT_NOISE_PEAK / peaks)
    noise = rng.standard_normal((count, len(names)))
    symmetric = (noise + noise[:, mirrored]) / np.sqrt(np.where(mirrored == np.arange(len(names)), 4.0, 2.0))
    independent = rng.standard_normal((count, len(names)))
    individual = np.sqrt(SIDES_CORRELATION) * symmetric + np.sqrt(1 - SIDES_CORRELATION) * independent
    return np.minimum(activations + scale * np.abs(individual), 1.0)  # several expressions may use the same unit
