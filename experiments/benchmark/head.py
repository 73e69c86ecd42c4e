"""Times `vertices` against the matrix product of its bases and against other head-model libraries."""

from __future__ import annotations

import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp

import flamejax
from experiments.benchmark.timing import CompiledCall, PeerMissing, Row, Setting, time_row
from experiments.datasets.renders import sample_scenes
from experiments.datasets.synthetic_flame import write_flame_folder
from flamejax.head import HeadModel

BATCHES = (1, 16, 64, 256)


def head_rows(setting: Setting) -> list[Row]:
    """Time our head; with peers, also a synthetic model of FLAME's true size, which all of them can read."""
    rows = gemm_rows(setting, setting.head, "vertices")
    return rows + peer_rows(setting) if setting.peers else rows


def gemm_rows(setting: Setting, head: HeadModel, name: str) -> list[Row]:
    """Time vertices against the product (B, S + E + 36) x (S + E + 36, 3 V), and both gradients."""
    width = len(head.basis)
    basis = jax.random.normal(setting.key, (width, 3 * head.num_vertices))
    rows = []
    for batch in BATCHES:
        operands = jax.random.normal(setting.key, (batch, width)), basis
        gradient = jax.grad(lambda c, b: jnp.sum((c @ b) ** 2))
        gemms = CompiledCall(jnp.matmul, *operands), CompiledCall(gradient, *operands)
        ours = vertex_programs(head, setting.key, batch)
        rows.append(time_row(name, batch, ours, gemms, "bare GEMM of the bases", setting.limit))
    return rows


def vertex_programs(head: HeadModel, key: jax.Array, batch: int) -> tuple[CompiledCall, CompiledCall]:
    """Return programs of the vertices of random heads, and of the value and gradient of their weighted sum."""
    params, weights = sample_scenes(head, key, batch).params, vertex_weights(head, key, batch)
    loss = jax.value_and_grad(lambda p, h, w: jnp.sum(w * flamejax.vertices(h, p)))
    return CompiledCall(flamejax.vertices, head, params), CompiledCall(loss, params, head, weights)


def vertex_weights(head: HeadModel, key: jax.Array, batch: int) -> jax.Array:
    """Return random weights (B, V, 3) of the vertices: the cotangent in all gradients."""
    return jax.random.normal(key, (batch, head.num_vertices, 3))


def peer_rows(setting: Setting) -> list[Row]:
    """Time a model of FLAME's size against the matrix product and each peer; report peers that are not installed."""
    from experiments.benchmark.head_peers import PEERS

    rows = []
    with tempfile.TemporaryDirectory() as name:
        model = write_flame_folder(Path(name) / "FLAME2020")
        head = flamejax.load_head(model)
        rows += gemm_rows(setting, head, "vertices, FLAME's size")
        for peer, load in PEERS.items():
            try:
                rows += [_peer_row(setting, head, peer, load, model, batch) for batch in BATCHES]
            except PeerMissing as missing:
                setting.report(str(missing))
    return rows


def _peer_row(setting: Setting, head: HeadModel, peer: str, load, model: Path, batch: int) -> Row:  # noqa: ANN001
    params = sample_scenes(head, setting.key, batch).params
    ours = vertex_programs(head, setting.key, batch)
    theirs = load(model, params.to_smplx(), vertex_weights(head, setting.key, batch))
    difference = jnp.max(jnp.abs(jnp.asarray(theirs[0].run()) - ours[0].run()))
    if not difference < 1e-5:
        raise RuntimeError(f"{peer} and flamejax give vertices {difference:.1e} m apart: not the same work.")
    return time_row("vertices, FLAME's size", batch, ours, theirs, peer, setting.limit)
