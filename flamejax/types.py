"""The data types that pass between the steps: observations, fits and hypotheses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import Array

from flamejax.camera import CropTransform, OrthographicCamera
from flamejax.head import HeadParams

VISIBLE_CONFIDENCE = 0.2
"""A landmark counts as visible above this confidence."""

OK, TOO_FEW_LANDMARKS, NOT_FINITE, POOR_LANDMARKS, DIVERGED = range(5)
FIT_REASONS = {
    OK: "ok",
    TOO_FEW_LANDMARKS: "fewer than 8 landmarks are visible: give landmarks of your own, or a mask that hides less",
    NOT_FINITE: "the inputs are not finite: the photo or one of its masks contains NaN or infinity",
    DIVERGED: "the fit diverged to numbers that are not finite: use the preset 'fast'",
    POOR_LANDMARKS: "no head pose explains the landmarks: is it a face, and are the landmarks in iBUG order?",
}
"""`Fit.code` -> message to the user."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Observation:
    """One face in a square crop, or several along leading axes *b."""

    image: Array
    """(*b, S, S, 3) float32 RGB in [0, 1]; the photo's edge is repeated beyond it"""
    landmarks: Array
    """(*b, L, 2) crop pixels, x right, y down, pixel centres at +0.5; 0 where missing (confidence 0)"""
    confidence: Array
    """(*b, L) in [0, 1]"""
    dense_landmarks: Array
    """(*b, 468, 2) crop pixels of MediaPipe's face points; 0 where missing (confidence 0)"""
    dense_confidence: Array
    """(*b, 468) in [0, 1]; all 0 where the landmarks are the user's own"""
    face_mask: Array
    """(*b, S, S) in [0, 1]: 1 = face, 0 = not face or beyond the photo; without a given mask 1 in the whole photo"""
    occlusion_mask: Array
    """(*b, S, S) in [0, 1]: 1 = the face is hidden here (also beyond the photo)"""
    crop: CropTransform
    """crop pixels = scale * full-photo pixels + offset; scale (*b,), offset (*b, 2)"""


def stack(observations: Sequence[Observation]) -> Observation:
    """Stack observations of the same crop size along a new leading axis.

    Raises:
        ValueError: there are none, or their shapes differ.
    """
    if not observations:
        raise ValueError("stack needs at least one observation.")
    shapes = {tuple(leaf.shape for leaf in jax.tree.leaves(o)) for o in observations}
    if len(shapes) > 1:
        raise ValueError(f"observations of different shapes cannot be stacked: {sorted(shapes)}.")
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *observations)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Fit:
    """A head fitted to a photo."""

    params: HeadParams
    """Batch axes (*b,); parameters of `FitModel.head`, where coefficients of local models follow the global ones.
    `model.vertices(fit.params)` gives the vertices, `model.global_params(fit.params)` the parameters of the head
    without local models. `transl` is zero: the camera places the head."""
    vertices: Array
    """(*b, V, 3) world metres."""
    landmarks: Array
    """(*b, 68, 3) world metres."""
    camera: OrthographicCamera
    """World -> crop pixels."""
    texture: Array
    """(*b, C) albedo coefficients, standard deviations: `head.albedo(texture)` is the texture."""
    light: Array
    """(*b, 9, 3) coefficients of spherical harmonics, see `flamejax.rendering.light`."""
    vertex_visibility: Array
    """(*b, V) bool: visible to the camera (z-buffer), inside the photo and not under the occlusion mask."""
    losses: dict[str, Array]
    """(*b,) each: `total` and its terms `landmark`, `closure`, `photometric`, `regularisation`, `smoothing`; and `nme`,
    the mean distance of the visible inner 51 landmarks over the outer-eye distance."""
    code: Array
    """(*b,) int32 key of `FIT_REASONS`: 0 is ok, others are failures."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Hypotheses:
    """M heads, the best first; batch axes (*b,) before M."""

    vertices: Array
    """(*b, M, V, 3) world metres, in the coordinates of the fit and its camera."""
    params: HeadParams | None
    """Parameters of the head, batch axes (*b, M); None for methods that sample vertices, such as a Mesh-VAE."""
    latents: Array | None
    """(*b, M, L, C) latents of the Mesh-VAE; None for other methods."""
    score: Array
    """(*b, M) log-likelihood plus log-prior up to a constant, nats, descending. Its terms depend on the method.
    Mesh-VAE: visible vertices and latents. OFER, whose samples are draws of the prior: visible landmarks.
    ofer+dpp: visible vertices, and how far the sample was moved to match them."""
    size: Array | None = None
    """(*b, M) scale for methods with `params`: `vertices` are the params' vertices times `size`. It matches the fit's
    size, since a photo does not determine scale. None means 1."""


def sorted_best_first(hypotheses: Hypotheses) -> Hypotheses:
    """Sort the hypotheses of one face by descending score."""
    order = jnp.argsort(-hypotheses.score, axis=-1)
    return jax.tree.map(lambda leaf: leaf[order], hypotheses)
