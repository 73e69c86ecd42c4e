"""Sample a random population of adults from MakeHuman's macro and local targets.

A person is base + macro blend (race x sex x age x muscle x weight, height and proportions) + local shape targets.
The targets' full ranges give caricatures, so each local target has sigma = min(0.22, budget / its peak displacement).
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass

import numpy as np

from experiments.datasets.open_people.calibrate import calibrate
from experiments.datasets.open_people.geometry import Head, neighbour_mean
from experiments.datasets.open_people.mouth import find_lips, gap_operator
from experiments.datasets.open_people.sources import MPFB, MakeHumanSource
from experiments.datasets.open_people.surface import MeshIslands
from experiments.datasets.open_people.warps import warp_fields

TARGETS = MPFB + "targets/"
LOCAL_FOLDERS = ("cheek", "chin", "ears", "eyebrows", "eyes", "forehead", "head", "mouth", "neck", "nose")
OPPOSITES = (
    ("decr", "incr"), ("down", "up"), ("backward", "forward"), ("in", "out"), ("concave", "convex"),
    ("compress", "uncompress"),
)  # fmt: skip
AGES = ("young", "old")  # adults only
RACES, SEXES = ("african", "asian", "caucasian"), ("female", "male")
LEVELS = ("min", "average", "max")


@dataclass(frozen=True)
class PopulationConfig:
    """Settings of the population; lengths in metres."""

    people: int = 2000  # mirrored copies are added, which makes components even or odd
    seed: int = 20240
    max_sigma: float = 0.22
    peak: float = 0.0020  # maximum displacement of a vertex by a one-sigma local target
    head_shape_factor: float = 0.6
    nose_factor: float = 0.75  # many strong targets at once make noses look sculpted; the survey sets their sizes
    asymmetry_peak: float = 0.0005
    side_correlation: float = 0.95
    old_mean: float = 0.30  # weight of "old" versus "young" (anny's age 0.78 +- 0.10 on a scale 0.67 young .. 1 old)
    old_std: float = 0.28
    size_factor: float = 0.55  # factor of the variation of log size
    male_mean: float = 0.80  # MakeHuman's `gender` of men; women have 1 minus that
    corner_lift: float = 0.0012  # raises the corners of the mouth, which droop in the blended adults
    survey: bool = True  # whether people are adjusted to the survey's measurements (`calibrate`)
    neck_damping: float = 0.15  # factor of the variation at the neck's border


def load_local(source: MakeHumanSource, head: Head) -> list[tuple[str, str, list[np.ndarray]]]:
    """Load local targets: (name, kind "local" | "head" | "asym", [negative, positive] or [positive] fields (V,3))."""
    names = {}
    for folder in LOCAL_FOLDERS:
        for path in source.names(f"{TARGETS}{folder}/", ".target.gz"):
            names[path.rsplit("/", 1)[1].removesuffix(".target.gz")] = (path, folder)
    groups = {}
    for name, (path, folder) in names.items():
        if re.match(r"(head|neck)-trans-", name):
            continue  # rigid motion, not shape
        stem, _, last = name.rpartition("-")
        for low, high in OPPOSITES:
            other = {low: high, high: low}.get(last)
            if other and f"{stem}-{other}" in names:
                slot = 0 if last == low else 1
                groups.setdefault((stem, low, folder), [None, None])[slot] = head.to_head(source.target(path))
                break
        else:
            groups[(name, "", folder)] = [head.to_head(source.target(path))]
    out = []
    for (stem, low, folder), fields in sorted(groups.items()):
        unsided = len(fields) == 1
        out.append((f"{stem}-{low}" if low else stem, "head" if folder == "head" and unsided else "local", fields))
    for path in source.names(TARGETS + "asym/asym-", "-l.target.gz"):
        pair = [head.to_head(source.target(p)) for p in (path, path.replace("-l.target", "-r.target"))]
        out.append((path.rsplit("/", 1)[1].removesuffix("-l.target.gz"), "asym", pair))
    return [g for g in out if max(np.abs(f).max() for f in g[2]) > 1e-6]


def load_macro(source: MakeHumanSource, head: Head) -> dict[tuple, np.ndarray]:
    """Load the macro targets of adults by key, each (V,3)."""
    out, folder = {}, TARGETS + "macrodetails/"
    for race, sex, age in itertools.product(RACES, SEXES, AGES):
        out[race, sex, age] = head.to_head(source.target(f"{folder}{race}-{sex}-{age}.target.gz"))
    for sex, age, muscle, weight in itertools.product(SEXES, AGES, LEVELS, LEVELS):
        body = f"{sex}-{age}-{muscle}muscle-{weight}weight"
        out[sex, age, muscle, weight] = head.to_head(source.target(f"{folder}universal-{body}.target.gz"))
        for kind in ("minheight", "maxheight"):
            out[sex, age, muscle, weight, kind] = head.to_head(source.target(f"{folder}height/{body}-{kind}.target.gz"))
        for kind in ("ideal", "uncommon"):
            path = f"{folder}proportions/{body}-{kind}proportions.target.gz"
            out[sex, age, muscle, weight, kind] = head.to_head(source.target(path))
    return out


def _levels(value: np.ndarray) -> dict[str, np.ndarray]:
    """Compute the weights of min/average/max for values in [0, 1]."""
    return {
        "min": np.clip(1 - 2 * value, 0, 1),
        "average": 1 - np.abs(2 * value - 1),
        "max": np.clip(2 * value - 1, 0, 1),
    }


def draw_macro(rng: np.random.Generator, n: int, config: PopulationConfig) -> tuple[dict[tuple, np.ndarray], dict]:
    """Sample macro target weights by key, each (n,), and attributes: `male` (n,) bool, `age` (n,) in [0, 1].

    Even indices are women, odd indices men.
    """
    race = rng.dirichlet(np.full(3, 1.2), n)
    male = np.arange(n) % 2  # half women, half men
    male = np.clip(np.where(male, config.male_mean, 1 - config.male_mean) + 0.12 * rng.standard_normal(n), 0, 1)
    old = np.clip(config.old_mean + config.old_std * rng.standard_normal(n), 0, 1)
    muscle = _levels(np.clip(0.5 + 0.13 * rng.standard_normal(n), 0, 1))
    weight = _levels(np.clip(0.5 + 0.13 * rng.standard_normal(n), 0, 1))
    height = np.clip(0.3 * rng.standard_normal(n), -1, 1)
    proportion = np.clip(0.25 + 0.3 * rng.standard_normal(n), -1, 1)
    sexes, ages = {"female": 1 - male, "male": male}, {"young": 1 - old, "old": old}
    out = {}
    for sex, age in itertools.product(SEXES, AGES):
        share = sexes[sex] * ages[age]
        for k, name in enumerate(RACES):
            out[name, sex, age] = share * race[:, k]
        for m, w in itertools.product(LEVELS, LEVELS):
            body = share * muscle[m] * weight[w]
            out[sex, age, m, w] = body
            out[sex, age, m, w, "minheight"] = body * np.maximum(-height, 0)
            out[sex, age, m, w, "maxheight"] = body * np.maximum(height, 0)
            out[sex, age, m, w, "ideal"] = body * np.maximum(proportion, 0)
            out[sex, age, m, w, "uncommon"] = body * np.maximum(-proportion, 0)
    return out, {"male": np.arange(n) % 2 == 1, "age": old}


def draw_local(
    rng: np.random.Generator, n: int, groups: list, config: PopulationConfig
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Sample terms (weights (n,), field (V,3)); pairs `l-*`/`r-*` are correlated."""
    latent, terms = {}, []
    rho = config.side_correlation
    for name, kind, fields in groups:
        peak = max(np.linalg.norm(f, axis=1).max() for f in fields)
        budget = config.asymmetry_peak if kind == "asym" else config.peak
        sigma = min(config.max_sigma, budget / peak) * (config.head_shape_factor if kind == "head" else 1.0)
        sigma *= config.nose_factor if name.startswith("nose-") else 1.0
        shared = name[2:] if name[:2] in ("l-", "r-") else None
        if shared is None:
            z = rng.standard_normal(n)
        else:
            if shared not in latent:
                latent[shared] = rng.standard_normal(n)
            z = np.sqrt(rho) * latent[shared] + np.sqrt(1 - rho) * rng.standard_normal(n)
        z = sigma * np.clip(z, -3, 3)
        if len(fields) == 1:
            terms.append((np.maximum(z, 0), fields[0]))
        else:
            terms += [(np.maximum(-z, 0), fields[0]), (np.maximum(z, 0), fields[1])]
    return terms


