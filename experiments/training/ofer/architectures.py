"""Architectures of OFER's networks, at the paper's size and small."""

from __future__ import annotations

from models.encoders.landmark import LandmarkEncoderConfig
from models.generator import GeneratorConfig
from models.rank import IdRankConfig
from models.unet1d import UNet1DConfig

WIDTHS = {"identity": (300, 50, 10), "expression": (53, 25, 10)}
"""U-Net widths for FLAME; the widest level is set to the head's number of coefficients."""
LANDMARK = LandmarkEncoderConfig(width=256, hidden=512)
"""Landmark encoder of the small networks."""


def paper(kind: str) -> GeneratorConfig:
    """Returns OFER's IdGen (ArcFace) or ExpGen (ArcFace and FaRL)."""
    encoders = ("arcface",) if kind == "identity" else ("arcface", "farl")
    return GeneratorConfig(kind, UNet1DConfig(WIDTHS[kind], context=512 * len(encoders)), encoders)


def paper_rank() -> IdRankConfig:
    """Returns OFER's IdRank."""
    return IdRankConfig(context=1024, encoders=("arcface", "farl"))


def small_rank() -> IdRankConfig:
    """Returns a small IdRank with the landmark encoder, for CPUs."""
    return IdRankConfig((192, 128, 64, 64), context=256, landmark=LANDMARK, quadratic=64)


def small(kind: str) -> GeneratorConfig:
    """Returns a small IdGen or ExpGen with the landmark encoder, for CPUs."""
    unet = UNet1DConfig(WIDTHS[kind], context=256, time=256, head_width=16, tokens=8)
    return GeneratorConfig(kind, unet, landmark=LANDMARK, preconditioned=True)
