"""Metrics: distances between heads, errors and diversity of sets of samples, and NoW's protocol."""

from flamejax.metrics.heads import PAPER_UNIT, aligned, asd, asd_extremes, cse, mask_counts, rms, self_distances
from flamejax.metrics.now import NowErrors, now_errors, seven_landmarks
from flamejax.metrics.samples import (
    Distribution,
    IdentityErrors,
    error_ratio,
    harmonic_diversity,
    identity_errors_mm,
    iou_at,
    learn_distribution,
    out_of_distribution,
    precision_at,
    sample_error,
    shape_deviation,
)

__all__ = [
    "PAPER_UNIT",
    "Distribution",
    "IdentityErrors",
    "NowErrors",
    "aligned",
    "asd",
    "asd_extremes",
    "cse",
    "error_ratio",
    "harmonic_diversity",
    "identity_errors_mm",
    "iou_at",
    "learn_distribution",
    "mask_counts",
    "now_errors",
    "out_of_distribution",
    "precision_at",
    "rms",
    "sample_error",
    "self_distances",
    "seven_landmarks",
    "shape_deviation",
]
