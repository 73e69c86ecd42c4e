"""All samplers' programs can be exported to CPU, GPU and TPU, without host callbacks."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import pytest
from jax import export

from sampling import _diversify, _ofer, _ofer_dpp
from tests.sampling.faces import KEY, without_dense
from tests.sampling.test_diversify import COUNT, RUN
from tests.sampling.test_ofer import DRAWS, POOL, QUICK

PLATFORMS = ["cpu", "cuda", "tpu"]


def programs(sampler, halves, model, networks):
    """Return the jitted (replicated, photos) program of a sampler as in its tests, and its replicated arguments."""
    device, dpp_params = (jax.devices()[0],), jnp.asarray([0.5, 3.0])
    fixed = dataclasses.replace(RUN, k=0.0, n_sigma=0.0)
    if sampler == "diversify":
        return _diversify._program(fixed, COUNT, True, device), (halves, model, dpp_params)
    if sampler == "single stage":
        return _diversify._program(fixed, COUNT, False, device), (model, dpp_params)
    head = without_dense()
    if sampler == "ofer":
        return _ofer._program(QUICK, DRAWS, device), (networks, head)
    return _ofer_dpp._program(POOL, DRAWS, device), (networks, head)


@pytest.mark.parametrize("sampler", ["diversify", "single stage", "ofer", "ofer_dpp"])
def test_program_exports_for_all_platforms_without_callbacks(sampler, halves, model, networks, fit, photo):
    program, replicated = programs(sampler, halves, model, networks)
    photos = jax.tree.map(lambda leaf: leaf[None], (fit, photo, KEY))
    flat, tree = jax.tree.flatten((replicated, photos))
    exported = export.export(
        jax.jit(lambda *leaves: program(*jax.tree.unflatten(tree, leaves)).vertices), platforms=PLATFORMS
    )(*flat)
    assert set(exported.platforms) == set(PLATFORMS)
    assert "callback" not in re.sub(r"(?m)^#loc.*$", "", exported.mlir_module())
