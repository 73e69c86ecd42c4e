"""Reading and writing of images: float32 RGB in [0, 1], upright. Unusable files raise an `ImageError`."""

from __future__ import annotations

import contextlib
import io
import os
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms, ImageOps

from flamejax.files import write_bytes
from flamejax.io._repair import repaired
from flamejax.io._tiff import TIFF_STARTS, is_misread, read_tiff

MIN_SIDE = 32
MAX_PIXELS = 100_000_000
# Transparent pixels become mid grey: it leaves neither a bright nor a dark rim around a cut-out.
MATTE = 0.5
# Sharpening and resampling carry floats of 0 to 1 past both ends; these are clipped.
OVERSHOOT, AMBIGUOUS = 1.5, 16.0
ORIENTATION = 0x0112
TIFF_REMEDY = "Save it as 8 or 16 bit."


class ImageError(ValueError):
    """An image that cannot be used; the message says why and what to do."""


def load_image(path: str | os.PathLike) -> np.ndarray:
    """Read a photo.

    EXIF orientation is applied; grey, palette, CMYK, 16-bit and float files become RGB; an embedded colour profile
    is converted to sRGB; transparent parts are composited over mid grey; of an animation only the first frame is read.
    A PNG's broken or huge texts and a JPEG's missing end marker are ignored. TIFFs of float colours need tifffile.

    Args:
        path: a file of any format that Pillow reads (JPEG, PNG, WebP, TIFF, BMP, ...).

    Returns:
        (H, W, 3) float32 sRGB values in [0, 1].

    Raises:
        ImageError: missing, empty, not an image, truncated, under 32 px a side, over 100 megapixels, or not finite.
    """
    picture = _open(path)
    if min(picture.size) < MIN_SIDE:
        raise ImageError(
            f"{path}: the image is {picture.width}x{picture.height} px; at least {MIN_SIDE} px a side are needed. "
            "Give a larger version of the photo."
        )
    return _to_rgb(picture, path)


def load_mask(path: str | os.PathLike, size: tuple[int, int] | None = None) -> np.ndarray:
    """Read a mask: white (or 1, if the file contains only 0 and 1) is set, black and transparent are not.

    Args:
        path: an image file.
        size: (height, width) that the mask must have. A mask of another size is resized (nearest) if its aspect
            ratio is the same to within one pixel, and refused otherwise.

    Returns:
        (H, W) float32 of zeros and ones.

    Raises:
        ImageError: as `load_image` (but any size from 1 px is allowed), or the aspect ratio differs from `size`.
    """
    picture = _open(path)
    if "A" in picture.getbands() or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, (0, 0, 0, 255)), picture)
    if picture.mode == "P":
        # A label palette (0 = no, 1 = yes) usually has arbitrary colours: the index is the mask there.
        index = np.asarray(picture)
        value = index.astype(np.float32) if index.max() <= 1 else np.asarray(picture.convert("L"), np.float32)
        value = value / (1.0 if index.max() <= 1 else 255.0)
    elif picture.mode in ("1", "F") or picture.mode.startswith("I"):
        value = _to_unit(np.asarray(picture), path)
    else:
        value = np.asarray(picture.convert("L"), np.float32) / 255.0
    if 0 < value.max() < 0.005:  # 0/1 (or 0/1 of 65535) written as integers
        value = value / value.max()
    mask = (value >= 0.5).astype(np.float32)
    return mask if size is None else _resize_mask(mask, size, path)


def save_image(path: str | os.PathLike, image: np.ndarray) -> None:
    """Write an image atomically (a temporary file in the same folder, then renamed).

    Args:
        path: the suffix picks the format (.png, .jpg, .webp, ...).
        image: (H, W), (H, W, 1), (H, W, 3) or (H, W, 4); floats are clipped to [0, 1], uint8 is written as it is.

    Raises:
        ImageError: another shape, non-finite values, or a suffix Pillow cannot write.
    """
    path = Path(path)
    pixels = np.asarray(image)
    if pixels.ndim == 3 and pixels.shape[-1] == 1:
        pixels = pixels[..., 0]
    if pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[-1] not in (3, 4)) or 0 in pixels.shape:
        raise ImageError(f"{path}: cannot write an array of shape {pixels.shape}; (H, W), (H, W, 3) or (H, W, 4).")
    if pixels.dtype != np.uint8:
        if not np.isfinite(pixels).all():
            raise ImageError(f"{path}: the image contains NaN or infinite values; nothing was written.")
        pixels = np.round(np.clip(pixels.astype(np.float32), 0.0, 1.0) * 255.0).astype(np.uint8)
    image_format = Image.registered_extensions().get(path.suffix.lower())
    if image_format not in Image.SAVE:
        raise ImageError(f"{path}: no image format is known for the suffix {path.suffix!r}; use .png or .jpg.")
    picture = Image.fromarray(pixels)
    if image_format == "JPEG" and picture.mode == "RGBA":
        raise ImageError(f"{path}: JPEG has no transparency; use .png.")
    buffer = io.BytesIO()
    picture.save(buffer, format=image_format, **({"quality": 95} if image_format in ("JPEG", "WEBP") else {}))
    write_bytes(path, buffer.getvalue())


