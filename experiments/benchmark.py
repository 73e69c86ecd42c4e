"""Time the head model, the renderer and the fit on this machine.

    python -m experiments.benchmark [head] [render] [fit] [--peers] [--json FILE] [--limit N]

Each row is timed against a reference in turn (row, reference, row, ...) and gives medians; on shared machines only the
ratios are worth quoting. `compile s` is tracing and compiling without any cache.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Literal, Protocol

import jax
import jax.numpy as jnp
import tyro
from rich.console import Console
from rich.table import Table

import fitting
import flamejax
from experiments.data.renders import exact_observation, render_scenes, sample_scenes
from fitting.global_fit import fit_batch
from flamejax.head import HeadModel
from flamejax.io.files import write_text
from flamejax.render import interpolate, opposite_vertices

Group = Literal["head", "render", "fit"]
SQUARE_GEMM = 1024
FIT_BATCHES = (1, 4)


@dataclasses.dataclass(frozen=True)
class BenchmarkConfig:
    """Time the parts of flamejax on this machine; medians, and ratios to a reference timed in the same run."""

    groups: Annotated[tuple[Group, ...], tyro.conf.Positional] = ("head", "render", "fit")
    """What to time."""
    json: Path | None = None
    """Write the rows here as a list of objects."""
    peers: bool = False
    """Also time other libraries at the same work (deodr for `render`; the extra "bench"), in turn with ours."""
    limit: int = 7
    """Timed runs of each row (a third of it, at least 2, for the fit)."""
    seed: int = 0
    """Of the random heads."""
    head: Path | None = None
    """Head model file; the embedded open head unless given."""


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the table; None where a column does not apply."""

    name: str
    batch: int
    forward_ms: float
    gradient_ms: float | None
    ratio_forward: float
    ratio_gradient: float | None
    reference: str
    compile_s: float
    seconds_per_photo: float | None = None


def main(args: Sequence[str] | None = None, prog: str = "python -m experiments.benchmark") -> int:
    """Print the table. Returns the exit status."""
    config = tyro.cli(BenchmarkConfig, args=args, prog=prog)
    # Compile times are part of what is measured.
    jax.config.update("jax_enable_compilation_cache", False)
    head, key = flamejax.load_head(config.head), jax.random.key(config.seed)
    console = Console(width=None if sys.stdout.isatty() else 150)
    makers = {"head": head_rows, "render": render_rows, "fit": fit_rows}
    rows: list[Row] = []
    for group in dict.fromkeys(config.groups):
        with console.status(f"timing {group} ..."):
            rows += makers[group](head, key, config.limit)
            if config.peers and group == "render":
                rows += peer_rows(head, key, config.limit)
    console.print(_table(rows))
    if config.json:
        write_text(config.json, json.dumps([dataclasses.asdict(row) for row in rows], indent=1) + "\n")
    return 0


def head_rows(head: HeadModel, key: jax.Array, limit: int) -> list[Row]:
    """`vertices` against the bare product of its bases: (B, S + E + 36) x (S + E + 36, 3 V)."""
    width = len(head.basis)
    basis = jax.random.normal(key, (width, 3 * head.num_vertices))
    rows = []
    for batch in (1, 16, 64, 256):
        params = sample_scenes(head, key, batch).params
        coefficients = jax.random.normal(key, (batch, width))
        weights = jax.random.normal(key, (batch, head.num_vertices, 3))
        gemm = _Timed(jnp.matmul, coefficients, basis)
        gemm_gradient = _Timed(jax.grad(lambda c, b: jnp.sum((c @ b) ** 2)), coefficients, basis)
        forward = _Timed(flamejax.vertices, head, params)
        gradient = _Timed(jax.grad(lambda p, h, w: jnp.sum(w * flamejax.vertices(h, p))), params, head, weights)
        rows.append(_row("vertices", batch, forward, gradient, gemm, gemm_gradient, "bare GEMM of the bases", limit))
    return rows


def render_rows(head: HeadModel, key: jax.Array, limit: int) -> list[Row]:
    """Rasterizing alone, and a whole shaded render with the gradient of an image loss, against a square product."""
    square = jax.random.normal(key, (SQUARE_GEMM, SQUARE_GEMM))
    rows = []
    for size, batch in ((224, 1), (512, 1), (224, 4)):
        scenes = sample_scenes(head, key, batch, size)
        verts = flamejax.vertices(head, scenes.params)

        def draw(verts, head, camera, size=size):  # noqa: ANN001, ANN202
            screen = camera.project(verts)
            return flamejax.rasterize(screen, head.faces, (size, size), perspective=False, cull=True).barycentric

        def shade(verts, head, camera, size=size):  # noqa: ANN001, ANN202
            return flamejax.render(head, verts, camera, size=(size, size))

        def silhouettes(verts, head, camera, size=size):  # noqa: ANN001, ANN202
            return flamejax.render(head, verts, camera, size=(size, size), antialias=True)

        for name, function in (("rasterize", draw), ("render", shade), ("render, antialiased", silhouettes)):
            gemm = _Timed(jnp.matmul, square, square)
            forward = _Timed(function, verts, head, scenes.camera)
            loss = jax.grad(lambda v, h, c, f=function: jnp.sum(f(v, h, c) ** 2))
            gradient = _Timed(loss, verts, head, scenes.camera)
            label = f"{name} {size} px"
            rows.append(_row(label, batch, forward, gradient, gemm, gemm, f"{SQUARE_GEMM}^3 GEMM", limit))
    return rows


