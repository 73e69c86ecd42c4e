"""Shared fixtures of training tests: a folder of data, and a short run of each kind, which tests must not change."""

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
    """Stops a run like a kill, but in this process."""


@pytest.fixture(scope="session")
def flame(tmp_path_factory):
    """Returns the path of a synthetic FLAME model, and the head."""
    path = flame_format.write_folder(tmp_path_factory.mktemp("flame"), FLAME_SIZE)
    flame_format.write_masks(path.parent, FLAME_SIZE["vertices"])
    return path, flamejax.load_head(path)


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """Returns a folder with scans of the small random head, which `load_head` returns for its `head.npz`."""
    folder, real_load_head = tmp_path_factory.mktemp("data"), flamejax.load_head
    write_scans(folder / "scans", HEAD)

    @functools.wraps(real_load_head)
    def load_head(path=None, *args, **kwargs):
        return HEAD if path == folder / "head.npz" else real_load_head(path, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flamejax, "load_head", load_head)
        yield folder


@pytest.fixture(scope="session")
def mesh_run(data, tmp_path_factory):
    """Returns the folder of a finished Mesh-VAE run."""
    workdir = tmp_path_factory.mktemp("mesh") / "run"
    mesh_options(data, workdir).run(QUIET)
    return workdir


@pytest.fixture(scope="session")
def idgen_run(data, tmp_path_factory):
    """Returns the folder of a finished IdGen run on examples drawn online."""
    workdir = tmp_path_factory.mktemp("idgen") / "run"
    generator_options(data, workdir).run(QUIET)
    return workdir


@pytest.fixture
def stopped_at(monkeypatch):
    """Returns a function that makes runs stop in a given step, which is then not logged; None: in no step."""
    add_losses_unpatched = MetricsLogger.add_losses

    def stop(step):
        def add_losses(self, last, losses):
            if last == step:
                raise Stopped
            return add_losses_unpatched(self, last, losses)

        monkeypatch.setattr(MetricsLogger, "add_losses", add_losses)

    return stop
