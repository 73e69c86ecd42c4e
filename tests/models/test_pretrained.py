"""The shipped weights: size, provenance, damaged files, and accuracy on new heads."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flamejax
from experiments.datasets.vertex_masks import hidden_vertices, mask_maker
from experiments.training.mesh_vae.heads import SyntheticHeads, draw_head
from fitting.local_files import load_local_model
from fitting.local_model import with_local
from flamejax.head import HeadFileError
from models import load_mesh_vae, mesh_vae_path, num_parameters
from models.mesh_vae import SMALL, MeshVAEConfig
from models.weight_files import config_from_json


@pytest.fixture(scope="module")
def head():
    return flamejax.load_head()


@pytest.fixture(scope="module")
def model(head):
    return load_mesh_vae(head)


def test_shipped_file_is_small_and_records_its_provenance(model):
    assert mesh_vae_path().stat().st_size < 10e6
    assert num_parameters(model) <= 4.5e6 and model.config == SMALL
    with np.load(mesh_vae_path(), allow_pickle=False) as file:
        notes = {name: str(file[name]) for name in file.files if name.startswith("provenance_")}
        assert config_from_json(MeshVAEConfig, json.loads(str(file["config"])), 1024) == SMALL
    assert notes["provenance_licence"] == "CC0-1.0" and "open_faces" in notes["provenance_data"]
    assert json.loads(notes["provenance_validation"])["visible_mm"] < 0.07


def test_a_file_of_another_version_is_refused_by_name(head, tmp_path):
    with np.load(mesh_vae_path(), allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    config = json.loads(str(arrays["config"]))
    for changed in ({**config, "unheard_of": 1}, {**config, "strides": [2, 2]}):
        np.savez(tmp_path / "other.npz", **{**arrays, "config": np.asarray(json.dumps(changed))})
        with pytest.raises(HeadFileError, match=r"other\.npz"):
            load_mesh_vae(head, tmp_path / "other.npz")


def test_posterior_of_the_shipped_components_is_accurate_in_single_precision(head, model):
    """Compare with double precision on a half hidden face, because variances span six orders of magnitude."""
    branch, rng = model.linear, np.random.default_rng(0)
    rows = np.asarray(branch._rows_at_centres(), np.float64)
    scales = np.asarray(branch.scales[...], np.float64)
    assert (scales.max() / scales.min()) ** 2 > 1e5
    x = jnp.asarray(branch.to_vertices(jnp.asarray(rng.standard_normal(len(scales)), jnp.float32)))
    visible = head.v_template[:, 0] > 0
    mean, factor, scale = jax.jit(lambda x, v: branch.posterior(x, v))(x, visible)
    centres = np.asarray(branch.centres.get_value())
    mask = np.repeat(np.asarray(visible)[centres], 3)
    visible_rows, data = (scales[:, None] * rows)[:, mask], np.asarray(x, np.float64)[centres].reshape(-1)[mask]
    precision = visible_rows @ visible_rows.T / branch.noise**2 + np.eye(len(scales))
    expected = np.linalg.solve(precision, visible_rows @ data / branch.noise**2)
    to_vertices = jax.jit(branch.to_vertices)
    errors = 1e3 * float(model.spread[...]) * (to_vertices(mean) - to_vertices(jnp.asarray(expected, jnp.float32)))
    assert np.abs(errors[visible]).max() < 0.01 and np.abs(errors).max() < 0.3  # mm
    inverse = np.linalg.inv(np.asarray(factor, np.float64)) * np.asarray(scale, np.float64)
    covariance = inverse.T @ inverse
    np.testing.assert_allclose(np.diag(covariance), np.diag(np.linalg.inv(precision)), rtol=0.05)


def test_new_heads_are_completed(head, model):
    """Complete masked samples of the head model with local models, and compare with the mean head, in mm."""
    extended = with_local(head, load_local_model(head, variant="full"))
    keys = jax.random.split(jax.random.key(1234), 4)
    heads = jax.jit(jax.vmap(lambda key: draw_head(SyntheticHeads(extended, jnp.zeros((1, 5, 3))), key)))(keys)
    masks = mask_maker(head, seed=3, count=8)
    hidden = jax.vmap(lambda key, kind: hidden_vertices(masks, key, jnp.asarray(0.3), kind))(keys, jnp.arange(4) % 2)

    @jax.jit
    def complete_and_sample(heads, visible):
        return model.complete(heads, visible), model.sample(heads, visible, jax.random.key(0), 4)

    completed, samples = complete_and_sample(heads, ~hidden)
    error = 1e3 * np.linalg.norm(completed - heads, axis=-1)
    mean_head_error = 1e3 * np.linalg.norm(model.mean[...][None] - heads, axis=-1)
    assert np.median(error[~hidden]) < 0.15
    assert np.median(error[hidden]) < 0.35 * np.median(mean_head_error[hidden])
    spread = 1e3 * np.asarray(samples.std(axis=1)).max(axis=-1)
    assert np.median(spread[~hidden]) < 0.2 < np.median(spread[hidden])
