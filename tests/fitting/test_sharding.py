"""Programs over photos: batch axes, compilation, and sharding over four virtual devices."""

import functools
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fitting.sharding import sharded_map, sharded_program


@functools.lru_cache
def program(devices):
    return sharded_program(lambda head, photos: head + jnp.cumsum(photos["a"], axis=-1), devices)


@pytest.mark.parametrize("batch", [(), (1,), (3,), (2, 2)])
def test_results_have_the_batch_axes_of_the_photos(batch):
    photos = {"a": np.random.default_rng(0).normal(size=(*batch, 4)).astype(np.float32)}
    result = sharded_map(program, jnp.ones(()), photos, batch)
    np.testing.assert_allclose(result, 1 + np.cumsum(photos["a"], axis=-1), rtol=1e-5)


def test_an_empty_batch_is_refused_and_equal_batches_compile_once():
    with pytest.raises(ValueError, match="at least one photo"):
        sharded_map(program, jnp.ones(()), {"a": jnp.zeros((0, 4))}, (0,))
    one = (jax.devices()[0],)
    program(one).clear_cache()
    for batch in ((6,), (2, 3), (6,)):
        sharded_map(program, jnp.ones(()), {"a": jnp.zeros((*batch, 4))}, batch, one)
    assert program(one)._cache_size() == 1


FOUR_DEVICES = """
import numpy as np, jax, jax.numpy as jnp
from fitting.photometric_fit import visible_face_index
from fitting.sharding import sharded_map, sharded_program
from tests.fitting.scenes import random_geometry, small_head
assert jax.device_count() == 4
faces = lambda head, photos: jax.vmap(lambda geometry: visible_face_index(head, geometry, 32))(photos)
geometry = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(random_geometry(small_head(), i) for i in range(5)))
run = lambda devices: sharded_map(lambda d: sharded_program(faces, d), small_head(), geometry, (5,), devices)
sharded, single = run(None), run((jax.devices()[0],))
np.testing.assert_array_equal(sharded, single)
print("covered", (np.asarray(sharded) >= 0).mean(axis=(1, 2)).min())
"""


def test_four_devices_rasterize_five_heads_as_one_device_does(four_devices):
    """Five photos on four devices are padded by the last. The rasterizer sorts, which must stay on each device."""
    run = subprocess.run(
        [sys.executable, "-c", FOUR_DEVICES], capture_output=True, text=True, env=four_devices, check=False,
        cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-2000:]
    assert float(run.stdout.split("covered")[1]) > 0.1
