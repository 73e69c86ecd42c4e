"""The whole fit of 256 x 256 photos (renders with exact landmarks), warm, and its compile time apart."""

from __future__ import annotations

import dataclasses

import fitting
from experiments.benchmark.timing import SQUARE_GEMM, Row, Setting, Timed, square_gemm, time_row
from experiments.data.renders import exact_observation, render_scenes, sample_scenes
from fitting.global_fit import fit_batch

BATCHES = (1, 4)


def rows(setting: Setting) -> list[Row]:
    """The fit against a square product, and the seconds that one photo takes."""
    head, key, config = setting.head, setting.key, fitting.FitConfig()
    found = []
    for batch in BATCHES:
        images, points, _ = render_scenes(head, sample_scenes(head, key, batch), key)
        program = Timed(lambda h, o: fit_batch(h, o, config), head, exact_observation(images, points))
        reference = f"{SQUARE_GEMM}^3 GEMM"
        row = time_row("fit 256 px", batch, program, None, square_gemm(key), None, reference, setting.few)
        found.append(dataclasses.replace(row, seconds_per_photo=row.forward_ms / 1e3 / batch))
    return found
