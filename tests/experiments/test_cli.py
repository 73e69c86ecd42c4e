"""Subcommands, options, error messages and help of the command line, and its completion in bash."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import get_args, get_type_hints

import pytest

from experiments import benchmark, cli, configs, evaluate, reconstruct
from experiments.benchmark.config import parse as parse_benchmark
from experiments.command_line import UsageError
from experiments.evaluate.config import TABLES
from experiments.evaluate.config import parse as parse_table
from experiments.reconstruct.config import METHODS, SamplerOptions, parse, reconstruct_config
from experiments.reconstruct.settings import result_settings
from sampling import SamplerName
from tests.experiments import fakes

ROOT = Path(__file__).resolve().parents[2]
OUT = ["--output", "out"]
HELP = [
    [],
    *([name] for name in cli.COMMANDS),
    *(["reconstruct", name] for name in METHODS),
    *(["evaluate", name] for name in TABLES),
    *(["train", "--config", name] for name in configs.CONFIGS),
]


@pytest.mark.parametrize("command", HELP, ids=" ".join)
def test_help_fits_two_screens(command, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    try:
        status = cli.main([*command, "--help"])
    except SystemExit as ended:
        status = ended.code
    text = capsys.readouterr().out
    assert status == 0
    assert sum(-(-max(1, len(line)) // 100) for line in text.splitlines()) <= 80
    if command:
        assert f"flamejax {' '.join(command)}" in " ".join(text.split())


@pytest.mark.parametrize("command", ["reconstruct", "reconstruct ofer", "evaluate", "evaluate samples", "benchmark"])
def test_help_imports_no_jax(command):
    script = """
import contextlib, sys
from experiments.cli import main
with contextlib.suppress(SystemExit):
    main([*sys.argv[1:], "--help"])
