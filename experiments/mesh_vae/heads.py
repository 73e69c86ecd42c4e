"""The heads to train on: registered scans in the head frame, and draws from the head model."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from rich.console import Console

from experiments.local_pca import scans
from experiments.mesh_vae.settings import TrainSettings
from experiments.metrics import head_frame
from fitting.local_files import load_local_model
from fitting.local_model import with_local
from flamejax.head import HeadFileError, HeadModel, HeadParams, vertices

LIKELY = 3.0
"""Coefficients are drawn from a normal distribution within so many deviations."""


@dataclass(frozen=True)
class HeadSplit:
    """N heads of one split, numpy."""

    vertices: np.ndarray
    """(N, V, 3) float32 metres, head frame."""
    rotations: np.ndarray
    """(N, 5, 3) axis-angle of the joints; the root's is zero."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Generator:
    """What synthetic heads are drawn from."""

    head: HeadModel
    """With local models where there are any: their detail is what the global components lack."""
    rotations: Array
    """(N, 5, 3) the training scans' joint rotations, to choose from."""


def load_split(settings: TrainSettings, head: HeadModel, split: str, console: Console) -> HeadSplit:
    """A split's heads.

    Raises:
      ValueError: no scans that can be used.
    """
    if settings.scans is None and head.name == scans.OPEN_HEAD:
        from experiments.data.open_faces import load_scans

        found = load_scans(split, "slice" if settings.smoke else "full")
        return HeadSplit(found.vertices, found.joint_rotations)
    read = scans.load(head, split, settings.scans, settings.unit, settings.every, settings.smoke, console)
    if not len(read):
        raise ValueError(f"no scans of {split}: at least three subjects are needed.")
    # Scans of one's own lie anywhere: their fits say where the head frame is.
    fitted, sound = scans.fit(head, read, f"placing the scans of {split}", console)
    joints = jax.vmap(lambda b, e: _root(head, b, e))(fitted.params.betas, fitted.params.expression)
    root = np.asarray(joints) + np.asarray(fitted.params.transl)
    placed = head_frame(read.vertices, root, np.asarray(fitted.params.global_orient)).astype(np.float32)
    rotations = np.array(fitted.params.joint_rotations(), np.float32)
    rotations[:, 0] = 0
    return HeadSplit(placed[sound], rotations[sound])


def _root(head: HeadModel, betas: Array, expression: Array) -> Array:
    coefficients = jnp.concatenate([betas, expression])
    return head.joint_template[0] + jnp.matmul(head.joint_dirs[0], coefficients, precision="highest")


def generator(head: HeadModel, training: HeadSplit) -> Generator:
    """Draws follow the head's own statistics, joint rotations those of the training scans."""
    try:
        drawn = with_local(head, load_local_model(head, variant="full"), head.num_betas, head.num_expression)
    except HeadFileError:  # another head than the open one
        drawn = head
    return Generator(drawn, jnp.asarray(training.rotations))


def draw_head(source: Generator, key: Array) -> Array:
    """One synthetic head, (V, 3) metres, head frame."""
    identity, motion, which = jax.random.split(key, 3)
    head = source.head
    betas = jax.random.truncated_normal(identity, -LIKELY, LIKELY, (head.num_betas,))
    expression = jax.random.truncated_normal(motion, -LIKELY, LIKELY, (head.num_expression,))
    turns = source.rotations[jax.random.randint(which, (), 0, len(source.rotations))]
    params = dataclasses.replace(
        HeadParams.zeros(head), betas=betas, expression=expression, neck_pose=turns[1], jaw_pose=turns[2],
        leye_pose=turns[3], reye_pose=turns[4],
    )  # fmt: skip
    return vertices(head, params) - _root(head, betas, expression)[None]


def statistics(training: HeadSplit) -> tuple[np.ndarray, float]:
    """The mean head (V, 3), and the RMS deviation from it per coordinate, metres."""
    mean = training.vertices.mean(axis=0, dtype=np.float64)
    squares = sum(float(np.mean((head - mean) ** 2)) for head in training.vertices)
    return mean.astype(np.float32), float(np.sqrt(squares / len(training.vertices)))


def principal_components(training: HeadSplit, mean: np.ndarray, rank: int) -> np.ndarray | None:
    """The leading components of the training heads, (rank, V, 3) metres a standard deviation; None for rank 0.

    Raises:
      ValueError: there are too few heads.
    """
    count = len(training.vertices)
    if not rank:
        return None
    if rank >= count:
        raise ValueError(f"{count} training heads have fewer than {rank} components; the config's linear_rank.")
    rows = (training.vertices - mean).reshape(count, -1)
    _, vectors = np.linalg.eigh((rows @ rows.T).astype(np.float64))
    leading = vectors[:, ::-1][:, :rank]
    # (U^T A) has the components' lengths times the square root of the number of heads.
    found = leading.T.astype(np.float32) @ rows / np.float32(np.sqrt(count))
    return found.reshape(rank, *mean.shape)
