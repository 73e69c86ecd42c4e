"""Devices that share a batch."""

from __future__ import annotations

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

AXIS = "batch"


def device_mesh(count: int | None) -> Mesh:
    """The devices that share a batch. Raises: ValueError, there are not so many."""
    found = jax.devices()
    if count is not None and not 1 <= count <= len(found):
        raise ValueError(f"--devices {count}, but there are {len(found)}.")
    return jax.make_mesh((count or len(found),), (AXIS,), axis_types=(AxisType.Auto,), devices=found[:count])


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Where a batch's examples lie."""
    return NamedSharding(mesh, PartitionSpec(AXIS))
