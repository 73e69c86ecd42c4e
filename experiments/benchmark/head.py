"""`vertices` against the bare product of its bases and against other head-model libraries."""

from __future__ import annotations

import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp

import flamejax
from experiments.benchmark.timing import PeerMissing, Row, Setting, Timed, time_row
from experiments.datasets.renders import sample_scenes
from experiments.datasets.synthetic_flame import write_flame_folder
from flamejax.head import HeadModel

BATCHES = (1, 16, 64, 256)


def rows(setting: Setting) -> list[Row]:
    """Our head; with peers, also a synthetic model of FLAME's true size, which all of them can read."""
    found = gemm_rows(setting, setting.head, "vertices")
    return found + peer_rows(setting) if setting.peers else found


def gemm_rows(setting: Setting, head: HeadModel, name: str) -> list[Row]:
    """Against (B, S + E + 36) x (S + E + 36, 3 V), and that product's gradient in the coefficients."""
    width = len(head.basis)
    basis = jax.random.normal(setting.key, (width, 3 * head.num_vertices))
    found = []
    for batch in BATCHES:
        operands = jax.random.normal(setting.key, (batch, width)), basis
        gemms = Timed(jnp.matmul, *operands), Timed(jax.grad(lambda c, b: jnp.sum((c @ b) ** 2)), *operands)
        ours = vertex_programs(head, setting.key, batch)
        found.append(time_row(name, batch, ours, gemms, "bare GEMM of the bases", setting.limit))
    return found


def vertex_programs(head: HeadModel, key: jax.Array, batch: int) -> tuple[Timed, Timed]:
    """The vertices of a batch of random heads, and value and gradient of a weighted sum of theirs in all parameters."""
    params, weights = sample_scenes(head, key, batch).params, vertex_weights(head, key, batch)
    loss = jax.value_and_grad(lambda p, h, w: jnp.sum(w * flamejax.vertices(h, p)))
    return Timed(flamejax.vertices, head, params), Timed(loss, params, head, weights)


def vertex_weights(head: HeadModel, key: jax.Array, batch: int) -> jax.Array:
    """(B, V, 3): the cotangent of the vertices in all gradients."""
    return jax.random.normal(key, (batch, head.num_vertices, 3))


def peer_rows(setting: Setting) -> list[Row]:
    """FLAME's size: against the bare product, and each peer in turn. What is not installed is said and left out."""
    from experiments.benchmark.head_peers import PEERS

    found = []
    with tempfile.TemporaryDirectory() as name:
        model = write_flame_folder(Path(name) / "FLAME2020")
        head = flamejax.load_head(model)
        found += gemm_rows(setting, head, "vertices, FLAME's size")
        for peer, load in PEERS.items():
            try:
                found += [_peer_row(setting, head, peer, load, model, batch) for batch in BATCHES]
            except PeerMissing as missing:
                setting.say(str(missing))
    return found


def _peer_row(setting: Setting, head: HeadModel, peer: str, load, model: Path, batch: int) -> Row:  # noqa: ANN001
    params = sample_scenes(head, setting.key, batch).params
    ours = vertex_programs(head, setting.key, batch)
    theirs = load(model, params.to_smplx(), vertex_weights(head, setting.key, batch))
    difference = jnp.max(jnp.abs(jnp.asarray(theirs[0].result()) - ours[0].result()))
    if not difference < 1e-5:
        raise RuntimeError(f"{peer} and flamejax give vertices {difference:.1e} m apart: not the same work.")
    return time_row("vertices, FLAME's size", batch, ours, theirs, peer, setting.limit)
