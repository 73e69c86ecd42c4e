"""Read and write local models: a versioned `.npz` without pickles, of half-precision unit vectors and their scales."""

import io
import os
from pathlib import Path
from typing import Any, Literal

import numpy as np

from fitting.local_model import LocalModel, LocalRegion, check_is_for_head, is_for_head
from flamejax.files import write_bytes
from flamejax.head import HeadFileError, HeadModel
from flamejax.head.formats import read_npz

FORMAT_VERSION = 1
VARIANTS = {"paper": "open_head_local.npz", "full": "open_head_local_full.npz"}
"""The shipped local models of the open head, for the paper's 10 + 10 global components and for all of them."""
PARTS = ("shape", "expression")
MAX_COUNT = 10_000
"""Maximum number of components or vertices of one region in a valid file."""
_HEADER = {
    "head_name": str,
    "head_version": str,
    "head_hash": str,
    "num_vertices": int,
    "num_betas": int,
    "num_expression": int,
}
"""Fields of a `LocalModel` that are single values."""
_ARRAY_FORMATS = {
    "format_version": ("iu", 0),
    **{name: ("U" if kind is str else "iu", 0) for name, kind in _HEADER.items()},
    "region_names": ("U", 1),
    "vertex_counts": ("iu", 1),
    "component_counts": ("iu", 2),
    "variance": ("f", 2),
    "vertex_index": ("iu", 1),
    "shape_basis": ("f", 1),
    "shape_deviation": ("f", 1),
    "expression_basis": ("f", 1),
    "expression_deviation": ("f", 1),
}
"""Array name -> allowed dtype kinds, number of axes."""


def local_model_path(variant: Literal["paper", "full"] = "paper") -> Path:
    """Return the path of a shipped local model of the open head. Raises: ValueError for an unknown variant."""
    if variant not in VARIANTS:
        raise ValueError(f"no variant {variant!r} of the local model; there are: {', '.join(VARIANTS)}.")
    return Path(__file__).with_name("assets") / VARIANTS[variant]


def load_local_model(
    head: HeadModel, path: str | os.PathLike[str] | None = None, *, variant: Literal["paper", "full"] = "paper"
) -> LocalModel:
    """Load and check local models for a head, to pass to `prepare`.

    Args:
      head: the head that they must belong to.
      path: a file that `flamejax train --config local_pca` wrote; None for the ones shipped for the open head.
      variant: which of the shipped ones. "paper" was trained on the residuals of the top 10 identity and 10 expression
        components, as in the paper; "full" on those of all components, for details that the global model lacks.

    Raises:
      HeadFileError: the file is missing, damaged, of another version, or made for another head; the message names it.
      ValueError: an unknown variant.
    """
    path = local_model_path(variant) if path is None else Path(path)
    local = read_local_model(path)
    check_is_for_head(head, local, str(path))
    if local.num_vertices != head.num_vertices or not (
        local.num_betas <= head.num_betas and local.num_expression <= head.num_expression
    ):
        raise HeadFileError(f"{path}: its sizes contradict those of its head. Fetch or train it again.")
    return local


def shipped_local_model(head: HeadModel) -> LocalModel | None:
    """Return the shipped local models if they belong to this head, else None.

    Raises:
      HeadFileError: the shipped file is missing or damaged.
    """
    local = read_local_model(local_model_path())
    return local if is_for_head(head, local) else None


def read_local_model(path: Path) -> LocalModel:
    """Read and check a file of local models of any head. Raises: HeadFileError, as `load_local_model`."""
    if not path.is_file():
        raise HeadFileError(
            f"{path}: no such local model. `flamejax train --config local_pca --output FILE` makes one."
        )
    arrays = read_npz(path)
    _check_arrays(path, arrays)
    counts, sizes = arrays["component_counts"].astype(int), arrays["vertex_counts"].astype(int)
    indices = np.split(arrays["vertex_index"].astype(np.int32), np.cumsum(sizes)[:-1])
    bases = [_region_bases(arrays, part, counts[:, i], sizes) for i, part in enumerate(PARTS)]
    regions = tuple(
        LocalRegion(str(name), index, shape, expression, (float(variance[0]), float(variance[1])))
        for name, index, shape, expression, variance in zip(
            arrays["region_names"], indices, *bases, arrays["variance"], strict=True
        )
    )
    return LocalModel(
        **{name: kind(arrays[name]) for name, kind in _HEADER.items()},
        regions=regions,
        provenance={
            name.removeprefix("provenance_"): str(value)
            for name, value in arrays.items()
            if name.startswith("provenance_") and value.dtype.kind == "U"
        },
    )


