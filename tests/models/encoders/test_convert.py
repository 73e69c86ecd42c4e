"""Conversion of published files: parity with PyTorch (golden/, made by make_golden.py), and refusals."""

import argparse
import collections
import io
import pathlib
import pickle
import re
import zipfile

import numpy as np
import pytest
from flax import nnx

from flamejax.head import HeadFileError
from models.encoders import IResNetConfig, ViTConfig, encoder_path, load_arcface, load_farl
from models.encoders.convert import check_depth, provenance, read_arcface, read_farl
from models.encoders.files import architecture, describe_encoder, load_encoder, write_encoder
from models.encoders.torch_checkpoints import read_checkpoint


def read(name, path):
    """Read an encoder of any size."""
    return read_farl(path, heads=2, published=False) if name == "farl" else read_arcface(path, published=False)


def copy_archive(source, target, change):
    """Copy a zip archive with changed members."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for info in old.infolist():
            data = change(info.filename, old.read(info))
            if data is not None:
                new.writestr(info.filename, data)
    return target


@pytest.mark.parametrize("file", ["arcface.pth", "farl.pth", "arcface.onnx", "arcface_unfused.onnx"])
def test_parity_with_torch_through_a_converted_file(golden, tmp_path, file):
    if file.endswith(".onnx"):
        pytest.importorskip("onnx")
    name = "farl" if file.startswith("farl") else "arcface"
    encoder = read(name, golden / file)
    write_encoder(tmp_path / "x.npz", encoder, provenance(golden / file))
    loaded = load_encoder(name, tmp_path / "x.npz")
    assert loaded.config == encoder.config
    expected = np.load(golden / "expected.npz")
    output = nnx.jit(lambda e, crops: e.head(e.features_from_crops(crops)))(loaded, expected["crops"])
    np.testing.assert_allclose(output, expected[name], atol=2e-6)
    assert np.abs(expected[name][0] - expected[name][1]).max() > 0.05, "the golden outputs of photos differ"
    assert f"of {file}, sha256 " in describe_encoder(name, tmp_path / "x.npz")


def test_a_missing_onnx_package_is_named_with_its_installation(golden, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnx", None)
    with pytest.raises(ImportError, match=r"pip install 'flamejax\[encoders\]'"):
        read_arcface(golden / "arcface.onnx")


def test_onnx_files_that_are_no_iresnet_are_refused(golden, tmp_path):
    onnx = pytest.importorskip("onnx")
    with pytest.raises(HeadFileError, match=r"depth 18, 34, 50, 100, 200"):
        read_arcface(golden / "arcface.onnx")
    model = onnx.load(golden / "arcface.onnx")
    model.graph.node[1].op_type = "Relu"
    onnx.save(model, tmp_path / "relu.onnx")
    with pytest.raises(HeadFileError, match="has Relu where an iResNet has PRelu"):
        read_arcface(tmp_path / "relu.onnx")
    (tmp_path / "cut.onnx").write_bytes((golden / "arcface.onnx").read_bytes()[:-100])
    with pytest.raises(HeadFileError, match="cut off"):
        read_arcface(tmp_path / "cut.onnx")


LEGACY = pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2)
WRONG = {
    "page.pth": (b"\n<!DOCTYPE html><html>Google Drive: virus scan", "a web page"),
    "empty.pth": (b"", "an empty file"),
    "lfs.pth": (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
    "old.pth": (LEGACY + b"\x80\x02.", r"before 1\.6.*weights_only=True"),
    "generic_model.pkl": (pickle.dumps({"v_template": 1}, protocol=2), "FLAME's models convert without --to"),
    "cut.pth": (b"PK\x03\x04" + bytes(100), "damaged or cut off"),
    "photo.pth": (b"\x89PNG\r\n", "neither a PyTorch checkpoint nor an ONNX model"),
    "archive.tar": (bytes(range(65, 90)).ljust(257, b"x") + b"ustar  ", "a tar archive"),
}


@pytest.mark.parametrize("name", WRONG)
def test_other_kinds_of_files_are_named(tmp_path, name):
    content, message = WRONG[name]
    (tmp_path / name).write_bytes(content)
    for reader in (read_arcface, read_farl, load_arcface, load_farl):
        with pytest.raises(HeadFileError, match=f"(?s){name}.*{message}.*Wanted"):
            reader(tmp_path / name)


def test_missing_files_and_folders_are_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("FLAMEJAX_DATA", str(tmp_path))
    assert encoder_path("farl") == tmp_path / "encoders" / "farl.npz"
    with pytest.raises(FileNotFoundError, match=r"docs/how-to/encoders\.md.*--to farl"):
        load_farl()
    with pytest.raises(HeadFileError, match="no such file"):
        read_arcface(tmp_path / "none.pth")
    with pytest.raises(HeadFileError, match="a folder"):
        read_arcface(tmp_path)


def test_a_truncated_checkpoint_is_refused(golden, tmp_path):
    data = (golden / "arcface.pth").read_bytes()
    for size in (len(data) // 2, len(data) - 10):
        (tmp_path / "cut.pth").write_bytes(data[:size])
        with pytest.raises(HeadFileError, match="damaged or cut off"):
            read_arcface(tmp_path / "cut.pth", published=False)


def test_the_file_of_the_other_encoder_is_refused(golden):
    with pytest.raises(HeadFileError, match="holds FaRL, not ArcFace: convert it with --to farl"):
        read_arcface(golden / "farl.pth")
    with pytest.raises(HeadFileError, match="holds ArcFace, not FaRL"):
        read_farl(golden / "arcface.pth")


def test_unpublished_sizes_are_refused(golden):
    with pytest.raises(HeadFileError, match=r"an iResNet of 1\+2\+1\+1 blocks.*depth 18, 34, 50, 100, 200"):
        read_arcface(golden / "arcface.pth")
    with pytest.raises(HeadFileError, match="a ViT of 2 layers of 32"):
        read_farl(golden / "farl.pth")


def test_the_depth_is_derived_from_the_architecture(tmp_path):
    fifty = IResNetConfig()
    assert architecture(fifty) == "iResNet-50" and architecture(ViTConfig()) == "ViT-B/16"
    check_depth(fifty, 50, tmp_path)
    check_depth(fifty, None, tmp_path)
    with pytest.raises(HeadFileError, match="holds iResNet-50, not iResNet-100"):
        check_depth(fifty, 100, tmp_path)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("layer1.0.prelu.weight", "layer1.0.relu_.weight", "tensors of another network, such as .*is missing"),
        ("layer2.1.bn2.bias", "layer2.1.bn2.biaz", "'layer2.1.bn2.bias' is missing"),
        ("fc.weight", "fc.weighd", "'fc.weight' is missing"),
        ("layer2.0.", "layer2.2.", r"'layer2\.0' is missing"),
        ("conv1.weight", "convX.weight", "'conv1.weight' is missing"),
    ],
)
def test_missing_tensors_are_named(golden, tmp_path, old, new, message):
    def change(name, data):
        return data.replace(old.encode(), new.encode()) if name.endswith("data.pkl") else data

    path = copy_archive(golden / "arcface.pth", tmp_path / "other.pth", change)
    with pytest.raises(HeadFileError, match=message):
        read_arcface(path, published=False)


def test_wrong_shapes_and_infinite_numbers_are_refused(golden, tmp_path):
    def swap_names(name, data):
        """Swap the names of biases of 8 and 16 channels."""
        parts = b"layer1.0.bn1.bias", b"layer3.0.bn3.bias", b"layer9.9.bn9.bias"
        for old, new in ((parts[0], parts[2]), (parts[1], parts[0]), (parts[2], parts[1])):
            data = data.replace(old, new) if name.endswith("data.pkl") else data
        return data

    path = copy_archive(golden / "arcface.pth", tmp_path / "swapped.pth", swap_names)
    with pytest.raises(HeadFileError, match=r"'layer1\.0\.bn1\.bias' has the shape \(16,\), expected \(8,\)"):
        read_arcface(path, published=False)

    def set_infinite(name, data):
        return np.full(len(data) // 4, np.inf, "<f4").tobytes() if name.endswith("/data/0") else data

    path = copy_archive(golden / "arcface.pth", tmp_path / "infinite.pth", set_infinite)
    with pytest.raises(HeadFileError, match="not finite"):
        read_arcface(path, published=False)


def test_hostile_and_damaged_checkpoints_are_refused(golden, tmp_path):
    def insert_command(name, data):
        return b"cos\nsystem\n(S'true'\ntR." if name.endswith("data.pkl") else data

    with pytest.raises(HeadFileError, match=r"names os\.system, which no checkpoint of weights needs"):
        read_arcface(copy_archive(golden / "arcface.pth", tmp_path / "hostile.pth", insert_command))

    def shorten_storage(name, data):
        return data[:-4] if name.endswith("/data/0") else data

    with pytest.raises(HeadFileError, match="reaches beyond its numbers"):
        read_arcface(copy_archive(golden / "arcface.pth", tmp_path / "short.pth", shorten_storage), published=False)

    def drop_storage(name, data):
        return None if name.endswith("/data/0") else data

    with pytest.raises(HeadFileError, match="numbers are missing"):
        read_arcface(copy_archive(golden / "arcface.pth", tmp_path / "without.pth", drop_storage), published=False)

    def set_big_endian(name, data):
        return b"big" if name.endswith("byteorder") else data

    with pytest.raises(HeadFileError, match="big-endian"):
        read_arcface(copy_archive(golden / "arcface.pth", tmp_path / "big.pth", set_big_endian), published=False)

    def unchanged(name, data):
        return data

    path = copy_archive(golden / "arcface.pth", tmp_path / "script.pth", unchanged)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("arcface/constants.pkl", b"")
    with pytest.raises(HeadFileError, match="TorchScript"):
        read_arcface(path)


def test_other_objects_in_checkpoints_are_ignored(golden, tmp_path):
    extra_objects = {
        "args": argparse.Namespace(lr=1e-4, folder=pathlib.PurePosixPath("/x")),
        "scores": collections.defaultdict(dict, first={"a": 1}),
        "count": collections.Counter("ab"),
    }

    def add_entries(name, data):
        """Add these entries to the dictionary of weights."""
        if not name.endswith("data.pkl"):
            return data
        # A MARK and SETITEMS around the bodies of pickles without protocol and STOP, before the weights' own STOP.
        entries = b"".join(pickle.dumps(part, protocol=2)[2:-1] for pair in extra_objects.items() for part in pair)
        return data[:-1] + b"(" + entries + b"u."

    path = copy_archive(golden / "arcface.pth", tmp_path / "extra.pth", add_entries)
    assert read_arcface(path, published=False).width == 24
    path = copy_archive(
        golden / "arcface.pth", tmp_path / "none.pth",
        lambda name, data: pickle.dumps(extra_objects, protocol=2) if name.endswith("data.pkl") else data,
    )  # fmt: skip
    with pytest.raises(HeadFileError, match="holds no tensors"):
        read_arcface(path)


def test_read_checkpoint_returns_all_dictionaries_of_tensors(golden):
    dictionaries = read_checkpoint(golden / "arcface.pth")
    assert "arcface" in dictionaries and dictionaries["arcface"]["module.conv1.weight"].shape == (8, 3, 3, 3)
    assert dictionaries["arcface"]["module.conv1.weight"].read().dtype == np.float32
    assert set(read_checkpoint(golden / "farl.pth")["state_dict"]) > {"visual.proj", "logit_scale"}


def test_damaged_converted_files_are_refused(golden, tmp_path):
    good = tmp_path / "good.npz"
    write_encoder(good, read("arcface", golden / "arcface.pth"))
    with np.load(good) as file:
        arrays = dict(file)
    changes = {
        "format 2, not 1": {"format_version": np.int32(2)},
        "no encoder of flamejax": {"config": np.asarray("{")},
        "impossible sizes": {"config": np.asarray('{"stem": 1000000}')},
        "do not fit": {"weights": arrays["weights"][1:]},
        "not finite": {"weights": arrays["weights"] * np.float32(np.nan)},
    }
    for message, change in changes.items():
        np.savez(tmp_path / "bad.npz", **(arrays | change))
        with pytest.raises(HeadFileError, match=re.escape(message)):
            load_arcface(tmp_path / "bad.npz")
    with pytest.raises(HeadFileError, match="holds the encoder 'arcface', not FaRL"):
        load_farl(good)
    with pytest.raises(HeadFileError, match="not iResNet-100"):
        load_arcface(good, depth=100)
    buffer = io.BytesIO()
    np.savez(buffer, v_template=np.zeros((3, 3)))
    (tmp_path / "head.npz").write_bytes(buffer.getvalue())
    with pytest.raises(HeadFileError, match="no encoder of flamejax"):
        load_farl(tmp_path / "head.npz")
    with pytest.raises(HeadFileError, match=r"an \.npz archive"):
        read_arcface(good)
