"""Settings of all tests, applied before JAX is imported: strict rank promotion, a persistent compilation cache, and
fewer compiler optimisations."""

from __future__ import annotations

import os
from pathlib import Path

# Processes that tests start inherit these.
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
# Programs run once or twice in tests: optimising them took a third of the time.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")

import jax
import pytest

from experiments import runtime

jax.config.update("jax_numpy_rank_promotion", "raise")
"""Broadcasting across ranks is an error: it hides shape mistakes in batched code."""
if (_cache := runtime.use_compilation_cache(min_seconds=0.0)) is not None:
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(_cache))

MEMORY_MAPS = 40_000
"""Memory maps above which compiled programs are released. Linux allows 65,530 per process; beyond that XLA fails or
crashes, and each compiled program takes some."""


@pytest.fixture(autouse=True, scope="module")
def release_compiled_programs():
    """Clear JAX's caches before the process has too many memory maps."""
    yield
    maps = Path("/proc/self/maps")
    if maps.exists() and maps.read_bytes().count(b"\n") > MEMORY_MAPS:
        jax.clear_caches()
