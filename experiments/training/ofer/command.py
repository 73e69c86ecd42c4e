"""The commands that train IdGen, ExpGen and IdRank: read scans or photos, train, write and evaluate the weights."""

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
from experiments.training.checkpoints import RunFolder
from experiments.training.devices import device_mesh, examples_per_device
from experiments.training.ofer.coefficients import scan_coefficients
from experiments.training.ofer.data import TrainingData, online_data, stored_data
from experiments.training.ofer.evaluation import GeneratorEvaluator, RankEvaluator
from experiments.training.ofer.examples import make_example_source
from experiments.training.ofer.photo_examples import photo_examples
from experiments.training.ofer.settings import (  # fmt: skip
    SMOKE_BATCH,
    SMOKE_EVAL_EXAMPLES,
    GeneratorOptions,
    OferOptions,
    RankOptions,
)
from experiments.training.ofer.step import RankConstants, make_rank_step
from experiments.training.ofer.train import resize_architecture, train_conditioned, train_generator_on
from experiments.training.weights import write_weights
from flamejax.head import HeadModel
from models.encoders import ArcFace, FaRL
from models.encoders.conditioned import Conditioned, image_encoders, load_image_encoders
from models.encoders.landmark import reference_landmarks
from models.ofer_weights import NETWORKS, build_rank, load_generator, load_rank, write_generator, write_rank
from models.rank import IdRank, IdRankConfig, frontal_face, frontal_vertices
from models.weight_files import digest_of_weights, flat_state


def run_generator(options: GeneratorOptions, console: Console) -> dict[str, float]:
    """Train IdGen or ExpGen, or resume training. Returns the final errors on validation examples.

    Examples are drawn online if the landmark encoder is the only encoder, and come from photos otherwise.

    Raises:
      ValueError: options, scans, photos or a head that cannot be used. RuntimeError: the loss is not finite any more;
        the last good checkpoint is kept. FileNotFoundError: an image encoder's file is missing. OSError: the folder
        cannot be written, or a photo cannot be read.
    """
    options, started = options.with_smoke_settings(SMOKE_BATCH, SMOKE_EVAL_EXAMPLES), time.perf_counter()
    config, kind = options.training, options.architecture.kind
    head = flamejax.load_head(options.head)
    frontal_vertices(head)  # Raises now, not after training, for a head without a front of the face.
    size = head.num_betas if kind == "identity" else head.num_expression + 3
    architecture = resize_architecture(options.architecture, size, config)
    run_folder = _checked_run_folder(options, architecture)
    encoders = load_image_encoders(architecture.encoders, options.encoder_files())
    data = training_data(options, head, kind, encoders, console)
    assert data.validation is not None  # the commands' data always have validation examples
    reference = reference_landmarks(head)
    model, _ = train_generator_on(head, reference, data, config, architecture, run_folder, console, encoders)
    evaluator = GeneratorEvaluator(head, data.validation(options.final_eval_examples), architecture)
    return write_weights(
        options, f"{NETWORKS[kind].lower()}.npz", lambda path, notes: write_generator(path, head, model, notes),
        lambda path: evaluator.errors(load_generator(head, kind, path, encoders)),
        provenance(options, architecture.encoders), console, started,
    )  # fmt: skip


