"""Runtime services that commands share: data folder, compilation cache, and a clock of compile times."""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import jax

from flamejax.files import data_folder


def use_compilation_cache(min_seconds: float = 0.5) -> Path | None:
    """Cache compiled programs in the data folder between runs, unless JAX_COMPILATION_CACHE_DIR is set.

    Args:
        min_seconds: programs that compile faster are not cached.

    Returns:
        The folder in use, or None if it cannot be written (a read-only or unknown home is not an error).
    """
    chosen = jax.config.values["jax_compilation_cache_dir"]
    if chosen:
        return Path(chosen)
    # Programs compiled for one processor may not run on another that shares the home folder.
    try:
        folder = data_folder() / "xla" / f"jax-{jax.__version__}-{_processor()}"
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    if not os.access(folder, os.W_OK):
        return None
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", min_seconds)
    return folder


@dataclass
class CompileClock:
    """Seconds spent compiling so far, and how many programs came from the cache instead."""

    seconds: float = 0.0
    cache_hits: int = 0


@contextlib.contextmanager
def compile_clock() -> Iterator[CompileClock]:
    """Measure how long JAX compiles while the block runs (tracing, lowering and XLA)."""
    clock = CompileClock()

    def on_duration(event: str, duration_secs: float, **kwargs: str | int) -> None:
        if event.startswith("/jax/core/compile/"):
            clock.seconds += duration_secs

    def on_event(event: str, **kwargs: str | int) -> None:
        clock.cache_hits += event == "/jax/compilation_cache/cache_hits"

    jax.monitoring.register_event_duration_secs_listener(on_duration)
    jax.monitoring.register_event_listener(on_event)
    try:
        yield clock
    finally:
        jax.monitoring.unregister_event_duration_listener(on_duration)
        jax.monitoring.unregister_event_listener(on_event)


def _processor() -> str:
    """Returns a short name of the instruction set that XLA compiles for."""
    flags = ""
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
        flags = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return f"{platform.machine()}-{hashlib.sha256(flags.encode()).hexdigest()[:8]}"
