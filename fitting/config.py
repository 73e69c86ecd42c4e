"""Configurations of a fit, and named presets (Diverse3DFace, Algorithm 1)."""

import dataclasses
from typing import Literal

from flamejax.types import VISIBLE_CONFIDENCE

MIN_LANDMARKS = 8


@dataclasses.dataclass(frozen=True)
class FitConfig:
    """Algorithm 1 as we run it (preset `fast`).

    Second-order steps fit the landmarks: first the rigid pose, then the global coefficients. Adam then fits all
    parameters, local models included, to landmarks and colours. Energies are negative log densities. Noise levels
    (`*_sigma`) are standard deviations, as shares of the crop's side. Coefficients have N(0, 1) priors, colours are in
    [0, 1].
    """

    visible_threshold: float = VISIBLE_CONFIDENCE
    """Landmarks with a confidence at or below this are hidden (tau: 0.2 in the paper's text and in its released code,
    0.1 in its Algorithm 1)."""
    landmark_sigma: float = 0.008
    """Noise of the inner 51 landmarks, as a share of the crop's side (about 2 % of the outer-eye distance)."""
    contour_sigma: float = 0.03
    """Noise of the 17 contour points, as a share of the crop's side: detectors disagree about them."""
    dense_weight: float = 0.15
    """Weight of each of the 468 dense landmarks, if the head has them (`flamejax calibrate-landmarks`): their errors
    are correlated, so each counts less than an independent observation. 0 leaves them out."""
    closure_sigma: float = 0.006
    """Noise of the opening between an upper and a lower lid or lip, as a share of the crop's side. Errors of neighbours
    are correlated, so it is known better than either point. 0 leaves the closure terms out."""
    rigid_steps: int = 12
    """Levenberg-Marquardt steps of the rigid stage, which fits rotation, scale and translation to the inner landmarks,
    from three initial yaws."""
    landmark_steps: int = 20
    """Levenberg-Marquardt steps on pose, camera and the global coefficients."""
    local_steps: int = 0
    """Levenberg-Marquardt steps on all parameters, if there are local models. None by default: they did not help on
    validation photos, since landmarks say little about local shape."""
    photometric_steps: int = 96
    """Adam steps on all parameters; with 0 only landmarks determine the geometry, and only light is fitted."""
    visibility_interval: int = 4
    """Adam steps between two renderings of visibility; must divide `photometric_steps`."""
    render_size: int = 128
    """Side of the image the photometric term compares, pixels."""
    photometric_weight: float = 600.0
    """Weight of the mean robust colour difference over visible skin."""
    photometric_scale: float = 0.15
    """Colour difference at which the robust loss levels off, so that occluders do not distort the fit."""
    smoothing_weight: float = 10.0
    """Weight of the mean squared Laplacian (mm^2) of the displacement from the mean head: avoids kinks at the borders
    of local models."""
    eyeball_rate: float = 0.5
    """Factor on the step sizes of the eyeballs: gaze, and their local models (the paper's appendix)."""
    learning_rate: float = 1.0
    """Factor on all of Adam's step sizes."""

    def __post_init__(self) -> None:
        if self.photometric_steps % self.visibility_interval:
            raise ValueError(
                f"visibility_interval ({self.visibility_interval}) must divide photometric_steps "
                f"({self.photometric_steps})."
            )
        if min(self.landmark_sigma, self.contour_sigma, self.photometric_scale) <= 0 or self.render_size < 16:
            raise ValueError(
                "landmark_sigma, contour_sigma and photometric_scale must be positive, and render_size at least 16."
            )


@dataclasses.dataclass(frozen=True)
class GradientFitConfig:
    """Algorithm 1 by plain gradient descent, for comparison (presets `paper` and `code`).

    Landmarks are measured as in the released code, where the crop reaches from -1 to 1; colours lie in [0, 1]. Losses
    are means over visible landmarks and compared pixels. With the sums of Eqs. 11-12 the stated step size would be far
    too large.
    """

    optimiser: Literal["sgd", "adam"] = "sgd"
    learning_rate: float = 5e-3
    """Step size for all parameters, in the units of `DescentParams`."""
    iterations: int = 2000
    """Total number of iterations."""
    rigid_iterations: int = 200
    """The first iterations fit only rotation and camera to landmarks 17-67 (as in the released code; the paper states
    no number)."""
    global_iterations: int = 600
    """Iterations without local models, after the rigid ones: the paper fits "coarse and local" in this order."""
    landmark_norm: Literal["l1", "l2"] = "l1"
    """l1 in the paper, the mean distance (l2) in the released code."""
    landmark_weight: float = 5.0
    photometric_weight: float = 16.0
    regularisation_weight: float = 1e-3
    """Weight of half the sum of squares of all coefficients."""
    smoothing_weight: float = 0.0
    """Weight of the mean squared Laplacian (mm^2) of the displacement from the mean head."""
    closure_weight: float = 0.0
    """Weight of the mean distance between fitted and observed openings of lids and lips."""
    eyeball_rate: float = 0.5
    """Factor on the step sizes of the eyeballs."""
    visible_threshold: float = VISIBLE_CONFIDENCE
    """As in `FitConfig`."""
    render_size: int = 128
    """Side of the image the photometric term compares, pixels (neither source states it; as in `FitConfig`)."""

    def __post_init__(self) -> None:
        if min(self.rigid_iterations, self.global_iterations) < 0 or self.iterations < 1:
            raise ValueError("iterations must be at least 1, rigid_iterations and global_iterations at least 0.")
        if self.rigid_iterations + self.global_iterations > self.iterations:
            raise ValueError("rigid_iterations and global_iterations together are more than there are iterations.")


AnyFitConfig = FitConfig | GradientFitConfig
PRESETS: dict[str, AnyFitConfig] = {
    "fast": FitConfig(),
    "paper": GradientFitConfig(),
    "code": GradientFitConfig(
        optimiser="adam",
        iterations=1000,
        global_iterations=300,
        landmark_norm="l2",
        regularisation_weight=1e-2,
        smoothing_weight=0.1,
        closure_weight=1.0,
    ),
}
"""Named configurations. `fast` is ours. `paper` follows the paper's text (SGD, 2000 iterations, weights 5, 16 and
1e-3), `code` the released program (Adam, 1000 iterations, smoothing and closure terms)."""
