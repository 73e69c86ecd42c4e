"""Devices that share a batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, PartitionSpec

AXIS = "batch"
EVERYWHERE, SPLIT = PartitionSpec(), PartitionSpec(AXIS)
"""The same arrays on all devices; a batch's examples, each on one of them."""


def device_mesh(count: int | None) -> Mesh:
    """The devices that share a batch. Raises: ValueError, there are not so many."""
    found = jax.devices()
    if count is not None and not 1 <= count <= len(found):
        raise ValueError(f"--devices {count}, but there are {len(found)}.")
    return jax.make_mesh((count or len(found),), (AXIS,), axis_types=(AxisType.Auto,), devices=found[:count])


def share_of(batch_size: int, mesh: Mesh) -> int:
    """Examples of a device. Raises: ValueError, the batch cannot be shared out evenly."""
    if batch_size % mesh.devices.size:
        raise ValueError(f"--batch-size {batch_size} cannot be shared by {mesh.devices.size} devices evenly.")
    return batch_size // mesh.devices.size


def compiled_step(shard: Callable[..., Any], mesh: Mesh) -> Callable[..., Any]:
    """The jitted step of what one device does, (state, rest, fixed, its examples) -> (state, losses): all but the
    examples is the same on all devices, and the state's memory is used again."""
    specs = (EVERYWHERE, EVERYWHERE, EVERYWHERE, SPLIT)
    sharded = jax.shard_map(shard, mesh=mesh, in_specs=specs, out_specs=EVERYWHERE, check_vma=False)
    return jax.jit(sharded, donate_argnums=0)
