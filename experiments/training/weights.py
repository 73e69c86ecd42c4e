"""Writing the final weights of a run, with their provenance and their validation errors."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

import flamejax
from experiments.training.settings import RunOptions
from flamejax.files import write_text


def write_weights(
    options: RunOptions, name: str, write: Callable[[Path, Mapping[str, str]], None],
    evaluate: Callable[[Path], dict[str, float]], notes: Mapping[str, str], console: Console, started: float,
    **extra_results: Any,
) -> dict[str, float]:  # fmt: skip
    """Write weights with their provenance, and WORKDIR/results.json.

    Args:
      name: file name, unless --output gives one. write: writes a file with notes. evaluate: returns the errors of the
        network read back from a file, which is in half precision.
      started: `time.perf_counter()` at the start. extra_results: further values for results.json.

    Returns:
      The errors.

    Raises:
      OSError: a folder cannot be written.
    """
    output = options.output or options.workdir / name
    output.parent.mkdir(parents=True, exist_ok=True)
    write(output, {})
    errors = evaluate(output)
    provenance = {
        "made_with": f"flamejax {flamejax.__version__}; flamejax train",
        "settings": json.dumps(options.fingerprint()),
        "validation": json.dumps(errors),
        **notes,
    }
    write(output, provenance)
    seconds = time.perf_counter() - started
    results = {**errors, **extra_results, "seconds_of_last_start": round(seconds, 1)}
    write_text(options.workdir / "results.json", json.dumps(results, indent=1) + "\n")
    summary = ", ".join(f"{name} {value:.3f}" for name, value in errors.items())
    console.print(f"{output}: {output.stat().st_size / 1e6:.1f} MB; {summary}; {seconds:.0f} s", markup=False)
    return errors
