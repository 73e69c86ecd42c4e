"""Weight files whose settings or arrays are damaged or hostile are refused with a HeadFileError, without delay."""

import json
import math
import time

import numpy as np
import pytest
from flax import nnx

from flamejax.head import HeadFileError
from models import load_mesh_vae, load_rank, mesh_vae_path
from models.encoders.arcface import ArcFace, IResNetConfig
from models.encoders.files import load_encoder, write_encoder
from models.encoders.landmark import LandmarkEncoderConfig
from models.generator import GeneratorConfig
from models.mesh_vae import MeshVAEConfig
from models.ofer_weights import (
    build_generator,
    build_rank,
    encoder_names,
    load_generator,
    write_generator,
    write_rank,
)
from models.pretrained import build_mesh_vae, write_mesh_vae
from models.rank import IdRankConfig
from models.unet1d import UNet1DConfig
from models.weight_files import config_from_json, is_trained_for

LANDMARK = LandmarkEncoderConfig(width=16, hidden=16, blocks=1)


def write_network(head, kind, path):
    """Write a small untrained network, and return the function that loads it."""
    if kind == "mesh_vae":
        config = MeshVAEConfig(
            strides=(2, 2), features=(4,), latent_features=2, num_bases=3, centred=True, linear_rank=6, linear_fine=2
        )
        write_mesh_vae(path, head, build_mesh_vae(head, config, head.v_template, 0.01))
        return lambda: load_mesh_vae(head, path)
    if kind == "identity":
        unet = UNet1DConfig(widths=(head.num_betas, 4), context=16, time=8, heads=1, head_width=4, tokens=2)
        write_generator(path, head, build_generator(head, GeneratorConfig("identity", unet, landmark=LANDMARK)))
        return lambda: load_generator(head, "identity", path)
    if kind == "rank":
        write_rank(path, head, build_rank(head, IdRankConfig(widths=(64,), context=16, landmark=LANDMARK)))
        return lambda: load_rank(head, path)
    config = IResNetConfig(blocks=(1,), widths=(4,), stem=4, width=8, image_size=16)
    write_encoder(path, ArcFace(config, rngs=nnx.Rngs(0)))
    return lambda: load_encoder("arcface", path)


def change(path, **changes):
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    np.savez_compressed(path, **{**arrays, **{name: np.asarray(value) for name, value in changes.items()}})


def settings_of(path):
    with np.load(path) as file:
        return json.loads(str(file["config"]))


TEXTS = {
    "deep lists": "[" * 100_000,
    "deep objects": '{"a":' * 60_000,
    "closed deep lists": '{"a":' + "[" * 40_000 + "]" * 40_000 + "}",
    "a list": "[1, 2]",
    "a number": "5",
    "nothing": "",
    "no JSON": "{'a': 1}",
    "long": json.dumps({"a": "x" * 200_000}),
    "no settings": "{}",
    "unknown settings": '{"' + "x" * 5000 + '": 1}',
    "twice nested": json.dumps({"unet": {"unet": {}}, "landmark": {"landmark": {}}}),
}
VALUES = {
    "a huge number": "1" + "0" * 5000,
    "a large number": str(10**9),
    "a number of many digits": "1" + "0" * 4000,
    "negative": "-3",
    "zero": "0",
    "NaN": "NaN",
    "infinite": "-Infinity",
    "1e400": "1e400",
    "text": '"16"',
    "true": "true",
    "null": "null",
    "fraction": "2.5",
    "object": '{"a": 1}',
    "nested": "[[1]]",
    "many": json.dumps([1] * 5000),
    "huge list": json.dumps([10**9] * 4),
}
FIELDS = {
    "mesh_vae": ("strides", "features", "latent_features", "num_bases", "linear_rank", "linear_noise", "radii"),
    "identity": ("unet.widths", "unet.context", "unet.tokens", "unet.heads", "landmark.blocks", "landmark.hidden",
                 "landmark.spread", "encoders", "kind", "schedule", "unet"),
    "rank": ("widths", "context", "quadratic", "landmark.width", "landmark", "spread_mm"),
    "encoder": ("blocks", "widths", "stem", "width", "image_size"),
}  # fmt: skip
HARMLESS = {
    ("mesh_vae", "linear_noise"), ("mesh_vae", "radii"), ("identity", "landmark.spread"), ("rank", "spread_mm"),
    ("rank", "quadratic"),
}  # fmt: skip
"""Settings that some of the values suit."""


