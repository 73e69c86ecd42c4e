"""Tests of reading FLAME's texture that is converted from BFM, and of textures that are not used."""

import tracemalloc

import numpy as np
import pytest

from flamejax.head import HeadFileError
from tests import flame_format
from tests.flame_format import SMALL
from tests.flame_format import load_small as load


@pytest.fixture
def folder(tmp_path):
    """A small model with DECA's landmarks beside it."""
    flame_format.write_folder(tmp_path / "FLAME2020")
    return tmp_path / "FLAME2020"


@pytest.mark.parametrize("flat", [True, False])
def test_the_texture_converted_from_bfm_is_read(folder, flat):
    texture = flame_format.write_albedo(folder, 16, 6, flat)
    uv = flame_format.write_template(folder, flame_format.synthetic_flame(0, **SMALL))
    head = load(folder / "generic_model.pkl", texture_components=4)
    np.testing.assert_allclose(head.uv, uv, atol=1e-6)
    # The file is BGR in 0..1; the albedo is RGB in 0..1, quantized to 8 bits.
    np.testing.assert_allclose(head.albedo_mean, texture["MU"][..., ::-1], atol=0.51 / 255)
    basis = np.moveaxis(texture["PC"][..., ::-1, :4], -1, 0)
    np.testing.assert_allclose(head.albedo_basis, basis, atol=np.abs(basis).max() / 127)
    half = load(folder / "generic_model.pkl", texture_size=8)
    expected = texture["MU"].reshape(8, 2, 8, 2, 3).mean((1, 3))[..., ::-1]
    np.testing.assert_allclose(half.albedo_mean, expected, atol=0.51 / 255)


def test_textures_beside_the_model_that_are_not_used_are_mentioned(folder):
    path, model = folder / "generic_model.pkl", flame_format.synthetic_flame(0, **SMALL)
    flame_format.write_albedo(folder, 4, 3)
    with pytest.warns(UserWarning, match=r"FLAME_albedo_from_BFM\.npz is not used: it has no texture .*head_template"):
        head = load(path)
    assert np.ptp(head.albedo_mean) == 0
    with pytest.raises(HeadFileError, match=r"it has no texture coordinates. Place head_template\.obj"):
        load(path, texture=folder / "FLAME_albedo_from_BFM.npz")
    flame_format.write_template(folder, model)
    texture = flame_format.write_texture(folder, 4, 3, SMALL["triangles"])
    with pytest.warns(UserWarning, match=r"FLAME_albedo_from_BFM\.npz is not used: FLAME_texture\.npz is") as record:
        head = load(path)
    assert len(record) == 1
    np.testing.assert_allclose(head.albedo_mean, texture["mean"][..., ::-1] / 255, atol=0.51 / 255)
    (folder / "FLAME_texture.npz").unlink()
    np.savez(folder / "albedoModel2020_FLAME_albedoPart.npz", MU=np.zeros((4, 4, 3)), specMU=0)
    with pytest.warns(UserWarning, match=r"albedoModel2020_FLAME_albedoPart\.npz is not used: linear albedo"):
        assert np.ptp(load(path).albedo_mean) > 0
    load(path, texture_components=0)  # asks for no texture, which is no reason to warn
    with pytest.raises(HeadFileError, match="AlbedoMM's linear albedo"):
        load(path, texture=folder / "albedoModel2020_FLAME_albedoPart.npz")


MEAN, BASIS = np.full(48, 0.5), np.zeros((48, 3))
TEXTURES = {
    "nothing": ({}, "Needed are mean and tex_dir, .* or MU and PC"),
    "only a mean": ({"MU": MEAN}, "it holds MU. Needed"),
    "no square": ({"MU": MEAN[:45], "PC": BASIS[:45]}, "'MU' has shape .45,., which is no square texture"),
    "no colours": ({"MU": MEAN[:47], "PC": BASIS}, "'MU' has shape"),
    "empty": ({"MU": MEAN[:0], "PC": BASIS[:0]}, "'MU' has shape"),
    "grey": ({"MU": np.zeros((4, 4)), "PC": BASIS}, "'MU' has shape"),
    "a strip": ({"MU": np.zeros((1, 100, 3)), "PC": np.zeros((300, 3))}, "'MU' has shape"),
    "too large": ({"MU": np.zeros((8300, 2100, 3), np.uint8), "PC": BASIS}, "'MU' has shape"),
    "other components": ({"MU": MEAN, "PC": BASIS[:45]}, "'PC' has shape"),
    "no components": ({"MU": MEAN, "PC": BASIS[:, :0]}, "'PC' has shape"),
    "one component": ({"MU": MEAN, "PC": MEAN}, "'PC' has shape"),
    "a number": ({"MU": np.array(0.5), "PC": BASIS}, "'MU' has shape"),
    "NaN in the mean": ({"MU": np.full(48, np.nan), "PC": BASIS}, "'MU' holds numbers that are not finite"),
    "infinite components": ({"MU": MEAN, "PC": np.full((48, 3), np.inf)}, "'PC' holds numbers that are not finite"),
    "0 to 255": ({"MU": MEAN * 400, "PC": BASIS}, "'MU' runs to 200"),
    "text": ({"MU": np.array(["a"] * 48), "PC": BASIS}, "'MU'.*announces shape"),
    "Fortran order": ({"MU": MEAN, "PC": np.asfortranarray(BASIS)}, "Fortran order"),
}


@pytest.mark.parametrize("case", TEXTURES)
def test_wrong_textures_raise_with_the_reason(folder, case):
    arrays, message = TEXTURES[case]
    flame_format.write_template(folder, flame_format.synthetic_flame(0, **SMALL))
    np.savez_compressed(folder / "FLAME_albedo_from_BFM.npz", **arrays)
    with pytest.raises(HeadFileError, match=message):
        load(folder / "generic_model.pkl")


def test_a_large_texture_is_read_in_little_memory(folder):
    flame_format.write_template(folder, flame_format.synthetic_flame(0, **SMALL))
    np.savez_compressed(folder / "FLAME_albedo_from_BFM.npz", MU=np.zeros(3 * 256**2), PC=np.zeros((3 * 256**2, 38)))
    tracemalloc.start()
    load(folder / "generic_model.pkl", texture_size=64, texture_components=8)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10e6  # the components have 60 MB