def population(source: MakeHumanSource, head: Head, config: PopulationConfig) -> tuple[np.ndarray, dict]:
    """Sample adults (n, V, 3) float32 in MakeHuman's body frame, not aligned; and their sex and age (`draw_macro`)."""
    rng = np.random.default_rng(config.seed)
    groups, macro = load_local(source, head), load_macro(source, head)
    weights, attributes = draw_macro(rng, config.people, config)
    terms = [(weights[k], macro[k]) for k in sorted(macro, key=str)] + draw_local(rng, config.people, groups, config)
    template = head.to_head(head.base["vertices"])
    terms += [(np.clip(rng.standard_normal(config.people), -3, 3), f) for f in warp_fields(template).values()]
    w = np.stack([t[0] for t in terms], 1).astype(np.float32)
    fields = np.stack([t[1].reshape(-1) for t in terms]).astype(np.float32)
    people = w @ fields
    people += template.reshape(1, -1).astype(np.float32)
    return people.reshape(config.people, -1, 3), attributes


def align(people: np.ndarray, weights: np.ndarray, size_factor: float, rounds: int = 3) -> np.ndarray:
    """Align people rigidly to their mean by vertex weights (V,); deviations of log size are scaled by `size_factor`."""
    w = (weights / weights.sum()).astype(np.float64)
    centre = np.einsum("v,nvd->nd", w, people.astype(np.float64))
    out = people - centre[:, None].astype(np.float32)
    size = np.sqrt(np.einsum("v,nvd->n", w, out.astype(np.float64) ** 2))
    scale = (size / np.exp(np.log(size).mean())) ** (size_factor - 1.0)
    out *= scale[:, None, None].astype(np.float32)
    for _ in range(rounds):
        mean = out.mean(0, dtype=np.float64)
        h = np.einsum("v,nvi,vj->nij", w, out.astype(np.float64), mean, optimize=True)
        u, _, vt = np.linalg.svd(h)
        sign = np.sign(np.linalg.det(u @ vt))
        u[:, :, 2] *= sign[:, None]
        out = np.einsum("nvi,nij->nvj", out, (u @ vt).astype(np.float32), optimize=True)
    return out