def check_image(image: np.ndarray) -> np.ndarray:
    """Check an image and return it as (H, W, 3) float32 in [0, 1].

    Args:
        image: (H, W, 3) floats in [0, 1], or uint8.

    Raises:
        ImageError: another shape or range, non-finite values, or under 32 px a side.
    """
    image = np.asarray(image)
    if image.ndim != 3 or image.shape[-1] != 3:
        raise ImageError(f"an image of shape (H, W, 3) is needed, not {image.shape}.")
    if min(image.shape[:2]) < MIN_SIDE:
        raise ImageError(
            f"the image is {image.shape[1]}x{image.shape[0]} px; at least {MIN_SIDE} px a side are needed."
        )
    if image.dtype == np.uint8:
        return image.astype(np.float32) / 255.0
    image = image.astype(np.float32)
    low, high = float(image.min()), float(image.max())  # NaN propagates through min and max
    if not np.isfinite(low + high):
        raise ImageError("the image contains NaN or infinite values.")
    if low < -1e-3 or high > 1.0 + 1e-3:
        raise ImageError(f"float images are in [0, 1]; this one runs from {low:.3g} to {high:.3g}. Divide by 255?")
    return np.clip(image, 0.0, 1.0)


def _open(path: str | os.PathLike) -> Image.Image:
    """Decode the first frame of a file, upright."""
    path = Path(path)
    if path.is_dir():
        raise ImageError(f"{path}: is a folder, not an image.")
    if not path.exists():
        reason = "a broken link" if path.is_symlink() else "no such file. Check the path"
        raise ImageError(f"{path}: {reason}.")
    try:
        if not path.is_file():
            raise ImageError(f"{path}: a device, pipe or socket, not an image file.")
        if path.stat().st_size == 0:
            raise ImageError(f"{path}: the file is empty (0 bytes). Copy or download it again.")
        return _decode_or_repair(path)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _too_large(path, str(error)) from None
    except Image.UnidentifiedImageError:
        hint = (
            "Convert it to JPEG or PNG."
            if path.suffix.lower() in (".heic", ".heif", ".avif")
            else ("Check that it is a JPEG, PNG, WebP, TIFF or BMP.")
        )
        raise ImageError(f"{path}: not an image that can be read. {hint}") from None
    except PermissionError:
        raise ImageError(f"{path}: no permission to read it.") from None
    except ImageError:
        raise
    except MemoryError:
        raise ImageError(f"{path}: not enough memory to decode it. Give a smaller version of the photo.") from None
    except Exception as error:  # Pillow's decoders raise nearly anything on broken bytes
        raise ImageError(f"{path}: broken or truncated image ({error}). Copy or export it again.") from error


