"""Rows of the benchmark, and how two programs are timed in turn."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

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


class Program(Protocol):
    """What can be timed."""

    compile_s: float

    def seconds(self) -> float:
        """One run."""


class Timed:
    """A compiled program with its arguments, and how long compiling took."""

    def __init__(self, function: Callable, *arguments: object) -> None:
        self.arguments = arguments
        start = time.perf_counter()
        self.program = jax.jit(function).lower(*arguments).compile()
        self.compile_s = time.perf_counter() - start

    def seconds(self) -> float:
        """One run."""
        start = time.perf_counter()
        jax.block_until_ready(self.program(*self.arguments))
        return time.perf_counter() - start

    def result(self) -> Any:
        """What the program gives."""
        return self.program(*self.arguments)

    def memory_mb(self) -> float:
        """Arguments, results and temporaries as XLA lays them out: 1e6 bytes."""
        found: Any = self.program.memory_analysis()
        size = found.argument_size_in_bytes + found.output_size_in_bytes + found.temp_size_in_bytes
        return (size - found.alias_size_in_bytes) / 1e6


@dataclasses.dataclass
class Call:
    """A call of another library."""

    call: Callable[[], object]
    compile_s: float = 0.0

    def seconds(self) -> float:
        """One run."""
        start = time.perf_counter()
        self.call()
        return time.perf_counter() - start


def square_gemm(key: jax.Array) -> Timed:
    """A product of two square matrices: what the machine can do at this moment."""
    square = jax.random.normal(key, (SQUARE_GEMM, SQUARE_GEMM))
    return Timed(jnp.matmul, square, square)


def time_row(
    name: str,
    batch: int,
    forward: Program,
    gradient: Program | None,
    reference: Program,
    reference_gradient: Program | None,
    reference_name: str,
    runs: int,
) -> Row:
    """Time forward and gradient, each in turn with its reference."""
    forward_s, forward_ratio = interleaved(forward, reference, runs)
    gradient_s, gradient_ratio = None, None
    if gradient is not None and reference_gradient is not None:
        gradient_s, gradient_ratio = interleaved(gradient, reference_gradient, runs)
    return Row(
        name=name,
        batch=batch,
        forward_ms=1e3 * forward_s,
        gradient_ms=None if gradient_s is None else 1e3 * gradient_s,
        ratio_forward=forward_ratio,
        ratio_gradient=gradient_ratio,
        reference=reference_name,
        compile_s=forward.compile_s + (gradient.compile_s if gradient else 0.0),
    )


def interleaved(program: Program, reference: Program, runs: int) -> tuple[float, float]:
    """Median seconds of the program and its ratio to the reference's median, run in turns after a warm-up."""
    program.seconds(), reference.seconds()
    pairs = [(program.seconds(), reference.seconds()) for _ in range(runs)]
    ours, theirs = (statistics.median(side) for side in zip(*pairs, strict=True))
    return ours, ours / theirs
