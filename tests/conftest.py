"""Settings of all tests: strict rank promotion, and compiled programs kept between runs."""

import jax
import pytest

from experiments import runtime


@pytest.fixture(autouse=True, scope="session")
def jax_settings():
    """Broadcasting across ranks is an error: it hides shape mistakes in batched code."""
    jax.config.update("jax_numpy_rank_promotion", "raise")
    runtime.use_compilation_cache()


@pytest.fixture(autouse=True, scope="module")
def compiled_programs_are_let_go():
    """Each compiled program takes some of the memory maps that a process may have (65,530 on Linux): those of all tests
    together are too many, and XLA then fails to load a program or crashes."""
    yield
    jax.clear_caches()
