"""Tests of the architecture: imports point down without cycles, and the public API is that of surface.txt."""

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
"""From the core up: each package may import those before it."""
EXPERIMENTS = (
    ("command_line", "escaping", "runtime", "progress", "cache", "clay", "heads", "head_models", "photos", "results"),
    ("datasets",),
    ("training",),
    ("view",),
    ("reconstruct",),
    ("tables", "calibrate_landmarks"),
    ("evaluate", "benchmark", "soak", "train", "configs"),
    ("demo", "convert", "doctor", "fetch_sources"),
    ("cli", "completion"),
)
"""Subpackages of experiments from the bottom up: each may import those of earlier rows and of its own row."""
ENTRY_POINT = "flamejax.__main__"
"""The console script, which checks for shadowed packages before it imports `experiments.cli`."""
SURFACE = Path(__file__).with_name("surface.txt")


def modules() -> dict[str, Path]:
    """Returns name -> file of every module in the wheel."""
    files = {}
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            files[name.removesuffix(".__init__")] = path
    return files


def imports(name: str, path: Path, known: set[str]) -> set[str]:
    """Returns the known modules that a module imports, including imports inside functions and for types."""
    imported: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative imports hide the path of a module"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                imported.add(inner if inner in known else str(node.module))
    return (imported & known) - {name}


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
    package_level = {package: level for level, package in enumerate(PACKAGES)}
    subpackage_level = {name: level for level, row in enumerate(EXPERIMENTS) for name in row}
    wrong = []
    for name, others in graph.items():
        for other in others - {"experiments.cli"} if name == ENTRY_POINT else others:
            package, used = name.split(".")[0], other.split(".")[0]
            if package_level[used] > package_level[package]:
                wrong.append(f"{name} imports {other}")
            if package == used == "experiments" and "." in name and "." in other:
                importer, target = name.split(".")[1], other.split(".")[1]
                if subpackage_level[target] > subpackage_level[importer]:
                    wrong.append(f"{name} imports {other}")
    assert not wrong, "\n".join(sorted(wrong))


def test_files_are_short():
    long = {str(path): count for path in modules().values() if (count := len(path.read_text().splitlines())) > 405}
    assert not long


def surface() -> str:
    """Returns each package's `__all__`, one name per line, with argument names; those with defaults end in `=`."""
    lines = []
    subpackages = ("head", "io", "metrics", "rendering")
    for package in (*PACKAGES, *(f"flamejax.{name}" for name in subpackages), "experiments.training"):
        module = importlib.import_module(package)
        for name in sorted(getattr(module, "__all__", ())):
            lines.append(f"{package}.{name}{_arguments(getattr(module, name))}")
    return "\n".join(lines) + "\n"


def _arguments(member: object) -> str:
    """Format argument names. Annotations and default values are left out: their form depends on library versions."""
    try:
        parameters = inspect.signature(member).parameters.values() if callable(member) else None
    except (TypeError, ValueError):
        return ""
    if parameters is None:
        return ""
    stars = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}
    names = (f"{stars.get(each.kind, '')}{each.name}{'' if each.default is each.empty else '='}" for each in parameters)
    return f"({', '.join(names)})"


def test_public_surface_is_unchanged():
    """Names and signatures are those of surface.txt; UPDATE_SURFACE=1 writes an intended change."""
    current = surface()
    if os.environ.get("UPDATE_SURFACE"):
        SURFACE.write_text(current)
    assert current == SURFACE.read_text()
