"""What passes from one step to the next: what is seen of a face, what was fitted to it, and what else it could be."""

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
    NOT_FINITE: "the fit met numbers that are not finite: the photo or its landmarks hold NaN or infinity",
    DIVERGED: "the fit ran off to numbers that are not finite: use the preset 'fast'",
    POOR_LANDMARKS: "no head pose explains the landmarks: is it a face, and are the landmarks in iBUG order?",
}
"""What each `Fit.code` means, in words for the user."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Observation:
    """One face in a square crop, or several along leading axes *b."""

    image: Array
    """(*b, S, S, 3) float32 RGB in [0, 1]; beyond the photo its edge is repeated"""
    landmarks: Array
    """(*b, L, 2) crop pixels, x right, y down, pixel centres at +0.5; 0 where missing (confidence 0)"""
    confidence: Array
    """(*b, L) in [0, 1]"""
    dense_landmarks: Array
    """(*b, 468, 2) crop pixels of MediaPipe's face points; 0 where missing (confidence 0)"""
    dense_confidence: Array
    """(*b, 468) in [0, 1]; all 0 where the landmarks are the user's own"""
    face_mask: Array
    """(*b, S, S) in [0, 1]: 1 = face (also inside the photo where unknown), 0 = not, or beyond the photo"""
    occlusion_mask: Array
    """(*b, S, S) in [0, 1]: 1 = the face is hidden here (also beyond the photo)"""
    crop: CropTransform
    """crop pixels = scale * full-photo pixels + offset; scale (*b,), offset (*b, 2)"""


def stack(observations: Sequence[Observation]) -> Observation:
    """One Observation with a new leading axis out of several of the same crop size.

    Raises:
        ValueError: none given, or of different shapes.
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
    """Of the fitted model's head (`FitModel.head`: with local models, their coefficients follow the global ones); batch
    axes (*b,). They give the vertices, `model.vertices(fit.params)`; `model.global_params(fit.params)` are those of the
    head without local models. `transl` is zero, the camera places the head."""
    vertices: Array
    """(*b, V, 3) world metres."""
    landmarks: Array
    """(*b, 68, 3) world metres."""
    camera: OrthographicCamera
    """World -> crop pixels."""
    texture: Array
    """(*b, C) albedo coefficients, standard deviations: `head.albedo(texture)` is the texture."""
    light: Array
    """(*b, 9, 3) spherical harmonics."""
    vertex_visibility: Array
    """(*b, V) bool: seen by the camera (z-buffer), inside the photo and not under the occlusion mask."""
    losses: dict[str, Array]
    """(*b,) each: `total` and its terms `landmark`, `closure`, `photometric`, `regularisation`, `smoothing`; and `nme`,
    the mean distance of the visible inner 51 landmarks over the outer-eye distance."""
    code: Array
    """(*b,) int32: 0 ok, else a key of `FIT_REASONS`."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Hypotheses:
    """M heads, the best first; batch axes (*b,) before M."""

    vertices: Array
    """(*b, M, V, 3) world metres: those of the fit they belong to, in its camera."""
    params: HeadParams | None
    """Of the head they were drawn with, batch axes (*b, M); None where vertices come from elsewhere, as a Mesh-VAE."""
    latents: Array | None
    """(*b, M, L, C) of the Mesh-VAE; None of other methods."""
    score: Array
    """(*b, M) how well each agrees with what is visible and with the prior, descending; nats up to a constant.
    What is weighed depends on the method: the Mesh-VAE's by visible vertices and latents; OFER's, which are draws of
    the prior, by visible landmarks; those of ofer+dpp by visible vertices and how far they were moved onto them."""
    size: Array | None = None
    """(*b, M) of methods with `params`: `vertices` are those of the params times so much, which makes them as large as
    the fit they are shown with: a photo does not show size. None: 1."""


def sorted_best_first(found: Hypotheses) -> Hypotheses:
    """The same hypotheses of one face in the order of their scores."""
    order = jnp.argsort(-found.score, axis=-1)
    return jax.tree.map(lambda leaf: leaf[order], found)
