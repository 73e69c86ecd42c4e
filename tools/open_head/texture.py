"""Synthetic skin: PCA of random people painted on the mean head with a melanin x haemoglobin colour model.

No photograph is used. Colours are display (sRGB) values; the basis is linear in them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from experiments.datasets.open_people.geometry import Head
from experiments.datasets.open_people.sources import MakeHumanSource
from tools.open_head.layout import TexelCoverage
from tools.open_head.regions import sample_painted
from tools.open_head.surface import MeanHeadSurface

SIZE = 256
# absorbance per unit pigment for R, G, B, and the reflectance of pigment-free skin (linear light). Ratios after the
# spectral slopes of eumelanin (steep towards blue) and blood (green and blue, hardly red).
MELANIN = np.array([0.62, 0.80, 0.98])
BLOOD = np.array([0.12, 0.62, 0.50])
PIGMENT_FREE = np.array([0.80, 0.66, 0.54])
# CIE lightness of cheeks: two standard deviations reach from very dark to very fair skin (about 28 to 78). It is drawn
# instead of melanin because the basis is linear in display values, which are nearly linear in lightness.
LIGHTNESS, LIGHTNESS_STD = 54.0, 13.0


@dataclass(frozen=True)
class AlbedoConfig:
    """Configuration of `build_albedo`."""

    people: int = 300
    components: int = 24
    seed: int = 77


def to_display(linear: np.ndarray) -> np.ndarray:
    """Convert linear light to sRGB."""
    linear = np.clip(linear, 0, 1)
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def to_linear(display: np.ndarray) -> np.ndarray:
    return np.where(display <= 0.04045, display / 12.92, ((display + 0.055) / 1.055) ** 2.4)


def _step(x: np.ndarray, low: float, high: float) -> np.ndarray:
    """Smooth step from 0 at `low` to 1 at `high`."""
    t = np.clip((x - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def _bump(p: np.ndarray, centre, radii) -> np.ndarray:
    """Gaussian bump in space, mirrored in x."""
    q = (np.stack([np.abs(p[:, 0]), p[:, 1], p[:, 2]], 1) - centre) / radii
    return np.exp(-0.5 * (q**2).sum(1))


def noise(rng: np.random.Generator, p: np.ndarray, length: float, waves: int = 12) -> np.ndarray:
    """Draw smooth unit-variance noise at points p (m,3) with the given feature length in metres."""
    k = rng.standard_normal((waves, 3)) / length
    phase = rng.uniform(0, 2 * np.pi, waves)
    total = np.zeros(len(p), np.float32)
    for i in range(waves):
        total += np.cos((p @ k[i] + phase[i]).astype(np.float32))
    return total * np.sqrt(2 / waves).astype(np.float32)


@dataclass
class SkinMaps:
    """Fixed maps of the skin's features at the m covered texels: (m,), in [0, 1] unless stated otherwise."""

    p: np.ndarray  # (m,3) position
    eye: np.ndarray  # on an eyeball
    mouth: np.ndarray
    socket: np.ndarray
    lips: np.ndarray
    crease: np.ndarray  # between the lips and in the corners of the mouth, which are dark
    brow: np.ndarray
    lash: np.ndarray
    lid: np.ndarray
    under_eye: np.ndarray
    cheek: np.ndarray
    nose: np.ndarray
    ears: np.ndarray
    beard: np.ndarray
    scalp: np.ndarray
    neck: np.ndarray
    nostril: np.ndarray
    iris_angle: np.ndarray  # radians from the forward axis of the eyeball
    iris_streak: np.ndarray


