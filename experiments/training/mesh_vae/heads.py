"""Augmentation of a Mesh-VAE's training scans by mirror images and draws from the head model, and their statistics."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from scipy.spatial import cKDTree

from experiments.datasets.principal_components import gram_components
from experiments.datasets.scans import OPEN_HEAD
from experiments.training.mesh_vae.settings import MeshVAETraining
from fitting.local_files import load_local_model
from fitting.local_model import with_local
from flamejax.head import HeadFileError, HeadModel, HeadParams, root_joint, vertices

MIRROR = np.array([-1.0, 1.0, 1.0])
MIRROR_TOLERANCE = 1e-6
"""Largest distance, metres, between a vertex of a symmetric head and another's mirror image."""
SYNTHETIC_COUNT, DRAW_BATCH = (600, 1440), 32
"""Fewest and most synthetic heads that the components are computed from; heads drawn at once."""
MAX_DEVIATIONS = 3.0
"""Coefficients are drawn from a normal distribution truncated at this many standard deviations."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class SyntheticHeads:
    """A distribution of synthetic heads."""

    head: HeadModel
    """With local models if there are any, for detail that the global components lack."""
    rotations: Array
    """(N, 5, 3) the training scans' joint rotations, axis-angle; one is chosen for each head."""


def synthetic_heads(head: HeadModel, rotations: np.ndarray) -> SyntheticHeads:
    """Returns the distribution with the head's own statistics and the training scans' joint rotations (N, 5, 3)."""
    try:
        detailed = with_local(head, load_local_model(head, variant="full"))
    except HeadFileError:
        if head.name == OPEN_HEAD:  # its local models ship, so the file is damaged
            raise
        detailed = head
    return SyntheticHeads(detailed, jnp.asarray(rotations))


def draw_head(source: SyntheticHeads, key: Array) -> Array:
    """Draw one synthetic head, (V, 3) metres, head frame."""
    identity, motion, which = jax.random.split(key, 3)
    head = source.head
    betas = jax.random.truncated_normal(identity, -MAX_DEVIATIONS, MAX_DEVIATIONS, (head.num_betas,))
    expression = jax.random.truncated_normal(motion, -MAX_DEVIATIONS, MAX_DEVIATIONS, (head.num_expression,))
    rotations = source.rotations[jax.random.randint(which, (), 0, len(source.rotations))]
    params = dataclasses.replace(
        HeadParams.zeros(head), betas=betas, expression=expression, neck_pose=rotations[1],
        jaw_pose=rotations[2], leye_pose=rotations[3], reye_pose=rotations[4],
    )  # fmt: skip
    return vertices(head, params) - root_joint(head, params)[None]


@jax.jit
def _draw_batch(source: SyntheticHeads, keys: Array) -> Array:
    return jax.vmap(lambda key: draw_head(source, key))(keys)


def draw_heads(source: SyntheticHeads, count: int, seed: int) -> np.ndarray:
    """Draw synthetic heads, (count, V, 3) float32."""
    keys = jax.random.split(jax.random.fold_in(jax.random.key(seed), 1), -(-count // DRAW_BATCH) * DRAW_BATCH)
    return np.concatenate([np.asarray(_draw_batch(source, part)) for part in keys.reshape(-1, DRAW_BATCH)])[:count]


def mirror_map(head: HeadModel) -> np.ndarray | None:
    """Returns the index of each vertex's mirror image, (V,) int32; None if the head is not symmetric."""
    points = np.asarray(head.v_template, np.float64)
    distance, partner = cKDTree(points).query(points * MIRROR)
    paired = np.array_equal(partner[partner], np.arange(len(points)))
    return partner.astype(np.int32) if paired and distance.max() < MIRROR_TOLERANCE else None


def mirror_heads(heads: np.ndarray, mirror: np.ndarray) -> np.ndarray:
    """Returns the mirror images of heads (N, V, 3)."""
    return (heads * MIRROR.astype(np.float32))[:, mirror]


def weighted_training_heads(
    scans: np.ndarray, mirror: np.ndarray | None, source: SyntheticHeads | None, config: MeshVAETraining
) -> list[tuple[np.ndarray, float]]:
    """Returns the kinds of training heads (N, V, 3) with their shares: scans, their mirror images, synthetic heads.

    Args:
      scans: (N, V, 3) metres, head frame. mirror: `mirror_map`; None for no mirror images. source: None for no
        synthetic heads.
    """
    flipped, synthetic = config.mirrored if mirror is not None else 0.0, config.synthetic if source is not None else 0.0
    parts = [(scans, (1 - flipped) * (1 - synthetic))]
    if mirror is not None and flipped:
        parts.append((mirror_heads(scans, mirror), flipped * (1 - synthetic)))
    if source is not None and synthetic:
        count = int(np.clip(len(scans) // 2, *SYNTHETIC_COUNT))
        parts.append((draw_heads(source, count, config.seed), synthetic))
    return [(heads, weight) for heads, weight in parts if weight > 0]


def augmentation(head: HeadModel, scans: np.ndarray, rotations: np.ndarray, synthetic: float = 0.25) -> np.ndarray:
    """Returns mirror images of scans (N, V, 3), and synthetic heads with the scans' joint rotations (N, 5, 3).

    The result is (M, V, 3); a share `synthetic` of all heads, scans included, is synthetic.
    """
    mirror, source = mirror_map(head), synthetic_heads(head, rotations)
    flipped = np.zeros((0, *scans.shape[1:]), np.float32) if mirror is None else mirror_heads(scans, mirror)
    count = round(synthetic / (1 - synthetic) * (len(scans) + len(flipped)))
    return np.concatenate([flipped, draw_heads(source, count, seed=1)])


def weighted_statistics(parts: Sequence[tuple[np.ndarray, float]]) -> tuple[np.ndarray, float]:
    """Returns the mean head (V, 3), and the RMS deviation of a coordinate from it, metres. The weights add up to 1."""
    mean = sum(weight * heads.mean(axis=0, dtype=np.float64) for heads, weight in parts)
    square = sum(weight * np.mean([np.mean((head - mean) ** 2) for head in heads]) for heads, weight in parts)
    return np.asarray(mean, np.float32), float(np.sqrt(square))


def principal_components(parts: Sequence[tuple[np.ndarray, float]], mean: np.ndarray, rank: int) -> np.ndarray | None:
    """Returns the leading principal components of weighted heads, (rank, V, 3) metres per standard deviation.

    Returns None for rank 0.

    Raises:
      ValueError: there are too few heads.
    """
    if not rank:
        return None
    rows = np.concatenate(
        [np.float32(np.sqrt(weight / len(heads))) * (heads - mean).reshape(len(heads), -1) for heads, weight in parts]
    )
    if rank >= len(rows):
        raise ValueError(
            f"{len(rows)} training heads have fewer than {rank} components: give more scans, or --no-linear-branch."
        )
    # The rows of U^T A have the components' lengths.
    components = gram_components(rows, rank)[1].T.astype(np.float32) @ rows
    # The sign of a component is arbitrary: make it the same on every computer.
    largest = np.take_along_axis(components, np.abs(components).argmax(axis=1)[:, None], axis=1)
    return (np.where(largest < 0, -1, 1).astype(np.float32) * components).reshape(rank, *mean.shape)
