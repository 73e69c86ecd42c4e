"""Reconstruct a portrait, once clean and once with a drawn face mask: a fitted head and sixteen hypotheses each.

The portrait is scikit-image's `astronaut` (Eileen Collins; NASA, public domain), which that package bundles.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from PIL import Image, ImageDraw, ImageFilter

from experiments.command_line import message_console, print_error
from experiments.reconstruct import UsageError, reconstruct_config
from experiments.reconstruct.command import run

# Outline of the mask on the portrait, pixels, from the bridge of the nose clockwise; then the ear loops.
MASK_OUTLINE = (
    (222, 108), (236, 112), (250, 120), (262, 126), (260, 146), (252, 166), (238, 178), (222, 182),
    (206, 178), (192, 166), (184, 146), (181, 126), (194, 120), (208, 112),
)  # fmt: skip
EAR_LOOPS = (((262, 128), (276, 112)), ((256, 158), (274, 134)), ((181, 128), (172, 112)), ((188, 160), (174, 136)))
MASK_COLOUR = (136, 178, 198)
PLEATS = 3


@dataclass(frozen=True)
class DemoConfig:
    """Reconstruct a portrait twice, clean and with a synthetic face mask, and print where the results are: a fitted
    head and sixteen heads that agree with the visible part of each photo."""

    output: Path = Path("demo_output")
    """Folder for the results; earlier results in it are replaced."""


def main(args: Sequence[str] | None = None, prog: str = "python -m experiments.demo") -> int:
    """Run the demo. Returns the exit status of reconstruct."""
    console = message_console()
    config = tyro.cli(DemoConfig, args=None if args is None else list(args), prog=prog)
    try:
        photos, masks = write_photos(config.output)
        options = reconstruct_config((str(photos),), config.output, masks=str(masks), overwrite=True)
        status = run(options, console)
    except UsageError as error:
        print_error(error, console)
        return 2
    if status == 0:
        print(f"\nOpen {config.output / 'index.html'} in a browser, or look at:")
        for name in ("astronaut", "astronaut_masked"):
            print(f"  {config.output / name / 'overlay.png'}   the head over the photo")
            print(f"  {config.output / name / 'mesh.glb'}   the head, for any 3D viewer")
            print(f"  {config.output / name / 'index.html'}   other heads that agree with the photo, in 3D")
    return status


def write_photos(output: Path) -> tuple[Path, Path]:
    """Write the two photos and the occlusion mask of the second. Returns the folders of photos and masks.

    Raises:
        UsageError: scikit-image is not installed.
    """
    try:
        from skimage import data
    except ImportError as error:
        raise UsageError("the demo's portrait comes with scikit-image: pip install 'flamejax[photos]'.") from error
    portrait = data.astronaut()
    covered, hidden = draw_mask(portrait)
    photos, masks = output / "photos", output / "masks"
    for folder in (photos, masks):
        folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(portrait).save(photos / "astronaut.png")
    Image.fromarray(covered).save(photos / "astronaut_masked.png")
    Image.fromarray(np.zeros_like(hidden)).save(masks / "astronaut.png")
    Image.fromarray(hidden).save(masks / "astronaut_masked.png")
    return photos, masks


def draw_mask(portrait: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Draw a pleated surgical mask over the portrait's lower face.

    Args:
        portrait: (512, 512, 3) uint8, scikit-image's astronaut.

    Returns:
        (512, 512, 3) uint8 and the occlusion mask (512, 512) uint8, 255 = hidden.
    """
    factor = 4  # drawn larger, then reduced, for smooth edges
    height, width = portrait.shape[:2]
    large = Image.new("L", (factor * width, factor * height), 0)
    draw = ImageDraw.Draw(large)
    draw.polygon([(factor * x, factor * y) for x, y in MASK_OUTLINE], fill=255)
    for loop in EAR_LOOPS:
        draw.line([(factor * x, factor * y) for x, y in loop], fill=255, width=2 * factor)
    coverage = large.filter(ImageFilter.GaussianBlur(factor)).resize((width, height), Image.Resampling.LANCZOS)
    alpha = np.asarray(coverage, np.float32)[..., None] / 255.0
    alpha = np.where(alpha > 0.02, alpha, 0.0)  # the faint tail of the filter does not count as hidden
    rows = np.arange(height, dtype=np.float32)[:, None]
    columns = np.arange(width, dtype=np.float32)[None, :]
    top, bottom = min(y for _, y in MASK_OUTLINE), max(y for _, y in MASK_OUTLINE)
    middle = np.mean([x for x, _ in MASK_OUTLINE])
    # Lit from the front: darker towards the sides and the bottom, with a soft step at each pleat.
    depth = (rows - top) / (bottom - top)
    pleats = 1.0 - 0.10 * np.maximum(0.0, np.cos(2 * np.pi * PLEATS * depth)) ** 6
    light = pleats * (1.05 - 0.25 * ((columns - middle) / 45.0) ** 2) * (1.0 - 0.12 * depth)
    cloth = np.clip(np.array(MASK_COLOUR, np.float32) * light[..., None], 0, 255)
    covered = np.round(portrait * (1.0 - alpha) + cloth * alpha).astype(np.uint8)
    return covered, np.where(alpha[..., 0] > 0, 255, 0).astype(np.uint8)


if __name__ == "__main__":
    sys.exit(main())
