"""Photos that OFER's networks are trained on: data sets in folders, the open faces', and their stored features."""

import dataclasses

import numpy as np
import pytest
from rich.console import Console

import flamejax
from experiments import cache
from experiments.training.ofer import photo_examples, photo_source
from experiments.training.ofer.coefficients import ScanCoefficients
from experiments.training.ofer.flame_coefficients import CoefficientReader
from experiments.training.ofer.photo_folders import folder_photos, held_out_identities
from flamejax.head import HeadFileError
from tests.experiments.training.conftest import QUIET
from tests.experiments.training.runs import HEAD
from tests.experiments.training.test_train_ofer_photos import EACH, IDENTITIES, write_dataset


@pytest.fixture
def head():
    return HEAD


@pytest.fixture(autouse=True)
def features_folder(tmp_path, monkeypatch):
    """Features are stored in a temporary folder."""
    monkeypatch.setattr(photo_examples, "features_folder", lambda: tmp_path.parent / f"{tmp_path.name}-features")


def test_stored_rows_resume_after_the_last_block(tmp_path):
    path, rows = tmp_path / "a" / "rows.npy", np.arange(20, dtype=np.float16).reshape(10, 2)
    first = cache.CachedRows(path, (10, 2), np.float16)
    first.add(rows[:4])
    assert not path.exists()
    with pytest.raises(ValueError):
        first.array()
    again = cache.CachedRows(path, (10, 2), np.float16)
    assert again.done == 4
    np.testing.assert_array_equal(again.rows(1, 4), rows[1:4])
    again.add(rows[4:])
    np.testing.assert_array_equal(again.array(), rows)
    assert [p.name for p in path.parent.iterdir()] == ["rows.npy"]
    assert cache.CachedRows(path, (10, 2), np.float16).done == 10
    assert cache.CachedRows(path, (10, 3), np.float16).done == 0


def test_open_photos_have_a_clean_and_an_occluded_photo_per_scan(monkeypatch):
    """The identity is the mean over a subject's scans."""
    open_head, rng = flamejax.load_head(), np.random.default_rng(0)
    sizes = open_head.num_betas, open_head.num_expression, 3
    scans = ScanCoefficients(*(rng.normal(size=(4, n)).astype(np.float32) for n in sizes), np.array([3, 3, 7, 7]))
    pixels = rng.integers(0, 255, (4, 2, 64, 64, 3), np.uint8)
    visible = rng.random((4, 2, 68)) < 0.5
    examples = [
        {
            "image": pixels[k, 0], "occluded": pixels[k, 1], "landmarks": rng.uniform(10, 50, (68, 2)),
            "landmarks_visible": visible[k, 0], "landmarks_visible_occluded": visible[k, 1],
        }
        for k in range(4)
    ]  # fmt: skip
    monkeypatch.setattr(photo_source, "scan_coefficients", lambda *given: scans)
    monkeypatch.setattr(photo_source, "data_source", lambda *given: examples)
    source = photo_source.open_photos(open_head, "train", True, QUIET)
    assert source.identity.tolist() == [3] * 4 + [7] * 4 and len(set(source.digests)) == 8
    np.testing.assert_allclose(source.betas[5], scans.betas[2:].mean(axis=0), rtol=1e-6)
    np.testing.assert_array_equal(source.motion[5], np.concatenate([scans.expression[2], scans.jaw[2]]))
    observations = [source.observe(k, None) for k in (4, 5)]
    for k in range(2):
        np.testing.assert_array_equal(observations[k].confidence > 0, visible[2, k])
    assert np.abs(observations[0].image - observations[1].image).max() > 0.1
    with pytest.raises(ValueError, match="give --photos"):
        photo_source.open_photos(dataclasses.replace(open_head, name="other"), "train", True, QUIET)


