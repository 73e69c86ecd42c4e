"""`reconstruct ofer` and `ofer-dpp` with small real networks: files, reading back, errors."""

import dataclasses
import functools
import itertools
import json
from pathlib import Path

import numpy as np
import pytest

import flamejax
from experiments.reconstruct import UsageError, command, reconstruct_config, tools
from experiments.reconstruct.results import hypothesis_files
from experiments.reconstruct.settings import result_settings
from flamejax.io import load_results
from models.encoders.landmark import LandmarkEncoderConfig
from models.generator import GeneratorConfig
from models.ofer_weights import build_generator, build_rank, write_generator, write_rank
from models.rank import IdRankConfig
from models.unet1d import UNet1DConfig
from sampling._ofer import OferNetworks
from tests.experiments.fakes import IDENTITY, FakeTools, reconstruct, results, write_photo
from tests.heads import random_head

HEAD = random_head()
NETWORKS = ("idgen", "expgen", "idrank")


def write_ofer(folder: Path, head=HEAD) -> dict[str, Path]:
    """Write small untrained networks. Returns option name -> file."""
    folder.mkdir(exist_ok=True)
    landmark = LandmarkEncoderConfig(width=12, hidden=16, blocks=1)
    sizes = {"identity": head.num_betas, "expression": head.num_expression + 3}
    for (kind, size), name in zip(sizes.items(), NETWORKS[:2], strict=True):
        unet = UNet1DConfig((size, 4), context=12, time=16, heads=1, head_width=4, tokens=2)
        config = GeneratorConfig(kind, unet, landmark=landmark, preconditioned=True)
        write_generator(folder / f"{name}.npz", head, build_generator(head, config, deviation=np.full(size, 0.3)))
    write_rank(folder / "idrank.npz", head, build_rank(head, IdRankConfig((16, 8), context=12, landmark=landmark)))
    return {name: folder / f"{name}.npz" for name in NETWORKS}


class OferTools(FakeTools):
    """Fakes all steps except the drawing of hypotheses."""

    def tools(self, config=None, head=HEAD):
        made = super().tools(config, head)
        if config is None or not config.method.startswith("ofer"):
            return made
        draw, midpoints = tools.drawing_tools(config, head, None)
        return dataclasses.replace(made, complete=draw, midpoints=midpoints)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """A folder with two photos, and the networks as options."""
    folder = tmp_path_factory.mktemp("ofer")
    for name, colour in (("a", 100), ("b", 140)):
        write_photo(folder / "in" / f"{name}.png", colour=colour)
    return folder, write_ofer(folder / "networks")


@pytest.fixture(scope="module")
def made(inputs):
    """Return a function: method -> folder of its results."""
    folder, options = inputs

    @functools.cache
    def results_of(method: str) -> Path:
        given = {"method": method, "num_samples": 3, "local": "none", "candidates": 8, "sampler_steps": 2, **options}
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(command, "load_head", lambda path: (HEAD, IDENTITY))
            assert reconstruct(folder / "in", folder / method, OferTools(seen_beyond=0.05), **given) == 0
        return folder / method

    return results_of


def test_ofer_dpp_gets_its_settings_and_networks(inputs, monkeypatch):
    """Its results are tested in tests/sampling."""
    calls = []
    monkeypatch.setattr(tools, "ofer_dpp", lambda *args, **options: calls.append((args, options)))
    options = {"num_samples": 80, "k": 2.0, "candidates": 8, "guidance": 1.0, **inputs[1]}
    config = reconstruct_config(("x",), inputs[0], "ofer+dpp", **options)
    draw, midpoints = tools.drawing_tools(config, HEAD, None)
    draw("fit", "seen", "keys")
    ((networks, head, *passed), given) = calls[0]
    assert isinstance(networks, OferNetworks) and head is HEAD
    assert passed == ["fit", "seen", "keys"] and midpoints is None
    assert given["num_samples"] == 80 and given["config"].pool == 160 and given["config"].k == 2.0
    assert given["config"].ofer.candidates == 8


