"""Rows of the benchmark, and alternating timing of two programs."""

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
    """A library to compare with is not installed; the message says in one line how to get it."""


@dataclasses.dataclass(frozen=True)
class Setting:
    """Settings that all groups of rows share."""

    head: HeadModel
    key: jax.Array
    limit: int
    """Timed runs of each row."""
    peers: bool = False
    """Whether to add the rows against other libraries."""
    jaxrenderer_python: Path | None = None
    """Interpreter of an environment with jaxrenderer."""
    report: Callable[[str], object] = print
    """Called with one line about what was left out."""

    @property
    def slow_limit(self) -> int:
        """The number of timed runs of rows that take seconds."""
        return max(2, self.limit // 3)


@dataclasses.dataclass(frozen=True)
class Row:
    """One row of the table; None where a column does not apply."""

    name: str
    batch: int
    forward_ms: float
    gradient_ms: float | None
    ratio_forward: float
    """Our median over the reference's median of the same run: below 1 is faster than the reference."""
    ratio_gradient: float | None
    reference: str
    compile_s: float
    """Seconds of tracing and compiling, without any cache."""
    seconds_per_photo: float | None = None
    memory_mb: float | None = None
    """Arguments, results and temporaries in XLA's memory plan, 1e6 bytes, of the gradient's program if there is one."""


@dataclasses.dataclass
class TimedCall:
    """A function that can be timed, such as one of another library."""

    run: Callable[[], Any]
    """Calls the function and returns its result."""
    compile_s: float = 0.0

    def seconds(self) -> float:
        """Return the seconds of one run."""
        start = time.perf_counter()
        jax.block_until_ready(self.run())
        return time.perf_counter() - start


class CompiledCall(TimedCall):
    """A compiled JAX program with its arguments, and the seconds that compiling took."""

    def __init__(self, function: Callable, *arguments: object) -> None:
        start = time.perf_counter()
        self.program = jax.jit(function).lower(*arguments).compile()
        super().__init__(lambda: self.program(*arguments), time.perf_counter() - start)

    def memory_mb(self) -> float:
        """Return the size of arguments, results and temporaries in XLA's memory plan, 1e6 bytes."""
        memory: Any = self.program.memory_analysis()
        size = memory.argument_size_in_bytes + memory.output_size_in_bytes + memory.temp_size_in_bytes
        return (size - memory.alias_size_in_bytes) / 1e6


Programs = tuple[TimedCall, TimedCall | None]
"""A program, and the program of its gradient, if any."""


def time_row(name: str, batch: int, ours: Programs, theirs: Programs, reference: str, runs: int) -> Row:
    """Time the forward and the gradient program, each alternating with its reference."""
    (forward, gradient), (their_forward, their_gradient) = ours, theirs
    forward_s, ratio = time_alternating(forward, their_forward, runs)
    row = Row(name, batch, 1e3 * forward_s, None, ratio, None, reference, forward.compile_s)
    if gradient is None:
        return row
    compile_s = forward.compile_s + gradient.compile_s
    if their_gradient is None:
        return dataclasses.replace(row, compile_s=compile_s)
    gradient_s, ratio = time_alternating(gradient, their_gradient, runs)
    return dataclasses.replace(row, gradient_ms=1e3 * gradient_s, ratio_gradient=ratio, compile_s=compile_s)


def gemm_row(
    setting: Setting, name: str, batch: int, forward: CompiledCall, gradient: CompiledCall | None, runs: int
) -> Row:
    """Time programs against a product of two square matrices, which measures the machine's current speed."""
    square = jax.random.normal(setting.key, (SQUARE_GEMM, SQUARE_GEMM))
    gemm = CompiledCall(jnp.matmul, square, square)
    return time_row(name, batch, (forward, gradient), (gemm, gemm), f"{SQUARE_GEMM}^3 GEMM", runs)


def time_alternating(program: TimedCall, reference: TimedCall, runs: int) -> tuple[float, float]:
    """Return the program's median seconds, and their ratio to the reference's. Runs alternate after a warm-up."""
    program.seconds(), reference.seconds()
    pairs = [(program.seconds(), reference.seconds()) for _ in range(runs)]
    ours, theirs = (statistics.median(side) for side in zip(*pairs, strict=True))
    return ours, ours / theirs
