"""Tests of image files: formats, errors, and atomic writing."""

import io
import struct
import sys
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms

from flamejax.io.images import ImageError, check_image, load_image, load_mask, save_image


@pytest.fixture
def picture():
    """(48, 64, 3) uint8, different at every corner."""
    y, x = np.mgrid[:48, :64]
    return np.stack([x * 4, y * 5, 255 - x * 2 - y], axis=-1).astype(np.uint8)


def expected(picture):
    return picture.astype(np.float32) / 255


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".webp"])
def test_lossless_formats_load_exactly(tmp_path, picture, suffix):
    Image.fromarray(picture).save(tmp_path / f"a{suffix}", **({"lossless": True} if suffix == ".webp" else {}))
    image = load_image(tmp_path / f"a{suffix}")
    assert image.dtype == np.float32 and image.shape == (48, 64, 3)
    np.testing.assert_allclose(image, expected(picture), atol=1e-6)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_gives_the_upright_photo(tmp_path, picture, orientation):
    # Stored pixels from upright ones, by the EXIF standard's definition of each value.
    stored = {
        1: lambda a: a, 2: lambda a: a[:, ::-1], 3: lambda a: a[::-1, ::-1], 4: lambda a: a[::-1],
        5: lambda a: a.swapaxes(0, 1), 6: lambda a: np.rot90(a, 1), 7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
        8: lambda a: np.rot90(a, -1),
    }[orientation](picture)  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_allclose(load_image(tmp_path / "a.png"), expected(picture), atol=1e-6)


def test_grey_and_one_bit_become_rgb(tmp_path, picture):
    Image.fromarray(picture[..., 0]).save(tmp_path / "grey.png")
    np.testing.assert_allclose(load_image(tmp_path / "grey.png"), expected(picture)[..., :1].repeat(3, -1), atol=1e-6)
    Image.fromarray(picture[..., 0] > 99).save(tmp_path / "bit.png")
    np.testing.assert_array_equal(load_image(tmp_path / "bit.png")[..., 0], (picture[..., 0] > 99).astype(np.float32))


def test_16_bit_keeps_its_range(tmp_path):
    values = np.linspace(0, 65535, 40 * 40).reshape(40, 40).astype(np.uint16)
    for name in ("a.png", "a.tif"):
        Image.fromarray(values).save(tmp_path / name)
        np.testing.assert_allclose(load_image(tmp_path / name)[..., 1], values / 65535, atol=1e-6)


def test_transparency_is_composited_over_mid_grey(tmp_path, picture):
    alpha = np.zeros((48, 64, 1), np.uint8)
    alpha[:, 32:] = 255
    Image.fromarray(np.concatenate([picture, alpha], -1)).save(tmp_path / "rgba.png")
    image = load_image(tmp_path / "rgba.png")
    np.testing.assert_allclose(image[:, :32], 0.5, atol=1e-6)
    np.testing.assert_allclose(image[:, 32:], expected(picture)[:, 32:], atol=1e-6)


def test_palettes_load_with_and_without_transparency(tmp_path, picture):
    palette = Image.fromarray(picture).quantize(16)
    palette.save(tmp_path / "p.png")
    np.testing.assert_allclose(load_image(tmp_path / "p.png"), expected(np.asarray(palette.convert("RGB"))), atol=1e-6)
    palette.save(tmp_path / "t.png", transparency=int(np.asarray(palette)[0, 0]))
    np.testing.assert_allclose(load_image(tmp_path / "t.png")[0, 0], 0.5, atol=1e-6)


def test_cmyk_jpeg_has_the_right_colours(tmp_path):
    red = Image.new("RGB", (64, 64), (255, 0, 0)).convert("CMYK")
    red.save(tmp_path / "a.jpg", quality=95)
    np.testing.assert_allclose(load_image(tmp_path / "a.jpg")[32, 32], [1, 0, 0], atol=0.03)


def test_embedded_profile_is_converted_to_srgb(tmp_path, picture):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.fromarray(picture).save(tmp_path / "a.png", icc_profile=profile)
    np.testing.assert_allclose(load_image(tmp_path / "a.png"), expected(picture), atol=2 / 255)
    Image.fromarray(picture).save(tmp_path / "broken.png", icc_profile=b"not a profile")
    np.testing.assert_allclose(load_image(tmp_path / "broken.png"), expected(picture), atol=1e-6)


def chunk(kind, data, checksum=None):
    """A chunk of a PNG, with the right checksum by default."""
    checksum = zlib.crc32(kind + data) if checksum is None else checksum
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)


