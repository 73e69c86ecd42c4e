"""Objects held in front of a face: balls, packets, cups, bottles, books, telephones, microphones, tins. Metres."""

from __future__ import annotations

import numpy as np
from scipy.spatial.transform import Rotation

from experiments.datasets.open_faces.patterns import cloth, cover, random_colour
from experiments.datasets.open_faces.solids import Solid, ball, box, join, lathe, tube
from experiments.datasets.open_faces.wearables import Occluder

KINDS = ("ball", "packet", "cup", "bottle", "book", "telephone", "microphone", "tin")


def random_object(rng: np.random.Generator) -> Occluder:
    """Draw a random object, upright and centred at the origin."""
    kind, size = str(rng.choice(KINDS)), 256
    texture, gloss = np.ones((4, 4, 3)), 0.2
    solid: Solid
    if kind == "ball":
        solid, texture = ball(rng.uniform(0.03, 0.055)), cloth(rng, size)
    elif kind == "packet":
        solid, texture = box(rng.uniform([0.06, 0.08, 0.03], [0.11, 0.14, 0.06])), cover(rng, size)
    elif kind == "cup":
        solid, texture = _cup(rng), cloth(rng, size)
    elif kind == "bottle":
        radius, height = rng.uniform(0.028, 0.04), rng.uniform(0.16, 0.22)
        bell = np.linspace(0, 1, 8)
        neck = np.stack([radius * (1 - 0.62 * np.sin(bell * np.pi / 2) ** 2), 0.55 * height + 0.2 * height * bell], 1)
        top = [0.38 * radius, height]
        profile = [[0, 0], [radius, 0], [radius, 0], *neck, top, top, [0, height]]
        solid, texture, gloss = lathe(np.array(profile) - [0, height / 2]), cover(rng, size), 0.45
    elif kind == "book":
        solid, texture, gloss = box(rng.uniform([0.10, 0.14, 0.012], [0.14, 0.19, 0.035])), cover(rng, size), 0.1
    elif kind == "telephone":
        case = box([0.072, 0.148, 0.009]).painted(random_colour(rng, (0.03, 0.5)))
        eye = lathe(np.array([[0, 0], [0.006, 0], [0.006, 0], [0.006, 0.002], [0.006, 0.002], [0, 0.002]]))
        tilt = Rotation.from_euler("x", 90, degrees=True).as_matrix()
        lenses = [eye.moved(tilt, np.array([-0.022, y, 0.0045])).painted([0.02] * 3) for y in (0.06, 0.042)]
        solid, gloss = join([case, *lenses]), 0.5
    elif kind == "microphone":
        grip = lathe(np.array([[0, -0.17], [0.011, -0.17], [0.011, -0.17], [0.017, -0.03], [0.017, -0.03], [0, -0.03]]))
        solid = join([ball(0.027).painted([0.28] * 3), grip.painted([0.06] * 3)])
    else:
        radius, height = rng.uniform(0.028, 0.045), rng.uniform(0.08, 0.13)
        edge = [[0, 0], [0.9 * radius, 0], [0.9 * radius, 0], [radius, 0.006], [radius, height - 0.006]]
        lid = [[0.9 * radius, height], [0.9 * radius, height], [0, height]]
        solid, texture, gloss = lathe(np.array(edge + lid) - [0, height / 2]), cover(rng, size), 0.4
    rotation = Rotation.from_euler("zyx", [rng.normal(0, 25), rng.uniform(-60, 60), rng.normal(0, 18)], degrees=True)
    solid = solid.moved(rotation.as_matrix(), np.zeros(3))
    return Occluder(solid, len(solid.faces), 1.0, texture, gloss)


def _cup(rng: np.random.Generator) -> Solid:
    radius, height = rng.uniform(0.036, 0.045), rng.uniform(0.08, 0.11)
    low, wall = radius * rng.uniform(0.75, 1.0), 0.003
    profile = [[0, 0], [low, 0], [low, 0], [radius, height], [radius, height], [radius - wall, height],
               [radius - wall, height], [low - wall, wall], [low - wall, wall], [0, wall]]  # fmt: skip
    angle = np.linspace(-0.5 * np.pi, 0.5 * np.pi, 14)
    ring = np.stack([0.5 * (radius + low) + 0.026 * np.cos(angle), height / 2 + 0.028 * np.sin(angle), 0 * angle], 1)
    ring[[0, -1], 0] -= 0.008
    rotation = Rotation.from_euler("y", rng.uniform(-150, 30), degrees=True).as_matrix()
    return join([lathe(np.array(profile)), tube(ring, 0.0045, 8)]).moved(rotation, np.array([0, -height / 2, 0]))
