"""Gather rows by neighbour lists, with a gradient that gathers too.

The transpose of a gather is a scatter-add, which is slow on TPUs and not deterministic on GPUs. With the inverted lists
it is a gather and a sum, which is deterministic. The two are linear primitives and each other's transpose, so that
forward mode, reverse mode, their combinations and vmap work.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from models.hierarchy import NeighbourLists


def gather(lists: NeighbourLists, rows: Array) -> Array:
    """Gather the rows (S, K) of each target's neighbours: (P, N, K).

    Padding holds row 0, which callers must mask.

    Raises:
      ValueError: the number of rows is not that of the sources, which JAX's indexing would not notice.
    """
    if rows.ndim != 2 or rows.shape[0] != lists.num_sources:
        raise ValueError(f"rows are ({lists.num_sources}, K), one for each source, not {rows.shape}.")
    return _gather_p.bind(rows, lists.index, lists.back, lists.back_mask)


def _gather(rows: Array, index: Array, back: Array, back_mask: Array) -> Array:
    return rows[index]


def _collect(edges: Array, index: Array, back: Array, back_mask: Array) -> Array:
    """Sum the edges (P, N, K) of each source: (S, K)."""
    flat = edges.reshape(-1, edges.shape[-1])
    return jnp.sum(jnp.where(back_mask[..., None], flat[back], 0), axis=1)


_gather_p, _collect_p = Primitive("gather_neighbours"), Primitive("collect_neighbours")


def _register(primitive: Primitive, transpose: Primitive, function: Any) -> None:
    primitive.def_impl(jax.jit(function))
    primitive.def_abstract_eval(lambda *avals: jax.core.ShapedArray(*_shape(function, avals)))
    mlir.register_lowering(primitive, mlir.lower_fun(function, multiple_results=False))
    ad.primitive_jvps[primitive] = lambda primals, tangents: _jvp(primitive, primals, tangents)
    ad.primitive_transposes[primitive] = lambda cotangent, operand, *lists: _transpose(transpose, cotangent, lists)
    batching.primitive_batchers[primitive] = lambda args, dims: _batch(primitive, args, dims)


def _shape(function: Any, avals: tuple[Any, ...]) -> tuple[tuple[int, ...], Any]:
    out = jax.eval_shape(function, *(jax.ShapeDtypeStruct(aval.shape, aval.dtype) for aval in avals))
    return out.shape, out.dtype


def _jvp(primitive: Primitive, primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Array, Any]:
    out = primitive.bind(*primals)
    tangent = tangents[0]
    if type(tangent) is ad.Zero:
        return out, ad.Zero(out.aval.to_tangent_aval())
    return out, primitive.bind(tangent, *primals[1:])


def _transpose(transpose: Primitive, cotangent: Any, lists: tuple[Any, ...]) -> tuple[Any, ...]:
    if type(cotangent) is ad.Zero:
        return (None,) * 4
    return transpose.bind(cotangent, *lists), None, None, None


def _batch(primitive: Primitive, args: tuple[Any, ...], dims: tuple[Any, ...]) -> tuple[Array, int]:
    if any(dim is not None for dim in dims[1:]):
        raise NotImplementedError("vmap over neighbour lists: all examples of a batch must be of one mesh.")
    rows = jnp.moveaxis(args[0], dims[0], -1)
    out = primitive.bind(rows.reshape(*rows.shape[:-2], -1), *args[1:])
    return out.reshape(*out.shape[:-1], *rows.shape[-2:]), out.ndim


_register(_gather_p, _collect_p, _gather)
_register(_collect_p, _gather_p, _collect)
