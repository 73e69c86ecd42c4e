"""The devices that share a batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, PartitionSpec

AXIS = "batch"
REPLICATED, SHARDED = PartitionSpec(), PartitionSpec(AXIS)
"""Shardings: the same array on all devices; a batch whose examples are divided among them."""


def device_mesh(count: int | None) -> Mesh:
    """Returns a mesh of `count` devices, or of all. Raises: ValueError, there are fewer."""
    devices = jax.devices()
    if count is not None and not 1 <= count <= len(devices):
        raise ValueError(f"--devices {count}, but there are {len(devices)}.")
    return jax.make_mesh((count or len(devices),), (AXIS,), axis_types=(AxisType.Auto,), devices=devices[:count])


def examples_per_device(batch_size: int, mesh: Mesh) -> int:
    """Returns a device's share of a batch. Raises: ValueError, the batch cannot be divided evenly."""
    if batch_size % mesh.devices.size:
        raise ValueError(f"--batch-size {batch_size} cannot be shared by {mesh.devices.size} devices evenly.")
    return batch_size // mesh.devices.size


def compiled_step(shard: Callable[..., Any], mesh: Mesh) -> Callable[..., Any]:
    """Returns the jitted step of a per-device function (state, rest, constants, its examples) -> (state, losses).

    Everything but the examples is replicated. The state's memory is donated.
    """
    specs = (REPLICATED, REPLICATED, REPLICATED, SHARDED)
    sharded = jax.shard_map(shard, mesh=mesh, in_specs=specs, out_specs=REPLICATED, check_vma=False)
    return jax.jit(sharded, donate_argnums=0)
