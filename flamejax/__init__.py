"""flamejax: occlusion-robust 3D face reconstruction in JAX. The core: head models, cameras, rendering."""

from flamejax.camera import CropTransform, OrthographicCamera, PerspectiveCamera
from flamejax.head import HeadModel, HeadParams, landmarks, load_head, vertices
from flamejax.rendering import Fragments, antialias, rasterize, render

__version__ = "0.1.0"

__all__ = [
    "CropTransform",
    "Fragments",
    "HeadModel",
    "HeadParams",
    "OrthographicCamera",
    "PerspectiveCamera",
    "__version__",
    "antialias",
    "landmarks",
    "load_head",
    "rasterize",
    "render",
    "vertices",
]
