"""Runs `flamejax reconstruct`: reads photos, writes results, prints messages."""

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
from rich.console import Console
from rich.progress import Progress

import flamejax
from experiments import runtime
from experiments.command_line import UsageError, message_console
from experiments.photos import Failure
from experiments.progress import progress_bar
from experiments.reconstruct.checks import find_checked_photos
from experiments.reconstruct.config import ReconstructConfig
from experiments.reconstruct.inputs import GivenInputs
from experiments.reconstruct.live_lists import LiveLists
from experiments.reconstruct.observing import PhotoReader
from experiments.reconstruct.pipeline import (
    Outcome,
    Pipeline,
    choose_batch_size,
)
from experiments.reconstruct.results import ResultWriter
from experiments.reconstruct.resume import plan
from experiments.reconstruct.settings import resolve_auto, result_settings
from experiments.reconstruct.sheet import counted
from experiments.reconstruct.store import Store
from experiments.reconstruct.tools import Tools, default_tools, drawing_options
from experiments.results import load_head
from flamejax.head import check_landmarks
from flamejax.io.results import FORMAT_VERSION, HeadIdentity

EXIT_OK, EXIT_NO_RESULT, EXIT_INTERRUPTED = 0, 1, 130


def run(
    config: ReconstructConfig,
    console: Console | None = None,
    make_tools: Callable[[ReconstructConfig, flamejax.HeadModel], Tools] = default_tools,
) -> int:
    """Reconstruct photos into a folder. make_tools: returns the heavy steps; tests replace it.

    Returns 0 when the output holds a head, 1 when it holds none, 130 when interrupted. Raises: UsageError, an option,
    an input file or the output folder cannot be used; no photo was reconstructed.
    """
    store = Store(config.output.output)
    try:
        return _run(config, console or message_console(), make_tools, store)
    finally:
        store.close()


def _run(config: ReconstructConfig, console: Console, make_tools: Callable[..., Tools], store: Store) -> int:
    started = time.time()
    photos, failures = find_checked_photos(config)
    inputs = GivenInputs(config.input)
    head, identity = load_head(config.fit.head)
    try:
        check_landmarks(head)
    except ValueError as error:
        raise UsageError(f"head model: {error}") from error
    requested, config = config.method, resolve_auto(config, head)
    if requested == "auto" and config.method == "fit":
        console.print(
            f"No Mesh-VAE ships for the head {head.name}: each face is fitted, without hypotheses of its hidden parts. "
            "Train one with `flamejax train --config mesh_vae`, and give it as --mesh-vae FILE."
        )
    tools = make_tools(config, head)
    settings, overwrite = result_settings(config), config.output.overwrite
    store.lock()
    if not overwrite:
        store.check_head(identity)
    planned = plan(store, photos, settings, inputs.record, overwrite)
    for line in inputs.check([*planned.todo, *planned.done]):
        console.print(line, markup=False)
    store.prepare(overwrite)  # only now: it deletes earlier results
    if planned.done:
        console.print(f"{len(planned.done)} of {len(photos)} photos are already done.")
    failures = store.old_failures(photos) + failures
    cache = runtime.use_compilation_cache()
    batch_size = choose_batch_size(config.fit, len(planned.todo))
    record = _run_record(config, settings, identity, cache, len(photos)) | {"batch_size": batch_size}
    note = f"flamejax {flamejax.__version__}, head {identity.name} {identity.version}, {record['device']}"
    lists = LiveLists(store, failures, record, len(planned.todo), note)
    lists.start()
    reader = PhotoReader(inputs, config.fit.size, tools.observe, planned.reserved_names)
    status = "finished"
    with runtime.compile_clock() as clock, progress_bar(console, "rate") as progress:
        task = progress.add_task("photos", total=len(planned.todo), rate="")
        report = _reporter(progress, task, console, clock, cache)
        writer = ResultWriter(head, identity, tools.model, settings)
        pipeline = Pipeline(writer, drawing_options(config), store, tools, batch_size, clock, report, lists)
        try:
            pipeline.run(planned.todo, reader, planned.stale)
        except KeyboardInterrupt:
            status = "interrupted"
    outcome = pipeline.outcome
    elapsed = time.time() - started
    record |= {
        "status": status,
        "seconds": round(elapsed, 2),
        "compile_seconds": round(clock.seconds, 2),
        "first_batch_seconds": _rounded(outcome.first_batch_seconds),
        "fit_seconds": round(outcome.fit_seconds, 2),
        "drawing_seconds": round(outcome.drawing_seconds, 2),
        "photos_done_before": len(planned.done),
        "heads_written": len(outcome.written),
    }
    results = lists.finish(record)
    _print_summary(console, store.folder, outcome, results, lists.failures, elapsed)
    if status == "interrupted":
        console.print("Interrupted. Run it again with --resume to continue.")
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
            source = f" (compiled programs are cached in {cache})" if cache else ""
            console.print(f"Compiling the fit for batches of {value:.0f}{source} ...")
        elif kind == "compiled":
            source = f", {clock.cache_hits} programs from the cache" if clock.cache_hits else ""
            compiling = min(clock.seconds, value)
            console.print(f"First batch fitted after {value:.1f} s (of which compiling {compiling:.1f} s{source}).")
        elif kind == "drawing":
            console.print(f"Drawing {counted(int(value), 'hypothesis', 'hypotheses')} for each face ...")
        elif kind == "drawn":
            console.print(f"Hypotheses of the first batch drawn after {value:.1f} s (with compiling).")

    return report


def _run_record(
    config: ReconstructConfig, settings: dict[str, Any], identity: HeadIdentity, cache: Path | None, photos: int
) -> dict[str, Any]:
    options = {name: str(value) if isinstance(value, Path) else value for name, value in config.options().items()}
    devices = jax.devices()
    return {
        "format_version": FORMAT_VERSION,
        "config": options,
        "settings": settings,
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


def _print_summary(
    console: Console,
    output: Path,
    outcome: Outcome,
    results: dict[str, Any],
    failures: Sequence[Failure],
    elapsed: float,
) -> None:
    count = len(outcome.written)
    shares = {"the fit": outcome.fit_seconds, "the hypotheses": outcome.drawing_seconds}
    parts = [f"{part}: {seconds / count:.1f} s" for part, seconds in shares.items() if count and seconds]
    seconds_each = f" ({', '.join(parts)} each, without compiling)" if parts else ""
    console.print(
        f"{counted(count, 'new head')} in {elapsed:.1f} s{seconds_each}; "
        f"{len(results)} in all, {counted(len(failures), 'failure')}."
    )
    for (stage, reason), count in Counter((f.stage, f.reason) for f in failures).most_common(5):
        console.print(f"  {count} x {stage}: {reason}", markup=False)
    for names, what in (
        (outcome.masks_beside_faces, "hides no part of the face"),
        (outcome.masks_over_faces, "hides the whole face"),
    ):
        if names:
            console.print(f"The given mask {what} in {', '.join(names)}. White is hidden, black is not.", markup=False)
    if failures:
        console.print(f"All failures: {output / 'failures.jsonl'}", markup=False)
    if results:
        console.print(f"Open {output / 'index.html'} in a browser.", markup=False)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 2)
