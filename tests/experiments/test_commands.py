"""The command line, doctor, convert, the demo's photos and runtime settings."""

import io
import os
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

import flamejax
from experiments import cli, demo, doctor, runtime
from experiments.progress import ProgressLines, progress_bar
from experiments.reconstruct import UsageError, pipeline, reconstruct_config
from experiments.reconstruct.config import FitOptions
from experiments.reconstruct.settings import fit_config
from tests import flame_format

ROOT = Path(__file__).resolve().parents[2]


def test_help_lists_the_commands_and_imports_nothing_heavy():
    script = "import sys; from experiments.cli import main; main(['--help']); print('jax' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert all(name in out for name in cli.COMMANDS) and out.rstrip().endswith("False")


SHADOWS = """
import importlib, shutil, sys
from pathlib import Path
from flamejax.__main__ import main  # the `flamejax` script, and python -m flamejax

assert main() == 0
for hiding in ("models/__init__.py", "experiments/__init__.py", "sampling.py"):
    for name in [*sys.modules]:
        if name.partition(".")[0] in ("experiments", "fitting"):
            del sys.modules[name]
    Path(hiding).parent.mkdir(exist_ok=True)
    Path(hiding).write_text("")
    importlib.invalidate_caches()
    assert main() == 2
    for name in ("fitting", "experiments"):
        try:
            importlib.import_module(name)
        except ImportError as error:
            print(name, error)
    Path(hiding).unlink()
    shutil.rmtree("experiments", ignore_errors=True)
"""


def test_files_that_hide_our_packages_are_reported(tmp_path):
    """`python -m` and notebooks import from their working folder first, where users have their own `models`."""
    (tmp_path / "models").mkdir()  # a folder without __init__.py, such as one of weights, hides nothing
    command, environment = [sys.executable, "-c", SHADOWS, "--version"], os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    models, own, sampling = (
        f"the {kind} {tmp_path / file} hides flamejax's package `{Path(file).stem}`: "
        "run from another folder, rename it, or take it off PYTHONPATH."
        for kind, file in (("folder", "models"), ("folder", "experiments"), ("file", "sampling.py"))
    )
    # A hidden `experiments` cannot report itself, and `fitting` needs neither it nor `sampling`.
    assert process.stdout.splitlines()[1:] == [f"fitting {models}", f"experiments {models}", f"experiments {sampling}"]
    assert process.stderr.splitlines() == [f"flamejax: {line}" for line in (models, own, sampling)]


def test_unknown_command_is_refused(capsys):
    assert cli.main(["reconstrct"]) == 2
    assert "no command 'reconstrct'" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["reconstruct", "doctor", "demo", "convert"])
def test_help_shows_the_name_of_the_command(name, capsys):
    with pytest.raises(SystemExit) as exit_info:
        cli.main([name, "--help"])
    assert exit_info.value.code == 0
    assert f"flamejax {name}" in capsys.readouterr().out


