"""Reading of FLAME's textures, which hold a mean and components: FLAME's own, and the one converted from BFM."""

import math
from pathlib import Path

import numpy as np

from flamejax.head.formats.files import HeadFileError, check_numbers
from flamejax.head.formats.npy_files import ArrayStream, npz_names, open_npz_member

TEXTURES = ("FLAME_texture.npz", "FLAME_albedo_from_BFM.npz")
"""Names of the textures that can be read; of two in one folder the first is used."""
LINEAR_TEXTURE = "albedoModel2020_FLAME_albedoPart.npz"
"""AlbedoMM (Smith et al. 2020): diffuse and specular albedo of linear light, which is not read."""
GREY, GREY_STEP = 170, 0.12
"""Albedo without a texture file: 8-bit level, and change of brightness per standard deviation."""
MAX_SIDE, MAX_ASPECT, MAX_COMPONENTS = 8192, 4, 1000
MAX_UNIT_COLOUR = 2.0
"""Colours of 0 to 1 may exceed 1 a little; above this they are of 0 to 255."""


def read_texture(path: Path | None, size: int, components: int) -> dict[str, np.ndarray]:
    """Read a texture as 8-bit albedo.

    `FLAME_texture.npz` holds mean (H, W, 3) and tex_dir (H, W, 3, C), 0..255. `FLAME_albedo_from_BFM.npz` holds MU and
    PC, 0..1, of these shapes or flat: (3 H W,) and (3 H W, C) of a square image. Both are BGR. A file has more than a
    gigabyte, so it is read and downsampled row by row.

    Args:
      path: None gives a neutral grey with one component, its brightness.
      size: a larger texture is downsampled by an integer factor to about this many rows.
      components: number of leading components to read; 0 ignores the file.

    Raises:
      HeadFileError: the file is damaged, or has another format.
    """
    if path is None or components <= 0:
        mean, scale = np.full((8, 8, 3), GREY, np.uint8), np.full(1, GREY_STEP, np.float32)
        return {"albedo_mean": mean, "albedo_basis": np.full((1, 8, 8, 3), 127, np.int8), "albedo_scale": scale}
    mean_name, basis_name = texture_entries(path)
    with open_npz_member(path, mean_name) as stream:
        height, width = _shape_as_image(stream, f"{path}: '{mean_name}'")
        factor = min(max(1, round(height / max(size, 1))), height, width)
        mean = _downsample(stream, factor, 1)[..., 0]
    with open_npz_member(path, basis_name) as stream:
        _shape_as_basis(stream, f"{path}: '{basis_name}'", (height, width, 3))
        basis = np.moveaxis(_downsample(stream, factor, min(components, stream.shape[3])), -1, 0)
    check_numbers(mean, f"{path}: '{mean_name}'")
    check_numbers(basis, f"{path}: '{basis_name}'")
    if mean_name == "MU":
        if mean.max() > MAX_UNIT_COLOUR:
            raise HeadFileError(f"{path}: 'MU' runs to {mean.max():.4g}, but its colours should run from 0 to 1.")
        mean, basis = mean * np.float32(255), basis * np.float32(255)
    mean, basis = mean[..., ::-1], basis[..., ::-1]
    scale = np.maximum(np.abs(basis).max((1, 2, 3)), 1e-9)
    return {
        "albedo_mean": np.clip(np.rint(mean), 0, 255).astype(np.uint8),
        "albedo_basis": np.rint(basis / scale[:, None, None, None] * 127).astype(np.int8),
        "albedo_scale": (scale / 255).astype(np.float32),
    }


def texture_entries(path: Path) -> tuple[str, str]:
    """Returns the names of a texture file's mean and components. Raises HeadFileError if it has none that are read."""
    names = npz_names(path)
    if "specMU" in names:
        raise HeadFileError(
            f"{path}: AlbedoMM's linear albedo is not read. Give {TEXTURES[0]} or {TEXTURES[1]} instead."
        )
    for entries in (("mean", "tex_dir"), ("MU", "PC")):
        if set(entries) <= set(names):
            return entries
    present = ", ".join(name[:30] for name in names[:8]) or "nothing"
    raise HeadFileError(
        f"{path}: no texture of FLAME: it holds {present}. Needed are mean and tex_dir, as in {TEXTURES[0]}, or MU and "
        f"PC, as in {TEXTURES[1]}."
    )


def _shape_as_image(stream: ArrayStream, label: str) -> tuple[int, int]:
    """Set the shape of a mean to (H, W, 3), also that of a flat one, and return H and W."""
    shape = stream.shape
    if len(shape) == 1:
        side = math.isqrt(shape[0] // 3)
        shape = (side, side, 3)
    if len(shape) != 3 or shape[2] != 3 or not 0 < max(shape[:2]) <= min(MAX_SIDE, MAX_ASPECT * min(shape[:2])):
        raise HeadFileError(f"{label} has shape {stream.shape}, which is no texture.")
    _reshape(stream, shape, label)
    return shape[0], shape[1]


def _shape_as_basis(stream: ArrayStream, label: str, image: tuple[int, int, int]) -> None:
    """Set the shape of the components to (H, W, 3, C), also that of flat ones."""
    components = stream.shape[-1] if stream.shape else 0
    flat = (math.prod(image), components)
    if stream.shape not in ((*image, components), flat) or not 0 < components <= MAX_COMPONENTS:
        raise HeadFileError(f"{label} has shape {stream.shape}, expected {image} or ({flat[0]},), and components.")
    _reshape(stream, (*image, components), label)


def _reshape(stream: ArrayStream, shape: tuple[int, ...], label: str) -> None:
    if stream.fortran and len(stream.shape) > 1:
        raise HeadFileError(f"{label} is in Fortran order. Save it with np.ascontiguousarray.")
    if math.prod(shape) != math.prod(stream.shape):
        raise HeadFileError(f"{label} has shape {stream.shape}, which is no square texture of three colours.")
    stream.shape = shape


def _downsample(stream: ArrayStream, factor: int, components: int) -> np.ndarray:
    """Average blocks of factor x factor texels: float32 (H / factor, W / factor, 3, components)."""
    height, width = stream.shape[0] // factor, stream.shape[1] // factor
    out = np.zeros((height, width, 3, components), np.float32)
    for row in range(height * factor):
        texels = stream.read_row().reshape(stream.shape[1], 3, -1)[: width * factor, :, :components]
        with np.errstate(over="ignore", invalid="ignore"):  # Damaged numbers become infinite, and raise later.
            out[row // factor] += texels.reshape(width, factor, 3, components).mean(1, dtype=np.float32) / factor
    return out