def test_data_sets_without_expressions_serve_identities_only(head, tmp_path):
    console = QUIET
    write_dataset(tmp_path / "LYHM", head.num_betas, head.num_expression, motion=False)
    training, validation = folder_photos(tmp_path, "lyhm", head, "identity", console)
    assert training.motion is None and not set(training.identity) & set(validation.identity)
    assert len(training.betas) == (IDENTITIES - 1) * EACH and training.identity[0].startswith("LYHM/")
    with pytest.raises(ValueError, match=r"only identities.*famos"):
        folder_photos(tmp_path, "Lyhm", head, "expression", console)
    (tmp_path / "LYHM").rename(tmp_path / "own")
    with pytest.raises(ValueError, match="has no expression"):
        folder_photos(tmp_path, None, head, "expression", console)
    (tmp_path / "own").rename(tmp_path / "famos")
    with pytest.raises(ValueError, match="Give --head, a FLAME model"):
        folder_photos(tmp_path, None, flamejax.load_head(), "identity", console)


def test_unusable_files_are_left_out_and_reported(head, tmp_path, capsys):
    console = Console(width=300)
    write_dataset(tmp_path / "own", head.num_betas + 5, head.num_expression)
    person = tmp_path / "own" / "person0"
    np.savez(person / "0.npz", betas=np.zeros(3))
    (person / "1.npz").write_bytes(b"broken")
    (person / "2.npz").unlink()
    (tmp_path / "own" / "person1" / "2.png").write_bytes(b"no photo")
    parts = folder_photos(tmp_path, None, head, "expression", console)
    output = capsys.readouterr().out
    assert sum(len(part.betas) for part in parts) == IDENTITIES * EACH - 3
    assert "identity coefficients cut: the first" in output and f"of {head.num_betas + 5}" in output
    assert f"3 identity coefficients, but the head has {head.num_betas}" in output
    assert "no coefficients: 2.npz beside it, or flame.npz" in output
    bad = next(part for part in parts if "own/person1" in part.identity)
    examples = photo_examples.load_examples(bad, {}, head, console)
    assert len(examples) == len(bad.betas) - 1 and "2.png" in capsys.readouterr().out
    for path in (tmp_path / "own").rglob("*.npz"):
        path.unlink()
    with pytest.raises(ValueError, match=r"no photo with coefficients.*31 left out|32 left out"):
        folder_photos(tmp_path, None, head, "expression", console)
    np.savez(person / "flame.npz", betas=np.zeros(head.num_betas))
    with pytest.raises(ValueError, match="another identity"):
        folder_photos(tmp_path, None, head, "identity", console)


def test_coefficient_reader_knows_names_of_public_data_sets(tmp_path):
    reader = CoefficientReader(4, 3, True)
    pose = np.arange(15.0)
    np.savez(tmp_path / "a.npz", **{"flame.shape_params": np.ones(6), "flame.exp": np.ones(3), "flame.pose": pose})
    betas, motion = reader.read(tmp_path / "a.npz")
    assert betas.shape == (4,) and reader.truncated == {"identity": (6, 4)}
    np.testing.assert_array_equal(motion, [1, 1, 1, 6, 7, 8])
    complete = {"betas": np.ones(4), "expression": np.ones(3), "jaw": np.zeros(3)}
    for name, value, words in (
        ("betas", np.ones((2, 4)), "not a vector"),
        ("betas", np.full(4, np.nan), "not finite"),
        ("expression", np.ones(2), "2 expression coefficients"),
        ("jaw", np.ones(4), "a jaw of 4"),
    ):
        np.savez(tmp_path / "b.npz", **{**complete, name: value})
        with pytest.raises(HeadFileError, match=words):
            reader.read(tmp_path / "b.npz")
    del complete["jaw"]
    np.savez(tmp_path / "c.npz", **complete, pose=np.ones(6))
    with pytest.raises(HeadFileError, match="a pose of 6"):
        reader.read(tmp_path / "c.npz")


def test_held_out_identities_do_not_depend_on_the_order():
    names = [f"person{k}" for k in range(40)]
    held_out = held_out_identities(names)
    assert len(held_out) == 4 and held_out == held_out_identities(names[::-1] + names)
    assert len(held_out_identities(names[:2])) == 1 and not held_out_identities(names[:1])