@pytest.mark.parametrize("kind", FIELDS)
def test_hostile_settings_raise_the_error_of_their_file(head, tmp_path, kind):
    load = write_network(head, kind, tmp_path / "a.npz")
    load()
    settings, cases = settings_of(tmp_path / "a.npz"), dict(TEXTS)
    for field in FIELDS[kind]:
        for name, value in VALUES.items():
            changed = json.loads(json.dumps(settings))
            *outer, last = field.split(".")
            (changed[outer[0]] if outer else changed)[last] = "HERE"
            cases[f"{field}: {name}"] = json.dumps(changed).replace('"HERE"', value)
    for name, text in cases.items():
        change(tmp_path / "a.npz", config=text)
        began = time.perf_counter()
        try:
            load()
        except HeadFileError as error:
            assert "a.npz" in str(error) and len(str(error)) < 2000, name
        else:
            assert (kind, name.split(":")[0]) in HARMLESS, name
        assert time.perf_counter() - began < 20, name


@pytest.mark.parametrize("kind", ["mesh_vae", "identity", "rank"])
def test_damaged_arrays_raise_the_error_of_their_file(head, tmp_path, kind):
    load = write_network(head, kind, tmp_path / "a.npz")
    with np.load(tmp_path / "a.npz") as file:
        original = {name: file[name] for name in file.files}
    parameter = next(name for name in original if name.startswith("parameter:"))
    shape = original[parameter].shape
    wrong = {
        parameter: [np.full(shape, np.nan, np.float16), np.full(shape, "x"), np.zeros(3), np.zeros((*shape, 1))],
        "format_version": [math.inf, math.nan, [1, 1], "one", 2, -1],
        "head_hash": [[1, 2], 3.5, "other"],
        "network": ["other", 1],
        "config": [[1], 1.5, "x"],
    }
    if kind == "mesh_vae":
        mean = original["frame:mean"]
        wrong["frame:mean"] = [mean * np.nan, mean[1:], mean.T, 1.0, "x"]
        wrong["frame:spread"] = [0.0, math.nan, math.inf, -1.0, [1.0, 2.0], "x"]
        wrong["frame:linear/scales"] = [np.zeros(10_000_000, np.float16)]
    for name, values in wrong.items():
        for value in values:
            change(tmp_path / "a.npz", **{**original, name: value})
            with pytest.raises(HeadFileError, match=r"a\.npz"):
                load()
    for name in ("config", "format_version", parameter):
        np.savez(tmp_path / "a.npz", **{key: value for key, value in original.items() if key != name})
        with pytest.raises(HeadFileError, match=r"a\.npz"):
            load()


def test_encoders_of_a_file_are_names(head, tmp_path):
    write_network(head, "identity", tmp_path / "a.npz")
    assert encoder_names(head, "IdGen", tmp_path / "a.npz") == ("landmark",)
    for encoders in (5, "landmark", [1], {"a": 1}):
        change(tmp_path / "a.npz", config=json.dumps({**settings_of(tmp_path / "a.npz"), "encoders": encoders}))
        with pytest.raises(HeadFileError, match="encoders have no names"):
            encoder_names(head, "IdGen", tmp_path / "a.npz")


def test_a_file_that_is_no_archive_was_not_trained_for_a_head(head, tmp_path):
    write_network(head, "mesh_vae", tmp_path / "a.npz")
    assert is_trained_for(tmp_path / "a.npz", head) and not is_trained_for(mesh_vae_path(), head)
    content = (tmp_path / "a.npz").read_bytes()
    for data in (b"", b"text", content[:500], content.replace(b"head_hash", b"head_has\xff")):
        (tmp_path / "b.npz").write_bytes(data)
        assert not is_trained_for(tmp_path / "b.npz", head)
    assert not is_trained_for(tmp_path / "none.npz", head)


def test_settings_that_were_added_later_have_their_defaults():
    assert config_from_json(MeshVAEConfig, {}, 1024) == MeshVAEConfig()
    config = config_from_json(MeshVAEConfig, {"radii": [2, 1, 2, 1, 2, 1, 2], "residual_rate": 1}, 1024)
    assert config.radii == (2, 1, 2, 1, 2, 1, 2) and config.residual_rate == 1.0