def test_doctor_lists_shipped_files(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("FLAMEJAX_DATA", str(tmp_path / "not-yet"))
    assert doctor.main([]) == 0
    out = capsys.readouterr().out
    for text in ("open-head", "CC0", "face_landmark.tflite", "flame.is.tue.mpg.de", "not-yet", jax.__version__):
        assert text in out
    assert not (tmp_path / "not-yet").exists()  # doctor changes nothing


def test_doctor_reports_a_broken_head(capsys, tmp_path):
    (tmp_path / "head.npz").write_bytes(b"nonsense")
    assert doctor.main(["--head", str(tmp_path / "head.npz")]) == 1
    assert "Broken: head model" in capsys.readouterr().out


def model_states(folder):
    return {(result.item, result.state) for result in doctor.examine_models(folder)}


def test_doctor_distinguishes_models(tmp_path, capsys):
    assert model_states(tmp_path) >= {
        ("FLAME head model", "absent"),
        ("ICT-FaceKit", "absent"),
        ("FLAME landmarks", "absent"),
    }
    model = flame_format.write_folder(tmp_path / "models/FLAME2020", flame_format.TRUE_SIZE | {"vertices": 60})
    flame_format.write_masks(model.parent, 60)
    readable = {("FLAME head model", "ok"), ("FLAME landmarks", "ok"), ("FLAME vertex masks", "ok")}
    assert model_states(tmp_path) >= readable
    assert doctor.main(["--models", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    for text in (
        "FLAME 2020 generic",
        "300 identity and 100 expression",
        "with landmarks, masks",
        "ICT-VGL/ICT-FaceKit",
    ):
        assert text in " ".join(out.split())
    model.write_bytes(model.read_bytes()[:-5])
    (model.parent / "FLAME_masks.pkl").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    (tmp_path / "FaceXModel").mkdir()
    (tmp_path / "FaceXModel/generic_neutral_mesh.obj").write_bytes(b"")
    assert model_states(tmp_path) >= {
        ("FLAME head model", "broken"),
        ("FLAME vertex masks", "broken"),
        ("ICT-FaceKit", "broken"),
        ("FLAME landmarks", "ok"),
    }
    assert doctor.main(["--models", str(tmp_path)]) == 0, "models are never needed"
    assert "os.system" in capsys.readouterr().out


def test_convert_writes_a_head_model(tmp_path, capsys):
    model = flame_format.write_folder(tmp_path / "FLAME2019")
    out = tmp_path / "flame.npz"
    command = ["convert", str(model), str(out), "--num-betas", "4"]
    assert cli.main(command) == 0
    assert "FLAME 2019 generic" in capsys.readouterr().out
    assert flamejax.load_head(out).num_betas == 4
    assert cli.main(command) == 2 and "--overwrite" in capsys.readouterr().err
    assert cli.main([*command, "--overwrite", "--version", "mine"]) == 0
    assert flamejax.load_head(out).version.startswith("mine generic")
    assert cli.main(["convert", str(out), str(tmp_path / "again.npz")]) == 0
    assert cli.main(["convert", str(model), str(tmp_path / "head.obj")]) == 2
    (model.parent / "landmark_embedding.npy").unlink()
    (model.parent / "albedoModel2020_FLAME_albedoPart.npz").write_bytes(b"")
    assert cli.main(["convert", str(model), str(tmp_path / "other.npz"), "--num-betas", "4"]) == 0
    printed = capsys.readouterr()
    assert "no landmarks" in printed.out and "albedoPart.npz is not used: linear albedo" in printed.err
    folders = [str(tmp_path), "--output", str(tmp_path / "out")]
    flamejax.io.images.save_image(tmp_path / "photo.png", np.zeros((64, 64, 3)))
    assert cli.main(["reconstruct", *folders, "--head", str(tmp_path / "other.npz")]) == 2
    assert "landmark_embedding.npy" in capsys.readouterr().err


def test_demo_writes_photos_and_masks(tmp_path):
    pytest.importorskip("skimage")
    photos, masks = demo.write_photos(tmp_path)
    assert sorted(p.name for p in photos.iterdir()) == ["astronaut.png", "astronaut_masked.png"]
    assert sorted(p.name for p in masks.iterdir()) == ["astronaut.png", "astronaut_masked.png"]


def test_draw_mask_covers_the_mouth_and_spares_the_eyes():
    portrait = np.zeros((512, 512, 3), np.uint8)
    covered, hidden = demo.draw_mask(portrait)
    assert hidden[140, 222] == 255 and hidden[100, 205] == 0 and hidden[100, 245] == 0
    assert covered[140, 222].max() > 100
    np.testing.assert_array_equal(covered[hidden == 0], portrait[hidden == 0])


@pytest.mark.parametrize(
    ("requested", "photos", "devices", "size"),
    [("auto", 1, 1, 1), ("auto", 3, 1, 4), ("auto", 900, 1, 4), ("auto", 900, 4, 16), ("auto", 1, 4, 4), (6, 9, 4, 8)],
)
def test_batch_size_depends_on_photos_and_devices(monkeypatch, requested, photos, devices, size):
    monkeypatch.setattr(jax, "device_count", lambda: devices)
    assert pipeline.choose_batch_size(FitOptions(batch_size=requested), photos) == size


def test_iterations_are_rounded_up_to_intervals():
    steps = fit_config(FitOptions(iterations=9))
    assert steps.photometric_steps >= 9 and steps.photometric_steps % steps.visibility_interval == 0


def test_no_photos_is_a_usage_error():
    with pytest.raises(UsageError, match="no photos"):
        reconstruct_config((), "out")


def test_data_folder_is_read_from_the_environment(monkeypatch):
    monkeypatch.setenv("FLAMEJAX_DATA", "/somewhere")
    assert runtime.data_folder() == Path("/somewhere")
    monkeypatch.delenv("FLAMEJAX_DATA")
    assert runtime.data_folder() == Path.home() / ".cache" / "flamejax"


def test_progress_in_a_file_is_a_few_lines():
    console = Console(file=io.StringIO(), width=120)
    with progress_bar(console, "loss") as progress:
        progress.get_time = clock = Mock(return_value=0.0)
        task = progress.add_task("training", total=100, completed=10, loss="compiling")
        for step in range(11, 101):  # two seconds each
            clock.return_value += 2.0
            progress.update(task, completed=step, loss="l1 0.5 mm")
        clock.return_value += 1.0
        list(progress.track(range(50), description="too quick for more lines"))
        slow = progress.add_task("photos", total=None, loss="")
        for _ in range(3):
            clock.return_value += 59.0
            progress.advance(slow)
    lines = console.file.getvalue().splitlines()
    assert lines[:2] == ["training: 10 of 100, compiling", "training: 20 of 100, l1 0.5 mm, 20 s, about 3 min left"]
    assert lines[9:] == [
        "training: 100 of 100, l1 0.5 mm, 3 min", "too quick for more lines: 0 of 50", "photos: 0", "photos: 2, 118 s",
    ]  # fmt: skip
    terminal = Console(file=io.StringIO(), force_terminal=True)
    assert not isinstance(progress_bar(terminal), ProgressLines)


def test_compile_clock_measures_only_inside_its_block():
    with runtime.compile_clock() as clock:
        jax.jit(lambda x: jnp.sin(x) * 3.0)(jnp.arange(7.0)).block_until_ready()
    counted = clock.seconds
    assert counted > 0
    jax.jit(lambda x: jnp.cos(x) * 5.0)(jnp.arange(9.0)).block_until_ready()
    assert clock.seconds == counted