def run_rank(options: RankOptions, console: Console) -> dict[str, float]:
    """Train IdRank, or resume training. Returns the final errors on validation examples.

    Raises:
      As `run_generator`; FileNotFoundError, HeadFileError: there is no IdGen of this head.
    """
    options, started = options.with_smoke_settings(SMOKE_BATCH, SMOKE_EVAL_EXAMPLES), time.perf_counter()
    if options.smoke:
        options = replace(options, training=replace(options.training, candidates=8))
    config, architecture = options.training, options.architecture
    head = flamejax.load_head(options.head)
    run_folder = _checked_run_folder(options, architecture)
    files = options.encoder_files()
    encoders = load_image_encoders(architecture.encoders, files)
    idgen = load_generator(head, "identity", options.idgen, {**files, **encoders})
    check_idgen_encoders(architecture, idgen)
    data = training_data(options, head, "identity", encoders, console)
    assert data.validation is not None  # the commands' data always have validation examples
    model = build_rank(head, architecture, config.seed, encoders)
    copy_idgen_encoders(model, idgen)
    face, digest = frontal_face(head), digest_of_weights(idgen)
    run_folder = replace(run_folder, fingerprint={**run_folder.fingerprint, "idgen_digest": digest})
    make_evaluator = partial(RankEvaluator, idgen, face, candidates=config.candidates)
    trained, _ = train_conditioned(
        model, make_rank_step, RankConstants(face, idgen, data.source),
        make_evaluator(data.validation(config.eval_examples)), data, config, run_folder, console,
        "ranked {ranked_mm:.3f} mm",
    )  # fmt: skip
    final_evaluator = make_evaluator(data.validation(options.final_eval_examples))
    return write_weights(
        options, "idrank.npz", lambda path, notes: write_rank(path, head, trained, notes),
        lambda path: final_evaluator.errors(load_rank(head, path, encoders)),
        {**provenance(options, architecture.encoders), "idgen": digest}, console, started,
    )  # fmt: skip


def _checked_run_folder(options: OferOptions, architecture: Any) -> RunFolder:
    """Returns the run's folder, after checks of the options that should fail before photos are read.

    Raises:
      ValueError: the batch cannot be divided evenly, or the folder has a run with other settings.
    """
    examples_per_device(options.training.batch_size, device_mesh(options.training.devices))
    fingerprint = {**options.fingerprint(), "architecture": asdict(architecture)}
    run_folder = RunFolder(options.workdir, options.restart, fingerprint)
    run_folder.check_fingerprint()
    return run_folder


def training_data(
    options: OferOptions, head: HeadModel, kind: str, encoders: Mapping[Any, ArcFace | FaRL], console: Console
) -> TrainingData:
    """Returns the data of a run: examples from photos with image encoders, examples drawn online without.

    Args:
      kind: what is learned, identity or expression. encoders: the image encoders whose features are needed.

    Raises:
      ValueError: the options conflict, or scans or photos cannot be used. OSError: a file cannot be read or written.
    """
    config: Any = options.training
    if encoders:
        return stored_data(*photo_examples(options, head, kind, encoders, console), config)
    if options.photos is not None or options.dataset is not None or options.encoder_files():
        raise ValueError(
            "--photos, --dataset, --arcface and --farl are for networks that see photos (idgen, expgen, idrank); this "
            "one sees only landmarks, and its examples are drawn online."
        )
    coefficients = [scan_coefficients(head, split, options, console) for split in ("train", "validation")]
    training, validation = (make_example_source(head, scans) for scans in coefficients)
    return online_data(training, validation, config)


def check_idgen_encoders(architecture: IdRankConfig, idgen: Conditioned) -> None:
    """Check that the ranker has all of IdGen's image encoders. Raises: ValueError, one is missing."""
    missing = set(idgen.config.encoders) - {"landmark"} - set(architecture.encoders)
    if missing:
        raise ValueError(
            f"this IdGen looks at photos through {', '.join(sorted(missing))}, and the ranker does not: train "
            "--config idrank, or give an --idgen that sees only landmarks."
        )


def copy_idgen_encoders(model: IdRank, idgen: Any) -> None:
    """Initialise the ranker's encoders with IdGen's trained ones, if they are of the same shape."""
    shapes = [{k: v.shape for k, v in flat_state(network.encoders).items()} for network in (idgen, model)]
    if shapes[0] == shapes[1]:
        nnx.update(model.encoders, jax.tree.map(jnp.copy, nnx.state(idgen.encoders, nnx.Param)))


def provenance(options: OferOptions, encoders: tuple[str, ...]) -> dict[str, str]:
    """Returns the notes on the data and the licence of weights."""
    data, licence = "drawn online: the open head, expressions of the open scans, CC0", "CC0-1.0"
    if image_encoders(encoders):
        data = "photos of the open scans, CC0" if options.photos is None else "own photos"
        licence = f"that of the photos and of the weights of {' and '.join(image_encoders(encoders))}"
    elif options.scans is not None:
        data, licence = "own scans", "that of the head and the scans"
    return {"data": data, "licence": licence}