def calibrated_population(
    source: MakeHumanSource, head: Head, config: PopulationConfig, root_share: np.ndarray
) -> tuple[np.ndarray, dict]:
    """Sample aligned adults with closed lips and the survey's measurements.

    Returns the n people and their mirror images, (2 n, V, 3) float32 metres, and their sex and age (`draw_macro`).
    """
    people, attributes = population(source, head, config)
    template = head.to_head(head.base["vertices"])
    # the head is aligned without the neck and the inner parts
    border = template[head.neck_loop, 1].max()
    weights = np.clip((template[:, 1] - border - 0.03) / 0.03, 0.0, 1.0) * (head.part == 0) + 1e-6
    people = align(people, weights, config.size_factor)
    surface = MeshIslands(head, template)
    gap = gap_operator(head, surface, find_lips(surface))
    mirrored = people[:, head.mirror] * np.array([-1, 1, 1], np.float32)
    people = np.concatenate([people, mirrored])
    attributes = {name: np.concatenate([values, values]) for name, values in attributes.items()}
    variation = _variation_factor(root_share, head, config)
    mean = people.mean(0, dtype=np.float64)
    lift = head.to_head(source.target(TARGETS + "mouth/mouth-angles-up.target.gz"))
    lift *= config.corner_lift / np.abs(lift[:, 1]).max()
    people -= mean.astype(np.float32)
    people *= variation[None, :, None].astype(np.float32)
    people += (mean + lift).astype(np.float32)
    for _ in range(2 if config.survey else 0):  # closing the lips and calibration affect each other a little
        people[:, :, 1] -= (gap @ people[:, :, 1].T).T.astype(np.float32)
        calibrate(people, attributes["male"], attributes["age"], rounds=2)
    for _ in range(2):
        people[:, :, 1] -= (gap @ people[:, :, 1].T).T.astype(np.float32)
    return people, attributes


def _variation_factor(root_share: np.ndarray, head: Head, config: PopulationConfig) -> np.ndarray:
    """Returns variation factors (V,): 1 on the head, `neck_damping` where the root's skinning weight is large.

    Necks vary far more than can be seen in a photo of a face, and they contain the root joint.
    """
    step = neighbour_mean(head.faces, len(head.part))
    for _ in range(4):
        root_share = 0.5 * root_share + 0.5 * (step @ root_share)
    t = np.clip(1 - root_share / 0.55, 0, 1)
    return config.neck_damping + (1 - config.neck_damping) * t * t * (3 - 2 * t)
