"""Procedural images: backgrounds of photos and textures of occluders. All are (S, S, 3) in [0, 1]."""

from __future__ import annotations

import colorsys

import numpy as np
from scipy import ndimage


def random_colour(
    rng: np.random.Generator, value: tuple[float, float] = (0.15, 0.95), saturation: float = 0.9
) -> np.ndarray:
    """Draw a random colour (3,) in a range of brightness and with at most the given saturation."""
    hue, chroma = rng.uniform(), saturation * rng.uniform() ** 1.3
    return np.array(colorsys.hsv_to_rgb(hue, chroma, rng.uniform(*value)))


def clouds(rng: np.random.Generator, size: int, coarse: float = 0.25, octaves: int = 4) -> np.ndarray:
    """Draw smooth noise (S, S) in [0, 1]; `coarse` is the size of its largest features, divided by S."""
    total = np.zeros((size, size))
    for k in range(octaves):
        cells = max(2, round(1 / (coarse * 0.5**k))) + 3
        fine = ndimage.zoom(rng.standard_normal((cells, cells)), size / (cells - 3), order=3, grid_mode=False)
        total += 0.55**k * fine[:size, :size]
    total -= total.min()
    return total / max(total.max(), 1e-9)


def background(rng: np.random.Generator, size: int) -> np.ndarray:
    """Draw a gradient, clouds, blurred blobs, stripes or a room with a window."""
    kind = rng.choice(["gradient", "clouds", "blobs", "stripes", "room"])
    base, accent = random_colour(rng, (0.1, 0.95), 0.7), random_colour(rng, (0.1, 0.95), 0.7)
    y, x = (np.mgrid[:size, :size] + 0.5) / size
    if kind == "gradient":
        angle = rng.uniform(0, 2 * np.pi)
        t = 0.5 + (x - 0.5) * np.cos(angle) + (y - 0.5) * np.sin(angle)
        image = _mix(np.clip(t, 0, 1), base, accent)
    elif kind == "clouds":
        image = _mix(clouds(rng, size, rng.uniform(0.15, 0.5)), base, accent)
    elif kind == "blobs":
        image = np.broadcast_to(base, (size, size, 3)).copy()
        for _ in range(rng.integers(6, 22)):
            centre, radius = rng.uniform(size=2), rng.uniform(0.03, 0.22)
            soft = 1 / (1 + np.exp((np.hypot(x - centre[0], y - centre[1]) - radius) / 0.012))
            image = image + (rng.uniform(0.3, 0.9) * soft)[..., None] * (random_colour(rng) - image)
    elif kind == "stripes":
        angle, number = rng.uniform(0, np.pi), rng.uniform(3, 14)
        wave = np.sin(2 * np.pi * number * (x * np.cos(angle) + y * np.sin(angle)) + rng.uniform(0, 6))
        image = _mix(1 / (1 + np.exp(-wave / rng.uniform(0.08, 0.6))), base, accent)
    else:
        horizon, side = rng.uniform(0.55, 0.95), rng.uniform(0.0, 0.5)
        image = _mix((y > horizon).astype(float), base, 0.6 * accent)
        inside = (np.abs(x - side) < 0.16) & (np.abs(y - 0.3) < 0.24)
        image = np.where(inside[..., None], random_colour(rng, (0.7, 1.0), 0.3), image)
        image = ndimage.gaussian_filter(image, (size * 0.015, size * 0.015, 0))
    image = image * (1 + 0.05 * (clouds(rng, size, 0.3) - 0.5))[..., None]
    return np.clip(image, 0, 1)


