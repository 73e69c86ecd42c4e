"""The command line, doctor, the demo's photos and the machine's settings."""

import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import cli, demo, doctor, runtime
from experiments.reconstruct import Config, UsageError, pipeline

ROOT = Path(__file__).resolve().parents[2]


def test_help_lists_the_commands_and_imports_nothing_heavy():
    script = "import sys; from experiments.cli import main; main(['--help']); print('jax' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert all(name in out for name in cli.COMMANDS) and out.rstrip().endswith("False")


def test_unknown_command(capsys):
    assert cli.main(["reconstrct"]) == 2
    assert "no command 'reconstrct'" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["reconstruct", "doctor", "demo"])
def test_commands_have_help_under_their_name(name, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main([name, "--help"])
    assert ended.value.code == 0
    assert f"flamejax {name}" in capsys.readouterr().out


def test_doctor_finds_what_is_shipped(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("FLAMEJAX_DATA", str(tmp_path / "not-yet"))
    assert doctor.main([]) == 0
    out = capsys.readouterr().out
    for text in ("open-head", "CC0", "face_landmark.tflite", "flame.is.tue.mpg.de", "not-yet", jax.__version__):
        assert text in out
    assert not (tmp_path / "not-yet").exists()  # it looks, and changes nothing


def test_doctor_reports_a_broken_head(capsys, tmp_path):
    (tmp_path / "head.npz").write_bytes(b"nonsense")
    assert doctor.main(["--head", str(tmp_path / "head.npz")]) == 1
    assert "Broken: head model" in capsys.readouterr().out


def test_doctor_finds_licensed_files(tmp_path):
    (tmp_path / "flame").mkdir()
    (tmp_path / "flame/FLAME_masks.pkl").write_bytes(b"")
    states = {finding.item: finding.state for finding in doctor.check_licensed(tmp_path)}
    assert states["FLAME vertex masks"] == "ok" and states["FLAME head model"] == "absent"


def test_demo_photos(tmp_path):
    pytest.importorskip("skimage")
    photos, masks = demo.write_photos(tmp_path)
    assert sorted(p.name for p in photos.iterdir()) == ["astronaut.png", "astronaut_masked.png"]
    assert [p.name for p in masks.iterdir()] == ["astronaut_masked.png"]


def test_face_mask_covers_the_mouth_and_spares_the_eyes():
    portrait = np.zeros((512, 512, 3), np.uint8)
    covered, hidden = demo.wear_mask(portrait)
    assert hidden[140, 222] == 255 and hidden[100, 205] == 0 and hidden[100, 245] == 0
    assert covered[140, 222].max() > 100
    np.testing.assert_array_equal(covered[hidden == 0], portrait[hidden == 0])


@pytest.mark.parametrize(
    ("asked", "photos", "devices", "size"),
    [("auto", 1, 1, 1), ("auto", 3, 1, 4), ("auto", 900, 1, 4), ("auto", 900, 4, 16), ("auto", 1, 4, 4), (6, 9, 4, 8)],
)
def test_batch_size_suits_photos_and_devices(monkeypatch, asked, photos, devices, size):
    monkeypatch.setattr(jax, "device_count", lambda: devices)
    config = Config(photos=("x",), output=Path("out"), batch_size=asked)
    assert pipeline.choose_batch_size(config, photos) == size


def test_iterations_become_whole_intervals():
    config = Config(photos=("x",), output=Path("out"), iterations=9)
    steps = config.fit_config()
    assert steps.photometric_steps >= 9 and steps.photometric_steps % steps.visibility_interval == 0


def test_no_photos_is_a_usage_error():
    with pytest.raises(UsageError, match="no photos"):
        Config(photos=(), output=Path("out"))


def test_data_folder_follows_the_environment(monkeypatch):
    monkeypatch.setenv("FLAMEJAX_DATA", "/somewhere")
    assert runtime.data_folder() == Path("/somewhere")
    monkeypatch.delenv("FLAMEJAX_DATA")
    assert runtime.data_folder() == Path.home() / ".cache" / "flamejax"


def test_compile_clock_counts_only_while_it_runs():
    with runtime.compile_clock() as clock:
        jax.jit(lambda x: jnp.sin(x) * 3.0)(jnp.arange(7.0)).block_until_ready()
    counted = clock.seconds
    assert counted > 0
    jax.jit(lambda x: jnp.cos(x) * 5.0)(jnp.arange(9.0)).block_until_ready()
    assert clock.seconds == counted