def peer_rows(head: HeadModel, key: jax.Array, limit: int) -> list[Row]:
    """Vertex colours drawn with depth test and culling, and the gradient of an image loss through the silhouettes."""
    from experiments.benchmark_peers import DeodrScene

    rows = []
    for size in (224, 512):
        scenes = sample_scenes(head, key, 1, size)
        screen = scenes.camera.project(flamejax.vertices(head, scenes.params))
        colours = jax.random.uniform(key, (head.num_vertices, 3))

        def draw(screen, colours, faces, size=size):  # noqa: ANN001, ANN202
            fragments = flamejax.rasterize(screen, faces, (size, size), perspective=False, cull=True)
            return interpolate(colours, faces, fragments), fragments

        def loss(screen, colours, faces, opposite, draw=draw):  # noqa: ANN001, ANN202
            image, fragments = draw(screen, colours, faces)
            options = {"perspective": False, "cull": True, "opposite": opposite}
            return 0.5 * jnp.sum(flamejax.antialias(image, fragments, screen, faces, **options) ** 2)

        opposite = opposite_vertices(head.faces, head.num_vertices)
        forward = _Timed(lambda s, c, f, d=draw: d(s, c, f)[0], screen, colours, head.faces)
        gradient = _Timed(jax.value_and_grad(loss, (0, 1)), screen, colours, head.faces, opposite)
        peer = DeodrScene(screen[0], colours, head.faces, opposite, size)
        label, name = f"colours {size} px", "deodr, same image and loss"
        rows.append(_row(label, 1, forward, gradient, peer.forward, peer.gradient, name, limit))
    return rows


def fit_rows(head: HeadModel, key: jax.Array, limit: int) -> list[Row]:
    """The whole fit of 256 x 256 photos (renders with exact landmarks), warm, and its compile time apart."""
    square, config = jax.random.normal(key, (SQUARE_GEMM, SQUARE_GEMM)), fitting.FitConfig()
    rows = []
    for batch in FIT_BATCHES:
        images, points, _ = render_scenes(head, sample_scenes(head, key, batch), key)
        program = _Timed(lambda h, o: fit_batch(h, o, config), head, exact_observation(images, points))
        gemm = _Timed(jnp.matmul, square, square)
        row = _row("fit 256 px", batch, program, None, gemm, None, f"{SQUARE_GEMM}^3 GEMM", max(2, limit // 3))
        rows.append(dataclasses.replace(row, seconds_per_photo=row.forward_ms / 1e3 / batch))
    return rows


class Program(Protocol):
    """What can be timed."""

    compile_s: float

    def seconds(self) -> float:
        """One run."""


class _Timed:
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


def _row(
    name: str,
    batch: int,
    forward: Program,
    gradient: Program | None,
    reference: Program,
    reference_gradient: Program | None,
    reference_name: str,
    runs: int,
) -> Row:
    forward_s, forward_ratio = _interleaved(forward, reference, runs)
    gradient_s, gradient_ratio = None, None
    if gradient is not None and reference_gradient is not None:
        gradient_s, gradient_ratio = _interleaved(gradient, reference_gradient, runs)
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


def _interleaved(program: Program, reference: Program, runs: int) -> tuple[float, float]:
    """Median seconds of the program and its ratio to the reference's median, run in turns after a warm-up."""
    program.seconds(), reference.seconds()
    pairs = [(program.seconds(), reference.seconds()) for _ in range(runs)]
    ours, theirs = (statistics.median(side) for side in zip(*pairs, strict=True))
    return ours, ours / theirs


def _table(rows: list[Row]) -> Table:
    table = Table(title=f"{jax.devices()[0].device_kind}, jax {jax.__version__}, medians")
    for title in ("name", "batch", "forward ms", "gradient ms", "ratio", "ratio gradient", "reference", "compile s"):
        table.add_column(title, justify="left" if title in ("name", "reference") else "right")
    table.add_column("s per photo", justify="right")
    for row in rows:
        numbers = (row.forward_ms, row.gradient_ms, row.ratio_forward, row.ratio_gradient)
        cells = ["" if value is None else f"{value:.1f}" for value in numbers]
        per_photo = "" if row.seconds_per_photo is None else f"{row.seconds_per_photo:.2f}"
        table.add_row(row.name, str(row.batch), *cells, row.reference, f"{row.compile_s:.1f}", per_photo)
    return table


if __name__ == "__main__":
    sys.exit(main())
