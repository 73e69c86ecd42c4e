"""The command that trains a Mesh-VAE: reads scans, trains, writes and evaluates the weights."""

from __future__ import annotations

import json
import time
from dataclasses import asdict

import numpy as np
from rich.console import Console

import flamejax
from experiments.datasets.placed_scans import load_placed
from experiments.datasets.vertex_masks import mask_maker
from experiments.progress import print_rows
from experiments.training.checkpoints import RunFolder
from experiments.training.devices import device_mesh
from experiments.training.mesh_vae.evaluation import mesh_vae_evaluator
from experiments.training.mesh_vae.settings import MeshVAEOptions
from experiments.training.mesh_vae.step import synthetic_count
from experiments.training.mesh_vae.train import train_mesh_vae
from experiments.training.weights import write_weights
from models.mesh_vae import num_parameters, without_linear_branch
from models.pretrained import load_mesh_vae, write_mesh_vae

SMOKE_BATCH, SMOKE_EVAL_EXAMPLES = 4, 4


def run(options: MeshVAEOptions, console: Console) -> dict[str, float]:
    """Train, or resume training. Returns the final errors on validation heads.

    Raises:
      As `train_mesh_vae`; and ValueError: the scans cannot be used.
    """
    options, started = options.with_smoke_settings(SMOKE_BATCH, SMOKE_EVAL_EXAMPLES), time.perf_counter()
    architecture = without_linear_branch(options.architecture) if options.no_linear_branch else options.architecture
    head = flamejax.load_head(options.head)
    # Check the options before the scans are read, which takes long.
    synthetic_count(options.training, device_mesh(options.training.devices))
    fingerprint = {**options.fingerprint(), "architecture": asdict(architecture)}
    RunFolder(options.workdir, options.restart, fingerprint).check_fingerprint()
    training, validation = (load_placed(head, split, options, console) for split in ("train", "validation"))
    model, _ = train_mesh_vae(
        np.asarray(head.faces), training.vertices, options.training, architecture=architecture,
        validation=validation.vertices, head=head, rotations=training.rotations, workdir=options.workdir,
        restart=options.restart, fingerprint=options.fingerprint(), console=console,
    )  # fmt: skip
    masks = mask_maker(head, options.training.seed)
    evaluator = mesh_vae_evaluator(np.asarray(head.faces), validation.vertices, masks, options.final_eval_examples)
    own_scans = options.scans is not None
    notes = {
        "architecture": json.dumps(asdict(model.config)),
        "data": "own scans" if own_scans else "the open scans (experiments.datasets.open_faces), CC0",
        "licence": "that of the head and the scans" if own_scans else "CC0-1.0",
    }
    baselines, count = evaluator.baseline_errors(model), len(evaluator.heads)
    errors = write_weights(
        options, "mesh_vae.npz", lambda path, notes: write_mesh_vae(path, head, model, notes),
        lambda path: evaluator.errors(load_mesh_vae(head, path)), notes, console, started,
        parameters=num_parameters(model), validation_heads=count, baselines=baselines,
    )  # fmt: skip
    rows = [{"": name, **values} for name, values in {**baselines, "this network": errors}.items()]
    print_rows(console, f"Median errors on {count} validation heads", rows)
    return errors
