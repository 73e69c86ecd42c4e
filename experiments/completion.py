"""The shell completion of `flamejax`: builds one type of all commands, from which tyro writes the script."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import io
import re
from collections.abc import Mapping
from typing import Any, Literal

import tyro

from experiments.benchmark.config import BenchmarkConfig
from experiments.command_line import OMIT_PREFIXES, union_of
from experiments.configs import CONFIGS
from experiments.evaluate.config import SUBCOMMANDS as TABLES
from experiments.reconstruct.config import SUBCOMMANDS as METHODS

MODULES = {"view": "experiments.view.command", "calibrate-landmarks": "experiments.calibrate_landmarks.command"}
"""Command -> the module with the class of its options, where that is not `experiments.NAME`."""


def completion_script(shell: str, commands: Mapping[str, str]) -> str:
    """Return the script that completes `flamejax` in bash or zsh. commands: name -> one line of help."""
    union = union_of({name: _options(name) for name in commands}, commands)
    with contextlib.redirect_stdout(io.StringIO()) as printed, contextlib.suppress(SystemExit):
        tyro.cli(union, args=["--tyro-print-completion", shell], prog="flamejax", config=OMIT_PREFIXES)
    script = printed.getvalue().strip()
    if shell == "bash":  # where there is nothing to complete, such as for PHOTOS, bash completes file names
        script = re.sub(r"^(\s*)complete -F ", r"\1complete -o default -F ", script, flags=re.M)
        script = script.replace('    matches+=("$completion")', '    [ -n "$completion" ] && matches+=("$completion")')
    return script


def _options(name: str) -> Any:
    """Return the type of a command's options."""
    if name == "reconstruct":
        return METHODS.union()
    if name == "evaluate":
        return TABLES.union()
    if name == "benchmark":
        return BenchmarkConfig
    if name == "train":
        choice = Literal[tuple(CONFIGS)]  # type: ignore[valid-type]
        return dataclasses.make_dataclass("TrainChoice", [("config", choice)])
    module = importlib.import_module(MODULES.get(name, f"experiments.{name.replace('-', '_')}"))
    own = (each for each in vars(module).values() if getattr(each, "__module__", None) == module.__name__)
    return next(each for each in own if dataclasses.is_dataclass(each) and str(each).endswith("Config'>"))