def write_local_model(path: str | os.PathLike[str], local: LocalModel) -> None:
    """Write local models atomically. Raises: OSError if the folder is missing or the disk is full."""
    regions = local.regions
    arrays: dict[str, Any] = {
        "format_version": np.int32(FORMAT_VERSION),
        **{name: (np.asarray if kind is str else np.int32)(getattr(local, name)) for name, kind in _HEADER.items()},
        "region_names": np.array([region.name for region in regions]),
        "vertex_counts": np.array([len(region.index) for region in regions], np.int32),
        "component_counts": np.array([[len(rows) for rows in region.bases] for region in regions], np.int32),
        "variance": np.array([region.variance for region in regions], np.float64),
        "vertex_index": np.concatenate([region.index for region in regions]).astype(np.int32),
    }
    for i, part in enumerate(PARTS):
        rows = [region.bases[i] for region in regions]
        lengths = [np.sqrt(np.sum(np.square(r, dtype=np.float64), axis=(1, 2))) for r in rows]
        # Unit vectors, since metres per standard deviation are too small for half precision.
        units = [r / np.maximum(n, 1e-30)[:, None, None] for r, n in zip(rows, lengths, strict=True)]
        arrays[f"{part}_basis"] = np.concatenate([unit.astype(np.float16).ravel() for unit in units])
        arrays[f"{part}_deviation"] = np.concatenate(lengths).astype(np.float32)
    arrays |= {f"provenance_{name}": np.asarray(text) for name, text in local.provenance.items()}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    write_bytes(path, buffer.getvalue())


def _region_bases(arrays: dict[str, np.ndarray], part: str, counts: np.ndarray, sizes: np.ndarray) -> list[np.ndarray]:
    """Return the regions' bases (K, 3, n), metres per standard deviation."""
    flat, deviations = arrays[f"{part}_basis"], np.split(arrays[f"{part}_deviation"], np.cumsum(counts)[:-1])
    pieces = np.split(flat, np.cumsum(3 * counts * sizes)[:-1])
    return [
        piece.astype(np.float32).reshape(count, 3, size) * deviation[:, None, None].astype(np.float32)
        for piece, count, size, deviation in zip(pieces, counts, sizes, deviations, strict=True)
    ]


def _check_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    def damaged(problem: str) -> HeadFileError:
        return HeadFileError(f"{path}: {problem}. Fetch or train it again.")

    if "format_version" not in arrays or "component_counts" not in arrays:
        raise damaged("not a file of local models")
    if arrays["format_version"].ndim or int(arrays["format_version"]) != FORMAT_VERSION:
        raise HeadFileError(
            f"{path}: local model format {arrays['format_version']}, but this flamejax reads format {FORMAT_VERSION}."
        )
    for name, (kinds, axes) in _ARRAY_FORMATS.items():
        if name not in arrays:
            raise damaged(f"the array '{name}' is missing")
        array = arrays[name]
        if array.dtype.kind not in kinds or array.ndim != axes:
            kind = " or ".join(kinds)
            raise damaged(f"'{name}' is {array.dtype} with {array.ndim} axes, expected dtype kind {kind} with {axes}")
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise damaged(f"'{name}' holds numbers that are not finite")
        if array.dtype.kind in "iu" and array.size and not (array.min() >= 0 and array.max() < 1e9):
            raise damaged(f"'{name}' holds impossible counts")
    names, sizes, counts = arrays["region_names"], arrays["vertex_counts"], arrays["component_counts"]
    regions = len(names)
    if not regions or sizes.shape != (regions,) or not (counts.shape == arrays["variance"].shape == (regions, 2)):
        raise damaged("its regions do not agree in number")
    if max(sizes.max(), counts.max()) > MAX_COUNT:
        raise damaged("it claims regions of impossible size")
    expected = {"vertex_index": int(sizes.sum())}
    for i, part in enumerate(PARTS):
        expected[f"{part}_basis"] = int((3 * counts[:, i].astype(np.int64) * sizes).sum())
        expected[f"{part}_deviation"] = int(counts[:, i].sum())
    for name, length in expected.items():
        if len(arrays[name]) != length:
            raise damaged(f"'{name}' has {len(arrays[name])} numbers, expected {length}")
    if arrays["vertex_index"].size and arrays["vertex_index"].max() >= int(arrays["num_vertices"]):
        raise damaged("'vertex_index' points outside the head")
    if any(np.abs(arrays[f"{part}_deviation"]).max(initial=0) > 1 for part in PARTS):
        raise damaged("its deviations are beyond any head")
