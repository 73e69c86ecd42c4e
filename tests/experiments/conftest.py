"""What all tests of reconstruct start from: a small head, and five photos."""

from pathlib import Path

import pytest

from experiments.reconstruct import command
from tests.experiments.fakes import HEAD, IDENTITY, write_photo


@pytest.fixture
def small_head(monkeypatch):
    """reconstruct uses the small random head instead of the open head."""
    monkeypatch.setattr(command, "load_head", lambda path: (HEAD, IDENTITY))


@pytest.fixture
def photos(tmp_path) -> Path:
    """A folder of p0.png .. p4.png."""
    for i in range(5):
        write_photo(tmp_path / "in" / f"p{i}.png", colour=100 + 10 * i)
    return tmp_path / "in"