def _decode_or_repair(path: Path) -> Image.Image:
    """Decode the first frame; if that fails, the first repaired version of the file that can be decoded."""
    try:
        return _decode(path, path)
    except (ImageError, MemoryError, PermissionError, Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise
    except Exception as error:
        data = path.read_bytes()
        if data.startswith(TIFF_STARTS) and isinstance(error, Image.UnidentifiedImageError):
            return _from_tiff(path)
        for version in repaired(data):
            with contextlib.suppress(Exception):
                return _decode(io.BytesIO(version), path)
        raise


def _from_tiff(path: Path) -> Image.Image:
    """Read a TIFF that Pillow cannot, such as one of floats. Colours get 8 bits, grey stays float."""
    try:
        samples, orientation, profile = read_tiff(path, MAX_PIXELS)
    except (Image.DecompressionBombError, MemoryError):
        raise
    except ModuleNotFoundError:
        remedy = f"Run: pip install 'flamejax[photos]'. Or: {TIFF_REMEDY}"
        raise ImageError(f"{path}: this TIFF cannot be read without tifffile. {remedy}") from None
    except Exception as error:  # tifffile's decoders raise nearly anything on broken bytes
        raise ImageError(f"{path}: broken TIFF, or one that is not read ({error}). {TIFF_REMEDY}") from error
    values = _to_unit(samples, path)
    picture = Image.fromarray(values if values.ndim == 2 else np.rint(values * 255).astype(np.uint8))
    picture.getexif()[ORIENTATION] = orientation
    picture = _orient(picture)
    if profile:
        picture.info["icc_profile"] = profile
    return picture


def _decode(source: Path | io.BytesIO, path: Path) -> Image.Image:
    with Image.open(source) as opened:
        if opened.width * opened.height > MAX_PIXELS:
            raise _too_large(path, f"{opened.width}x{opened.height} px")
        if opened.format == "TIFF" and is_misread(opened):
            raise Image.UnidentifiedImageError(f"{path}: planes of 16 bits")
        opened.load()
        return _orient(opened)


def _orient(picture: Image.Image) -> Image.Image:
    """Apply the EXIF orientation. Broken EXIF data is ignored, as in image viewers."""
    try:
        return ImageOps.exif_transpose(picture)
    except Exception:  # Pillow raises nearly anything on broken bytes
        return picture.copy()


def _too_large(path: Path, what: str) -> ImageError:
    return ImageError(f"{path}: larger than {MAX_PIXELS // 1_000_000} megapixels ({what}). Scale it down first.")


def _to_rgb(picture: Image.Image, path: str | os.PathLike) -> np.ndarray:
    """Convert a decoded image of any mode to (H, W, 3) float32 in [0, 1]."""
    if picture.mode == "F" or picture.mode.startswith("I"):
        grey = _to_unit(np.asarray(picture), path)
        return np.repeat(grey[..., None], 3, axis=-1)
    if picture.mode in ("LA", "La", "PA", "RGBa") or "transparency" in picture.info:
        picture = picture.convert("RGBA")
    picture = _to_srgb(picture)
    if picture.mode != "RGBA":
        return np.asarray(picture.convert("RGB"), np.float32) / 255.0
    rgba = np.asarray(picture, np.float32) / 255.0
    return rgba[..., :3] * rgba[..., 3:] + MATTE * (1.0 - rgba[..., 3:])


def _to_srgb(picture: Image.Image) -> Image.Image:
    """Apply an embedded RGB or CMYK profile. A broken one is ignored, as in image viewers."""
    profile = picture.info.get("icc_profile")
    if not profile or picture.mode not in ("RGB", "RGBA", "CMYK"):
        return picture
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        mode = "RGB" if picture.mode == "CMYK" else picture.mode
        converted = ImageCms.profileToProfile(picture, source, ImageCms.createProfile("sRGB"), outputMode=mode)
    except (ImageCms.PyCMSError, OSError, ValueError):
        return picture
    return picture if converted is None else converted


def _to_unit(values: np.ndarray, path: str | os.PathLike) -> np.ndarray:
    """Convert the 1-bit, 16-bit, 32-bit and float modes, of any shape, to float32 in [0, 1]."""
    if values.dtype == bool:
        return values.astype(np.float32)
    low, high = float(values.min()), float(values.max())
    if not np.isfinite(low + high):
        raise ImageError(f"{path}: the image contains NaN or infinite values. Export it again.")
    if values.dtype.kind == "f":
        # Nothing tells a dark photo of 0 to 255 from a bright one of 0 to 1 whose lights go far beyond 1.
        limits = [(OVERSHOOT, 1.0), (AMBIGUOUS, None), (255.0, 255.0), (65535.0, 65535.0)]
    else:
        limits = [(255.0, 255.0)] if values.dtype.itemsize == 1 else [(65535.0, 65535.0)]
    white = next((white for limit, white in limits if high <= limit), None)
    if white is None or low < ((1.0 - OVERSHOOT) * white if values.dtype.kind == "f" else 0):
        raise ImageError(f"{path}: pixel values from {low:.4g} to {high:.4g} are not an image's. Save it as 8 bit.")
    return np.clip(values.astype(np.float64) / white, 0.0, 1.0).astype(np.float32)


def _resize_mask(mask: np.ndarray, size: tuple[int, int], path: str | os.PathLike) -> np.ndarray:
    """Resize a mask to (height, width) by nearest neighbours. Another aspect ratio raises an `ImageError`."""
    height, width = size
    if mask.shape == (height, width):
        return mask
    scale = max(width / mask.shape[1], height / mask.shape[0])
    # A scaled mask has its sides rounded to whole pixels, hence one pixel (of the coarser image) of slack.
    slack = max(1.0, scale)
    if abs(mask.shape[1] * scale - width) > slack or abs(mask.shape[0] * scale - height) > slack:
        raise ImageError(
            f"{path}: the mask is {mask.shape[1]}x{mask.shape[0]} px but the photo is {width}x{height} px, "
            "another aspect ratio. Draw the mask on the upright, uncropped photo."
        )
    rows = ((np.arange(height) + 0.5) * mask.shape[0] / height).astype(int)
    columns = ((np.arange(width) + 0.5) * mask.shape[1] / width).astype(int)
    return mask[rows[:, None], columns[None, :]]
