"""Set how much landmarks of clean faces may jitter: makes fitting/assets/landmark_spread.json.

    python -m tools.calibrate_confidence [IMAGE_OR_FOLDER ...] [--renders 80]

A landmark's confidence is exp(-(spread / s)^2), with the scale s of each landmark set so that over clean, unoccluded
faces the confidence has the median `--median`. The faces: renders of the open head, and images of your own or
scikit-image's portrait. Each source counts alike, however many images it holds: a net jitters more on renders than on
photos. 80 renders take about half a minute on two cores.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import jax
import numpy as np
import tyro

import flamejax
from experiments import runtime
from experiments.datasets.renders import SceneSpread, render_scenes, sample_scenes
from fitting.detector import Calibration, LiteRTDetector
from fitting.landmark_maps import IBUG_MIRROR
from fitting.mediapipe_models import ASSETS
from flamejax.files import write_text
from flamejax.io.images import ImageError, load_image

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
MIN_PRESENCE = 0.5
RENDER_SPREAD = SceneSpread(expression=0.4, jaw=0.1)
"""Milder than elsewhere: wide-open mouths of a head without teeth are no clean faces to a detector."""


@dataclass(frozen=True)
class CalibrationConfig:
    """Set how much landmarks of clean faces may jitter: makes fitting/assets/landmark_spread.json."""

    inputs: Annotated[tuple[Path, ...], tyro.conf.Positional] = ()
    """Clean, unoccluded faces: images or folders of images; scikit-image's portrait when left out."""
    renders: int = 80
    """Renders of the open head beside them."""
    seed: int = 0
    """Of the renders."""
    median: float = 0.75
    """Confidence of the median clean landmark. With tau = 0.2 a landmark is hidden beyond 2.4 times its clean spread:
    landmarks under a pasted box jitter about 2.5 times as much as clean ones."""
    out: Path = ASSETS / "landmark_spread.json"
    """The file to write."""


def main(args: Sequence[str] | None = None, prog: str = "python -m tools.calibrate_confidence") -> int:
    """Measure, and write the file. Returns the exit status; 1 when no clear face was found."""
    config = tyro.cli(CalibrationConfig, args=args, prog=prog)
    runtime.use_compilation_cache()
    detector = LiteRTDetector(calibration=Calibration(np.ones(len(IBUG_MIRROR))))
    sources = {str(path): load_images(path) for path in config.inputs} or {"scikit-image's astronaut": portrait()}
    if config.renders:
        sources[f"{config.renders} renders of the open head"] = renders(config.renders, config.seed)
    spreads = {name: measure_spreads(images, detector) for name, images in sources.items()}
    groups = {name: found for name, found in spreads.items() if len(found)}
    if not groups:
        print("no clear face in any of the images; nothing was written.", file=sys.stderr)
        return 1
    typical = np.exp(np.mean([np.log(clean_spread(found)) for found in groups.values()], axis=0))
    scale = typical / np.sqrt(-np.log(config.median))
    record = {
        "source": "; ".join(groups),
        "images": sum(map(len, groups.values())),
        "median_confidence": config.median,
        "spread_scale": [round(float(s), 5) for s in scale],
    }
    write_text(config.out, json.dumps(record, indent=1) + "\n")
    print(f"{config.out}: {record['images']} faces, scales {scale.min():.3f} to {scale.max():.3f} outer-eye distances")
    return 0


def load_images(given: Path) -> Iterator[np.ndarray]:
    """The images of a file or a folder; those that cannot be read are named and left out."""
    inside = (p for p in given.rglob("*") if p.suffix.lower() in SUFFIXES) if given.is_dir() else (given,)
    for path in sorted(inside):
        try:
            yield load_image(path)
        except ImageError as error:
            print(f"skipped: {error}")


def portrait() -> Iterator[np.ndarray]:
    """scikit-image's portrait (NASA, public domain)."""
    import skimage.data

    yield skimage.data.astronaut().astype(np.float32) / 255.0


def renders(count: int, seed: int) -> Iterator[np.ndarray]:
    """Random open heads before plain backgrounds."""
    head = flamejax.load_head()
    scenes_key, background_key = jax.random.split(jax.random.key(seed))
    scenes = sample_scenes(head, scenes_key, count, spread=RENDER_SPREAD)
    for start in range(0, count, 20):
        some = jax.tree.map(lambda leaf, start=start: leaf[start : start + 20], scenes)
        yield from np.asarray(render_scenes(head, some, jax.random.fold_in(background_key, start))[0])


def measure_spreads(images: Iterable[np.ndarray], detector: LiteRTDetector) -> np.ndarray:
    """Spreads (N, 68) of the largest face of each image that clearly has one."""
    spreads = []
    for number, image in enumerate(images):
        faces = detector.detect(image)
        found = detector.landmarks(image, faces[0]) if faces else None
        if found is None or found.presence < MIN_PRESENCE:
            print(f"skipped: image {number}: no clear face")
            continue
        spreads.append(found.spread)
    return np.array(spreads).reshape(-1, len(IBUG_MIRROR))


def clean_spread(spreads: np.ndarray) -> np.ndarray:
    """The median (68,) of spreads (N, 68), the same for mirrored landmarks."""
    return np.median(np.concatenate([spreads, spreads[:, list(IBUG_MIRROR)]]), axis=0)


if __name__ == "__main__":
    sys.exit(main())
