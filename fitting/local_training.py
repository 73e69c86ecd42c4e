"""Training of local models from fitted scans (Diverse3DFace, section 4.1, Eqs. 4 and 6)."""

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np
from einops import rearrange

from fitting.local_model import LocalModel, LocalRegion
from flamejax.geometry import mesh_edges
from flamejax.head import HeadModel, geometry_hash

FADE_RINGS = 6
"""Rings of neighbours over which a region's weight rises and falls: two to three centimetres on the face."""
MOST_SAMPLES = 2500
"""Residuals that a region's PCA looks at: more change its leading components no further."""


@dataclasses.dataclass(frozen=True)
class LocalConfig:
    """Settings of the local models."""

    num_betas: int = 10
    """N_S: identity components that stay global."""
    num_expression: int = 10
    """N_E"""
    explained: float = 0.99
    """Share of each region's residual variance to be held, shape and expression alike."""
    max_shape: int = 60
    """Components of one region at most."""
    max_expression: int = 40


@dataclasses.dataclass(frozen=True)
class Residuals:
    """What the kept global components leave of the training scans (Eq. 4), metres at rest.

    Every scan is exactly coarse + its subject's shape residual + its own expression residual. The paper takes both from
    the same scan (shape: all expression removed; expression: all identity removed), so the detail that the global
    model cannot express at all would be in both, and twice in their sum. Here what is common to a subject's scans is
    shape, and what changes between them is expression.
    """

    shape: np.ndarray
    """(P, 3, V) of each subject: the mean over its scans of scan - top N_S identity - all expression."""
    expression: np.ndarray
    """(N, 3, V) of each scan: scan - top N_S identity - top N_E expression - its subject's shape residual."""


def residuals(
    head: HeadModel, unposed: np.ndarray, betas: np.ndarray, expression: np.ndarray, subject: np.ndarray,
    config: LocalConfig,
) -> Residuals:  # fmt: skip
    """Split scans into coarse shape and residuals.

    Args:
      unposed: (N, V, 3) scans at rest. betas (N, S), expression (N, E): of the fit of the full head (Eq. 3).
      subject: (N,) whose scan it is; any labels.

    Raises:
      ValueError: more global components are to be kept than the head has, or the arrays differ in length.
    """
    if not 0 <= config.num_betas <= head.num_betas or not 0 <= config.num_expression <= head.num_expression:
        raise ValueError(
            f"num_betas={config.num_betas}, num_expression={config.num_expression}: this head has {head.num_betas} "
            f"identity and {head.num_expression} expression components."
        )
    if not len(unposed) == len(betas) == len(expression) == len(subject):
        raise ValueError("scans, coefficients and subjects differ in number.")
    basis = np.asarray(head.basis[: head.joint_dirs.shape[-1]]).reshape(head.joint_dirs.shape[-1], -1)
    identity, motion = basis[: head.num_betas], basis[head.num_betas :]
    kept, most = config.num_betas, config.num_expression
    template = rearrange(np.asarray(head.v_template), "v d -> (d v)")
    left = rearrange(unposed, "n v d -> n (d v)") - template
    left -= betas[:, :kept] @ identity[:kept] + expression[:, :most] @ motion[:most]
    names, owner = np.unique(subject, return_inverse=True)
    shape = np.zeros((len(names), left.shape[1]), np.float32)
    for i in range(len(names)):
        mine = owner == i
        shape[i] = (left[mine] - expression[mine, most:] @ motion[most:]).mean(0)
    left -= shape[owner]
    parts = shape, left.astype(np.float32, copy=False)
    return Residuals(*(rearrange(part, "n (d v) -> n d v", d=3) for part in parts))


