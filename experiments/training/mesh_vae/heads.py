"""The heads that a Mesh-VAE is shown beside scans: their mirror images and draws from the head model; and the
statistics of all."""

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
SYMMETRIC = 1e-6
"""Metres by which a symmetric head's vertices may miss their mirror images."""
DRAWN, DRAWN_AT_ONCE = (600, 1440), 32
"""Fewest and most synthetic heads that the components are found from."""
LIKELY = 3.0
"""Coefficients are drawn from a normal distribution within so many deviations."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Generator:
    """What synthetic heads are drawn from."""

    head: HeadModel
    """With local models where there are any: their detail is what the global components lack."""
    rotations: Array
    """(N, 5, 3) the training scans' joint rotations, to choose from."""


def generator(head: HeadModel, rotations: np.ndarray) -> Generator:
    """Draws follow the head's own statistics, joint rotations (N, 5, 3) those of the training scans."""
    try:
        drawn = with_local(head, load_local_model(head, variant="full"), head.num_betas, head.num_expression)
    except HeadFileError:
        if head.name == OPEN_HEAD:  # what ships is damaged
            raise
        drawn = head
    return Generator(drawn, jnp.asarray(rotations))


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
    return vertices(head, params) - root_joint(head, params)[None]


@jax.jit
def _drawn(source: Generator, keys: Array) -> Array:
    return jax.vmap(lambda key: draw_head(source, key))(keys)


def draw_heads(source: Generator, count: int, seed: int) -> np.ndarray:
    """Synthetic heads, (count, V, 3) float32."""
    keys = jax.random.split(jax.random.fold_in(jax.random.key(seed), 1), -(-count // DRAWN_AT_ONCE) * DRAWN_AT_ONCE)
    return np.concatenate([np.asarray(_drawn(source, part)) for part in keys.reshape(-1, DRAWN_AT_ONCE)])[:count]


def mirror_map(head: HeadModel) -> np.ndarray | None:
    """(V,) int32 the vertex that each becomes in the mirror image; None of a head that is not symmetric."""
    points = np.asarray(head.v_template, np.float64)
    distance, partner = cKDTree(points).query(points * MIRROR)
    paired = np.array_equal(partner[partner], np.arange(len(points)))
    return partner.astype(np.int32) if paired and distance.max() < SYMMETRIC else None


def mirrored(heads: np.ndarray, mirror: np.ndarray) -> np.ndarray:
    """The mirror images of heads (N, V, 3)."""
    return (heads * MIRROR.astype(np.float32))[:, mirror]


def training_parts(
    scans: np.ndarray, mirror: np.ndarray | None, source: Generator | None, config: MeshVAETraining
) -> list[tuple[np.ndarray, float]]:
    """What a network will see, heads (N, V, 3) with each kind's weight: scans, their mirror images, draws.

    Args:
      scans: (N, V, 3) metres, head frame. mirror: `mirror_map`, None: no mirror images. source: None: no draws.
    """
    flipped, synthetic = config.mirrored if mirror is not None else 0.0, config.synthetic if source is not None else 0.0
    parts = [(scans, (1 - flipped) * (1 - synthetic))]
    if mirror is not None and flipped:
        parts.append((mirrored(scans, mirror), flipped * (1 - synthetic)))
    if source is not None and synthetic:
        count = int(np.clip(len(scans) // 2, *DRAWN))
        parts.append((draw_heads(source, count, config.seed), synthetic))
    return [(heads, weight) for heads, weight in parts if weight > 0]


def augmentation(head: HeadModel, scans: np.ndarray, rotations: np.ndarray, synthetic: float = 0.25) -> np.ndarray:
    """What a Mesh-VAE is shown beside scans (N, V, 3), with their joint rotations (N, 5, 3): their mirror images, and
    draws from the head model, as many as make a share `synthetic` of all heads. (M, V, 3)."""
    mirror, source = mirror_map(head), generator(head, rotations)
    flipped = np.zeros((0, *scans.shape[1:]), np.float32) if mirror is None else mirrored(scans, mirror)
    count = round(synthetic / (1 - synthetic) * (len(scans) + len(flipped)))
    return np.concatenate([flipped, draw_heads(source, count, seed=1)])


def statistics(parts: Sequence[tuple[np.ndarray, float]]) -> tuple[np.ndarray, float]:
    """The mean head (V, 3), and the RMS deviation from it per coordinate, metres; weights of the parts add up to 1."""
    mean = sum(weight * heads.mean(axis=0, dtype=np.float64) for heads, weight in parts)
    square = sum(weight * np.mean([np.mean((head - mean) ** 2) for head in heads]) for heads, weight in parts)
    return np.asarray(mean, np.float32), float(np.sqrt(square))


def principal_components(parts: Sequence[tuple[np.ndarray, float]], mean: np.ndarray, rank: int) -> np.ndarray | None:
    """The leading components of weighted heads, (rank, V, 3) metres a standard deviation; None for rank 0.

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
    # (U^T A) has the components' lengths.
    found = gram_components(rows, rank)[1].T.astype(np.float32) @ rows
    # Of either sign one is as good as the other: take that which every computer takes.
    largest = np.take_along_axis(found, np.abs(found).argmax(axis=1)[:, None], axis=1)
    return (np.where(largest < 0, -1, 1).astype(np.float32) * found).reshape(rank, *mean.shape)
