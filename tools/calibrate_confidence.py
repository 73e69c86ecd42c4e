"""Calibrate the confidence of detected landmarks on clean faces; writes fitting/assets/landmark_spread.json.

    python -m tools.calibrate_confidence [IMAGE_OR_FOLDER ...] [--renders 80]

A landmark's confidence is exp(-(spread / s)^2). The scale s of each landmark is set so that the median confidence over
clean, unoccluded faces is `--median`. The faces are renders of the open head, and your own images or scikit-image's
portrait. Each source has the same weight, however many images it has, since a network jitters more on renders than on
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
"""Milder than the default: to a detector, the wide-open mouth of a head without teeth is not a clean face."""


@dataclass(frozen=True)
class CalibrationConfig:
    """Calibrate the confidence of detected landmarks on clean faces; writes fitting/assets/landmark_spread.json."""

    inputs: Annotated[tuple[Path, ...], tyro.conf.Positional] = ()
    """Clean, unoccluded faces: images or folders of images; scikit-image's portrait when left out."""
    renders: int = 80
    """Number of renders of the open head to add."""
    seed: int = 0
    """Seed of the renders."""
    median: float = 0.75
    """Median confidence of clean landmarks. With tau = 0.2 a landmark counts as hidden above 2.4 times its clean
    spread; landmarks under a pasted box jitter about 2.5 times as much as clean ones."""
    out: Path = ASSETS / "landmark_spread.json"
    """The file to write."""


def main(args: Sequence[str] | None = None, prog: str = "python -m tools.calibrate_confidence") -> int:
    """Measure the spreads and write the file. Returns the exit status: 1 if no image has a clear face."""
    config = tyro.cli(CalibrationConfig, args=args, prog=prog)
    runtime.use_compilation_cache()
    detector = LiteRTDetector(calibration=Calibration(np.ones(len(IBUG_MIRROR))))
    sources = {str(path): load_images(path) for path in config.inputs} or {"scikit-image's astronaut": portrait()}
    if config.renders:
        sources[f"{config.renders} renders of the open head"] = renders(config.renders, config.seed)
    spreads = {name: measure_spreads(images, detector) for name, images in sources.items()}
    groups = {name: group for name, group in spreads.items() if len(group)}
    if not groups:
        print("no clear face in any of the images; nothing was written.", file=sys.stderr)
        return 1
    mean_spread = np.exp(np.mean([np.log(median_spread(group)) for group in groups.values()], axis=0))
    scale = mean_spread / np.sqrt(-np.log(config.median))
    record = {
        "source": "; ".join(groups),
        "images": sum(map(len, groups.values())),
        "median_confidence": config.median,
        "spread_scale": [round(float(s), 5) for s in scale],
    }
    write_text(config.out, json.dumps(record, indent=1) + "\n")
    print(f"{config.out}: {record['images']} faces, scales {scale.min():.3f} to {scale.max():.3f} outer-eye distances")
    return 0


def load_images(path: Path) -> Iterator[np.ndarray]:
    """Load the images of a file or a folder; prints and skips those that cannot be read."""
    files = (p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES) if path.is_dir() else (path,)
    for file in sorted(files):
        try:
            yield load_image(file)
        except ImageError as error:
            print(f"skipped: {error}")


def portrait() -> Iterator[np.ndarray]:
    """Load scikit-image's portrait (NASA, public domain)."""
    import skimage.data

    yield skimage.data.astronaut().astype(np.float32) / 255.0


def renders(count: int, seed: int) -> Iterator[np.ndarray]:
    """Render random open heads before plain backgrounds."""
    head = flamejax.load_head()
    scenes_key, background_key = jax.random.split(jax.random.key(seed))
    scenes = sample_scenes(head, scenes_key, count, spread=RENDER_SPREAD)
    for start in range(0, count, 20):
        chunk = jax.tree.map(lambda leaf, start=start: leaf[start : start + 20], scenes)
        yield from np.asarray(render_scenes(head, chunk, jax.random.fold_in(background_key, start))[0])


def measure_spreads(images: Iterable[np.ndarray], detector: LiteRTDetector) -> np.ndarray:
    """Return the landmark spreads (N, 68) of the largest face of each image that clearly has one."""
    spreads = []
    for number, image in enumerate(images):
        faces = detector.detect(image)
        landmarks = detector.landmarks(image, faces[0]) if faces else None
        if landmarks is None or landmarks.presence < MIN_PRESENCE:
            print(f"skipped: image {number}: no clear face")
            continue
        spreads.append(landmarks.spread)
    return np.array(spreads).reshape(-1, len(IBUG_MIRROR))


def median_spread(spreads: np.ndarray) -> np.ndarray:
    """Return the median (68,) of spreads (N, 68), equal for mirrored landmarks."""
    return np.median(np.concatenate([spreads, spreads[:, list(IBUG_MIRROR)]]), axis=0)


if __name__ == "__main__":
    sys.exit(main())
