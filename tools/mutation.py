"""Seeded mutation testing: does any test fail when a covered line is changed?

    python -m pytest -q -m "not slow and not browser" --cov --cov-context=test --cov-report=   # writes .coverage
    python -m tools.mutation --count 40 --seed 0

Draws lines that tests run and changes one thing in each (an operator, a comparison, a sign, a constant, a dropped
statement). Then runs the tests in the package's test folder that run the line. If none of these fails, runs the
complete test files that run any line of the changed file, since a cached fixture is run by its first test only. Works
in a copy of the working tree. Prints for each mutant whether a test has detected it.
"""

from __future__ import annotations

import ast
import copy
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

PACKAGES = ("flamejax", "models", "fitting", "sampling", "experiments")
OPERATORS: dict[type[ast.AST], type[ast.AST]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult, ast.Mod: ast.Add,
    ast.Pow: ast.Mult, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd, ast.Lt: ast.GtE, ast.GtE: ast.Lt, ast.Gt: ast.LtE,
    ast.LtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot,
    ast.IsNot: ast.Is, ast.And: ast.Or, ast.Or: ast.And,
}  # fmt: skip
QUICK = "not slow and not browser"
TIMEOUT_SECONDS = 600
"""A mutant that runs longer hangs, and counts as detected."""


@dataclass(frozen=True)
class MutationConfig:
    """Change covered lines one by one, and count the changes that a test detects."""

    count: int = 40
    """Number of mutants."""
    seed: int = 0
    """Seed of the random draws."""
    coverage: Path = Path(".coverage")
    """Coverage data of a run of the tests with --cov-context=test."""
    most_tests: int = 12
    """Maximum number of tests of the changed line to run before complete test files are run."""
    only: tuple[int, ...] = ()
    """Numbers of the mutants to try, as printed; all when left out."""


@dataclass(frozen=True)
class Mutant:
    """One change of a file."""

    path: str
    line: int
    description: str
    source: str
    """The changed file's content."""


def mutants_of(path: Path, lines: set[int]) -> Iterator[Mutant]:
    """Yield all mutants of a file with one change in the given lines."""
    tree = ast.parse(path.read_text())
    skipped = {id(node) for each in ast.walk(tree) for node in _skipped_nodes(each)}
    for index, node in enumerate(ast.walk(tree)):
        line = getattr(node, "lineno", None)
        if line not in lines or id(node) in skipped:
            continue
        for description, change in _changes(node):
            changed = copy.deepcopy(tree)
            target = next(each for i, each in enumerate(ast.walk(changed)) if i == index)
            change(target)
            yield Mutant(str(path), line, description, ast.unparse(ast.fix_missing_locations(changed)))


def _skipped_nodes(node: ast.AST) -> Iterator[ast.AST]:
    """Yield the nodes below `node` that are not mutated: docstrings, annotations, error messages, imports."""
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        yield from ast.walk(node)
    for name in ("annotation", "returns"):
        if getattr(node, name, None) is not None:
            yield from ast.walk(getattr(node, name))
    if isinstance(node, ast.Raise | ast.JoinedStr | ast.ImportFrom | ast.Import):
        yield from ast.walk(node)


def _changes(node: ast.AST):  # noqa: ANN202
    """Yield (description, function that changes such a node) for all changes of a node."""
    if isinstance(node, ast.BinOp | ast.BoolOp | ast.AugAssign) and type(node.op) in OPERATORS:
        new = OPERATORS[type(node.op)]
        yield f"{type(node.op).__name__} -> {new.__name__}", lambda n: setattr(n, "op", new())
    elif isinstance(node, ast.Compare) and type(node.ops[0]) in OPERATORS:
        new = OPERATORS[type(node.ops[0])]
        yield f"{type(node.ops[0]).__name__} -> {new.__name__}", lambda n: n.ops.__setitem__(0, new())
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        yield "sign dropped", lambda n: setattr(n, "op", ast.UAdd())
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield "not doubled", lambda n: setattr(n, "operand", ast.UnaryOp(ast.Not(), n.operand))
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
        yield f"{node.value} -> {not node.value}", lambda n: setattr(n, "value", not n.value)
    elif isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        new = node.value + 1 if isinstance(node.value, int) else 2 * node.value + 0.1
        yield f"{node.value} -> {new}", lambda n: setattr(n, "value", new)
    elif isinstance(node, ast.Expr | ast.AugAssign):
        yield "statement dropped", _drop


