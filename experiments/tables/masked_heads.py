"""Held-out heads with a part hidden, and the errors of completions."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from experiments.datasets.open_faces import Scans
from experiments.datasets.vertex_masks import KINDS, MaskMaker, hidden_vertices, mask_maker
from flamejax.geometry import laplacian
from flamejax.head import HeadModel

SHARE = (0.25, 0.4)
"""Range of the share of a head's vertices that is hidden; uniform."""
MASK_SEED = 70_001
"""Seed of the patches' outlines, different from those of training a Mesh-VAE."""


@dataclass(frozen=True)
class MaskedHeads:
    """N masked heads: each scan with each kind of mask."""

    heads: np.ndarray
    """(N, V, 3) float32 metres, head frame: the truth."""
    visible: np.ndarray
    """(N, V) bool"""
    kind: np.ndarray
    """(N,) names of `KINDS`."""
    subject: np.ndarray
    """(N,)"""
    expression: np.ndarray
    """(N,) index into `EXPRESSIONS`."""
    keys: list[str]
    """Names such as subject_0271-mouth_open-patch."""

    def __len__(self) -> int:
        return len(self.heads)


def evaluation_mask_maker(head: HeadModel) -> MaskMaker:
    """Returns the mask maker of the tables, whose patches differ from those of training."""
    return mask_maker(head, seed=MASK_SEED)


def mask_heads(maker: MaskMaker, scans: Scans, chosen: Sequence[int], seed: int = 0) -> MaskedHeads:
    """Hide a part of each scan with an index in `chosen`, once for each kind of mask. A scan's masks do not depend on
    the others."""
    indices = [k for k in chosen for _ in KINDS]
    kinds = np.tile(np.arange(len(KINDS)), len(chosen))
    names = scans.keys
    numbers = jnp.asarray(np.array([zlib.crc32(names[k].encode()) for k in indices], np.uint32))
    masks = np.asarray(_hidden(maker, jax.random.key(seed), numbers, jnp.asarray(kinds, jnp.int32)))
    keys = [f"{names[k]}-{KINDS[kind]}" for k, kind in zip(indices, kinds, strict=True)]
    kind = np.array(KINDS)[kinds]
    vertices, subject, expression = (a[indices] for a in (scans.vertices, scans.subject, scans.expression))
    return MaskedHeads(vertices, ~masks, kind, subject, expression, keys)


@jax.jit
def _hidden(maker: MaskMaker, key: jax.Array, numbers: jax.Array, kinds: jax.Array) -> jax.Array:
    """Returns masks of hidden vertices (N, V) bool, each drawn with a key of its number and kind."""

    def draw(number: jax.Array, kind: jax.Array) -> jax.Array:
        which, share = jax.random.split(jax.random.fold_in(jax.random.fold_in(key, number), kind))
        return hidden_vertices(maker, which, jax.random.uniform(share, (), minval=SHARE[0], maxval=SHARE[1]), kind)

    return jax.vmap(draw)(numbers, kinds)


@dataclass
class CompletionErrors:
    """Median vertex distances of each head, mm, (N,) each."""

    visible: np.ndarray
    hidden: np.ndarray
    visible_detail: np.ndarray
    """Distance of the Laplacians, which measures details finer than a few edges."""
    hidden_detail: np.ndarray


def completion_errors(
    completed: np.ndarray, cases: MaskedHeads, edges: tuple[np.ndarray, np.ndarray]
) -> CompletionErrors:  # fmt: skip
    """Returns errors of completions (N, V, 3), or of one head (V, 3). edges: `mesh_edges` of the head's faces."""
    errors = np.empty((4, len(cases)))
    for k in range(len(cases)):
        offset = (completed[k] if completed.ndim == 3 else completed).astype(np.float64) - cases.heads[k]
        for row, field in ((0, offset), (2, np.asarray(laplacian(jnp.asarray(offset, jnp.float32), *edges)))):
            distance = 1e3 * np.linalg.norm(field, axis=-1)
            errors[row, k] = np.median(distance[cases.visible[k]])
            errors[row + 1, k] = np.median(distance[~cases.visible[k]])
    return CompletionErrors(*errors)
