"""Training a Mesh-VAE on arrays of registered heads, or of any other meshes of one topology."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from rich.console import Console

from experiments.cache import array_digest, read_tree, write_tree
from experiments.command_line import message_console
from experiments.datasets.placed_scans import place_in_head_frame
from experiments.datasets.vertex_masks import mask_maker, mesh_masks
from experiments.training.batches import shuffled_batches
from experiments.training.checkpoints import Checkpoints, RunFolder
from experiments.training.devices import device_mesh
from experiments.training.loop import train_network
from experiments.training.mesh_vae.evaluation import mesh_vae_evaluator
from experiments.training.mesh_vae.heads import (  # fmt: skip
    mirror_map,
    principal_components,
    synthetic_heads,
    weighted_statistics,
    weighted_training_heads,
)
from experiments.training.mesh_vae.settings import MeshVAETraining
from experiments.training.mesh_vae.step import StepConstants, make_step, optimizer_of, synthetic_count
from experiments.training.record import TrainingRecord
from flamejax.head import HeadModel
from models.mesh_vae import SMALL, MeshVAE, MeshVAEConfig, hierarchy_for, num_parameters


@dataclass(frozen=True)
class MeshStatistics:
    """Statistics of the training heads that a network is built on."""

    mean: np.ndarray
    """(V, 3) metres."""
    spread: float
    """RMS deviation of a coordinate from the mean, metres."""
    components: np.ndarray | None
    """(K, V, 3) metres per standard deviation."""


def train_mesh_vae(
    faces: np.ndarray, vertices: np.ndarray, config: MeshVAETraining | None = None, *,
    architecture: MeshVAEConfig = SMALL, validation: np.ndarray | None = None, head: HeadModel | None = None,
    rotations: np.ndarray | None = None, workdir: Path | str | None = None, restart: bool = False,
    fingerprint: Mapping[str, Any] | None = None, console: Console | None = None,
) -> tuple[MeshVAE, TrainingRecord]:  # fmt: skip
    """Train a Mesh-VAE (Diverse3DFace, section 4.2), or resume its training. Shows a progress bar on stderr.

    Args:
      faces: (F, 3) vertex indices of any triangle mesh.
      vertices: (N, V, 3) metres, the training meshes, aligned with each other and facing +z. For `sampling.complete`
        they must be heads in the head frame; with `head`, they are brought there.
      config: training settings; the small network's settings, for CPUs, when left out.
      architecture: `linear_rank` is the largest number of components of the linear branch; fewer meshes give fewer.
      validation: (M, V, 3) likewise, of other people; the errors on them are recorded.
      head: of the same topology. With it, the network also sees heads drawn from the head model and, if the head is
        symmetric, mirror images; and masks never hide the eyeballs.
      rotations: (N, 5, 3) axis-angle of the joints, if `vertices` and `validation` are in the head frame already.
        Without them, fits of the head determine the frame, and meshes that cannot be fitted are left out.
      workdir: folder for checkpoints/, metrics.jsonl, tensorboard/, pictures/ and settings.json. A run that was stopped
        or killed resumes from its last checkpoint when it is started again. Nothing is written when left out.
      restart: delete the folder's checkpoints and start anew.
      fingerprint: JSON values by name that identify the arrays; a run can only be resumed with the same. A digest of
        `vertices` when left out.
      console: console for messages; stderr when left out.

    Returns:
      The network, and the losses and validation errors (mm: `visible_mm`, `hidden_mm`, `whole_mm`).

    Raises:
      ValueError: arrays of the wrong shape, too few meshes, or a folder with a run of other settings. RuntimeError: the
        loss is not finite any more (the last good checkpoint is kept), or no checkpoint can be read. OSError: the
        folder cannot be written.
    """
    config, console = config or MeshVAETraining(), console or message_console()
    faces, vertices = np.asarray(faces), _check_vertices("vertices", vertices, faces, head)
    if validation is not None:
        validation = _check_vertices("validation", validation, faces, head)
    if head is None:
        config = replace(config, synthetic=0.0)
    mesh = device_mesh(config.devices)
    synthetic = synthetic_count(config, mesh)
    fingerprint = {"data": array_digest(vertices)} if fingerprint is None else fingerprint
    folder = None if workdir is None else Path(workdir)
    complete = {**config.fingerprint(), **fingerprint, "architecture": asdict(architecture)}
    run_folder = RunFolder(folder, restart, complete)
    run_folder.check_fingerprint()
    if head is not None and rotations is None:
        placed = place_in_head_frame(head, vertices, "placing the scans", console)[0]
        vertices, rotations = placed.vertices, placed.rotations
        if validation is not None:
            validation = place_in_head_frame(head, validation, "placing the validation scans", console)[0].vertices
    real = config.batch_size - synthetic
    if len(vertices) < max(real, 2):
        raise ValueError(f"{len(vertices)} training heads are fewer than a batch takes from them ({max(real, 2)}).")
    source = None if head is None or rotations is None else synthetic_heads(head, rotations)
    mirror = None if head is None else mirror_map(head)

    if folder is not None and run_folder.has_checkpoints():
        # Computing the components anew could give other signs, which do not fit the trained weights.
        saved = read_tree(folder / "frame.npz", MeshStatistics)
        if saved is None:
            raise RuntimeError(f"{folder / 'frame.npz'} cannot be read, but its checkpoints need it: give --restart.")
        statistics = saved
    else:
        parts = weighted_training_heads(vertices, mirror, source, config)
        mean, spread = weighted_statistics(parts)
        rank = min(architecture.linear_rank, sum(len(heads) for heads, _ in parts) - 1)
        statistics = MeshStatistics(mean, spread, principal_components(parts, mean, rank))
    if statistics.components is not None:
        architecture = replace(architecture, linear_rank=len(statistics.components))
    positions = statistics.mean if head is None else np.asarray(head.v_template)
    hierarchy = hierarchy_for(architecture, faces, positions)
    model = MeshVAE(
        hierarchy, architecture, rngs=nnx.Rngs(config.seed), mean=jnp.asarray(statistics.mean),
        spread=statistics.spread,
        components=None if statistics.components is None else jnp.asarray(statistics.components),
    )  # fmt: skip
    masks = mesh_masks(positions, faces, {}, config.seed) if head is None else mask_maker(head, config.seed)
    count = mesh.devices.size
    console.print(
        f"{len(vertices)} training heads; levels of {' -> '.join(map(str, hierarchy.num_vertices))} vertices; "
        f"{num_parameters(model) / 1e6:.2f} million parameters; batches of {config.batch_size}, {synthetic} of them "
        f"drawn afresh; {count} device{'s' * (count > 1)}",
        markup=False,
    )
    constants = StepConstants(hierarchy.graph(), masks, source, None if mirror is None else jnp.asarray(mirror))
    evaluator = None if validation is None else mesh_vae_evaluator(faces, validation, masks, config.eval_examples)
    checkpoints = Checkpoints(run_folder, config.keep)
    if folder is not None:
        write_tree(folder / "frame.npz", statistics)
    return train_network(
        model, make_step, optimizer_of(config), config, constants=constants,
        batches=shuffled_batches(vertices, real, config.seed), checkpoints=checkpoints, evaluator=evaluator,
        console=console, progress_format="l1 {l1_mm:.3f} mm",
    )  # fmt: skip


def _check_vertices(name: str, vertices: np.ndarray, faces: np.ndarray, head: HeadModel | None) -> np.ndarray:
    """Returns vertices as float32. Raises: ValueError, they are not meshes of the topology."""
    vertices = np.asarray(vertices, np.float32)
    if vertices.ndim != 3 or vertices.shape[-1] != 3 or not np.isfinite(vertices).all():
        raise ValueError(f"{name} are (N, V, 3) finite numbers, not {vertices.shape}.")
    count = vertices.shape[1] if head is None else head.num_vertices
    if vertices.shape[1] != count or faces.ndim != 2 or faces.shape[1] != 3 or faces.max(initial=-1) >= count:
        raise ValueError(f"{name} have {vertices.shape[1]} vertices, which is not the topology of the faces or head.")
    return vertices
