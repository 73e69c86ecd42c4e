"""Settings of all tests: strict rank promotion, and compiled programs kept between runs."""

import jax
import pytest

from experiments import runtime


@pytest.fixture(autouse=True, scope="session")
def jax_settings():
    """Broadcasting across ranks is an error: it hides shape mistakes in batched code."""
    jax.config.update("jax_numpy_rank_promotion", "raise")
    runtime.use_compilation_cache()
