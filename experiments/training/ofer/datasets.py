"""Data sets of photos with FLAME coefficients that OFER was trained on; each must be had from its makers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Dataset:
    """What is known of a data set."""

    description: str
    expressions: bool
    """Whether its coefficients have expressions and jaws; otherwise identities alone."""


KNOWN = {
    "stirling": Dataset("Stirling/ESRC, photos and scans: identities as MICA registered them", False),
    "facewarehouse": Dataset("FaceWarehouse, photos and depth images: identities, MICA", False),
    "lyhm": Dataset("LYHM, the Liverpool-York head model's photos and scans: identities, MICA", False),
    "florence": Dataset("Florence 2D/3D faces, videos and scans: identities, MICA", False),
    "famos": Dataset("FaMoS, registered sequences of faces in motion: identities, expressions, jaws", True),
}
"""By name, in lower case. Any other folder is a data set, too."""


def check_fields(name: str, kind: str) -> None:
    """Raises: ValueError, a known data set lacks what a network of that kind learns."""
    known = KNOWN.get(name.lower())
    if kind == "expression" and known is not None and not known.expressions:
        with_them = ", ".join(other for other, dataset in KNOWN.items() if dataset.expressions)
        raise ValueError(
            f"{name} has identities alone ({known.description}), and ExpGen learns expressions and jaws. Give "
            f"--dataset {with_them}, or one of your own that has them."
        )