def png_header(width, height):
    """The start of a valid PNG that announces a size and has no pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 64)) + chunk(b"IEND", b"")
    )


def encoded(picture, image_format, **options):
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, image_format, **options)
    return buffer.getvalue()


def jpeg_bytes(picture):
    return encoded(np.kron(picture, np.ones((6, 6, 1), np.uint8)), "JPEG")


HUGE = zlib.compress(b"x" * 1_100_000)


@pytest.mark.parametrize(
    "extra",
    [
        chunk(b"zTXt", b"workflow\0\0" + HUGE),
        chunk(b"iTXt", b"workflow\0\1\0\0\0" + HUGE),
        chunk(b"zTXt", b"workflow\0\0" + HUGE[:-90]) * 70,
        chunk(b"tEXt", b"workflow\0" + b"x" * 68_000_000),
        chunk(b"tEXt", b"workflow\0x", checksum=1),
        chunk(b"tIME", b"1234567", checksum=1),
        chunk(b"zTXt", b"workflow\0\7x"),
        chunk(b"gAMA", b"1"),
        chunk(b"pHYs", b"1"),
        chunk(b"eXIf", b"no EXIF"),
        chunk(b"iCCP", b"profile\0\0" + HUGE),
    ],
    ids=["zipped text", "unicode", "many texts", "long text", "checksum", "time", "method", "gamma", "size", "EXIF",
         "profile"],
)  # fmt: skip
def test_png_with_broken_or_large_side_data_equals_the_picture_without(tmp_path, picture, extra):
    alpha = np.full((48, 64, 1), 255, np.uint8)
    data = encoded(np.concatenate([picture, alpha], -1), "PNG")
    (tmp_path / "a.png").write_bytes(data[:33] + extra + data[33:])
    np.testing.assert_allclose(load_image(tmp_path / "a.png"), expected(picture), atol=1e-6)
    (tmp_path / "cut.png").write_bytes((data[:33] + extra + data[33:])[: -len(data) // 2])
    with pytest.raises(ImageError, match=r"broken or truncated|not an image"):
        load_image(tmp_path / "cut.png")


def test_a_repaired_png_keeps_orientation_and_transparency(tmp_path, picture):
    exif = Image.Exif()
    exif[0x0112] = 3
    palette = Image.fromarray(picture).quantize(16)
    buffer = io.BytesIO()
    palette.save(buffer, "PNG", exif=exif, transparency=int(np.asarray(palette)[0, 0]))
    (tmp_path / "good.png").write_bytes(buffer.getvalue())
    (tmp_path / "bad.png").write_bytes(buffer.getvalue()[:33] + chunk(b"tEXt", b"a\0b", 1) + buffer.getvalue()[33:])
    image = load_image(tmp_path / "bad.png")
    np.testing.assert_array_equal(image, load_image(tmp_path / "good.png"))
    np.testing.assert_allclose(image[-1, -1], 0.5, atol=1e-6)
    data, at = bytearray(buffer.getvalue()), buffer.getvalue().index(b"tRNS")
    data[at + 4] ^= 1
    (tmp_path / "opaque.png").write_bytes(data)
    with pytest.raises(ImageError):  # would show what the transparency hides
        load_image(tmp_path / "opaque.png")


JPEGS = {
    "baseline": {},
    "progressive": {"progressive": True},
    "restarts": {"restart_marker_blocks": 2},
    "progressive, restarts": {"progressive": True, "restart_marker_blocks": 3},
}


@pytest.mark.parametrize("kind", JPEGS)
@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_loads_without_its_end_marker_and_not_if_pixels_are_missing(tmp_path, picture, kind, channels):
    noise = np.random.default_rng(0).normal(0, 12, picture.shape)
    noisy = np.clip(picture + noise, 0, 255).astype(np.uint8)
    data = encoded(noisy if channels == 3 else noisy[..., 0], "JPEG", **JPEGS[kind])
    (tmp_path / "full.jpg").write_bytes(data)
    full = load_image(tmp_path / "full.jpg")
    for name, content in (("1", data[:-1]), ("2", data[:-2]), ("more", data + b"\0garbage" * 50)):
        (tmp_path / f"{name}.jpg").write_bytes(content)
        np.testing.assert_array_equal(load_image(tmp_path / f"{name}.jpg"), full)
    for missing in range(5, len(data) - 2):
        (tmp_path / "cut.jpg").write_bytes(data[:-missing])
        with pytest.raises(ImageError, match=r"truncated|broken|not an image"):
            load_image(tmp_path / "cut.jpg")


def write_tiff(path, samples, **options):
    pytest.importorskip("tifffile").imwrite(path, samples, **options)
    return path


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.uint16])
@pytest.mark.parametrize("layout", ["rgb", "planes", "alpha", "premultiplied", "pages", "scaled", "turned"])
def test_colour_tiffs_of_floats_and_16_bits_load(tmp_path, picture, dtype, layout):
    colours, white = expected(picture), 65535 if dtype == np.uint16 else 255 if layout == "scaled" else 1
    options, samples, truth = {"photometric": "rgb"}, colours, colours
    if layout == "planes":
        samples, options = np.moveaxis(colours, -1, 0), options | {"planarconfig": "separate"}
    elif layout in ("alpha", "premultiplied"):
        alpha = np.where(np.arange(64) < 20, 0, 1).astype(np.float32)[None, :, None] * np.ones((48, 1, 1), np.float32)
        kind = "unassalpha" if layout == "alpha" else "assocalpha"
        samples = np.concatenate([colours * (alpha if layout == "premultiplied" else 1), alpha], -1)
        options, truth = options | {"extrasamples": [kind]}, np.where(alpha > 0, colours, 0.5)
    elif layout == "pages":
        samples = np.stack([colours, colours[::-1]])
    elif layout == "turned":
        options, truth = options | {"extratags": [(274, "H", 1, 3, True)]}, colours[::-1, ::-1]
    samples = np.round(samples * white) if dtype == np.uint16 else samples * white
    path = write_tiff(tmp_path / "a.tif", samples.astype(dtype), **options)
    np.testing.assert_allclose(load_image(path), truth, atol=1.1 / 255 if dtype == np.float16 else 0.51 / 255)


def test_grey_tiffs_of_floats_keep_their_precision(tmp_path):
    values = np.linspace(0, 1, 40 * 40).reshape(40, 40)
    write_tiff(tmp_path / "grey.tif", values, photometric="minisblack")
    np.testing.assert_allclose(load_image(tmp_path / "grey.tif")[..., 1], values, atol=1e-6)
    np.testing.assert_array_equal(load_mask(tmp_path / "grey.tif"), values >= 0.5)


def test_floats_slightly_beyond_white_are_clipped(tmp_path, picture):
    sharpened = (expected(picture) * 1.3 - 0.1).astype(np.float32)
    write_tiff(tmp_path / "a.tif", sharpened, photometric="rgb")
    np.testing.assert_allclose(load_image(tmp_path / "a.tif"), np.clip(sharpened, 0, 1), atol=0.51 / 255)
    Image.fromarray(sharpened[..., 0]).save(tmp_path / "grey.tif")
    np.testing.assert_allclose(load_image(tmp_path / "grey.tif")[..., 0], np.clip(sharpened[..., 0], 0, 1), atol=1e-6)


def test_wrong_float_tiffs_raise_with_the_reason(tmp_path, picture, monkeypatch):
    colours = expected(picture)
    good = write_tiff(tmp_path / "good.tif", colours, photometric="rgb")
    (tmp_path / "cut.tif").write_bytes(good.read_bytes()[:9000])
    (tmp_path / "damaged.tif").write_bytes(good.read_bytes()[:8] + b"\0" * 500)
    write_tiff(tmp_path / "nan.tif", np.where(colours > 0.5, np.nan, colours).astype("f4"), photometric="rgb")
    write_tiff(tmp_path / "bright.tif", colours * 9, photometric="rgb")
    write_tiff(tmp_path / "bands.tif", np.repeat(colours, 2, -1), photometric="minisblack", planarconfig="contig")
    write_tiff(tmp_path / "ink.tif", np.repeat(colours[..., :1], 4, -1), photometric="separated")
    reasons = {"cut": "broken TIFF", "damaged": "TIFF", "nan": "NaN", "bright": "from 0 to 9", "bands": "6 samples",
               "ink": "SEPARATED"}  # fmt: skip
    for name, reason in reasons.items():
        with pytest.raises(ImageError, match=reason):
            load_image(tmp_path / f"{name}.tif")
    monkeypatch.setattr("flamejax.io.images.MAX_PIXELS", 1000)
    with pytest.raises(ImageError, match="megapixels"):
        load_image(good)
    monkeypatch.setitem(sys.modules, "tifffile", None)
    with pytest.raises(ImageError, match=r"pip install 'flamejax\[photos\]'.*Save it as 8 or 16 bit"):
        load_image(good)


def test_colour_png_of_16_bits_loads(tmp_path, picture):
    for colour, samples in ((2, picture), (6, np.concatenate([picture, np.full((48, 64, 1), 255)], -1))):
        rows = b"".join(b"\0" + (row.astype(">u2") * 257).tobytes() for row in samples)
        header = chunk(b"IHDR", struct.pack(">IIBBBBB", 64, 48, 16, colour, 0, 0, 0))
        (tmp_path / "a.png").write_bytes(
            b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
        )
        np.testing.assert_allclose(load_image(tmp_path / "a.png"), expected(picture), atol=1e-6)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("missing.png", None, "no such file"),
        ("empty.png", b"", "empty"),
        ("text.png", b"hello, I am text", "not an image"),
        ("photo.heic", b"\0\0\0\x18ftypheic" + b"\0" * 40, "Convert it to JPEG or PNG"),
        ("bomb.png", png_header(30_000, 30_000), "megapixels"),
        ("large.png", png_header(11_000, 10_000), "megapixels"),
        ("broken.png", png_header(64, 64), "broken or truncated"),
    ],
)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_bad_files_raise_with_the_reason(tmp_path, name, content, reason):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    for load in (load_image, load_mask):
        with pytest.raises(ImageError, match=reason) as error:
            load(tmp_path / name)
        assert name in str(error.value)


def test_truncated_small_folder_and_non_finite_raise(tmp_path, picture):
    data = jpeg_bytes(picture)
    (tmp_path / "cut.jpg").write_bytes(data[: len(data) // 2])
    Image.fromarray(picture[:20]).save(tmp_path / "small.png")
    Image.fromarray(np.full((40, 40), np.nan, np.float32)).save(tmp_path / "nan.tif")
    for name, reason in (("cut.jpg", "truncated"), ("small.png", "64x20"), ("nan.tif", "NaN"), ("", "folder")):
        with pytest.raises(ImageError, match=reason):
            load_image(tmp_path / name)


def test_mask_is_binary_and_resized(tmp_path):
    mask = np.zeros((30, 60), np.uint8)
    mask[:, 40:] = 255
    Image.fromarray(mask).save(tmp_path / "m.png")
    loaded = load_mask(tmp_path / "m.png")
    np.testing.assert_array_equal(loaded, mask / 255)
    twice = load_mask(tmp_path / "m.png", (60, 120))
    np.testing.assert_array_equal(twice, np.kron(loaded, np.ones((2, 2))))
    assert load_mask(tmp_path / "m.png", (45, 91)).shape == (45, 91)  # rounding of the aspect ratio
    with pytest.raises(ImageError, match="aspect ratio"):
        load_mask(tmp_path / "m.png", (60, 60))


@pytest.mark.parametrize("mode", ["ones", "bit", "palette", "alpha", "rgb"])
def test_masks_of_all_encodings_load(tmp_path, mode):
    truth = np.zeros((40, 40), np.float32)
    truth[5:20, 10:30] = 1
    mask = truth.astype(np.uint8)
    if mode == "palette":
        picture = Image.fromarray(mask)
        picture.putpalette([0, 0, 0, 128, 0, 0])
    else:
        picture = Image.fromarray(
            {
                "ones": mask,
                "bit": mask > 0,
                "alpha": np.stack([np.full_like(mask, 255), mask * 255], -1),
                "rgb": np.repeat(mask[..., None] * 255, 3, -1),
            }[mode]
        )
    picture.save(tmp_path / "m.png")
    np.testing.assert_array_equal(load_mask(tmp_path / "m.png"), truth)


@pytest.mark.parametrize("shape", [(8, 9), (8, 9, 1), (8, 9, 3), (8, 9, 4)])
def test_saved_images_read_back(tmp_path, shape):
    image = np.random.default_rng(0).uniform(-0.1, 1.1, shape).astype(np.float32)
    save_image(tmp_path / "a.png", image)
    stored = np.asarray(Image.open(tmp_path / "a.png"), np.float32).reshape(shape) / 255
    np.testing.assert_allclose(stored, np.clip(image, 0, 1), atol=0.5 / 255 + 1e-6)
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


def test_failed_save_leaves_the_old_file_and_nothing_else(tmp_path, picture):
    save_image(tmp_path / "a.png", picture)
    before = (tmp_path / "a.png").read_bytes()
    for bad, name in ((np.full((8, 8), np.nan), "a.png"), (picture[..., :2], "a.png"), (picture, "a.xyz")):
        with pytest.raises(ImageError):
            save_image(tmp_path / name, bad)
    assert (tmp_path / "a.png").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


def test_check_image_converts_or_raises(picture):
    np.testing.assert_allclose(check_image(picture), expected(picture), atol=1e-6)
    for bad, reason in (
        (picture[..., 0], "shape"), (picture[:8], "at least 32"), (picture.astype(np.float32), "Divide by 255"),
        (np.full((40, 40, 3), np.nan), "NaN"),
    ):  # fmt: skip
        with pytest.raises(ImageError, match=reason):
            check_image(bad)
