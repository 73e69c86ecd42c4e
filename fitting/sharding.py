"""Run programs on batches of photos, with the photos sharded over devices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec


def sharded_program(function: Callable[[Any, Any], Any], devices: tuple[jax.Device, ...]) -> Any:
    """Jit `function(replicated, photos)`, with `replicated` on all devices, and photos and results sharded."""
    if len(devices) == 1:
        return jax.jit(function)
    mesh = Mesh(np.asarray(devices), ("photos",))
    photos, replicated = PartitionSpec("photos"), PartitionSpec()
    # shard_map instead of automatic partitioning: photos are independent, and the rasterizer's sort must stay local.
    sharded = jax.shard_map(function, mesh=mesh, in_specs=(replicated, photos), out_specs=photos, check_vma=False)
    return jax.jit(sharded)


def sharded_map(
    make_program: Callable[[tuple[jax.Device, ...]], Any],
    replicated: Any,
    photos: Any,
    batch: tuple[int, ...],
    devices: tuple[jax.Device, ...] | None = None,
) -> Any:
    """Run a program on photos with any batch axes.

    Args:
      make_program: returns the `sharded_program` for given devices; should be cached, so that it compiles once.
      replicated: the program's first argument, the same for all photos.
      photos: a pytree whose leaves have the batch axes `batch`.
      devices: all devices when left out.

    Returns:
      The program's result, with the batch axes `batch`.

    Raises:
      ValueError: there is no photo.
    """
    count = int(np.prod(batch))
    if not count:
        raise ValueError("at least one photo is needed.")
    flat = jax.tree.map(lambda leaf: jnp.reshape(leaf, (-1, *leaf.shape[len(batch) :])), photos)
    devices = tuple(jax.devices()) if devices is None else devices
    devices = devices[:count]
    padding = -count % len(devices)
    if padding:  # every device gets the same number of photos; copies of the last one fill up
        flat = jax.tree.map(lambda leaf: jnp.concatenate([leaf, jnp.repeat(leaf[-1:], padding, axis=0)]), flat)
    result = make_program(devices)(replicated, flat)
    return jax.tree.map(lambda leaf: leaf[:count].reshape(*batch, *leaf.shape[1:]), result)
