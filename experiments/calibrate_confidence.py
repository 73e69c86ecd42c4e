"""Set how much landmarks of clean faces may jitter: makes fitting/assets/landmark_spread.json.

    python -m experiments.calibrate_confidence FOLDER_OR_IMAGE ... [--out FILE] [--median 0.9] [--exponent 3]

Give clean, unoccluded faces (photos or renders): each landmark's scale is set so that over them the confidence
exp(-(spread / scale)^exponent) has the given median. Every input counts alike, however many images a folder holds, so
that three photos and a hundred renders can be balanced. 100 images take about 10 seconds on one core.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from fitting.detector import Calibration, LiteRTDetector
from fitting.landmark_maps import IBUG_MIRROR
from fitting.mediapipe_models import ASSETS
from flamejax.io.images import ImageError, load_image

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
MIN_PRESENCE = 0.5


def measure_spreads(given: Path, detector: LiteRTDetector) -> np.ndarray:
    """Spreads (N, 68) of the largest face of an image, or of each image of a folder, that has one."""
    inside = (p for p in given.rglob("*") if p.suffix.lower() in SUFFIXES) if given.is_dir() else (given,)
    spreads = []
    for path in sorted(inside):
        try:
            image = load_image(path)
        except ImageError as error:
            print(f"skipped: {error}")
            continue
        faces = detector.detect(image)
        found = detector.landmarks(image, faces[0]) if faces else None
        if found is None or found.presence < MIN_PRESENCE:
            print(f"skipped: {path}: no clear face")
            continue
        spreads.append(found.spread)
    return np.array(spreads).reshape(-1, len(IBUG_MIRROR))


def clean_spread(spreads: np.ndarray) -> np.ndarray:
    """The median (68,) of spreads (N, 68), the same for mirrored landmarks."""
    return np.median(np.concatenate([spreads, spreads[:, list(IBUG_MIRROR)]]), axis=0)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("inputs", nargs="+", type=Path, help="images or folders of images")
    parser.add_argument("--out", type=Path, default=ASSETS / "landmark_spread.json")
    parser.add_argument("--median", type=float, default=0.9, help="confidence of the median clean landmark")
    parser.add_argument("--exponent", type=float, default=3.0)
    parser.add_argument("--source", default=None, help="what the images are, for the record")
    args = parser.parse_args(arguments)
    detector = LiteRTDetector(calibration=Calibration(np.ones(len(IBUG_MIRROR)), args.exponent))
    groups = [spreads for given in args.inputs if len(spreads := measure_spreads(given, detector))]
    if not groups:
        raise SystemExit("no clear face in any of the images; nothing was written.")
    typical = np.exp(np.mean([np.log(clean_spread(spreads)) for spreads in groups], axis=0))
    scale = typical / (-np.log(args.median)) ** (1.0 / args.exponent)
    count = sum(len(spreads) for spreads in groups)
    record = {
        "source": args.source or f"{count} clean faces from {', '.join(str(p) for p in args.inputs)}",
        "images": count,
        "median_confidence": args.median,
        "exponent": args.exponent,
        "spread_scale": [round(float(s), 5) for s in scale],
    }
    args.out.write_text(json.dumps(record, indent=1) + "\n")
    print(f"{args.out}: {count} faces, scales {scale.min():.3f} to {scale.max():.3f} outer-eye distances")


if __name__ == "__main__":
    main()
