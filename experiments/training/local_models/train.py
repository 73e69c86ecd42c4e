"""Training local models on arrays of registered scans."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rich.console import Console

import flamejax
from experiments.command_line import message_console
from experiments.datasets import scans
from experiments.progress import progress_bar
from fitting.local_model import LocalModel
from fitting.local_training import LocalConfig, split_residuals, train_local_model
from flamejax.head import HeadModel


def train_local_models(
    head: HeadModel, vertices: np.ndarray, config: LocalConfig | None = None, *,
    subjects: Sequence[Any] | np.ndarray | None = None, notes: Mapping[str, str] | None = None,
    console: Console | None = None,
) -> LocalModel:  # fmt: skip
    """Train local PCA models of a head's regions (Diverse3DFace, section 4.1), for `fitting.prepare(head, local)`.

    Scans are fitted by the head; the residuals after its leading components are decomposed by region. Shows progress
    bars on stderr.

    Args:
      head: the global model.
      vertices: (N, V, 3) metres, registered scans in its topology, in any pose.
      config: numbers of global components and of local ones; the default, limited to the head's, when left out.
      subjects: (N,) label of each scan's subject; all different when left out.
      notes: provenance, added to what is recorded here.
      console: console for messages; stderr when left out.

    Raises:
      ValueError: fewer than two scans, arrays of the wrong shape, more components than the head has, or no scan that
        the head fits.
    """
    console, vertices = console or message_console(), np.asarray(vertices, np.float32)
    if vertices.ndim != 3 or vertices.shape[1:] != (head.num_vertices, 3):
        raise ValueError(f"vertices are (N, {head.num_vertices}, 3), not {vertices.shape}.")
    if len(vertices) < 2:
        raise ValueError(f"{len(vertices)} training scans: local models need many, of many subjects.")
    labels = np.arange(len(vertices)) if subjects is None else np.asarray(subjects)
    if labels.shape != (len(vertices),):
        raise ValueError(f"subjects are ({len(vertices)},), not {labels.shape}.")
    config = config or limit_components(LocalConfig(), head)
    fits, usable = scans.fit(head, vertices, "fitting the training scans", console)
    rms = 1e3 * np.asarray(fits.rms)[usable]
    console.print(f"{int(usable.sum())} training scans; RMS of the global fit: median {np.median(rms):.3f} mm")
    unposed, betas, expression = (
        np.asarray(array)[usable] for array in (fits.unposed, fits.params.betas, fits.params.expression)
    )
    scan_residuals = split_residuals(head, unposed, betas, expression, labels[usable], config)
    provenance = {
        "scans": f"{int(usable.sum())} of {len(scan_residuals.shape)} subjects",
        "settings": ", ".join(f"{name}={value}" for name, value in dataclasses.asdict(config).items()),
        "made_with": f"flamejax {flamejax.__version__}; experiments.training.train_local_models",
        **(notes or {}),
    }
    with progress_bar(console, transient=True) as progress:
        task = progress.add_task("regions", total=len(head.regions))
        return train_local_model(head, scan_residuals, config, provenance, lambda: progress.advance(task))


def limit_components(config: LocalConfig, head: HeadModel) -> LocalConfig:
    """Returns the config with no more global components than the head has."""
    return dataclasses.replace(
        config,
        num_betas=min(config.num_betas, head.num_betas),
        num_expression=min(config.num_expression, head.num_expression),
    )
