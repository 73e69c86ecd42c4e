"""The run that trains IdRank."""

from __future__ import annotations

import time
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from rich.console import Console

import flamejax
from experiments.ofer.examples import Examples, draw_examples
from experiments.ofer.judge import SEED
from experiments.ofer.rank_step import RankFixed, RankLosses, candidates_of, make_rank_step
from experiments.ofer.settings import RankSettings, smoke_settings
from experiments.ofer.step import TrainState, optimizer_of, share_of, start_state
from experiments.ofer.train import introduce, notes_of, report, sources
from experiments.training.checkpoints import Checkpoints, check_settings
from experiments.training.devices import device_mesh
from experiments.training.loop import Endless, Loop
from models.ofer_weights import build_rank, load_generator, load_rank, write_rank
from models.rank import FrontalFace, IdRank, IdRankConfig, frontal_face, rank_errors
from models.weight_files import flat_state

JUDGED, JUDGED_AT_END = 64, 256


def train_rank(settings: RankSettings, architecture: IdRankConfig, console: Console) -> dict[str, float]:
    """Train, or go on with it. Returns the errors on validation examples at the end.

    Raises:
      As `experiments.ofer.train.train`; FileNotFoundError, HeadFileError: no IdGen of this head.
    """
    settings = smoke_settings(settings) if settings.smoke else settings
    if settings.smoke:
        settings = replace(settings, candidates=8)
    started = time.perf_counter()
    head = flamejax.load_head(settings.head)
    mesh = device_mesh(settings.devices)
    share_of(settings, mesh)
    check_settings(settings, asdict(architecture))
    idgen = load_generator(head, "identity", settings.idgen)
    idgen_graphdef, idgen_state = nnx.split(idgen)
    training, validation = sources(settings, head, console)
    model = build_rank(head, architecture, settings.seed)
    learned_before(model, idgen)
    graphdef, state = nnx.split(model)
    params, rest = nnx.split_state(state, nnx.Param, ...)
    optimizer = optimizer_of(settings)
    introduce(console, settings, model, mesh.devices.size)
    face = frontal_face(head)
    fixed = RankFixed(rest, training, face, idgen_state)

    checkpoints = Checkpoints(settings, asdict(architecture))
    try:
        step = make_rank_step(graphdef, idgen_graphdef, settings, optimizer, mesh)
        everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
        start = jax.device_put(start_state(params, optimizer), everywhere)

        def judged(count: int) -> Any:
            examples = jax.jit(draw_examples, static_argnums=2)(validation, jax.random.key(SEED), count)
            keys = jax.random.split(jax.random.key(SEED), count)
            drawn = jax.jit(
                lambda e, k: candidates_of(idgen, e.points, e.visible, k, settings.candidates, settings.sampler_steps)
            )(examples, keys)
            return lambda model: rank_figures(model, face, examples, drawn)

        def go_on(state: TrainState, _: Any) -> tuple[TrainState, RankLosses]:
            return step(state, fixed)

        def merged(state: TrainState) -> IdRank:
            return nnx.merge(graphdef, jax.device_put(state.average, jax.devices()[0]), rest)

        few = judged(8 if settings.smoke else JUDGED)
        loop = Loop(settings, checkpoints, console, lambda row: f"ranked {row['ranked_mm']:.3f} mm")
        state = loop.run(start, go_on, Endless(), lambda state: (few(merged(state)), None), "validation: ")
        output = settings.output or settings.workdir / "idrank.npz"
        output.parent.mkdir(parents=True, exist_ok=True)
        write_rank(output, head, merged(state))
        errors = judged(8 if settings.smoke else JUDGED_AT_END)(load_rank(head, output))
        write_rank(output, head, merged(state), notes_of(settings, errors))
        report(settings, output, errors, console, time.perf_counter() - started)
        return errors
    finally:
        checkpoints.close()


def learned_before(model: IdRank, idgen: Any) -> None:
    """Start from IdGen's landmark encoder, where it is of the same shape: it knows already what landmarks say."""
    shapes = [{k: v.shape for k, v in flat_state(owner.encoders).items()} for owner in (idgen, model)]
    if shapes[0] == shapes[1]:
        # Copies: a step gives its parameters' memory away, and IdGen keeps its own.
        nnx.update(model.encoders, jax.tree.map(jnp.copy, nnx.state(idgen.encoders, nnx.Param)))


@partial(jax.jit, static_argnums=0)
def _scored(
    graphdef: nnx.GraphDef, state: nnx.State, face: FrontalFace, examples: Examples, drawn: jax.Array
) -> tuple[jax.Array, jax.Array]:
    model = nnx.merge(graphdef, state)
    scores = model.of_betas(face, drawn, model.context(None, examples.points, examples.visible))
    return scores, rank_errors(face, drawn, examples.betas)


def rank_figures(model: IdRank, face: FrontalFace, examples: Examples, drawn: jax.Array) -> dict[str, float]:
    """Mean absolute errors, mm a coordinate, of all candidates, the ranked one and the best; and how often the ranked
    one is among the best fifth (chance: 0.2)."""
    scores, errors = (np.asarray(a) for a in _scored(*nnx.split(model), face, examples, drawn))
    best = np.take_along_axis(errors, scores.argmax(axis=1)[:, None], axis=1)
    place = (errors < best).mean(axis=1)
    return {
        "average_mm": float(errors.mean()),
        "ranked_mm": float(best.mean()),
        "minimum_mm": float(errors.min(axis=1).mean()),
        "best_fifth": float((place < 0.2).mean()),
    }
