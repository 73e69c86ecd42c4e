"""Train local models on fitted scans (Diverse3DFace, section 4.1, Eqs. 4 and 6)."""

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np
from einops import rearrange

from fitting.local_model import LocalModel, LocalRegion
from flamejax.geometry import mesh_edges
from flamejax.head import HeadModel, geometry_hash

FADE_RINGS = 6
"""Rings of neighbours over which a region's weight fades in or out: two to three centimetres on the face."""
MAX_SAMPLES = 2500
"""Maximum number of residuals for a region's PCA; more do not change its leading components."""


@dataclasses.dataclass(frozen=True)
class LocalConfig:
    """Configuration of local models."""

    num_betas: int = 10
    """N_S: number of identity components that stay global."""
    num_expression: int = 10
    """N_E: number of expression components that stay global."""
    explained: float = 0.99
    """Share of each region's residual variance to explain, for shape and for expression."""
    max_shape: int = 60
    """Maximum number of shape components of one region."""
    max_expression: int = 40
    """Maximum number of expression components of one region."""


@dataclasses.dataclass(frozen=True)
class Residuals:
    """Residuals of the training scans after the leading global components (Eq. 4), metres in the rest pose.

    Every scan is exactly its coarse shape + its subject's shape residual + its own expression residual. The paper takes
    both residuals from the same scan (shape: all expression removed; expression: all identity removed). Details that
    the global model cannot express would then be in both, and twice in their sum. Here the common part of a subject's
    scans is shape, and the part that changes between them is expression.
    """

    shape: np.ndarray
    """(P, 3, V) per subject: the mean over its scans of scan - top N_S identity - all expression."""
    expression: np.ndarray
    """(N, 3, V) per scan: scan - top N_S identity - top N_E expression - its subject's shape residual."""


def split_residuals(
    head: HeadModel, unposed: np.ndarray, betas: np.ndarray, expression: np.ndarray, subject: np.ndarray,
    config: LocalConfig,
) -> Residuals:  # fmt: skip
    """Compute the residuals of scans after removing their coarse shape, split into shape and expression.

    Args:
      unposed: (N, V, 3) scans in the rest pose, metres (`ScanFit.unposed`).
      betas, expression: (N, S), (N, E) coefficients of the full head fitted to the scans (Eq. 3).
      subject: (N,) labels of the scans' subjects, of any type.

    Raises:
      ValueError: the config asks for more global components than the head has, or the arrays differ in length.
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
    num_betas, num_expression = config.num_betas, config.num_expression
    template = rearrange(np.asarray(head.v_template), "v d -> (d v)")
    residual = rearrange(unposed, "n v d -> n (d v)") - template
    residual -= betas[:, :num_betas] @ identity[:num_betas] + expression[:, :num_expression] @ motion[:num_expression]
    subjects, subject_index = np.unique(subject, return_inverse=True)
    shape = np.zeros((len(subjects), residual.shape[1]), np.float32)
    for i in range(len(subjects)):
        own = subject_index == i
        shape[i] = (residual[own] - expression[own, num_expression:] @ motion[num_expression:]).mean(0)
    residual -= shape[subject_index]
    parts = shape, residual.astype(np.float32, copy=False)
    return Residuals(*(rearrange(part, "n (d v) -> n d v", d=3) for part in parts))


def region_weights(head: HeadModel, rings: int = FADE_RINGS) -> dict[str, np.ndarray]:
    """Return smooth region masks that sum to 1 at every vertex (M_R of Eq. 6).

    FLAME's regions overlap and have hard borders. With binary masks, the residual of a vertex in three regions would be
    added three times, and the sum of the regions' approximations would have steps at borders. Here the regions of a
    vertex get equal weights, which are then diffused over the mesh. Diffusion preserves their sum, so the regions'
    parts of a residual add up to it, and each part fades to zero over several rings. Eyeballs are separate components
    of the mesh, so nothing diffuses into or out of them.

    Args:
      rings: diffusion steps; a region fades to zero over this many rings on either side of its border.

    Returns:
      Name -> (V,) float32 in [0, 1]. A vertex without a region nearby has equal weights for all of them.
    """
    names = list(head.regions)
    masks = np.stack([np.asarray(head.regions[name], np.float32) for name in names], axis=1)
    masks /= np.maximum(masks.sum(axis=1, keepdims=True), 1)
    first, second = mesh_edges(np.asarray(head.faces))
    first, second = first[first < second], second[first < second]  # each edge once
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
    residuals: Residuals,
    config: LocalConfig,
    provenance: Mapping[str, str] | None = None,
    advance: Callable[[], None] = lambda: None,
) -> LocalModel:
    """Train local models: PCA of each region's weighted residuals, separately for shape and expression (Eq. 6).

    The PCA is about zero, not about the residuals' mean. Eq. 6 has no mean, so zero local coefficients give the global
    model; a nonzero mean becomes part of the first components.

    Args:
      head: the head whose fits of the scans gave the residuals.
      residuals: those that `fitting.local_training.split_residuals` returns for the same config.
      config: numbers of global components and of local ones.
      provenance: strings to store in the file, such as the source of the scans.
      advance: called after each region, for progress bars.

    Returns:
      One local model per region of the head; `write_local_model` writes them.
    """
    regions = []
    for name, weights in region_weights(head).items():
        index = np.flatnonzero(weights).astype(np.int32)
        parts = (residuals.shape, config.max_shape), (residuals.expression, config.max_expression)
        (shape, shape_variance), (expression, expression_variance) = (
            _principal_components(part[..., index] * weights[index], config.explained, count) for part, count in parts
        )
        regions.append(LocalRegion(name, index, shape, expression, (shape_variance, expression_variance)))
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


def _principal_components(samples: np.ndarray, explained: float, max_count: int) -> tuple[np.ndarray, float]:
    """PCA about zero: (N, 3, n) metres -> (K, 3, n) metres per standard deviation, and the total variance."""
    subset = samples[:: -(-len(samples) // MAX_SAMPLES)]
    flat = subset.reshape(len(subset), -1).astype(np.float32) * np.float32(1e3)  # millimetres, against underflow
    wide = flat.shape[1] > flat.shape[0]
    gram = (flat @ flat.T if wide else flat.T @ flat).astype(np.float64)
    total = float(np.trace(gram)) / len(flat)
    values, vectors = np.linalg.eigh(gram)
    values, vectors = values[::-1], vectors[:, ::-1]
    cumulative = np.cumsum(np.maximum(values, 0)) / max(np.trace(gram), 1e-30)
    # Smaller eigenvalues are rounding errors of single precision.
    rank = int(np.sum(values > 1e-6 * max(values[0], 1e-30)))
    count = min(int(np.searchsorted(cumulative, explained)) + 1, max_count, rank)
    directions = vectors[:, :count].T @ flat / np.sqrt(values[:count, None]) if wide else vectors[:, :count].T
    deviations = np.sqrt(values[:count] / len(flat))
    rows = (1e-3 * deviations[:, None] * directions).astype(np.float32)
    return rows.reshape(count, 3, -1), 1e-6 * total