def paint_maps(
    source: MakeHumanSource, head: Head, surface: MeanHeadSurface, texels: TexelCoverage, measures: dict, limit: dict
) -> SkinMaps:
    """Compute the maps of the skin's features on the mean head."""
    v = surface.vertices
    p = texels.interpolate(v, head.faces)
    x, y, z = np.abs(p[:, 0]), p[:, 1], p[:, 2]
    uv = texels.interpolate(head.uv, head.uv_faces)  # MakeHuman's own UV, to look up its painted masks
    island, part = surface.island[texels.face], head.part[head.faces[texels.face, 0]]
    skin = island == surface.skin_island
    rng = np.random.default_rng(5)
    eye_y, sub_y = measures["eye_y"], measures["subnasale_y"]
    lip_ring = v[measures["lip_ring"]]
    mouth_y, mouth_x = lip_ring[:, 1].mean(), lip_ring[:, 0].max()

    def painted(name):
        return sample_painted(source, name, uv) * skin

    # brows: distance to the landmark curve, lying a little below the annotated upper edge, with hair-like streaks
    curve = measures["brow"] - [0.0, 0.0010]
    s = np.linspace(0, 1, 80)
    knots = np.linspace(0, 1, len(curve))
    line = np.stack([np.interp(s, knots, curve[:, k]) for k in (0, 1)], 1)
    for _ in range(6):
        line[1:-1] = (line[:-2] + line[1:-1] * 2 + line[2:]) / 4
    d = np.hypot(x[:, None] - line[None, :, 0], y[:, None] - line[None, :, 1])
    near = d.argmin(1)
    distance, along = d[np.arange(len(d)), near], s[near]
    half = 0.0035 * (0.75 + 0.5 * np.sin(np.pi * np.clip(along + 0.12, 0, 1))) * (1 - 0.72 * _step(along, 0.55, 1.0))
    streaks = 0.86 + 0.07 * noise(rng, np.stack([x * 1.0 + y * 0.6, y * 0.5, z * 0], 1), 0.0009)
    frontal = skin & (z > limit["ear_z"] + 0.02)
    brow = (1 - _step(distance, 0.25 * half, 1.45 * half)) * np.clip(streaks, 0.3, 1) * frontal
    lids = np.concatenate([v[measures["lids"][k]] for k in ("left", "right")])
    gap = np.full(len(p), 1.0)
    close = frontal & (np.abs(y - eye_y) < 0.02)
    gap[close] = np.sqrt(((p[close, None] - lids[None]) ** 2).sum(2)).min(1)
    upper = _step(y, eye_y - 0.002, eye_y + 0.002)
    seam = np.full(len(p), 1.0)
    close = skin & (np.abs(y - mouth_y) < 0.01) & (x < mouth_x + 0.01)
    seam[close] = np.sqrt(((p[close, None] - lip_ring[None]) ** 2).sum(2)).min(1)
    lips = np.maximum(_step(painted("lips"), 0.15, 0.85), (1 - _step(seam, 0.0010, 0.0030)) * skin)
    ends = lip_ring[[lip_ring[:, 0].argmin(), lip_ring[:, 0].argmax()]]
    corner_gap = np.sqrt(((p[:, None] - ends[None]) ** 2).sum(2)).min(1)
    crease = np.maximum(1 - _step(seam, 0.0002, 0.0013), 0.9 * np.exp(-((corner_gap / 0.0030) ** 2))) * skin
    lash = (1 - _step(gap, 0.0004, 0.0017)) * (0.30 + 0.70 * upper)
    eye_x = np.abs(lids[:, 0]).mean()
    at = lambda dx, dy: np.array([eye_x + dx, eye_y + dy, lids[:, 2].mean()])  # noqa: E731
    lid = _bump(p, at(0, 0.004), [0.013, 0.006, 0.02]) * frontal
    under_eye = _bump(p, at(-0.004, -0.012), [0.011, 0.004, 0.02]) * frontal
    cheek_y = (eye_y + mouth_y) / 2 - 0.004
    cheek = _bump(p, [0.040, cheek_y, limit["menton_z"] - 0.015], [0.016, 0.017, 0.03]) * frontal
    tip = surface.frontmost_point(0.0, measures["tip_y"])[2]
    nose = _bump(p, [0.004, tip[1], tip[2]], [0.012, 0.010, 0.022]) * frontal
    # beard: below a line from ear to moustache, not on the lips, fading on the neck
    corner = mouth_x + 0.010
    heights = [sub_y, sub_y - 0.001, mouth_y + 0.004, mouth_y + 0.010, eye_y]
    line_y = np.interp(x, [0, 0.02, corner, 0.06, 0.085], heights)
    beard = _step(line_y - y, -0.004, 0.010) * _step(y, limit["menton_y"] - 0.045, limit["menton_y"] + 0.004)
    beard *= _step(z, limit["ear_z"] - 0.002, limit["ear_z"] + 0.012) * ((island == surface.neck_island) | skin)
    ears = painted("ears")
    beard *= 1 - _step(ears, 0.1, 0.6)
    # a smooth union of a flat arch over the forehead and of the temples down to the ear: no corner where they meet
    above = (y - (eye_y + 0.075 - 0.034 * (x / 0.062) ** 4)) / 0.020
    low = eye_y - 0.010 - 0.55 * (limit["ear_z"] - z)
    behind = -0.35 * np.logaddexp(-(limit["ear_z"] + 0.026 - z) / 0.014 / 0.35, -(y - low) / 0.020 / 0.35)
    scalp = _step(0.5 * np.logaddexp(above / 0.5, behind / 0.5), -0.7, 1.3)
    scalp *= skin * (1 - _step(ears, 0.05, 0.4)) + (island == surface.neck_island) * 1.0
    neck = _step(limit["menton_y"] - 0.012 - y, 0.0, 0.03)
    nostril = np.exp(-0.5 * (((x - 0.0085) / 0.0042) ** 2 + ((y - sub_y - 0.0035) / 0.0026) ** 2))
    nostril *= frontal * _step(tip[2] - z, 0.006, 0.012)
    angle = np.full(len(p), np.pi)
    streak = np.zeros(len(p))
    for k in (1, 2):
        on = part == k
        r = p[on] - v[head.part == k].mean(0)
        r /= np.linalg.norm(r, axis=1, keepdims=True)
        angle[on] = np.arccos(np.clip(r[:, 2], -1, 1))
        turn = np.arctan2(r[:, 1], r[:, 0])
        streak[on] = 0.5 * np.sin(23 * turn + 2 * np.sin(5 * turn)) + 0.5 * np.sin(37 * turn + 1)
    return SkinMaps(
        p=p, eye=part > 0, mouth=island == surface.mouth_island, socket=np.isin(island, surface.socket_islands),
        lips=lips, crease=crease, brow=brow, lash=lash, lid=lid, under_eye=under_eye, cheek=cheek,
        nose=nose, ears=_step(ears, 0.2, 0.8), beard=beard, scalp=scalp, neck=neck, nostril=nostril, iris_angle=angle,
        iris_streak=streak,
    )  # fmt: skip


