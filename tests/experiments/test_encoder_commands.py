"""`flamejax convert --to`, and the doctor's report on encoders."""

import functools
from pathlib import Path

import pytest

import models.encoders.convert
from experiments import cli, doctor
from models.encoders import load_arcface, load_farl

GOLDEN = Path(__file__).resolve().parents[1] / "models" / "encoders" / "golden"


@pytest.fixture
def any_size(monkeypatch, tmp_path):
    """Allow encoders of any size, since the golden files are small, and use an empty data folder."""
    monkeypatch.setenv("FLAMEJAX_DATA", str(tmp_path))
    for name in ("read_arcface", "read_farl"):
        function = functools.partial(getattr(models.encoders.convert, name), published=False)
        monkeypatch.setattr(models.encoders.convert, name, function)


def test_convert_writes_encoders(any_size, tmp_path, capsys):
    command = ["convert", str(GOLDEN / "arcface.pth"), "--to", "arcface"]
    assert cli.main(command) == 0
    out = capsys.readouterr().out
    assert str(tmp_path / "encoders" / "arcface.npz") in out and "an iResNet of 1+2+1+1 blocks" in out
    assert load_arcface().width == 24
    assert cli.main(command) == 2 and "--overwrite" in capsys.readouterr().err
    assert cli.main([*command, "--overwrite"]) == 0
    assert cli.main(["convert", str(GOLDEN / "farl.pth"), str(tmp_path / "mine.npz"), "--to", "farl"]) == 0
    assert load_farl(tmp_path / "mine.npz").width == 24
    assert cli.main(["convert", str(GOLDEN / "farl.pth"), str(tmp_path / "none" / "x.npz"), "--to", "farl"]) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_convert_reports_errors(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("FLAMEJAX_DATA", str(tmp_path))
    assert cli.main(["convert", str(GOLDEN / "arcface.pth")]) == 2
    assert "give OUT.npz" in capsys.readouterr().err
    assert cli.main(["convert", str(GOLDEN / "arcface.pth"), "--to", "farl"]) == 1
    assert "convert it with --to arcface" in capsys.readouterr().err
    assert cli.main(["convert", str(tmp_path / "none.pth"), "--to", "arcface"]) == 1
    assert "no such file" in capsys.readouterr().err
    assert not (tmp_path / "encoders").exists(), "a failed conversion leaves no files"


def test_doctor_lists_encoders(any_size, tmp_path):
    def states():
        return {result.item: (result.state, result.detail) for result in doctor.check_encoders(tmp_path)}

    for item, (state, detail) in states().items():
        assert state == "absent" and "https://" in detail and "--to" in detail and "not to be passed on" in detail, item
    (tmp_path / "FaRL-Base-Patch16-LAIONFace20M-ep16.pth").write_bytes(b"x")
    assert "flamejax convert" in states()["FaRL encoder"][1] and "20M-ep16.pth" in states()["FaRL encoder"][1]
    assert cli.main(["convert", str(GOLDEN / "arcface.pth"), "--to", "arcface"]) == 0
    assert states()["ArcFace encoder"][0] == "ok" and "arcface.pth, sha256" in states()["ArcFace encoder"][1]
    (tmp_path / "encoders" / "farl.npz").write_bytes(b"<html>")
    assert states()["FaRL encoder"][0] == "broken" and "a web page" in states()["FaRL encoder"][1]
    assert not any(result.needed for result in doctor.check_encoders(tmp_path))
