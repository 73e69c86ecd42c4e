"""Seeded mutation: does any test notice when a covered line of ours is changed?

    python -m pytest -q -m "not slow and not browser" --cov --cov-context=test --cov-report=   # writes .coverage
    python -m tools.mutation --count 40 --seed 0

Draws lines that tests run, changes one thing in each (an operator, a comparison, a sign, a constant, a dropped
statement), and runs those tests of the file's room that run the line; where none of these fails, the whole test files
that run any line of the changed file: what is kept between tests is run by the first alone. Work is done in a copy of
the working tree; the table says which mutants no test has noticed.
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
SECONDS = 600
"""After which a mutant counts as noticed: it hangs."""


@dataclass(frozen=True)
class Config:
    """Change covered lines one by one, and count the changes that a test notices."""

    count: int = 40
    """Mutants."""
    seed: int = 0
    coverage: Path = Path(".coverage")
    """Of a run of the tests with --cov-context=test."""
    most_tests: int = 12
    """At most so many tests are run of those that run the line, before whole files are."""
    only: tuple[int, ...] = ()
    """Numbers of mutants, as printed, to try alone; all when left out."""


@dataclass(frozen=True)
class Mutant:
    """One change."""

    path: str
    line: int
    what: str
    source: str
    """Of the whole file, changed."""


def mutants_of(path: Path, lines: set[int]) -> Iterator[Mutant]:
    """All changes of a file's given lines, one at a time."""
    tree = ast.parse(path.read_text())
    skipped = {id(node) for each in ast.walk(tree) for node in _not_code(each)}
    for index, node in enumerate(ast.walk(tree)):
        line = getattr(node, "lineno", None)
        if line not in lines or id(node) in skipped:
            continue
        for what, change in _changes(node):
            changed = copy.deepcopy(tree)
            target = next(each for place, each in enumerate(ast.walk(changed)) if place == index)
            change(target)
            yield Mutant(str(path), line, what, ast.unparse(ast.fix_missing_locations(changed)))


def _not_code(node: ast.AST) -> Iterator[ast.AST]:
    """What below a node does not run or only speaks: docstrings, annotations, messages of errors, `__all__`."""
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        yield from ast.walk(node)
    for name in ("annotation", "returns"):
        if getattr(node, name, None) is not None:
            yield from ast.walk(getattr(node, name))
    if isinstance(node, ast.Raise | ast.JoinedStr | ast.ImportFrom | ast.Import):
        yield from ast.walk(node)


def _changes(node: ast.AST):  # noqa: ANN202
    """(name, function that changes such a node) of what may be changed in it."""
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
    """Turns a statement into one that does nothing, in its place."""
    node.__class__ = ast.Pass  # type: ignore[assignment]


def covered(coverage: Path) -> dict[str, dict[int, list[str]]]:
    """File -> line -> tests of its room that run it."""
    from coverage import CoverageData

    data = CoverageData(str(coverage))
    data.read()
    found: dict[str, dict[int, list[str]]] = {}
    for name in data.measured_files():
        path = Path(name).relative_to(Path.cwd()).as_posix()
        if path.split("/")[0] not in PACKAGES:
            continue
        room = f"tests/{path.split('/')[0]}/"
        lines = {
            line: sorted({one.split("|")[0] for one in contexts if one.startswith(room)})
            for line, contexts in data.contexts_by_lineno(name).items()
        }
        found[path] = {line: tests for line, tests in lines.items() if tests}
    return found


def test_files(lines: dict[int, list[str]]) -> list[str]:
    """The files of all tests that run a file's lines."""
    return sorted({test.split("::")[0] for tests in lines.values() for test in tests})


def draw(lines: dict[str, dict[int, list[str]]], count: int, seed: int) -> list[Mutant]:
    """Files by their covered lines, one line of each, one change of it."""
    rng = random.Random(seed)
    places = [(path, line) for path in sorted(lines) for line in sorted(lines[path])]
    rng.shuffle(places)
    found: list[Mutant] = []
    for path, line in places:
        options = list(mutants_of(Path(path), {line}))
        if options:
            found.append(rng.choice(options))
        if len(found) == count:
            break
    return found


def noticed(mutant: Mutant, tests: Sequence[str], folder: Path) -> bool:
    """Whether a test fails, in a copy of the tree."""
    target = folder / mutant.path
    before = target.read_text()
    target.write_text(mutant.source)
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-m", QUICK, *tests]
    environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": str(folder)}
    try:
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, timeout=SECONDS)
        return done.returncode != 0
    except subprocess.TimeoutExpired:
        return True
    finally:
        target.write_text(before)


def main(args: Sequence[str] | None = None, prog: str = "python -m tools.mutation") -> int:
    """Print a line for each mutant and the share that was noticed. Returns the exit status."""
    config = tyro.cli(Config, args=args, prog=prog)
    lines = covered(config.coverage)
    rng, tried, caught = random.Random(config.seed), 0, 0
    chosen = draw(lines, config.count, config.seed)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "tree"
        shutil.copytree(
            Path.cwd(), folder, ignore=shutil.ignore_patterns(".git", ".venv", "__pycache__", "demo_output")
        )
        for number, mutant in enumerate(chosen, start=1):
            if config.only and number not in config.only:
                continue
            start, files = time.perf_counter(), test_files(lines[mutant.path])
            tests = lines[mutant.path][mutant.line]
            tests = sorted(rng.sample(tests, min(len(tests), config.most_tests)))
            good = noticed(mutant, tests, folder) or noticed(mutant, files, folder)
            tried, caught = tried + 1, caught + good
            said = f"{number:3} {'noticed ' if good else 'SURVIVED'} {mutant.path}:{mutant.line} {mutant.what}"
            print(f"{said} ({time.perf_counter() - start:.0f} s)", flush=True)
    print(f"{caught} of {tried} noticed ({100 * caught / max(tried, 1):.0f} %)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
