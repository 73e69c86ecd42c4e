"""Twelve expressions like CoMA's, as random non-negative activations of the CC0 face units and a jaw rotation."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from experiments.datasets.open_people.activations import (
    SIDE_ASYMMETRY,
    UNIT_NOISE,
    UNIT_NOISE_PEAK,
    mirrored_name,
    side_sign,
    sides,
)

Muscles = Mapping[str, np.ndarray]
"""Activations (2,) on the subject's left and right, by name."""
MUSCLES = ("smile", "brow", "frown", "squint", "pucker", "down", "hollow", "open")
HOLLOW = "cheeks hollow"
"""An additional activation that sucks the cheeks in, which no face unit does: see `details`."""

# expression -> (jaw opening in degrees, face units), both at full strength; `*` stands for both sides, `<` for one
# random side.
KINDS: dict[str, tuple[float, dict[str, float]]] = {
    "bareteeth": (4.0, {"mouthUpperUp*": 0.8, "mouthLowerDown*": 0.8, "mouthStretch*": 0.5, "noseSneer*": 0.4,
                        "cheekSquint*": 0.3}),
    "cheeks_in": (0.0, {HOLLOW: 1.0, "mouthPucker": 0.55, "unit-mouth-compression": 0.2}),
    "eyebrow": (0.0, {"browInnerUp": 0.8, "browOuterUp*": 0.8, "eyeWide*": 0.4, "unit-eyebrows-*-up": 0.4}),
    "high_smile": (2.0, {"mouthSmile*": 0.9, "cheekSquint*": 0.6, "eyeSquint*": 0.4, "mouthUpperUp*": 0.4,
                         "mouthDimple*": 0.2}),
    "lips_back": (0.0, {"mouthStretch*": 0.8, "mouthDimple*": 0.5, "mouthPress*": 0.4, "unit-neck-platysma": 0.3}),
    "lips_up": (0.0, {"mouthShrugUpper": 0.8, "mouthShrugLower": 0.5, "noseSneer*": 0.3, "mouthPucker": 0.25}),
    "mouth_down": (0.0, {"mouthFrown*": 0.9, "mouthShrugLower": 0.4, "unit-mouth-depression": 0.3,
                         "browDown*": 0.3}),
    "mouth_extreme": (19.0, {"mouthStretch*": 0.6, "mouthUpperUp*": 0.5, "mouthLowerDown*": 0.5, "noseSneer*": 0.4,
                             "eyeSquint*": 0.4, "browDown*": 0.3}),
    "mouth_middle": (8.0, {"mouthFunnel": 0.7, "mouthPucker": 0.2}),
    "mouth_open": (17.0, {"browInnerUp": 0.3, "browOuterUp*": 0.3}),
    "mouth_side": (0.0, {"mouth<": 0.75, "jaw<": 0.6, "mouthDimple<": 0.2}),
    "mouth_up": (0.0, {"mouthPucker": 0.7, "mouthShrugUpper": 0.5, "noseSneer*": 0.4, "browDown*": 0.2,
                       "cheekSquint*": 0.3}),
}  # fmt: skip
EXPRESSIONS = tuple(KINDS)
JAW_SIDEWAYS = 6.0
"""Rotation of the jaw about +y in degrees at the full strength of `mouth_side`."""


def draw_activation(
    rng: np.random.Generator, expression: int, names: tuple[str, ...], peaks: np.ndarray
) -> tuple[np.ndarray, float, np.ndarray]:
    """Draw one person's activation of an expression.

    Args:
      names: (U,) the face units; peaks: (U,) largest displacement of each at full strength, metres.

    Returns:
      (U,) activations in [0, 1]; activation of `HOLLOW`; the jaw's axis-angle (3,), radians.
    """
    opening, parts = KINDS[EXPRESSIONS[expression]]
    strength, asymmetry = rng.uniform(0.55, 1.0), SIDE_ASYMMETRY * rng.standard_normal()
    to_left = rng.uniform() < 0.5
    activation, hollow = np.zeros(len(names)), 0.0
    for pattern, amount in parts.items():
        if pattern == HOLLOW:
            hollow = strength * amount
            continue
        for name in _sides(pattern, to_left):
            factor = 1 + asymmetry * side_sign(name) if "*" in pattern else 1.0
            activation[names.index(name)] += strength * amount * max(factor, 0.0)
    # Add independent noise to every unit, as in the open head's own expressions.
    activation += np.minimum(UNIT_NOISE, UNIT_NOISE_PEAK / peaks) * np.abs(rng.standard_normal(len(names)))
    jaw = np.array([opening * strength * rng.uniform(0.85, 1.1) + abs(rng.normal(0, 0.5)), rng.normal(0, 0.6), 0.0])
    if EXPRESSIONS[expression] == "mouth_side":
        jaw[1] += JAW_SIDEWAYS * strength * (1 if to_left else -1)
    return np.minimum(activation, 1.0), hollow, np.deg2rad(jaw)


def muscle_activations(activation: np.ndarray, hollow: float, jaw: np.ndarray, names: tuple[str, ...]) -> Muscles:
    """Compute the activations that drive wrinkles and folds: (2,), about [0, 1.5], on the subject's left and right."""

    def combine(weights: Mapping[str, float]) -> np.ndarray:
        total = np.zeros(2)
        for pattern, weight in weights.items():
            left = pattern.replace("*", "Left")
            for k, name in enumerate((left, mirrored_name(left))):
                total[k] += weight * activation[names.index(name)]
        return total

    return {
        "smile": combine({"mouthSmile*": 1.0, "unit-mouth-corner-puller": 0.7, "mouthUpperUp*": 0.5, "noseSneer*": 0.5,
                       "mouthDimple*": 0.3, "mouthStretch*": 0.3}),
        "brow": combine({"browInnerUp": 0.5, "browOuterUp*": 0.6}),
        "frown": combine({"browDown*": 1.0, "noseSneer*": 0.5}),
        "squint": combine({"eyeSquint*": 0.7, "cheekSquint*": 0.6}),
        "pucker": combine({"mouthPucker": 1.0, "mouthFunnel": 0.7}),
        "down": combine({"mouthFrown*": 0.8, "mouthShrugLower": 0.7}),
        "hollow": np.full(2, hollow),
        "open": np.full(2, jaw[0] / np.deg2rad(20.0)),
    }  # fmt: skip


def _sides(pattern: str, to_left: bool) -> tuple[str, ...]:
    return (pattern.replace("<", "Left" if to_left else "Right"),) if "<" in pattern else sides(pattern)
