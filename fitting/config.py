"""Settings and results of a fit."""

import dataclasses

import jax
from jax import Array

from fitting.observation import VISIBLE_CONFIDENCE
from flamejax.camera import OrthographicCamera
from flamejax.head.model import HeadParams

OK, TOO_FEW_LANDMARKS, NOT_FINITE, POOR_LANDMARKS = range(4)
FIT_REASONS = {
    OK: "ok",
    TOO_FEW_LANDMARKS: "fewer than 8 landmarks are visible: give landmarks of your own, or a mask that hides less",
    NOT_FINITE: "the fit met numbers that are not finite: the photo or its landmarks hold NaN or infinity",
    POOR_LANDMARKS: "no head pose explains the landmarks: is it a face, and are the landmarks in iBUG order?",
}
"""What each `Fit.code` means, in words for the user."""

MIN_LANDMARKS = 8


@dataclasses.dataclass(frozen=True)
class FitConfig:
    """The global fit (the paper's "FLAME fitting" baseline). Energies are negative log densities, so that weights
    are noise levels: landmarks in crop pixels, colours in [0, 1], coefficients in standard deviations."""

    visible_threshold: float = VISIBLE_CONFIDENCE
    """Landmarks with a confidence at or below this are hidden (tau: 0.2 in the paper's text and in its released code,
    0.1 in its Algorithm 1)."""
    landmark_sigma: float = 0.008
    """Noise of the inner 51 landmarks, as a share of the crop's side (about 2 % of the outer-eye distance)."""
    contour_sigma: float = 0.03
    """Noise of the 17 contour points, as a share of the crop's side: detectors place them differently."""
    dense_weight: float = 0.15
    """Weight of each of the 468 dense landmarks, if the head has them (`flamejax calibrate-landmarks`): their errors
    are correlated, so each brings less than a whole observation. 0 leaves them out."""
    rigid_steps: int = 12
    """Levenberg-Marquardt steps of the rigid stage: rotation, scale, translation, from three yaws; inner landmarks."""
    landmark_steps: int = 20
    """Levenberg-Marquardt steps on all geometry."""
    photometric_steps: int = 96
    """Adam steps on everything; 0 leaves the geometry to the landmarks and fits light only."""
    visibility_interval: int = 4
    """Adam steps between two renderings of visibility; must divide `photometric_steps`."""
    render_size: int = 128
    """Side of the image the photometric term compares, pixels."""
    photometric_weight: float = 600.0
    """Weight of the mean robust colour difference over visible skin."""
    photometric_scale: float = 0.15
    """Colour difference at which the robust loss levels off: what hides the face does not pull it."""
    learning_rate: float = 1.0
    """Factor on all of Adam's step sizes."""

    def __post_init__(self) -> None:
        if self.photometric_steps % self.visibility_interval:
            raise ValueError(
                f"visibility_interval ({self.visibility_interval}) must divide photometric_steps "
                f"({self.photometric_steps})."
            )
        if min(self.landmark_sigma, self.contour_sigma, self.photometric_scale) <= 0 or self.render_size < 16:
            raise ValueError("Noise levels must be positive and render_size at least 16.")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Fit:
    """A head fitted to a photo."""

    params: HeadParams
    """Batch axes (*b,); `transl` is zero, the camera places the head."""
    local: Array | None
    """Coefficients of the local models; None: the global model alone."""
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
    """(*b,) each: `total`, `landmark`, `photometric`, `regularisation`, and `nme`, the mean distance of the visible
    inner 51 landmarks over the outer-eye distance."""
    code: Array
    """(*b,) int32: 0 ok, else a key of `FIT_REASONS`."""