NOISE_LENGTHS = (0.030, 0.012, 0.005, 0.014)  # metres
BANK = 24  # number of noise fields per length, which people's noise is mixed from


def noise_bank(rng: np.random.Generator, p: np.ndarray) -> list[np.ndarray]:
    """Draw (BANK, m) noise fields per length; a normal mixture of them costs far less than new noise per person."""
    return [np.stack([noise(rng, p, length) for _ in range(BANK)]) for length in NOISE_LENGTHS]


def melanin_of(lightness: float) -> float:
    """Return the melanin that gives skin of average blood content a CIE lightness."""
    luminance = ((max(lightness, 25.0) + 16) / 116) ** 3
    clear = float((PIGMENT_FREE * np.exp(-0.37 * BLOOD))[1])  # green stands for luminance
    return float(np.clip(np.log(clear / luminance) / MELANIN[1], 0.05, 3.2))


IRIS_RADIUS = 0.0057  # metres on the ball


def paint(rng: np.random.Generator, m: SkinMaps, bank: list[np.ndarray], ball_radius: float) -> np.ndarray:
    """Paint one random person: display colours (m,3) float32."""
    male = rng.uniform() < 0.5
    lightness = LIGHTNESS + LIGHTNESS_STD * float(np.clip(rng.standard_normal(), -2.1, 2.1))
    blood = float(np.clip(0.37 + 0.10 * rng.standard_normal(), 0.15, 0.8))
    tone = melanin_of(lightness)
    dark = float(np.clip((tone - 0.35) / 0.9, 0, 1))
    n = len(m.p)
    melanin = np.full(n, tone, np.float32)
    haemo = np.full(n, blood, np.float32)
    soft = [(rng.standard_normal(BANK).astype(np.float32) / np.sqrt(np.float32(BANK))) @ fields for fields in bank]
    melanin += tone / (0.7 + tone) * (0.045 * soft[0] + 0.03 * soft[1] + 0.025 * soft[2])
    haemo *= 1 + 0.10 * soft[3] + 0.05 * soft[1]
    g = rng.standard_normal(12)
    haemo += m.cheek * (0.11 + 0.07 * g[0]) + m.nose * (0.10 + 0.05 * g[1]) + m.ears * (0.12 + 0.05 * g[2])
    haemo += m.lid * (0.05 + 0.04 * g[3]) + m.under_eye * (0.05 + 0.04 * g[4])
    melanin += m.under_eye * (0.04 + 0.05 * g[5]) * (0.5 + 0.5 * tone) + m.lid * 0.04 * (1 + g[6])
    lip_blood = 0.42 + 0.18 * g[7] + (0.0 if male else 0.12)
    haemo += m.lips * lip_blood
    melanin += m.lips * (0.06 + 0.10 * dark)
    melanin += m.neck * 0.03
    colour = to_display(PIGMENT_FREE * np.exp(-melanin[:, None] * MELANIN - haemo[:, None] * BLOOD)).astype(np.float32)
    # hair: black to fair, correlated with the skin's melanin
    fair = float(np.clip(0.30 * (1 - dark) * (1 + 0.9 * rng.standard_normal()), 0, 1))
    hair = np.array([0.13, 0.095, 0.08]) * (1 - fair) + np.array([0.50, 0.38, 0.25]) * fair

    def cover(amount, tint):
        nonlocal colour
        colour = colour + amount[:, None] * (np.asarray(tint) - colour)

    cover(m.beard * (np.clip(0.20 + 0.14 * g[8], 0, 0.6) if male else 0.0) * (1 + 0.2 * soft[2]), hair * 0.7 + 0.12)
    cover(m.scalp * np.clip(0.58 + 0.17 * g[9], 0.05, 0.92) * (1 + 0.015 * soft[2]), hair)
    cover(m.brow * np.clip(0.68 + 0.16 * g[10], 0.2, 0.98), hair)
    cover(m.lash * 0.62, [0.10, 0.07, 0.06])
    cover(m.crease * 0.62, [0.17, 0.075, 0.065])
    cover(m.nostril * 0.45, [0.22, 0.10, 0.08])
    # cavities
    colour[m.mouth] = np.array([0.36, 0.15, 0.14]) + 0.02 * soft[1][m.mouth, None]
    colour[m.socket] = colour[m.socket] * 0.55 + np.array([0.10, 0.02, 0.02])
    # eyes
    on = m.eye
    radius = m.iris_angle[on] * ball_radius
    sclera = np.array([0.80, 0.765, 0.735]) - _step(radius, 0.006, 0.016)[:, None] * [0.07, 0.13, 0.13]
    blue = float(np.clip((1 - dark) * 0.35 * (1 + rng.standard_normal()), 0, 1))
    iris = np.array([0.27, 0.16, 0.09]) * (1 - blue) + np.array([0.36, 0.47, 0.55]) * blue
    iris = iris * (1 + 0.10 * m.iris_streak[on, None]) * (1.15 - 0.45 * _step(radius, 0.0042, IRIS_RADIUS))[:, None]
    inside = 1 - _step(radius, IRIS_RADIUS - 0.0005, IRIS_RADIUS + 0.0006)
    pupil = 1 - _step(radius, 0.0018, 0.0026)
    ball = sclera + inside[:, None] * (iris - sclera)
    colour[on] = ball + pupil[:, None] * (np.array([0.035, 0.03, 0.03]) - ball)
    return np.clip(colour, 0, 1).astype(np.float32)


