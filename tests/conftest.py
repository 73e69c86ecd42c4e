"""Settings of all tests, made before anything of JAX is imported: strict rank promotion, compiled programs kept between
runs, and quick compiling."""

from __future__ import annotations

import os
from pathlib import Path

# Processes that tests start inherit these.
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
# What tests compile runs once or twice: a third of their time went into optimising it.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")

import jax
import pytest

from experiments import runtime

jax.config.update("jax_numpy_rank_promotion", "raise")
"""Broadcasting across ranks is an error: it hides shape mistakes in batched code."""
if (_cache := runtime.use_compilation_cache(min_seconds=0.0)) is not None:
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(_cache))

MEMORY_MAPS = 40_000
"""Each compiled program takes some of the memory maps that a process may have (65,530 on Linux): those of all tests
together may be too many, and XLA then fails to load a program or crashes."""


@pytest.fixture(autouse=True, scope="module")
def compiled_programs_are_let_go():
    """Before there are too many of them."""
    yield
    maps = Path("/proc/self/maps")
    if maps.exists() and maps.read_bytes().count(b"\n") > MEMORY_MAPS:
        jax.clear_caches()
