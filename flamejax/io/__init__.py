"""Reading and writing of images, textured meshes, and results of `flamejax reconstruct`."""

from flamejax.io.images import ImageError, load_image, load_mask, save_image
from flamejax.io.meshes import TexturedMesh, write_glb, write_obj, write_ply
from flamejax.io.results import Result, ResultError, load_results

__all__ = [
    "ImageError",
    "Result",
    "ResultError",
    "TexturedMesh",
    "load_image",
    "load_mask",
    "load_results",
    "save_image",
    "write_glb",
    "write_obj",
    "write_ply",
]
