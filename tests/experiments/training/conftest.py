"""What tests of training share: a folder of data, and one short run of each kind, to look at and not to change."""

import functools

import pytest
from rich.console import Console

import flamejax
from experiments.training.record import MetricsLogger
from tests import flame_format
from tests.experiments.training.runs import HEAD, generator_options, mesh_options, write_scans

QUIET = Console(quiet=True)
FLAME_SIZE = {**flame_format.TRUE_SIZE, "vertices": 120, "triangles": 220}


class Stopped(RuntimeError):
    """As a kill, but in this process."""


@pytest.fixture(scope="session")
def flame(tmp_path_factory):
    """A synthetic FLAME model's path, and the head."""
    path = flame_format.write_folder(tmp_path_factory.mktemp("flame"), FLAME_SIZE)
    flame_format.write_masks(path.parent, FLAME_SIZE["vertices"])
    return path, flamejax.load_head(path)


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """A folder with scans of the small random head, which `head.npz` there stands for."""
    folder, whole = tmp_path_factory.mktemp("data"), flamejax.load_head
    write_scans(folder / "scans", HEAD)

    @functools.wraps(whole)
    def load_head(path=None, *given, **more):
        return HEAD if path == folder / "head.npz" else whole(path, *given, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flamejax, "load_head", load_head)
        yield folder


@pytest.fixture(scope="session")
def mesh_run(data, tmp_path_factory):
    """A finished Mesh-VAE's folder."""
    workdir = tmp_path_factory.mktemp("mesh") / "run"
    mesh_options(data, workdir).run(QUIET)
    return workdir


@pytest.fixture(scope="session")
def idgen_run(data, tmp_path_factory):
    """A finished IdGen's folder, on examples drawn online."""
    workdir = tmp_path_factory.mktemp("idgen") / "run"
    generator_options(data, workdir).run(QUIET)
    return workdir


@pytest.fixture
def stopped_at(monkeypatch):
    """Stops runs in a step, which is then not recorded; to be called with the step, or with None: no longer."""
    whole = MetricsLogger.add_losses

    def stop(step):
        def add_losses(self, last, losses):
            if last == step:
                raise Stopped
            return whole(self, last, losses)

        monkeypatch.setattr(MetricsLogger, "add_losses", add_losses)

    return stop
