"""flamejax: occlusion-robust 3D face reconstruction in JAX. The core: head models, cameras, rendering."""

from flamejax.camera import CropTransform, OrthographicCamera, PerspectiveCamera, framing
from flamejax.head import HeadModel, HeadParams, landmarks, load_head, vertices
from flamejax.rendering import Fragments, antialias, interpolate, rasterize, render, render_mesh

__version__ = "0.2.0"

__all__ = [
    "CropTransform",
    "Fragments",
    "HeadModel",
    "HeadParams",
    "OrthographicCamera",
    "PerspectiveCamera",
    "__version__",
    "antialias",
    "framing",
    "interpolate",
    "landmarks",
    "load_head",
    "rasterize",
    "render",
    "render_mesh",
    "vertices",
]
