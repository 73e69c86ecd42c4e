"""Held-out heads of which a part is hidden, and how far completions of them are from the truth."""

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
"""Of a head's vertices that are hidden: drawn evenly from this range."""
MASK_SEED = 70_001
"""Of the patches' outlines: not those that a Mesh-VAE may have been trained with."""


@dataclass(frozen=True)
class Cases:
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
    """(N,) into `EXPRESSIONS`."""
    keys: list[str]
    """Such as subject_0271-mouth_open-patch."""

    def __len__(self) -> int:
        return len(self.heads)


def masks_for_tests(head: HeadModel) -> MaskMaker:
    """What the masks are cut from."""
    return mask_maker(head, seed=MASK_SEED)


def make_cases(maker: MaskMaker, scans: Scans, chosen: Sequence[int], seed: int = 0) -> Cases:
    """Hide a part of the scans at the places `chosen`, once for each kind of mask; the same for a scan whichever others
    are chosen."""
    places = [k for k in chosen for _ in KINDS]
    kinds = np.tile(np.arange(len(KINDS)), len(chosen))
    names = scans.keys
    numbers = jnp.asarray(np.array([zlib.crc32(names[k].encode()) for k in places], np.uint32))
    masks = np.asarray(_hidden(maker, jax.random.key(seed), numbers, jnp.asarray(kinds, jnp.int32)))
    keys = [f"{names[k]}-{KINDS[kind]}" for k, kind in zip(places, kinds, strict=True)]
    kind = np.array(KINDS)[kinds]
    return Cases(scans.vertices[places], ~masks, kind, scans.subject[places], scans.expression[places], keys)


@jax.jit
def _hidden(maker: MaskMaker, key: jax.Array, numbers: jax.Array, kinds: jax.Array) -> jax.Array:
    """(N, V) bool, each by a key of its number and kind."""

    def one(number: jax.Array, kind: jax.Array) -> jax.Array:
        which, share = jax.random.split(jax.random.fold_in(jax.random.fold_in(key, number), kind))
        return hidden_vertices(maker, which, jax.random.uniform(share, (), minval=SHARE[0], maxval=SHARE[1]), kind)

    return jax.vmap(one)(numbers, kinds)


@dataclass
class Errors:
    """Median distances of each case's vertices, mm: (N,) each."""

    visible: np.ndarray
    hidden: np.ndarray
    visible_detail: np.ndarray
    """Of the Laplacians: what is finer than a few edges."""
    hidden_detail: np.ndarray


def measure(found: np.ndarray, cases: Cases, edges: tuple[np.ndarray, np.ndarray]) -> Errors:
    """Errors of completions (N, V, 3), or (V, 3) for all. edges: `mesh_edges` of the head's faces."""
    out = np.empty((4, len(cases)))
    for k in range(len(cases)):
        away = (found[k] if found.ndim == 3 else found).astype(np.float64) - cases.heads[k]
        for row, field in ((0, away), (2, np.asarray(laplacian(jnp.asarray(away, jnp.float32), *edges)))):
            distance = 1e3 * np.linalg.norm(field, axis=-1)
            out[row, k] = np.median(distance[cases.visible[k]])
            out[row + 1, k] = np.median(distance[~cases.visible[k]])
    return Errors(*out)
