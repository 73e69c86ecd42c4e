"""The programs of a fit export to CPU, CUDA and TPU, without host callbacks."""

import re

import jax
import pytest
from jax import export

from fitting.global_fit import fit_batch
from fitting.occlusion import OcclusionConfig, masks_batch
from tests.fitting.scenes import QUICK, SMALL

PROGRAMS = {
    "fast": lambda model, photos: fit_batch(model, photos, SMALL),
    "code": lambda model, photos: fit_batch(model, photos, QUICK["code"]),
    "masks": lambda model, photos: masks_batch(
        model.head, photos, SMALL, OcclusionConfig(32, rounds=2, smoothing_steps=4)
    ),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_programs_export_to_cpu_cuda_and_tpu_without_host_callbacks(model, photos, name):
    exported = export.export(jax.jit(PROGRAMS[name]), platforms=["cpu", "cuda", "tpu"])(model, photos)
    assert set(exported.platforms) == {"cpu", "cuda", "tpu"}
    module = re.sub(r"(?m)^#loc.*$", "", exported.mlir_module())  # locations name this test
    assert "callback" not in module
    calls = set(re.findall(r"custom_call @([\w\.]+)", module))
    assert all("lapack" in c or "cusolver" in c or "cu_" in c or c == "LuDecomposition" for c in calls), calls