def build_albedo(
    maps: SkinMaps, fine: TexelCoverage, ball_radius: float, config: AlbedoConfig = AlbedoConfig()
) -> dict:
    """Return `mean` uint8 (256,256,3), `basis` int8 (C,256,256,3), `scale` float32 (C,), share of variance explained.

    People are painted at the resolution of `fine` (a multiple of 256) and downsampled.
    """
    rng = np.random.default_rng(config.seed)
    factor = fine.inside.shape[0] // SIZE
    people = np.zeros((config.people, SIZE * SIZE * 3), np.float32)
    bank = noise_bank(rng, maps.p)
    for k in range(config.people):
        image = fine.image(paint(rng, maps, bank, ball_radius))
        people[k] = image.reshape(SIZE, factor, SIZE, factor, 3).mean((1, 3)).reshape(-1)
    mean = people.mean(0, dtype=np.float64)
    people -= mean.astype(np.float32)
    values, vectors = np.linalg.eigh((people @ people.T).astype(np.float64) / (config.people - 1))
    values, vectors = values[::-1], vectors[:, ::-1]
    basis = (vectors[:, : config.components].T.astype(np.float32) @ people) / np.sqrt(config.people - 1)
    scale = np.abs(basis).max(1)
    sign = np.sign(np.take_along_axis(basis, np.abs(basis).argmax(1)[:, None], 1))
    quantised = np.rint(basis * sign / scale[:, None] * 127).astype(np.int8)
    return {
        "mean": np.rint(mean * 255).clip(0, 255).astype(np.uint8).reshape(SIZE, SIZE, 3),
        "basis": quantised.reshape(config.components, SIZE, SIZE, 3),
        "scale": scale.astype(np.float32),
        "variance_kept": float(values[: config.components].sum() / values.sum()),
    }
