"""Comparison of programs on four virtual devices and on one device.

It needs a separate process, since the devices are fixed when JAX starts. `tests/test_multi_device.py` starts one for
several checks.

python -m tests.multi_device CHECK...   # prints {check: the largest difference} as JSON
"""

import json
import sys

import jax
import jax.numpy as jnp
import numpy as np

DEVICES = 4


def sharded_programs() -> float:
    """Compare any program over photos: five photos, which four devices cannot divide evenly, and several batch axes."""
    from fitting.sharding import sharded_map, sharded_program

    def program_on(devices):
        return sharded_program(lambda factor, photos: jax.vmap(lambda x: factor * jnp.cumsum(x))(photos), devices)

    differences = []
    for batch in ((5,), (2, 3), (1,), ()):
        photos = jnp.asarray(np.random.default_rng(0).normal(size=(*batch, 7)), jnp.float32)
        devices = None, (jax.devices()[0],)
        sharded, single = (sharded_map(program_on, jnp.float32(2), photos, batch, d) for d in devices)
        assert sharded.shape == photos.shape
        differences += [jnp.abs(sharded - single).max(), jnp.abs(single - 2 * jnp.cumsum(photos, axis=-1)).max()]
    return float(max(differences))


def algorithm_2() -> float:
    """Compare diverse heads of five photos, metres."""
    from sampling import diversify
    from tests.sampling.faces import KEY, make_fit, observed, small_model, small_vae
    from tests.sampling.test_diversify import RUN

    fit = make_fit((5,))
    photo, keys = observed(fit), jax.random.split(KEY, 5)
    sharded, single = (
        diversify(small_vae(True), small_model(), fit, photo, keys, num_samples=3, config=RUN, devices=devices)
        for devices in (None, (jax.devices()[0],))
    )
    return float(jnp.abs(sharded.vertices - jax.device_put(single.vertices, sharded.vertices.sharding)).max())


CHECKS = {"sharded programs": sharded_programs, "algorithm 2": algorithm_2}

if __name__ == "__main__":
    jax.config.update("jax_numpy_rank_promotion", "raise")
    assert jax.device_count() == DEVICES
    print(json.dumps({name: CHECKS[name]() for name in sys.argv[1:]}))
