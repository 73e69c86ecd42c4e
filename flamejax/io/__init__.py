"""Files in and out: images, textured meshes, and results of `flamejax reconstruct`."""

from flamejax.io.results import Result, ResultError, load_results

__all__ = ["Result", "ResultError", "load_results"]