@pytest.mark.parametrize("method", ["ofer", pytest.param("ofer+dpp", marks=pytest.mark.slow)])
def test_hypotheses_are_written_with_their_metrics(made, method):
    out = made(method)
    assert results(out) == ["a", "b"]
    for name in results(out):
        assert all((out / name / file).is_file() for file in hypothesis_files(3))
        metrics = json.loads((out / name / "metrics.json").read_text())
        assert metrics["method"] == method and metrics["hypotheses"] == 3
        assert {"idgen", "expgen", "idrank", "ofer"} <= metrics["settings"].keys()
        heads = [dict(np.load(out / name / "hypotheses" / f"{k:02d}" / "params.npz")) for k in range(3)]
        for head in heads:
            fields = {f.name: head[f.name] for f in dataclasses.fields(flamejax.HeadParams)}
            again = float(head["size"]) * np.asarray(flamejax.vertices(HEAD, flamejax.HeadParams(**fields)))
            np.testing.assert_allclose(head["vertices"], again, atol=1e-5)
        scores = [float(head["score"]) for head in heads]
        assert scores == sorted(scores, reverse=True)
        same = np.ptp(np.stack([head["betas"] for head in heads]), axis=0).max() == 0
        assert same == (method == "ofer")


def test_results_are_read_back_with_params_and_size(made):
    (saved,) = load_results(made("ofer") / "a")
    hypotheses = saved.hypotheses
    assert hypotheses.latents is None
    again = hypotheses.size[:, None, None] * flamejax.vertices(HEAD, hypotheses.params)
    np.testing.assert_allclose(hypotheses.vertices, again, atol=1e-5)


def test_other_networks_give_other_settings(inputs, tmp_path):
    _, options = inputs
    other = tmp_path / "idgen.npz"
    other.write_bytes(options["idgen"].read_bytes() + b"0")
    variants = [("ofer", {}), ("ofer", {"idgen": other}), ("ofer+dpp", {}), ("ofer+dpp", {"k": 2.0})]
    settings = [
        result_settings(reconstruct_config(("x",), tmp_path, method, **{**options, **changes}))
        for method, changes in variants
    ]
    assert all(a != b for a, b in itertools.combinations(settings, 2))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "ofer", "k": 2.0}, "--k is an option of `reconstruct diverse` and `reconstruct ofer-dpp`, not of"),
        ({"method": "ofer", "n_sigma": 2.0}, "`reconstruct diverse`, not of `reconstruct ofer`"),
        ({"method": "ofer+dpp", "n_sigma": 2.0}, "--n-sigma is an option of `reconstruct diverse`"),
        ({"method": "ofer", "mesh_vae": Path("x.npz")}, "--mesh-vae is an option"),
        ({"method": "diverse", "idgen": Path("x.npz")}, "--idgen"),
        ({"idrank": Path("x.npz")}, "--idrank is an option of `reconstruct ofer` and `reconstruct ofer-dpp`"),
    ],
)
def test_options_of_other_methods_are_refused(tmp_path, options, message):
    with pytest.raises(UsageError, match=message):
        reconstruct_config(("x",), tmp_path, **options)


def test_missing_files_and_weights_of_another_head_are_refused(tmp_path):
    options = write_ofer(tmp_path / "other")
    config = reconstruct_config(("x",), tmp_path, "ofer", idgen=tmp_path / "none.npz")
    with pytest.raises(UsageError, match=r"--idgen .*no such file"):
        config.check_inputs()
    with pytest.raises(UsageError, match="trained for the head"):
        tools.drawing_tools(reconstruct_config(("x",), tmp_path, "ofer", **options), flamejax.load_head(), None)


@pytest.mark.slow
def test_the_open_heads_networks_ship(tmp_path):
    config = reconstruct_config(("x",), tmp_path, "ofer")
    draw, midpoints = tools.drawing_tools(config, flamejax.load_head(), None)
    assert draw is not None and midpoints is None