print("jax" in sys.modules)
"""
    out = subprocess.check_output([sys.executable, "-c", script, *command.split()], cwd=ROOT, text=True)
    assert out.splitlines()[-1] == "False"


@pytest.mark.parametrize(
    ("args", "method"),
    [
        (["photo", *OUT], "auto"),
        (["fit", "photo", *OUT], "fit"),
        ([*OUT, "photo", "--method", "diverse"], "diverse"),
        (["--method=ofer", "photo", *OUT], "ofer"),
        (["photo", "--method", "ofer+dpp", *OUT], "ofer+dpp"),
        (["ofer-dpp", "photo", *OUT], "ofer+dpp"),
        (["ofer+dpp", "photo", *OUT], "ofer+dpp"),
        (["fit", "photo", "--method", "fit", *OUT], "fit"),
        (["photo", "--method", "auto", *OUT], "auto"),
        (["./fit", *OUT], "auto"),
    ],
)
def test_method_is_a_subcommand_or_an_option(args, method):
    config = parse(args, "reconstruct")
    assert config.method == method and config.photos in (("photo",), ("./fit",))
    assert config.output.output == Path("out")


@pytest.mark.parametrize("method", [*METHODS, "auto"])
def test_methods_have_their_own_options_and_groups(method):
    config = reconstruct_config(("photo",), "out", method)
    options = set(config.options())
    shared = {"photos", "output", "resume", "overwrite", "landmarks", "masks", "head", "preset", "size", "batch_size"}
    assert shared <= options
    assert ("num_samples" in options) == (method != "fit")
    assert ("mesh_vae" in options) == (method in ("auto", "complete", "diverse"))
    assert ("n_sigma" in options) == (method in ("auto", "diverse"))
    assert ("k" in options) == (method in ("auto", "diverse", "ofer-dpp"))
    assert ("idgen" in options) == ("guidance" in options) == method.startswith("ofer")
    assert reconstruct_config(**config.options()) == config


def test_samplers_are_those_of_the_library():
    assert get_args(get_type_hints(SamplerOptions)["sampler"]) == get_args(SamplerName)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (
            ["diverse", "photo", "--idgen", "x", *OUT],
            "--idgen is an option of `reconstruct ofer` and `reconstruct ofer-dpp`, not of `reconstruct diverse`.",
        ),
        (["photo", "--guidance=2", *OUT], "--guidance is an option of `reconstruct ofer` and"),
        (["fit", "photo", "--num_samples", "3", *OUT], "--num-samples is an option of `reconstruct complete`,"),
        (["photo", "--method", "difverse", *OUT], "Did you mean diverse?"),
        (["photo", *OUT, "--method"], "--method needs a name after it"),
        (["fit", "photo", "--method", "ofer", *OUT], "name one of the two. A file or folder of that name"),
        (["photo", "--method", "fit", "--method", "ofer", *OUT], "given as fit and as ofer"),
        (["photo", *OUT, "--resume", "--overwrite"], "one of the two"),
        (["fit", *OUT], "no photos were given"),
        ([*OUT, "--size", "8", "photo"], "--size is between 64 and 1024, not 8"),
    ],
)
def test_wrong_calls_of_reconstruct_are_explained_in_one_line(args, message, capsys, monkeypatch):
    assert reconstruct.main(args) == 2
    error = capsys.readouterr().err
    assert message in error and error.startswith("error: ") and error.count("\n") == 1


def test_a_folder_called_like_a_method_is_hinted_at(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "fit").mkdir()
    with pytest.raises(UsageError, match=r"'fit' was read as the method; write ./fit"):
        parse(["fit", *OUT], "reconstruct")
    with pytest.raises(UsageError, match=r"no file or folder 'ofer'. The method comes first"):
        parse([*OUT, "photo", "ofer"], "reconstruct")
    assert parse([*OUT, "photo", "fit"], "reconstruct").photos == ("photo", "fit")


@pytest.mark.parametrize("args", [["photo"], [*OUT, "photo", "--size", "many"], [*OUT, "photo", "--nonsense"]])
def test_other_wrong_calls_end_with_status_2(args, capsys):
    with pytest.raises(SystemExit, match="2"):
        cli.main(["reconstruct", *args])
    assert "Traceback" not in capsys.readouterr().err


def test_evaluate_tables_are_subcommands_or_an_option(capsys):
    for name, cls in TABLES.items():
        for args in ([name], ["--table", name], [f"--table={name}"]):
            config = parse_table([*args, "--seed", "3"], "evaluate")
            assert type(config) is cls and config.seed == 3
    assert parse_table(["diversity"], "evaluate").max_cases == 24
    assert parse_table(["ranking"], "evaluate").max_cases == 240
    assert parse_table(["fitting", "--limit", "0"], "evaluate").max_cases is None
    assert evaluate.main([]) == 2 and "moving-occlusion" in capsys.readouterr().err
    assert evaluate.main(["--limit", "3"]) == 2 and "name one of fitting" in capsys.readouterr().err
    assert evaluate.main(["fiting"]) == 2 and "Did you mean fitting?" in capsys.readouterr().err
    assert evaluate.main(["ranking", "--no-robustness"]) == 2
    assert "--robustness is an option of `evaluate fitting`, not of" in capsys.readouterr().err
    assert evaluate.main(["samples", "--idrank", "x"]) == 2
    message = "--idrank is an option of `evaluate identity`, `evaluate ranking` and `evaluate expression`, not of"
    assert message in capsys.readouterr().err


def test_benchmark_groups_are_arguments_or_options(capsys):
    assert parse_benchmark(["head", "render", "--limit", "3"], "benchmark").groups == ("head", "render")
    assert parse_benchmark(["--group", "ofer", "--limit", "3"], "benchmark").groups == ("ofer",)
    assert parse_benchmark(["--table=fit", "--group", "head"], "benchmark").groups == ("fit", "head")
    assert len(parse_benchmark([], "benchmark").groups) == 7
    assert benchmark.main(["--group"]) == 2 and "needs a name" in capsys.readouterr().err
    assert benchmark.main(["head", "--head", "nowhere.npz"]) == 2
    assert "no such head model file" in capsys.readouterr().err


OLD_SETTINGS = {
    "fit": {},
    "complete": {"num_samples": 16, "seed": 0, "mesh_vae": "any"},
    "diverse": {"num_samples": 16, "seed": 0, "mesh_vae": "any", "diversify": {"k": 0.5, "n_sigma": 3.0}},
    "ofer": {"num_samples": 16, "seed": 0, "idgen": "any", "expgen": "any", "idrank": "any", "ofer": {}},
    "ofer+dpp": {"num_samples": 16, "seed": 0, "idgen": "any", "expgen": "any", "idrank": "any", "ofer": {"k": 0.5}},
}
"""Settings of each method, besides those of the fit, from when `reconstruct` had one flat set of options."""
OLD_SHARED = ["size", "preset", "local", "fit", "all_faces", "landmarks", "masks", "face_masks", "boxes"]


@pytest.mark.parametrize("method", OLD_SETTINGS)
def test_settings_in_files_are_as_before_the_subcommands(method):
    settings = json.loads(json.dumps(result_settings(reconstruct_config(("photo",), "out", method))))
    assert list(settings) == ["method", *OLD_SETTINGS[method], *OLD_SHARED]
    assert settings["method"] == method
    for name, value in OLD_SETTINGS[method].items():
        if isinstance(value, dict):
            assert value.items() <= settings[name].items() and "single_stage" not in settings[name]
        else:
            assert settings[name] == value if value != "any" else len(settings[name]) == 16


@pytest.mark.usefixtures("small_head")
def test_resuming_a_folder_of_before_the_subcommands(photos, tmp_path):
    """Its run.json has all 30 options, those of other methods too."""
    out = tmp_path / "out"
    assert fakes.reconstruct(photos, out, method="complete", num_samples=2) == 0
    run = json.loads((out / "run.json").read_text())
    assert run["config"]["method"] == "complete" and run["config"]["num_samples"] == 2
    assert run["config"]["output"] == str(out) and "idgen" not in run["config"]
    run["config"] |= {"k": 0.5, "n_sigma": 3.0, "diversify": "fast", "idgen": None, "candidates": 100, "guidance": 1.0}
    (out / "run.json").write_text(json.dumps(run))
    before = fakes.stamps(out)
    assert fakes.reconstruct(photos, out, method="complete", num_samples=2, resume=True) == 0
    assert fakes.stamps(out) == before
    assert fakes.reconstruct(photos, out, method="complete", num_samples=3, resume=True) == 0
    assert all(fakes.stamps(out)[name] != before[name] for name in before)


def complete(script: Path, *words: str) -> list[str]:
    """Return the completions that bash offers for the last of the words."""
    line = " ".join(f"'{word}'" for word in words)
    code = f"source {script}; COMP_WORDS=({line}); COMP_CWORD={len(words) - 1}; _tyro_flamejax; complete -p flamejax"
    code += '; printf "%s\\n" "${COMPREPLY[@]}"'
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    registered, *offered = subprocess.check_output(["bash", "-c", code], text=True, env=environment).splitlines()
    assert registered == "complete -o default -F _tyro_flamejax flamejax"
    return [word for word in offered if word]


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash_completes_commands_options_and_values(tmp_path, capsys):
    assert cli.main(["--tyro-print-completion", "bash"]) == 0
    script = tmp_path / "completion.bash"
    script.write_text(capsys.readouterr().out)
    assert complete(script, "flamejax", "rec") == ["reconstruct"]
    assert {*METHODS, "--output", "--n-sigma"} <= set(complete(script, "flamejax", "reconstruct", ""))
    assert complete(script, "flamejax", "reconstruct", "ofer", "x.jpg", "--id") == ["--idgen", "--idrank"]
    assert complete(script, "flamejax", "reconstruct", "fit", "--n-s") == []
    assert complete(script, "flamejax", "reconstruct", "ofer", "--sampler", "d") == ["dpm", "ddim"]
    assert complete(script, "flamejax", "evaluate", "mov") == ["moving-occlusion"]
    assert set(complete(script, "flamejax", "train", "--config", "")) == set(configs.CONFIGS)


def test_completion_scripts_hold_every_command(capsys, tmp_path):
    assert cli.main(["reconstruct", "--tyro-print-completion", "zsh"]) == 0
    script = capsys.readouterr().out
    assert script.startswith("#compdef flamejax") and all(f"'{name}'" in script for name in cli.COMMANDS)
    assert cli.main(["--tyro-write-completion", "zsh", str(tmp_path / "_flamejax")]) == 0
    assert (tmp_path / "_flamejax").read_text() == script
    assert cli.main(["--tyro-print-completion", "powershell"]) == 2
    assert cli.main(["--tyro-write-completion", "bash", str(tmp_path / "none" / "x")]) == 2
    assert "cannot be written" in capsys.readouterr().err
