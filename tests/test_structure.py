"""The rooms: imports go one way, without cycles, and each package's surface is what the list says."""

from __future__ import annotations

import ast
import importlib
import inspect
import os
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("flamejax", "models", "fitting", "sampling", "experiments")
"""From the core up: each may import those before it."""
EXPERIMENTS = (
    ("command_line", "runtime", "progress", "cache", "clay", "heads", "head_models", "photos", "results"),
    ("datasets",),
    ("training",),
    ("view",),
    ("reconstruct",),
    ("tables", "calibrate_landmarks"),
    ("evaluate", "benchmark", "train", "configs"),
    ("demo", "convert", "doctor", "fetch_sources"),
    ("cli", "completion"),
)
"""Rooms of experiments from the bottom up: each may import those of earlier rows, and its own row."""
DOOR = "flamejax.__main__"
"""The console script, which looks for what hides our packages before it imports the commands."""
SURFACE = Path(__file__).with_name("surface.txt")


def modules() -> dict[str, Path]:
    """Name -> file of every module in the wheel."""
    found = {}
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            found[name.removesuffix(".__init__")] = path
    return found


def imports(name: str, path: Path, known: set[str]) -> set[str]:
    """Our own modules that a module imports, also those it imports only inside functions or for types."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative imports hide where things are"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found.add(inner if inner in known else str(node.module))
    return (found & known) - {name}


@pytest.fixture(scope="module")
def graph() -> dict[str, set[str]]:
    known = modules()
    return {name: imports(name, path, set(known)) for name, path in known.items()}


def test_no_import_cycles(graph):
    try:
        tuple(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(f"modules import each other: {' <- '.join(error.args[1])}")


def test_imports_point_down(graph):
    level = {package: place for place, package in enumerate(PACKAGES)}
    rooms = {room: place for place, row in enumerate(EXPERIMENTS) for room in row}
    wrong = []
    for name, others in graph.items():
        for other in others - {"experiments.cli"} if name == DOOR else others:
            package, used = name.split(".")[0], other.split(".")[0]
            if level[used] > level[package]:
                wrong.append(f"{name} imports {other}")
            if package == used == "experiments" and "." in name and "." in other:
                mine, theirs = name.split(".")[1], other.split(".")[1]
                if rooms[theirs] > rooms[mine]:
                    wrong.append(f"{name} imports {other}")
    assert not wrong, "\n".join(sorted(wrong))


def test_files_are_short():
    long = {str(path): count for path in modules().values() if (count := len(path.read_text().splitlines())) > 405}
    assert not long


def surface() -> str:
    """Each package's `__all__`, one name a line, with the names of its arguments; those with defaults end in `=`."""
    lines = []
    inner = ("head", "io", "metrics", "rendering")
    for package in (*PACKAGES, *(f"flamejax.{room}" for room in inner), "experiments.training"):
        module = importlib.import_module(package)
        for name in sorted(getattr(module, "__all__", ())):
            lines.append(f"{package}.{name}{_arguments(getattr(module, name))}")
    return "\n".join(lines) + "\n"


def _arguments(thing: object) -> str:
    """Annotations and values of defaults are left out: how they are written depends on the versions of libraries."""
    try:
        given = inspect.signature(thing).parameters.values() if callable(thing) else None
    except (TypeError, ValueError):
        return ""
    if given is None:
        return ""
    stars = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}
    names = (f"{stars.get(one.kind, '')}{one.name}{'' if one.default is one.empty else '='}" for one in given)
    return f"({', '.join(names)})"


def test_a_change_of_the_public_surface_is_seen():
    """Names and signatures are as in surface.txt; a wanted change is written there by UPDATE_SURFACE=1."""
    found = surface()
    if os.environ.get("UPDATE_SURFACE"):
        SURFACE.write_text(found)
    assert found == SURFACE.read_text()