def region_weights(head: HeadModel, rings: int = FADE_RINGS) -> dict[str, np.ndarray]:
    """Smooth region masks that sum to 1 at every vertex (M_R of Eq. 6).

    FLAME's regions overlap and end abruptly. Masked with them, the residual of a vertex in three regions would be added
    three times, and at a border the regions' approximations would part in a step. So a vertex is shared out between its
    regions, and the shares are diffused over the mesh, which keeps their sum: the regions' parts of a residual add up
    to it, and each fades to zero over several rings. Eyeballs are separate pieces of the mesh: nothing is diffused into
    or out of them.

    Args:
      rings: diffusion steps; a region fades to zero over this many rings on either side of its border.

    Returns:
      Name -> (V,) float32 in [0, 1]. A vertex in no region, with none near, belongs to all of them alike.
    """
    names = list(head.regions)
    masks = np.stack([np.asarray(head.regions[name], np.float32) for name in names], axis=1)
    masks /= np.maximum(masks.sum(axis=1, keepdims=True), 1)
    first, second = mesh_edges(np.asarray(head.faces))
    first, second = first[first < second], second[first < second]  # each once
    degree = np.bincount(np.concatenate([first, second]), minlength=head.num_vertices)
    for _ in range(rings):
        total = np.zeros_like(masks)
        np.add.at(total, first, masks[second])
        np.add.at(total, second, masks[first])
        masks = (masks + total) / (1 + degree)[:, None]
    total = masks.sum(axis=1, keepdims=True)
    shares = np.where(total > 0, masks / np.maximum(total, 1e-12), 1 / len(names))
    return {name: shares[:, i].astype(np.float32) for i, name in enumerate(names)}


def train_local_model(
    head: HeadModel,
    found: Residuals,
    config: LocalConfig,
    provenance: Mapping[str, str] | None = None,
    advance: Callable[[], None] = lambda: None,
) -> LocalModel:
    """PCA of each region's weighted residuals, shape and expression apart (Eq. 6).

    The PCA is about zero, not about the residuals' mean: Eq. 6 has no mean, so that local coefficients of zero are the
    global model; a mean that there is becomes (part of) the first components.

    Args:
      found: of `residuals` with the same config.
      provenance: strings for the file: where the scans come from.
      advance: called after each region, for progress bars.
    """
    regions = []
    for name, weights in region_weights(head).items():
        index = np.flatnonzero(weights).astype(np.int32)
        kinds = (found.shape, config.max_shape), (found.expression, config.max_expression)
        made = (_principal(rest[..., index] * weights[index], config.explained, most) for rest, most in kinds)
        (shape, shape_total), (moved, moved_total) = made
        regions.append(LocalRegion(name, index, shape, moved, (shape_total, moved_total)))
        advance()
    return LocalModel(
        head_name=head.name,
        head_version=head.version,
        head_hash=geometry_hash(head),
        num_vertices=head.num_vertices,
        num_betas=config.num_betas,
        num_expression=config.num_expression,
        regions=tuple(regions),
        provenance=dict(provenance or {}),
    )


def _principal(samples: np.ndarray, explained: float, most: int) -> tuple[np.ndarray, float]:
    """Principal directions about zero: (N, 3, n) -> (K, 3, n) metres per standard deviation, and the total variance."""
    chosen = samples[:: -(-len(samples) // MOST_SAMPLES)]
    flat = chosen.reshape(len(chosen), -1).astype(np.float32) * np.float32(1e3)  # millimetres: squares of metres vanish
    wide = flat.shape[1] > flat.shape[0]
    gram = (flat @ flat.T if wide else flat.T @ flat).astype(np.float64)
    total = float(np.trace(gram)) / len(flat)
    values, vectors = np.linalg.eigh(gram)
    values, vectors = values[::-1], vectors[:, ::-1]
    held = np.cumsum(np.maximum(values, 0)) / max(np.trace(gram), 1e-30)
    # Beyond single precision's noise there are no directions, only rounding.
    sound = int(np.sum(values > 1e-6 * max(values[0], 1e-30)))
    count = min(int(np.searchsorted(held, explained)) + 1, most, sound)
    directions = vectors[:, :count].T @ flat / np.sqrt(values[:count, None]) if wide else vectors[:, :count].T
    deviations = np.sqrt(values[:count] / len(flat))
    rows = (1e-3 * deviations[:, None] * directions).astype(np.float32)
    return rows.reshape(count, 3, -1), 1e-6 * total
