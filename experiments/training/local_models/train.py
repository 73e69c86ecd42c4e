"""Training local models on arrays of registered scans."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rich.console import Console

import flamejax
from experiments.datasets import scans
from experiments.progress import progress_bar
from fitting.local_model import LocalModel
from fitting.local_training import LocalConfig, residuals, train_local_model
from flamejax.head import HeadModel


def train_local_models(
    head: HeadModel, vertices: np.ndarray, config: LocalConfig | None = None, *,
    subjects: Sequence[Any] | np.ndarray | None = None, notes: Mapping[str, str] | None = None,
    console: Console | None = None,
) -> LocalModel:  # fmt: skip
    """Local PCA models of a head's regions (Diverse3DFace, section 4.1): scans are fitted by the head, and what its
    leading components leave of them is taken apart. For `fitting.prepare(head, local)`. There are progress bars on
    stderr.

    Args:
      head: the global model.
      vertices: (N, V, 3) metres, registered scans in its topology, which may lie anywhere.
      config: how much stays global, and how much the regions hold; at most what the head has when left out.
      subjects: (N,) whose scan each is, any labels; all different people when left out.
      notes: provenance, beside what is known here.
      console: where it reports.

    Raises:
      ValueError: fewer than two scans, arrays of the wrong shape, more components than the head has, or no scan that
        the head fits.
    """
    console, vertices = console or Console(stderr=True), np.asarray(vertices, np.float32)
    if vertices.ndim != 3 or vertices.shape[1:] != (head.num_vertices, 3):
        raise ValueError(f"vertices are (N, {head.num_vertices}, 3), not {vertices.shape}.")
    if len(vertices) < 2:
        raise ValueError(f"{len(vertices)} training scans: local models need many, of many subjects.")
    owner = np.arange(len(vertices)) if subjects is None else np.asarray(subjects)
    if owner.shape != (len(vertices),):
        raise ValueError(f"subjects are ({len(vertices)},), not {owner.shape}.")
    config = config or within(LocalConfig(), head)
    found, sound = scans.fit(head, vertices, "fitting the training scans", console)
    rms = 1e3 * np.asarray(found.rms)[sound]
    console.print(f"{int(sound.sum())} training scans; RMS of the global fit: median {np.median(rms):.3f} mm")
    unposed, betas, expression = (
        np.asarray(array)[sound] for array in (found.unposed, found.params.betas, found.params.expression)
    )
    left = residuals(head, unposed, betas, expression, owner[sound], config)
    known = {
        "scans": f"{int(sound.sum())} of {len(left.shape)} subjects",
        "settings": ", ".join(f"{name}={value}" for name, value in dataclasses.asdict(config).items()),
        "made_with": f"flamejax {flamejax.__version__}; experiments.training.train_local_models",
        **(notes or {}),
    }
    with progress_bar(console, transient=True) as progress:
        task = progress.add_task("regions", total=len(head.regions))
        return train_local_model(head, left, config, known, lambda: progress.advance(task))


def within(config: LocalConfig, head: HeadModel) -> LocalConfig:
    """With no more global components than the head has: a small one has fewer than the paper's ten."""
    return dataclasses.replace(
        config,
        num_betas=min(config.num_betas, head.num_betas),
        num_expression=min(config.num_expression, head.num_expression),
    )
