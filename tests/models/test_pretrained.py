"""The weights that ship: small enough, said where they come from, and worth something on heads they have not seen."""

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
from models.mesh_vae import SMALL
from models.pretrained import config_from


@pytest.fixture(scope="module")
def head():
    return flamejax.load_head()


@pytest.fixture(scope="module")
def model(head):
    return load_mesh_vae(head)


def test_small_enough_to_ship_and_says_where_it_comes_from(model):
    assert mesh_vae_path().stat().st_size < 10e6
    assert num_parameters(model) <= 4.5e6 and model.config == SMALL
    with np.load(mesh_vae_path(), allow_pickle=False) as file:
        notes = {name: str(file[name]) for name in file.files if name.startswith("provenance_")}
        assert config_from(json.loads(str(file["config"]))) == SMALL
    assert notes["provenance_licence"] == "CC0-1.0" and "open_faces" in notes["provenance_data"]
    assert json.loads(notes["provenance_validation"])["visible_mm"] < 0.07


def test_a_file_of_another_version_is_refused_in_words(head, tmp_path):
    with np.load(mesh_vae_path(), allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    config = json.loads(str(arrays["config"]))
    for changed in ({**config, "unheard_of": 1}, {**config, "strides": [2, 2]}):
        np.savez(tmp_path / "other.npz", **{**arrays, "config": np.asarray(json.dumps(changed))})
        with pytest.raises(HeadFileError, match=r"other\.npz"):
            load_mesh_vae(head, tmp_path / "other.npz")


def test_conditioning_of_the_shipped_components_in_single_precision(head, model):
    """Against double precision, half of the face hidden: variances span six orders of magnitude."""
    branch, rng = model.linear, np.random.default_rng(0)
    rows = np.asarray(branch._rows_at_centres(), np.float64)
    scales = np.asarray(branch.scales[...], np.float64)
    assert (scales.max() / scales.min()) ** 2 > 1e5
    x = jnp.asarray(branch.to_vertices(jnp.asarray(rng.standard_normal(len(scales)), jnp.float32)))
    visible = head.v_template[:, 0] > 0
    mean, factor, scale = jax.jit(lambda x, v: branch.fitted(x, v))(x, visible)
    centres = np.asarray(branch.centres.get_value())
    seen = np.repeat(np.asarray(visible)[centres], 3)
    part, data = (scales[:, None] * rows)[:, seen], np.asarray(x, np.float64)[centres].reshape(-1)[seen]
    precision = part @ part.T / branch.noise**2 + np.eye(len(scales))
    expected = np.linalg.solve(precision, part @ data / branch.noise**2)
    to_vertices = jax.jit(branch.to_vertices)
    away = 1e3 * float(model.spread[...]) * (to_vertices(mean) - to_vertices(jnp.asarray(expected, jnp.float32)))
    assert np.abs(away[visible]).max() < 0.01 and np.abs(away).max() < 0.3  # mm
    inverse = np.linalg.inv(np.asarray(factor, np.float64)) * np.asarray(scale, np.float64)
    covariance = inverse.T @ inverse
    np.testing.assert_allclose(np.diag(covariance), np.diag(np.linalg.inv(precision)), rtol=0.05)


def test_new_heads_are_completed(head, model):
    """Draws from the head model with its local models, behind masks: mm from the truth, mean head beside it."""
    drawn = with_local(head, load_local_model(head, variant="full"))
    keys = jax.random.split(jax.random.key(1234), 4)
    heads = jax.jit(jax.vmap(lambda key: draw_head(SyntheticHeads(drawn, jnp.zeros((1, 5, 3))), key)))(keys)
    masks = mask_maker(head, seed=3, count=8)
    hidden = jax.vmap(lambda key, kind: hidden_vertices(masks, key, jnp.asarray(0.3), kind))(keys, jnp.arange(4) % 2)

    @jax.jit
    def both(heads, visible):
        return model.complete(heads, visible), model.sample(heads, visible, jax.random.key(0), 4)

    completed, samples = both(heads, ~hidden)
    error = 1e3 * np.linalg.norm(completed - heads, axis=-1)
    plain = 1e3 * np.linalg.norm(model.mean[...][None] - heads, axis=-1)
    assert np.median(error[~hidden]) < 0.15
    assert np.median(error[hidden]) < 0.35 * np.median(plain[hidden])
    spread = 1e3 * np.asarray(samples.std(axis=1)).max(axis=-1)
    assert np.median(spread[~hidden]) < 0.2 < np.median(spread[hidden])
