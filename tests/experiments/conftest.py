"""Fixtures of the tests of reconstruct: a small head, photos, and a finished result."""

from pathlib import Path

import pytest

from experiments.reconstruct import command
from tests.experiments.fakes import HEAD, IDENTITY, reconstruct, write_photo


@pytest.fixture
def small_head(monkeypatch):
    """The commands use the small random head instead of the open head."""
    for module in ("experiments.reconstruct.command", "experiments.results"):
        monkeypatch.setattr(f"{module}.load_head", lambda path: (HEAD, IDENTITY))


@pytest.fixture
def photos(tmp_path) -> Path:
    """A folder of p0.png .. p4.png."""
    for i in range(5):
        write_photo(tmp_path / "in" / f"p{i}.png", colour=100 + 10 * i)
    return tmp_path / "in"


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """A read-only result: OUT with the faces a and b, four hypotheses each; the files of local models and Mesh-VAE; and
    the tools that made it."""
    from tests.experiments.results import KnownTools, write_networks

    folder = tmp_path_factory.mktemp("made")
    networks = write_networks(folder / "networks")
    write_photo(folder / "in" / "a.png")
    write_photo(folder / "in" / "b.png", colour=160)
    fake = KnownTools(*networks)
    options = {"local": str(networks[0]), "mesh_vae": networks[1], "method": "complete", "num_samples": 4}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(command, "load_head", lambda path: (HEAD, IDENTITY))
        assert reconstruct(folder / "in", folder / "out", fake, **options) == 0
    return folder / "out", networks, fake
