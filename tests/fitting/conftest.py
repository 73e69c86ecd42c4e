"""Fixtures: the small head of `tests.fitting.scenes` and photos of it, made when first used."""

import os
from pathlib import Path

import pytest

from tests.fitting import scenes


@pytest.fixture(scope="session")
def head():
    """The small head without local models."""
    return scenes.small_head()


@pytest.fixture(scope="session")
def model():
    """The small head with local models."""
    return scenes.small_model()


@pytest.fixture(scope="session")
def photos():
    """The observation of photos of five heads."""
    return scenes.photos()


@pytest.fixture
def four_devices():
    """The environment of a process that sees four CPU devices."""
    root = Path(__file__).parents[2]
    return {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=4", "PYTHONPATH": str(root)}
