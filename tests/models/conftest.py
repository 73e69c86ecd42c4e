"""Heads and meshes shared by the tests of models."""

import pytest

from experiments.benchmark.spheres import spheres
from models import MeshHierarchy, mesh_hierarchy
from tests.heads import random_head

SMALL_SPHERES = ((90, 1.0, (0.0, 0.0, 0.0)), (30, 0.2, (0.3, 0.1, 0.8)))


@pytest.fixture(scope="session")
def head():
    """A small head, for networks of coefficients."""
    return random_head()


@pytest.fixture(scope="session")
def flame_sized() -> MeshHierarchy:
    """The hierarchy with the paper's strides of three spheres with FLAME's 3,931 + 546 + 546 vertices."""
    return mesh_hierarchy(*spheres())


@pytest.fixture(scope="session")
def small() -> MeshHierarchy:
    """The hierarchy of two spheres, 120 vertices, small enough for loops in Python."""
    return mesh_hierarchy(*spheres(SMALL_SPHERES), (2, 1, 2))
