"""Rows of the benchmark, and how two programs are timed in turn."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from flamejax.head import HeadModel

SQUARE_GEMM = 1024


class PeerMissing(RuntimeError):
    """A library to compare with is not there; the message says in one line how to get it."""


@dataclasses.dataclass(frozen=True)
class Setting:
    """What every group of rows is given."""

    head: HeadModel
    key: jax.Array
    limit: int
    """Timed runs of each row."""
    peers: bool = False
    """Add the rows against other libraries."""
    jaxrenderer_python: Path | None = None
    """Interpreter of an environment with jaxrenderer."""
    say: Callable[[str], object] = print
    """Takes one line about what was left out."""

    @property
    def few(self) -> int:
        """Timed runs of what takes seconds."""
        return max(2, self.limit // 3)


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the table; None where a column does not apply."""

    name: str
    batch: int
    forward_ms: float
    gradient_ms: float | None
    ratio_forward: float
    """To the reference's median in the same run: below 1 is faster than the reference."""
    ratio_gradient: float | None
    reference: str
    compile_s: float
    """Tracing and compiling, without any cache."""
    seconds_per_photo: float | None = None
    memory_mb: float | None = None
    """Arguments, results and temporaries of the gradient's program as XLA lays them out, 1e6 bytes."""


@dataclasses.dataclass
class Call:
    """What can be timed, such as a call of another library."""

    result: Callable[[], Any]
    """Runs it, and gives what comes out."""
    compile_s: float = 0.0

    def seconds(self) -> float:
        """One run."""
        start = time.perf_counter()
        jax.block_until_ready(self.result())
        return time.perf_counter() - start


class Timed(Call):
    """A compiled program with its arguments, and how long compiling took."""

    def __init__(self, function: Callable, *arguments: object) -> None:
        start = time.perf_counter()
        self.program = jax.jit(function).lower(*arguments).compile()
        super().__init__(lambda: self.program(*arguments), time.perf_counter() - start)

    def memory_mb(self) -> float:
        """Arguments, results and temporaries as XLA lays them out: 1e6 bytes."""
        found: Any = self.program.memory_analysis()
        size = found.argument_size_in_bytes + found.output_size_in_bytes + found.temp_size_in_bytes
        return (size - found.alias_size_in_bytes) / 1e6


Programs = tuple[Call, Call | None]
"""A program, and what computes its gradient."""


def time_row(name: str, batch: int, ours: Programs, theirs: Programs, reference: str, runs: int) -> Row:
    """Time forward and gradient, each in turn with its reference."""
    (forward, gradient), (their_forward, their_gradient) = ours, theirs
    forward_s, ratio = interleaved(forward, their_forward, runs)
    row = Row(name, batch, 1e3 * forward_s, None, ratio, None, reference, forward.compile_s)
    if gradient is None:
        return row
    compile_s = forward.compile_s + gradient.compile_s
    if their_gradient is None:
        return dataclasses.replace(row, compile_s=compile_s)
    gradient_s, ratio = interleaved(gradient, their_gradient, runs)
    return dataclasses.replace(row, gradient_ms=1e3 * gradient_s, ratio_gradient=ratio, compile_s=compile_s)


def gemm_row(setting: Setting, name: str, batch: int, forward: Timed, gradient: Timed | None, runs: int) -> Row:
    """Against a product of two square matrices: what the machine can do at this moment."""
    square = jax.random.normal(setting.key, (SQUARE_GEMM, SQUARE_GEMM))
    gemm = Timed(jnp.matmul, square, square)
    return time_row(name, batch, (forward, gradient), (gemm, gemm), f"{SQUARE_GEMM}^3 GEMM", runs)


def interleaved(program: Call, reference: Call, runs: int) -> tuple[float, float]:
    """Median seconds of the program and its ratio to the reference's median, run in turns after a warm-up."""
    program.seconds(), reference.seconds()
    pairs = [(program.seconds(), reference.seconds()) for _ in range(runs)]
    ours, theirs = (statistics.median(side) for side in zip(*pairs, strict=True))
    return ours, ours / theirs