def _drop(node: ast.AST) -> None:
    """Turn a statement into `pass` in place."""
    node.__class__ = ast.Pass  # type: ignore[assignment]


def read_coverage(coverage: Path) -> dict[str, dict[int, list[str]]]:
    """Return file -> line -> the tests in the package's test folder that run it."""
    from coverage import CoverageData

    data = CoverageData(str(coverage))
    data.read()
    tests_of: dict[str, dict[int, list[str]]] = {}
    for name in data.measured_files():
        path = Path(name).relative_to(Path.cwd()).as_posix()
        if path.split("/")[0] not in PACKAGES:
            continue
        test_folder = f"tests/{path.split('/')[0]}/"
        lines = {
            line: sorted({context.split("|")[0] for context in contexts if context.startswith(test_folder)})
            for line, contexts in data.contexts_by_lineno(name).items()
        }
        tests_of[path] = {line: tests for line, tests in lines.items() if tests}
    return tests_of


def test_files(lines: dict[int, list[str]]) -> list[str]:
    """Return the files of all tests that run a file's lines."""
    return sorted({test.split("::")[0] for tests in lines.values() for test in tests})


def draw_mutants(lines: dict[str, dict[int, list[str]]], count: int, seed: int) -> list[Mutant]:
    """Draw covered lines at random, and one mutant of each."""
    rng = random.Random(seed)
    candidates = [(path, line) for path in sorted(lines) for line in sorted(lines[path])]
    rng.shuffle(candidates)
    mutants: list[Mutant] = []
    for path, line in candidates:
        options = list(mutants_of(Path(path), {line}))
        if options:
            mutants.append(rng.choice(options))
        if len(mutants) == count:
            break
    return mutants


def is_detected(mutant: Mutant, tests: Sequence[str], folder: Path) -> bool:
    """Whether a test fails when the mutant replaces its file in `folder`, a copy of the tree."""
    target = folder / mutant.path
    original = target.read_text()
    target.write_text(mutant.source)
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-m", QUICK, *tests]
    environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": str(folder)}
    try:
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, timeout=TIMEOUT_SECONDS)
        return done.returncode != 0
    except subprocess.TimeoutExpired:
        return True
    finally:
        target.write_text(original)


def main(args: Sequence[str] | None = None, prog: str = "python -m tools.mutation") -> int:
    """Print a line for each mutant and the share that was detected. Returns the exit status."""
    config = tyro.cli(MutationConfig, args=args, prog=prog)
    lines = read_coverage(config.coverage)
    rng, tried, detected = random.Random(config.seed), 0, 0
    mutants = draw_mutants(lines, config.count, config.seed)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "tree"
        shutil.copytree(
            Path.cwd(), folder, ignore=shutil.ignore_patterns(".git", ".venv", "__pycache__", "demo_output")
        )
        for number, mutant in enumerate(mutants, start=1):
            if config.only and number not in config.only:
                continue
            start, files = time.perf_counter(), test_files(lines[mutant.path])
            tests = lines[mutant.path][mutant.line]
            tests = sorted(rng.sample(tests, min(len(tests), config.most_tests)))
            killed = is_detected(mutant, tests, folder) or is_detected(mutant, files, folder)
            tried, detected = tried + 1, detected + killed
            status = f"{number:3} {'detected' if killed else 'SURVIVED'} {mutant.path}:{mutant.line}"
            print(f"{status} {mutant.description} ({time.perf_counter() - start:.0f} s)", flush=True)
    print(f"{detected} of {tried} detected ({100 * detected / max(tried, 1):.0f} %)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
