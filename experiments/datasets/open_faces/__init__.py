"""The open scans: registered heads with details and expressions, and photos, from CC0 data.

See docs/method/open-scans.md.
"""

from experiments.datasets.open_faces.expressions import EXPRESSIONS
from experiments.datasets.open_faces.read import (
    DataSource,
    ScanPhoto,
    Scans,
    data_source,
    ensure_photos,
    ensure_scans,
    example_to_photo,
    load_new_people,
    load_photos,
    load_scans,
)
from experiments.datasets.open_faces.scans import pose_rest_shape
from experiments.datasets.open_faces.subjects import CONFIGS, SPLITS

__all__ = [
    "CONFIGS",
    "EXPRESSIONS",
    "SPLITS",
    "DataSource",
    "ScanPhoto",
    "Scans",
    "data_source",
    "ensure_photos",
    "ensure_scans",
    "example_to_photo",
    "load_new_people",
    "load_photos",
    "load_scans",
    "pose_rest_shape",
]