def cloth(rng: np.random.Generator, size: int) -> np.ndarray:
    """Draw plain, striped, checked, dotted, flowered or mottled cloth."""
    kind = rng.choice(["plain", "stripes", "checks", "dots", "flowers", "clouds"])
    base, accent = random_colour(rng), random_colour(rng)
    y, x = (np.mgrid[:size, :size] + 0.5) / size
    image = np.broadcast_to(base, (size, size, 3)).copy()
    if kind == "stripes":
        angle, number = rng.choice([0.0, np.pi / 2, np.pi / 4]), rng.integers(5, 18)
        wave = np.sin(2 * np.pi * number * (x * np.cos(angle) + y * np.sin(angle)))
        image = _mix((wave > 0).astype(float), base, accent)
    elif kind == "checks":
        number = rng.integers(4, 14)
        image = _mix(0.5 * ((x * number % 1 < 0.5) + 1.0 * (y * number % 1 < 0.5)), base, accent)
    elif kind == "dots":
        number = rng.integers(5, 14)
        shifted = x * number + 0.5 * (np.floor(y * number) % 2)
        image = _mix((np.hypot(shifted % 1 - 0.5, y * number % 1 - 0.5) < 0.28).astype(float), base, accent)
    elif kind == "flowers":
        for _ in range(rng.integers(12, 40)):
            centre, radius, petals = rng.uniform(size=2), rng.uniform(0.03, 0.09), rng.integers(4, 8)
            r, angle = np.hypot(x - centre[0], y - centre[1]), np.arctan2(y - centre[1], x - centre[0])
            petal = r < radius * (0.65 + 0.35 * np.cos(petals * angle + rng.uniform(0, 6)))
            image[petal] = random_colour(rng, (0.4, 1.0))
            image[r < 0.25 * radius] = (0.95, 0.8, 0.2)
    elif kind == "clouds":
        image = _mix(np.round(3 * clouds(rng, size, 0.2)) / 3, base, accent)
    return np.clip(_add_weave(rng, image), 0, 1)


def surgical(rng: np.random.Generator, size: int) -> np.ndarray:
    """Draw the pleated fleece of a surgical mask."""
    tints = [(0.62, 0.80, 0.90), (0.66, 0.86, 0.83), (0.93, 0.94, 0.95), (0.90, 0.78, 0.82), (0.16, 0.17, 0.19)]
    image = np.broadcast_to(np.asarray(tints[rng.integers(len(tints))]), (size, size, 3)).copy()
    y = (np.arange(size) + 0.5) / size
    for fold in (0.30, 0.48, 0.66):
        shadow, rise = np.exp(-(((y - fold) / 0.008) ** 2)), np.exp(-(((y - fold + 0.025) / 0.02) ** 2))
        image *= (1 - 0.22 * shadow + 0.04 * rise)[:, None, None]
    return np.clip(_add_weave(rng, image), 0, 1)


def cover(rng: np.random.Generator, size: int) -> np.ndarray:
    """Draw the printed cover of a book or packet: coloured fields, a round sign, lines like text."""
    base = random_colour(rng)
    image = np.broadcast_to(base, (size, size, 3)).copy()
    y, x = (np.mgrid[:size, :size] + 0.5) / size
    for _ in range(rng.integers(1, 5)):
        low, span = rng.uniform(0, 0.7, 2), rng.uniform(0.15, 0.6, 2)
        image[(x > low[0]) & (x < low[0] + span[0]) & (y > low[1]) & (y < low[1] + span[1])] = random_colour(rng)
    centre = rng.uniform(0.3, 0.7, 2)
    image[np.hypot(x - centre[0], y - centre[1]) < rng.uniform(0.08, 0.25)] = random_colour(rng, (0.5, 1.0))
    ink, top = random_colour(rng, (0.0, 0.3)), rng.uniform(0.05, 0.6)
    for line in range(rng.integers(2, 9)):
        row = top + 0.045 * line
        gaps = np.repeat(rng.uniform(size=size // 8 + 1) > 0.25, 8)[:size]
        image[(np.abs(y - row) < 0.012) & (x > 0.1) & (x < rng.uniform(0.6, 0.92)) & gaps[None]] = ink
    return np.clip(image, 0, 1)


def _mix(share: np.ndarray, base: np.ndarray, accent: np.ndarray) -> np.ndarray:
    return base + share[..., None] * (accent - base)


def _add_weave(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """Add threads and slightly uneven dye."""
    size = len(image)
    thread = 0.5 * (ndimage.gaussian_filter1d(rng.standard_normal((size, size)), 2, axis=0)
                    + ndimage.gaussian_filter1d(rng.standard_normal((size, size)), 2, axis=1))  # fmt: skip
    return image * (1 + 0.05 * thread + 0.06 * (clouds(rng, size) - 0.5))[..., None]
