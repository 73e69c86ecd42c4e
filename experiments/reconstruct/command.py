"""The command itself: what is asked, what is done, what is said."""

from __future__ import annotations

import dataclasses
import platform
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tyro
from rich.console import Console
from rich.progress import Progress

import flamejax
from experiments import runtime
from experiments.photos import Failure, find_photos
from experiments.progress import progress_bar
from experiments.reconstruct.config import Config
from experiments.reconstruct.observing import PhotoReader
from experiments.reconstruct.pipeline import Outcome, Pipeline, Tools, choose_batch_size, default_tools
from experiments.reconstruct.resume import plan
from experiments.reconstruct.sheet import write_contact_sheet, write_index
from experiments.reconstruct.store import Store
from experiments.results import UsageError, load_head
from flamejax.io.results import FORMAT_VERSION, HeadIdentity

EXIT_OK, EXIT_NO_RESULT, EXIT_USAGE, EXIT_INTERRUPTED = 0, 1, 2, 130


def main(args: Sequence[str] | None = None, prog: str = "python -m experiments.reconstruct") -> int:
    """Parse the command line and run. Returns the exit status (see `Config`)."""
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    try:
        config = tyro.cli(Config, args=None if args is None else list(args), prog=prog)
        return run(config, console)
    except UsageError as error:
        console.print(f"[red]error:[/red] {error}", markup=True)
        return EXIT_USAGE


def run(
    config: Config,
    console: Console | None = None,
    make_tools: Callable[[Config, flamejax.HeadModel], Tools] = default_tools,
) -> int:
    """Reconstruct photos into a folder; `make_tools` gives the heavy steps. Returns 0 when the output holds a head, 1
    when it holds none, 130 when interrupted. Raises: UsageError, nothing was begun."""
    console = console or Console(stderr=True, highlight=False, soft_wrap=True)
    started = time.time()
    config.check_inputs()
    photos, failures = find_photos(config.photos, exclude=config.output)
    if not photos:
        raise UsageError("no photos found. " + " ".join(f"{f.photo}: {f.reason}" for f in failures))
    if any(Path(a).expanduser().resolve() == config.output.resolve() for a in config.photos):
        raise UsageError(f"--output {config.output} is also a folder of photos; choose another.")
    head, identity = load_head(config.head)
    asked, config = config.method, config.with_method(head)
    if asked == "auto" and config.method == "fit":
        console.print(
            f"There is no Mesh-VAE of the head {head.name}: faces are fitted, without further hypotheses of what is "
            "hidden (--mesh-vae gives one that `experiments.train --config mesh_vae` made)."
        )
    tools = make_tools(config, head)
    store = Store(config.output)
    store.open(config, identity)
    planned = plan(store, photos, config.settings())
    if planned.done:
        console.print(f"{len(planned.done)} of {len(photos)} photos are done already.")
    failures = store.old_failures(photos) + failures
    cache = runtime.use_compilation_cache()
    batch_size = choose_batch_size(config, len(planned.todo))
    record = _run_record(config, identity, cache, len(photos)) | {"batch_size": batch_size}
    store.write_run(record | {"status": "running"})
    reader = PhotoReader(config, tools.observe, planned.taken)
    status = "finished"
    with runtime.compile_clock() as clock, progress_bar(console, "rate") as progress:
        task = progress.add_task("photos", total=len(planned.todo), rate="")
        pipeline = Pipeline(
            head, identity, config, store, tools, batch_size, clock, _reporter(progress, task, console, clock, cache)
        )
        try:
            pipeline.run(planned.todo, reader, planned.stale)
        except KeyboardInterrupt:
            status = "interrupted"
    outcome = pipeline.outcome
    failures += outcome.failures
    results = store.results()
    store.write_lists(results, failures)
    elapsed = time.time() - started
    record |= {
        "status": status,
        "seconds": round(elapsed, 2),
        "compile_seconds": round(clock.seconds, 2),
        "first_batch_seconds": _rounded(outcome.first_batch_seconds),
        "fit_seconds": round(outcome.fit_seconds, 2),
        "photos_done_before": len(planned.done),
        "heads_written": len(outcome.written),
        "heads": len(results),
        "failures": len(failures),
    }
    note = f"flamejax {flamejax.__version__}, head {identity.name} {identity.version}, {record['device']}"
    write_index(store.folder, results, failures, note)
    write_contact_sheet(store.folder, list(results))
    store.write_run(record)
    _say_what_came(console, config, outcome, results, failures, elapsed)
    if status == "interrupted":
        console.print("Interrupted. Give --resume to go on from here.")
        return EXIT_INTERRUPTED
    return EXIT_OK if results else EXIT_NO_RESULT


def _reporter(
    progress: Progress, task: Any, console: Console, clock: runtime.CompileClock, cache: Path | None
) -> Callable[[str, float], None]:
    began = time.perf_counter()

    def report(kind: str, value: float) -> None:
        if kind == "photo":
            progress.advance(task, value)
            done = progress.tasks[0].completed
            progress.update(task, rate=f"{done / (time.perf_counter() - began):.2f} photos/s")
        elif kind == "compiling":
            kept = f" (compiled programs are kept in {cache}; those already there are taken from it)" if cache else ""
            console.print(f"Preparing the fit for batches of {value:.0f}{kept} ...")
        elif kind == "compiled":
            source = f", {clock.cache_hits} programs taken from earlier runs" if clock.cache_hits else ""
            preparing = min(clock.seconds, value)
            console.print(f"First batch fitted after {value:.1f} s (of which preparing {preparing:.1f} s{source}).")

    return report


def _run_record(config: Config, identity: HeadIdentity, cache: Path | None, photos: int) -> dict[str, Any]:
    plain = {k: str(v) if isinstance(v, Path) else v for k, v in dataclasses.asdict(config).items()}
    devices = jax.devices()
    return {
        "format_version": FORMAT_VERSION,
        "config": plain,
        "settings": config.settings(),
        "head": dataclasses.asdict(identity),
        "versions": {
            "flamejax": flamejax.__version__,
            "python": platform.python_version(),
            "jax": jax.__version__,
            "numpy": np.__version__,
        },
        "device": f"{len(devices)} x {devices[0].device_kind}",
        "compilation_cache": None if cache is None else str(cache),
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "photos": photos,
    }


def _say_what_came(
    console: Console,
    config: Config,
    outcome: Outcome,
    results: dict[str, Any],
    failures: Sequence[Failure],
    elapsed: float,
) -> None:
    count = len(outcome.written)
    each = f" (the fit: {outcome.fit_seconds / count:.1f} s each, compiling left out)" if count else ""
    made = f"{count} new heads in {elapsed:.1f} s{each}"
    console.print(f"{made}; {len(results)} in all, {len(failures)} failures.")
    for (stage, reason), count in Counter((f.stage, f.reason) for f in failures).most_common(5):
        console.print(f"  {count} x {stage}: {reason}", markup=False)
    if failures:
        console.print(f"All failures: {config.output / 'failures.jsonl'}", markup=False)
    console.print(f"Look at {config.output / 'index.html'}", markup=False)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 2)
