"""The commands that train IdGen, ExpGen and IdRank: read scans or photos, train, write and judge the weights."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from rich.console import Console

import flamejax
from experiments.training.checkpoints import Place
from experiments.training.devices import device_mesh, share_of
from experiments.training.ofer.coefficients import scan_coefficients
from experiments.training.ofer.data import Data, drawn_data, known_data
from experiments.training.ofer.examples import make_source
from experiments.training.ofer.judge import GeneratorEvaluator, RankEvaluator
from experiments.training.ofer.photo_examples import photo_examples
from experiments.training.ofer.settings import (  # fmt: skip
    SMOKE_BATCH,
    SMOKE_JUDGED,
    GeneratorOptions,
    OferOptions,
    RankOptions,
)
from experiments.training.ofer.step import RankFixed, make_rank_step
from experiments.training.ofer.train import fitted_to, train_conditioned, train_on
from experiments.training.weights import keep_weights
from flamejax.head import HeadModel
from models.encoders import ArcFace, FaRL
from models.encoders.landmark import reference_landmarks
from models.encoders.parts import Conditioned, image_encoders, load_image_encoders
from models.ofer_weights import NETWORKS, build_rank, load_generator, load_rank, write_generator, write_rank
from models.rank import IdRank, IdRankConfig, frontal_face, frontal_vertices
from models.weight_files import digest_of_weights, flat_state


def run_generator(options: GeneratorOptions, console: Console) -> dict[str, float]:
    """Train IdGen or ExpGen, or go on with it. Returns the errors on validation examples at the end.

    Examples are drawn online if the encoder is the landmark encoder alone, and come from photos otherwise.

    Raises:
      ValueError: options, scans, photos or a head that cannot be used. RuntimeError: the loss is no number any more;
        the last good checkpoint is kept. FileNotFoundError: there is no file of an image encoder. OSError: the folder
        cannot be written, or a photo not be read.
    """
    options, started = options.smoked(SMOKE_BATCH, SMOKE_JUDGED), time.perf_counter()
    config, kind = options.training, options.architecture.kind
    head = flamejax.load_head(options.head)
    frontal_vertices(head)  # A head without a front of the face could be trained for, and not be used.
    size = head.num_betas if kind == "identity" else head.num_expression + 3
    architecture = fitted_to(options.architecture, size, config)
    place = _checked_place(options, architecture)
    encoders = load_image_encoders(architecture.encoders, options.encoder_files())
    data = training_data(options, head, kind, encoders, console)
    assert data.held_out is not None  # the commands' data always have them
    model, _ = train_on(head, reference_landmarks(head), data, config, architecture, place, console, encoders)
    judge = GeneratorEvaluator(head, data.held_out(options.judged_at_end), architecture)
    return keep_weights(
        options, f"{NETWORKS[kind].lower()}.npz", lambda path, notes: write_generator(path, head, model, notes),
        lambda path: judge.errors(load_generator(head, kind, path, encoders)),
        provenance(options, architecture.encoders), console, started,
    )  # fmt: skip


def run_rank(options: RankOptions, console: Console) -> dict[str, float]:
    """Train IdRank, or go on with it. Returns the errors on validation examples at the end.

    Raises:
      As `run_generator`; FileNotFoundError, HeadFileError: no IdGen of this head.
    """
    options, started = options.smoked(SMOKE_BATCH, SMOKE_JUDGED), time.perf_counter()
    if options.smoke:
        options = replace(options, training=replace(options.training, candidates=8))
    config, architecture = options.training, options.architecture
    head = flamejax.load_head(options.head)
    place = _checked_place(options, architecture)
    files = options.encoder_files()
    encoders = load_image_encoders(architecture.encoders, files)
    idgen = load_generator(head, "identity", options.idgen, {**files, **encoders})
    check_sight(architecture, idgen)
    data = training_data(options, head, "identity", encoders, console)
    assert data.held_out is not None  # the commands' data always have them
    model = build_rank(head, architecture, config.seed, encoders)
    learned_before(model, idgen)
    face, digest = frontal_face(head), digest_of_weights(idgen)
    place = replace(place, facts={**place.facts, "idgen_digest": digest})
    judged = partial(RankEvaluator, idgen, face, candidates=config.candidates)
    trained, _ = train_conditioned(
        model, make_rank_step, RankFixed(face, idgen, data.source), judged(data.held_out(config.judged)),
        data, config, place, console, "ranked {ranked_mm:.3f} mm",
    )  # fmt: skip
    final = judged(data.held_out(options.judged_at_end))
    return keep_weights(
        options, "idrank.npz", lambda path, notes: write_rank(path, head, trained, notes),
        lambda path: final.errors(load_rank(head, path, encoders)),
        {**provenance(options, architecture.encoders), "idgen": digest}, console, started,
    )  # fmt: skip


def _checked_place(options: OferOptions, architecture: Any) -> Place:
    """Where a run is kept. What is wrong with the options is said before photos are read.

    Raises:
      ValueError: the batch cannot be shared out, or a run with other settings lies there.
    """
    share_of(options.training.batch_size, device_mesh(options.training.devices))
    facts = {**options.fingerprint(), "architecture": asdict(architecture)}
    place = Place(options.workdir, options.restart, facts)
    place.check()
    return place


def training_data(
    options: OferOptions, head: HeadModel, kind: str, encoders: Mapping[Any, ArcFace | FaRL], console: Console
) -> Data:
    """The data of a run.

    Args:
      kind: what is learned. encoders: the image encoders whose features it needs; without any, examples are drawn.

    Raises:
      ValueError: options that do not go together, scans or photos that cannot be used. OSError: disk trouble.
    """
    config: Any = options.training
    if encoders:
        return known_data(*photo_examples(options, head, kind, encoders, console), config)
    if options.photos is not None or options.dataset is not None or options.encoder_files():
        raise ValueError(
            "--photos, --dataset, --arcface and --farl are of networks that look at photos (idgen, expgen, idrank); "
            "this one sees landmarks alone, and its examples are drawn."
        )
    found = [scan_coefficients(head, split, options, console) for split in ("train", "validation")]
    training, validation = (make_source(head, scans) for scans in found)
    return drawn_data(training, validation, config)


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
        nnx.update(model.encoders, jax.tree.map(jnp.copy, nnx.state(idgen.encoders, nnx.Param)))


def provenance(options: OferOptions, encoders: tuple[str, ...]) -> dict[str, str]:
    """What weights are made of."""
    data, licence = "drawn online: the open head, expressions of the open scans, CC0", "CC0-1.0"
    if image_encoders(encoders):
        data = "photos of the open scans, CC0" if options.photos is None else "own photos"
        licence = f"that of the photos and of the weights of {' and '.join(image_encoders(encoders))}"
    elif options.scans is not None:
        data, licence = "own scans", "that of the head and the scans"
    return {"data": data, "licence": licence}
