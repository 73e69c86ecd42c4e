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
from experiments.training.checkpoints import Checkpoints, check_settings
from experiments.training.devices import device_mesh
from experiments.training.loop import Loop
from experiments.training.ofer.data import SEED, training_data
from experiments.training.ofer.examples import Examples
from experiments.training.ofer.rank_step import RankFixed, RankLosses, candidates_of, make_rank_step
from experiments.training.ofer.settings import SMOKE_BATCH, RankSettings
from experiments.training.ofer.step import TrainState, optimizer_of, share_of, start_state
from experiments.training.ofer.train import introduce, notes_of, record_of, report
from experiments.training.settings import smoke_settings
from models.encoders.parts import Conditioned, load_image_encoders
from models.ofer_weights import build_rank, load_generator, load_rank, write_rank
from models.rank import FrontalFace, IdRank, IdRankConfig, frontal_face, rank_errors
from models.weight_files import digest_of_weights, flat_state
from sampling import SamplerConfig

JUDGED, JUDGED_AT_END = 64, 256


def train_rank(settings: RankSettings, architecture: IdRankConfig, console: Console) -> dict[str, float]:
    """Train, or go on with it. Returns the errors on validation examples at the end.

    Raises:
      As `experiments.training.ofer.train.train`; FileNotFoundError, HeadFileError: no IdGen of this head.
    """
    settings = smoke_settings(settings, SMOKE_BATCH) if settings.smoke else settings
    if settings.smoke:
        settings = replace(settings, candidates=8)
    started = time.perf_counter()
    head = flamejax.load_head(settings.head)
    mesh = device_mesh(settings.devices)
    share_of(settings, mesh)
    check_settings(settings, asdict(architecture))
    files = settings.encoder_files()
    encoders = load_image_encoders(architecture.encoders, files)
    idgen = load_generator(head, "identity", settings.idgen, {**files, **encoders})
    check_sight(architecture, idgen)
    idgen_graphdef, idgen_state = nnx.split(idgen)
    data = training_data(settings, head, "identity", encoders, console)
    model = build_rank(head, architecture, settings.seed, encoders)
    learned_before(model, idgen)
    graphdef, state = nnx.split(model)
    params, rest = nnx.split_state(state, nnx.Param, ...)
    optimizer = optimizer_of(settings)
    introduce(console, settings, model, data, mesh.devices.size)
    face = frontal_face(head)
    fixed = RankFixed(rest, face, idgen_state)

    record = {**record_of(model, data), "idgen_digest": digest_of_weights(idgen)}
    checkpoints = Checkpoints(settings, asdict(architecture), record)
    try:
        step = make_rank_step(graphdef, idgen_graphdef, settings, optimizer, mesh, data.online)
        everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
        start = jax.device_put(start_state(params, optimizer), everywhere)

        def judged(count: int) -> Any:
            examples = data.held_out(count)
            # Judged on candidates as they are drawn for a photo, not on the quick ones of training.
            keys = jax.random.split(jax.random.fold_in(jax.random.key(SEED), 1), len(examples.points))
            drawn = _candidates(idgen_graphdef, settings.candidates, SamplerConfig().steps, idgen_state, examples, keys)
            return lambda model: rank_figures(model, face, examples, drawn)

        def go_on(state: TrainState, batch: Any) -> tuple[TrainState, RankLosses]:
            return step(state, fixed, data.feed(batch, mesh))

        def merged(state: TrainState) -> IdRank:
            return nnx.merge(graphdef, jax.device_put(state.average, jax.devices()[0]), rest)

        few = judged(8 if settings.smoke else JUDGED)
        loop = Loop(settings, checkpoints, console, lambda row: f"ranked {row['ranked_mm']:.3f} mm")
        state = loop.run(start, go_on, data.batches, lambda state: (few(merged(state)), None), "validation: ")
        output = settings.output or settings.workdir / "idrank.npz"
        output.parent.mkdir(parents=True, exist_ok=True)
        write_rank(output, head, merged(state))
        errors = judged(8 if settings.smoke else JUDGED_AT_END)(load_rank(head, output, encoders))
        notes = notes_of(settings, errors, architecture.encoders)
        write_rank(output, head, merged(state), {**notes, "idgen": record["idgen_digest"]})
        report(settings, output, errors, console, time.perf_counter() - started)
        return errors
    finally:
        checkpoints.close()


def check_sight(architecture: IdRankConfig, idgen: Conditioned) -> None:
    """Raises: ValueError, IdGen sees more than the ranker."""
    beyond = set(idgen.config.encoders) - {"landmark"} - set(architecture.encoders)
    if beyond:
        raise ValueError(
            f"this IdGen looks at photos through {', '.join(sorted(beyond))}, and the ranker does not: train "
            "--config idrank, or give an --idgen that sees landmarks alone."
        )


def learned_before(model: IdRank, idgen: Any) -> None:
    """Start from IdGen's encoders, where they are of the same shape: they know already what a photo says."""
    shapes = [{k: v.shape for k, v in flat_state(owner.encoders).items()} for owner in (idgen, model)]
    if shapes[0] == shapes[1]:
        # Copies: a step gives its parameters' memory away, and IdGen keeps its own.
        nnx.update(model.encoders, jax.tree.map(jnp.copy, nnx.state(idgen.encoders, nnx.Param)))


@partial(jax.jit, static_argnums=(0, 1, 2))
def _candidates(
    graphdef: nnx.GraphDef, count: int, steps: int, state: nnx.State, examples: Examples, keys: jax.Array
) -> jax.Array:
    return candidates_of(nnx.merge(graphdef, state), examples, keys, count, steps)


@partial(jax.jit, static_argnums=0)
def _scored(
    graphdef: nnx.GraphDef, state: nnx.State, face: FrontalFace, examples: Examples, drawn: jax.Array
) -> tuple[jax.Array, jax.Array]:
    model = nnx.merge(graphdef, state)
    scores = model.of_betas(face, drawn, examples.context(model))
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
