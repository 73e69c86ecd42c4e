"""Compare the open head with a published survey of adult heads: eleven caliper measurements, both sexes.

    python -m tools.open_head.anthropometry [--asset PATH] [--people N] [--json]

Prints published and our means, standard deviations and correlations, and whether ours lie within the limits: means
within half a survey standard deviation, standard deviations within 30 %. "Ours" are random people drawn from the
asset (`draw_people`).

The survey is that of `experiments.datasets.open_people.anthropometry`. Its numbers were noted down from memory, and
checked against the public sources in `CHECKS`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from experiments.datasets.open_people.anthropometry import AGEING, NAMES, SEXES, measure, survey

ASSET = Path(__file__).resolve().parents[2] / "flamejax" / "head" / "assets" / "open_head.npz"
NIOSH, ANSUR = "NIOSH records, not weighted", "ANSUR II"
CHECKS = {  # measurement -> source, then as in `SURVEY`
    "bizygomatic breadth": (NIOSH, (143.9, 6.9), (136.2, 6.5)),
    "menton-sellion length": (NIOSH, (123.2, 7.2), (114.2, 6.5)),
    "head breadth": (ANSUR, (154.3, 5.5), (147.8, 5.2)),
    "head length": (ANSUR, (199.5, 7.0), (189.8, 7.4)),
    "interpupillary distance": (NIOSH, (65.1, 3.8), (63.1, 4.0)),
    "nose breadth": (NIOSH, (37.8, 4.8), (35.8, 4.9)),
    "lip length": (NIOSH, (51.7, 4.3), (49.2, 4.5)),
    "subnasale-sellion length": (NIOSH, (51.9, 4.1), (47.7, 3.8)),
    "bigonial breadth": (NIOSH, (120.7, 10.7), (111.6, 9.3)),
}
MEAN_LIMIT, STD_LIMIT = 0.5, 0.3  # in survey standard deviations; as a share of them


def second_source(name: str, sex: str) -> str:
    """Return "mean (standard deviation), source" of `CHECKS`, or "" if there is none."""
    if name not in CHECKS:
        return ""
    source, *values = CHECKS[name]
    mean, std = values[SEXES.index(sex)]
    return f"{mean} ({std}), {source}"


def draw_betas(asset: dict, rng: np.random.Generator, n: int, sex: str) -> np.ndarray:
    """Draw identity coefficients (n, K) of random men or women.

    `sex_direction` d (K,) of the asset is half the difference of the sexes' mean coefficients. Within a sex the
    coefficients are normal about +d (men) or -d (women) with covariance I - d d^T, so that of both sexes together is I.
    """
    d = np.asarray(asset["sex_direction"], float)
    size = float(d @ d)
    z = rng.standard_normal((n, len(d)))
    z += ((np.sqrt(1 - size) - 1) / size) * (z @ d)[:, None] * d
    return z + (d if sex == "men" else -d)


def draw_people(asset: dict, rng: np.random.Generator, n: int, sex: str) -> tuple[np.ndarray, np.ndarray]:
    """Return vertices (n, V, 3) of random neutral heads, and their coefficients (n, K)."""
    betas = draw_betas(asset, rng, n, sex)
    basis = np.asarray(asset["shapedirs"][:, :, : betas.shape[1]], np.float32)
    flat = betas.astype(np.float32) @ basis.reshape(-1, betas.shape[1]).T
    return np.asarray(asset["v_template"]) + flat.reshape(n, -1, 3), betas


CORRELATIONS = (
    ("menton-sellion length", "bizygomatic breadth"),
    ("head length", "head breadth"),
    ("bizygomatic breadth", "head breadth"),
    ("bizygomatic breadth", "bigonial breadth"),
    ("menton-sellion length", "subnasale-sellion length"),
    ("interpupillary distance", "bizygomatic breadth"),
)  # all positive in every survey of adults; published within a sex, so measured within a sex


def compare(asset: dict, people: int = 2000, seed: int = 7) -> dict:
    """Compare published values with ours; returns {"table": rows, "correlations": rows}."""
    rows, measured, ages = [], {}, []
    for sex in SEXES:
        vertices, betas = draw_people(asset, np.random.default_rng(seed + SEXES.index(sex)), people, sex)
        measured[sex] = measure(vertices)
        ages.append(betas @ asset["age_direction"])
        mean, std = survey(sex)
        for k, name in enumerate(NAMES):
            ours, spread = measured[sex][:, k].mean(), measured[sex][:, k].std()
            shift, ratio = (ours - mean[k]) / std[k], spread / std[k]
            rows.append({
                "measurement": name, "sex": sex, "published_mean": mean[k], "published_std": std[k],
                "mean": round(float(ours), 1), "std": round(float(spread), 1), "shift": round(float(shift), 2),
                "ratio": round(float(ratio), 2), "second_source": second_source(name, sex),
                "within_limits": bool(abs(shift) <= MEAN_LIMIT and abs(ratio - 1) <= STD_LIMIT),
            })  # fmt: skip
    correlations = []
    for a, b in CORRELATIONS:
        i, j = NAMES.index(a), NAMES.index(b)
        value = np.mean([np.corrcoef(measured[s][:, i], measured[s][:, j])[0, 1] for s in SEXES])
        correlations.append({"of": a, "with": b, "expected": "+", "ours": round(float(value), 2)})
    for k, name in enumerate(NAMES):
        value = np.mean([np.corrcoef(measured[s][:, k], age)[0, 1] for s, age in zip(SEXES, ages, strict=True)])
        expected = "+" if name in AGEING else ""
        correlations.append({"of": name, "with": "age", "expected": expected, "ours": round(value, 2)})
    return {"table": rows, "correlations": correlations}


def load_asset(path: Path) -> dict:
    with np.load(path, allow_pickle=False) as data:
        return {name: data[name] for name in data.files}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--asset", type=Path, default=ASSET)
    parser.add_argument("--people", type=int, default=2000, help="random people of each sex")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    result = compare(load_asset(args.asset), args.people)
    if args.json:
        print(json.dumps(result, indent=1))
        return
    print(f"{'mm':26s} {'':5s} {'published':>15s} {'ours':>15s} {'shift/sd':>9s} {'sd ratio':>9s}   second source")
    for r in result["table"]:
        published = f"{r['published_mean']:.1f} ({r['published_std']:.1f})"
        ours = f"{r['mean']:.1f} ({r['std']:.1f})"
        flag = "" if r["within_limits"] else "  outside"
        print(f"{r['measurement']:26s} {r['sex']:5s} {published:>15s} {ours:>15s} "
              f"{r['shift']:+9.2f} {r['ratio']:9.2f}{flag}   {r['second_source']}")  # fmt: skip
    inside = sum(r["within_limits"] for r in result["table"])
    print(f"within limits: {inside} of {len(result['table'])}\n")
    print("correlations within a sex (mean of both)")
    for r in result["correlations"]:
        expected = f"  expected {r['expected']}" if r["expected"] else ""
        print(f"{r['of']:26s} {r['with']:26s} {r['ours']:+.2f}{expected}")


if __name__ == "__main__":
    main()
