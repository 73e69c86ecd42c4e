"""`train --config local_pca` on scans of a synthetic FLAME-format head, saved as FLAME-registered data sets are."""

import json
import signal

import numpy as np
import pytest

import flamejax
from experiments import train
from experiments.datasets import registered_scans
from experiments.datasets.registered_scans import assign_splits, find_scans, read_scans, read_vertices
from experiments.training import LocalConfig, train_local_models
from experiments.training.local_models.evaluation import rank_note, variants
from experiments.training.stop_signals import TrainingStopped
from fitting.local_files import load_local_model
from fitting.local_model import with_local
from flamejax.head import HeadFileError
from tests.experiments.training.conftest import FLAME_SIZE, QUIET
from tests.experiments.training.runs import EACH, HEAD, SUBJECTS, write_scans

VERTICES = FLAME_SIZE["vertices"]


def test_train_without_a_config_lists_them_and_trains_nothing(capsys, monkeypatch):
    for options in {type(options): options for _, options in train.CONFIGS.values()}.values():
        monkeypatch.setattr(type(options), "run", None)
    for args in ([], ["--help"]):
        assert train.main(args) == 0
        assert "local_pca" in capsys.readouterr().out
    assert train.main(["--config", "mesh"]) == 2
    assert "no config 'mesh'" in capsys.readouterr().err
    assert train.main(["--scans", "x"]) == 2
    for args in (["--config", "local_pca", "--help"], ["--config=local_pca", "--help"]):
        with pytest.raises(SystemExit) as ended:
            train.main(args)
        assert ended.value.code == 0 and "--scans" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("stopped", "status", "text"),
    [
        (KeyboardInterrupt(), 130, "Stopped.\n"),
        (TrainingStopped("Stopped at step 12; the same command continues."), 130, "Stopped at step 12"),
        (TrainingStopped("Stopped at step 12.", signal.SIGTERM), 143, "Stopped at step 12.\n"),
    ],
)
def test_a_stopped_run_prints_one_line(capsys, monkeypatch, stopped, status, text):
    def stop(options, console):
        raise stopped

    monkeypatch.setattr(type(train.CONFIGS["local_pca"][1]), "run", stop)
    assert train.main(["--config", "local_pca"]) == status
    printed = capsys.readouterr().err
    assert printed.startswith(text) and printed.count("\n") == 1


def test_local_models_that_a_share_leaves_whole_are_not_evaluated_twice(data):
    scans = read_scans(data / "scans", "train", HEAD.num_vertices)
    config = LocalConfig(num_betas=4, num_expression=2, max_shape=4, max_expression=2)
    local = train_local_models(HEAD, scans.vertices, config, subjects=scans.subject, console=QUIET)
    heads = [(head.num_betas, head.num_expression) for name, head in variants(HEAD, local).items() if "local" in name]
    assert len(set(heads)) == len(heads)
    assert rank_note(local, SUBJECTS) is None and "14 of 14 regions" in rank_note(local, 4)


@pytest.mark.slow
def test_local_pca_trains_from_registered_scans_of_a_flame_head(flame, tmp_path, capsys):
    path, head = flame
    write_scans(tmp_path / "scans", head, unit=1e-3)
    (tmp_path / "scans" / "subject0" / "broken.ply").write_bytes(b"ply\nnot a mesh")
    np.save(tmp_path / "scans" / "subject1" / "other.npy", np.zeros((7, 3)))
    output = tmp_path / "out" / "local.npz"
    args = ["--config", "local_pca", "--head", str(path), "--scans", str(tmp_path / "scans"), "--unit", "mm"]
    args += ["--output", str(output), "--workdir", str(tmp_path / "work"), "--smoke"]
    assert train.main(args) == 0
    output_text = capsys.readouterr().out
    assert "broken.ply" in output_text and "another topology" in output_text
    local = load_local_model(head, output)
    assert with_local(head, local).num_betas == 10 + local.num_shape
    assert len(local.regions) == 14 and local.provenance["source"] == "scans of the user's own"
    tables = json.loads((tmp_path / "work" / "tables.json").read_text())
    assert set(tables) == {"regions", "validation", "test"} and len(tables["regions"]) == 14
    assert (tmp_path / "work" / "local-models.jpg").stat().st_size > 1000
    with pytest.raises(HeadFileError, match=f"made for the head '{head.name}"):
        load_local_model(flamejax.load_head(), output)


def test_error_messages_name_the_remedy(data, tmp_path, capsys):
    command = ["--config", "local_pca", "--head", str(data / "head.npz"), "--workdir", str(tmp_path / "work")]
    assert train.main(command) == 2
    assert "Give --scans DIR" in capsys.readouterr().err
    assert train.main([*command, "--scans", str(tmp_path / "nowhere")]) == 2
    assert "no such folder" in capsys.readouterr().err
    write_scans(tmp_path / "scans", HEAD, unit=1e-3)
    assert train.main([*command, "--scans", str(tmp_path / "scans")]) == 2
    assert "across, but heads are 0.1 to 1.0 m: give --unit mm" in capsys.readouterr().err
    assert train.main([*command, "--scans", str(tmp_path / "scans"), "--num-betas", "7", "--unit", "mm"]) == 2
    assert f"this head has {HEAD.num_betas}" in capsys.readouterr().err
    assert not list((tmp_path / "work").glob("*.npz"))


def test_read_scans_reads_every_format(flame, tmp_path):
    _, head = flame
    posed = write_scans(tmp_path, head)
    paths = find_scans(tmp_path)
    assert {path.suffix for path in paths} == set(registered_scans.SUFFIXES)
    parts = [read_scans(tmp_path, split, VERTICES) for split in registered_scans.SPLITS]
    assert [len(part.vertices) for part in parts] == [EACH * 4, EACH, EACH]
    together = {(s, e): v for p in parts for s, e, v in zip(p.subject, p.expression, p.vertices, strict=True)}
    for i, expected in enumerate(posed):
        key = f"subject{i // EACH}", f"take/{('smile', 'bareteeth', 'eyebrow')[i % EACH]}"
        np.testing.assert_allclose(together[key], expected, atol=1e-6)
    assert len(find_scans(tmp_path, every=2)) == len(paths)  # one scan in each folder


def test_assign_splits_separates_subjects_reproducibly():
    names = [f"s{i}" for i in range(40)]
    splits = assign_splits(names)
    assert [list(splits.values()).count(split) for split in registered_scans.SPLITS] == [32, 4, 4]
    assert assign_splits(names[::-1]) == splits and set(assign_splits(["a", "b"]).values()) == {"train"}
    assert set(assign_splits(["a", "b", "c"]).values()) == set(registered_scans.SPLITS)


def test_read_vertices_refuses_files_that_are_not_scans(tmp_path):
    (tmp_path / "a.ply").write_bytes(b"")
    np.save(tmp_path / "b.npy", np.full((5, 3), np.nan))
    np.save(tmp_path / "c.npy", np.zeros((5, 2)))
    np.savez(tmp_path / "d.npz", other=np.zeros((5, 3)))
    (tmp_path / "e.obj").write_text("v 1 2\n")
    for name in ("a.ply", "b.npy", "c.npy", "d.npz", "e.obj"):
        with pytest.raises(HeadFileError, match=name):
            read_vertices(tmp_path / name, 5)
    with pytest.raises(ValueError, match="subject's folder"):
        find_scans(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no scans"):
        find_scans(tmp_path / "empty")
    with pytest.raises(ValueError, match="no split"):
        read_scans(tmp_path, "dev", 5)
