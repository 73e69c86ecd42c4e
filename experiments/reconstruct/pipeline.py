"""Photos through observe -> fit -> write, in batches of one fixed shape, with threads round the fit."""

from __future__ import annotations

import functools
import shutil
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import numpy as np

import flamejax
from experiments.photos import Failure, Photo
from experiments.reconstruct.config import Config
from experiments.reconstruct.observing import Face, PhotoReader, map_ahead
from experiments.reconstruct.results import FittedFace, ResultWriter
from experiments.reconstruct.sheet import write_thumbnail
from experiments.reconstruct.store import Store
from experiments.reconstruct.views import render_view, tile
from experiments.results import face_keys, reason_of
from experiments.runtime import CompileClock
from experiments.view.viewer_page import MORPHED
from fitting import FIT_REASONS, Fit, Observation, fit, observe_photo, prepare
from fitting.fit_model import FitModel
from fitting.inputs import uncovered
from fitting.occlusion import auto_masks
from flamejax.files import new_folder
from flamejax.head import HeadModel
from flamejax.io.results import HeadIdentity, vertices_of
from flamejax.types import Hypotheses
from sampling import diversify, midpoints, ofer, ofer_dpp

CPU_BATCH, ACCELERATOR_BATCH = 4, 32
WRITERS = 2
HEADS_AT_ONCE = 512
"""Hypotheses that are made at once on each accelerator."""

_render = jax.jit(functools.partial(flamejax.render, antialias=False), static_argnames="size")


@dataclass(frozen=True)
class Tools:
    """The heavy steps; tests put fakes in their places."""

    observe: Callable[..., list[Observation]]
    """`fitting.observe_photo` with a detector."""
    mask: Callable[[Any, Observation], Observation]
    """(head, observation) -> the observation with what hides the face, batched."""
    model: FitModel
    """What is fitted."""
    fit: Callable[[Observation], Fit]
    """Batched; of `model`."""
    vertices: Callable[[Any, Any], jax.Array]
    """(head, params) -> (B, V, 3)."""
    render: Callable[..., jax.Array]
    """`flamejax.render`, compiled once per size."""
    complete: Callable[[Fit, Observation, jax.Array], Hypotheses] | None = None
    """(fit, observation, keys (B,)) -> hypotheses of each face; None where none are asked for."""
    between: Callable[[Fit, Hypotheses], jax.Array] | None = None
    """(fit, hypotheses) -> heads half-way between any two (B, P, V, 3); None where hypotheses have no latents."""


def default_tools(config: Config, head: HeadModel) -> Tools:
    """The real steps. Raises: UsageError, the detector, the local models or weights cannot be used."""
    model = prepare(head, config.local_model(head))
    draw, between = drawing_tools(config, head, model)
    return Tools(
        observe=observing(config),
        mask=auto_masks if config.masks == "auto" else lambda head, observation: observation,
        model=model,
        fit=lambda observation: fit(model, observation, config.fit_config()),
        vertices=vertices_of,
        render=_render,
        complete=draw,
        between=between,
    )


def observing(config: Config) -> Callable[..., list[Observation]]:
    """`observe` of `Tools`. Raises: UsageError, the detector cannot be used."""
    return functools.partial(observe_photo, detector=config.load_detector())


def drawing_tools(config: Config, head: HeadModel, model: FitModel) -> tuple[Any, Any]:
    """`complete` and `between` of `Tools`. Raises: UsageError, weights cannot be used."""
    count = config.num_samples
    if config.method == "fit":
        return None, None
    if config.method == "ofer":
        return functools.partial(ofer, config.load_networks(head), head, num_samples=count), None
    if config.method == "ofer+dpp":
        networks, picking = config.load_networks(head), config.ofer_dpp_config()
        return functools.partial(ofer_dpp, networks, head, num_samples=count, config=picking), None
    vae, settings = config.load_mesh_vae(head), config.diversify_config()
    if config.method == "complete":
        settings = replace(settings, iterations=0)
    draw = functools.partial(diversify, vae, model, num_samples=count, config=settings)
    return draw, functools.partial(midpoints, vae, model)


def choose_batch_size(config: Config, photos: int) -> int:
    """Faces per batch: what the user asked for, or a power of two suited to the device and not over the photos; a
    multiple of the number of devices, over which the fit shares a batch out."""
    devices = jax.device_count()
    if config.batch_size != "auto":
        return -(-config.batch_size // devices) * devices
    limit = (CPU_BATCH if jax.default_backend() == "cpu" else ACCELERATOR_BATCH) * devices
    # Powers of two: few shapes to compile, whatever number of photos comes.
    size = devices
    while size < min(limit, photos):
        size *= 2
    return min(size, limit)


@dataclass
class Outcome:
    """What came of a run, filled while it goes on."""

    failures: list[Failure] = field(default_factory=list)
    written: list[str] = field(default_factory=list)
    """Names of new results."""
    fit_seconds: float = 0.0
    """Of all batches, compiling left out."""
    first_batch_seconds: float | None = None
    """With compiling."""


def hypotheses_at_once(batch_size: int, num_samples: int) -> int:
    """Faces whose hypotheses are made together: a processor gains nothing from more than one, and an accelerator holds
    so many heads and their gradients."""
    devices = jax.device_count()
    most = 1 if jax.default_backend() == "cpu" else max(1, HEADS_AT_ONCE // num_samples)
    return min(batch_size, devices * most)


class Pipeline:
    """One run over the photos that are to do.

    Args:
        clock: counts what JAX compiles meanwhile.
        report: called with ("photo", n) when n photos have ended, well or badly, and ("compiling", batch size) and
            ("compiled", seconds) round the first batch.
    """

    def __init__(
        self,
        head: Any,
        identity: HeadIdentity,
        config: Config,
        store: Store,
        tools: Tools,
        batch_size: int,
        clock: CompileClock,
        report: Callable[[str, float], None] = lambda kind, value: None,
    ):
        self.head, self.config, self.store, self.tools = head, config, store, tools
        self.batch_size, self.clock, self.report = batch_size, clock, report
        self.writer = ResultWriter(head, identity, tools.model, config.settings())
        self.outcome = Outcome()
        self._writing: dict[Future[None], Face] = {}

    def run(self, photos: Sequence[Photo], reader: PhotoReader, stale: dict[str, list[str]]) -> Outcome:
        """Reconstruct the photos. An exception in any step of a photo becomes a `Failure`; only interrupts get out."""
        readers = min(4, max(1, len(photos)))
        waiting: list[Face] = []
        with ThreadPoolExecutor(readers) as reading, ThreadPoolExecutor(WRITERS) as writing:
            try:
                for faces in map_ahead(reading, reader, photos, ahead=self.batch_size + readers):
                    if isinstance(faces, Failure):
                        self._fail([faces])
                        continue
                    self._drop_stale(faces, stale)
                    waiting += faces
                    while len(waiting) >= self.batch_size:
                        self._process(waiting[: self.batch_size], writing)
                        waiting = waiting[self.batch_size :]
                if waiting:
                    self._process(waiting, writing)
            finally:
                self._collect(at_most=0)
        return self.outcome

    def _process(self, faces: list[Face], writing: ThreadPoolExecutor) -> None:
        """Fit one batch and hand its faces to the writers."""
        try:
            found, observation, fitted = self._fit(faces)
        except Exception as exception:  # e.g. out of memory: the next batch may still fit
            self._fail([Failure(str(f.photo.path), "fit", reason_of(exception)) for f in faces], faces)
            return
        if self.tools.complete is not None:
            fitted = self._with_hypotheses(self.tools.complete, found, observation, fitted)
        for face in fitted:
            code = int(face.fit.code)
            if code:
                reason = FIT_REASONS.get(code, f"code {code}")
                self._fail([Failure(str(face.face.photo.path), "fit", reason)], [face.face])
            else:
                self._writing[writing.submit(self._write, face)] = face.face
        self._collect(at_most=2 * self.batch_size)

    def _fit(self, faces: list[Face]) -> tuple[Fit, Observation, list[FittedFace]]:
        """Fit faces as a batch of the fixed size, filled up with copies, so that no other shape is ever compiled.

        Returns the fit, on the device, and the observation with the masks that were used, both of the whole batch; and
        the faces.
        """
        first = self.outcome.first_batch_seconds is None
        if first:
            self.report("compiling", self.batch_size)
        start, compiled = time.perf_counter(), self.clock.seconds
        padded = faces + [faces[-1]] * (self.batch_size - len(faces))
        batch = jax.tree.map(lambda *leaves: np.stack(leaves), *(face.observation for face in padded))
        batch = self.tools.mask(self.head, batch)
        found = self.tools.fit(batch)
        result: Fit = jax.device_get(found)
        masks = np.asarray(batch.occlusion_mask), np.asarray(batch.face_mask)
        elapsed = time.perf_counter() - start
        seconds = max(0.0, elapsed - (self.clock.seconds - compiled))
        # Outside the clock of the fit: what the files need besides.
        textures = np.clip(np.asarray(jax.vmap(self.head.albedo)(found.texture)), 0.0, 1.0)
        implied = np.asarray(self.tools.vertices(self.head, self.tools.model.global_params(found.params)))
        error = np.linalg.norm(implied - result.vertices, axis=-1).max(axis=-1)
        if first:
            self.outcome.first_batch_seconds = elapsed
            self.report("compiled", elapsed)
        self.outcome.fit_seconds += seconds
        fitted = []
        for i, face in enumerate(faces):
            one: Fit = jax.tree.map(lambda leaf: np.asarray(leaf[i]), result)  # noqa: B023
            seen = masked(face, masks[0][i], masks[1][i])
            fitted.append(FittedFace(seen, one, textures[i], float(error[i]), seconds / len(faces)))
        return found, batch, fitted

    def _with_hypotheses(
        self, complete: Callable[..., Hypotheses], found: Fit, observation: Observation, fitted: list[FittedFace]
    ) -> list[FittedFace]:
        """The faces of a batch with their hypotheses; where these cannot be made, the fit is kept without."""
        fitted = list(fitted)
        wanted = [i for i, face in enumerate(fitted) if not face.fit.code]
        for start in range(0, len(wanted), size := hypotheses_at_once(self.batch_size, self.config.num_samples)):
            part = wanted[start : start + size]
            # Filled up with copies, as the batch.
            places = np.array(part + [part[-1]] * (size - len(part)))
            keys = face_keys([(fitted[i].face.photo_sha256, fitted[i].face.index) for i in places], self.config.seed)
            fits, seen = jax.tree.map(lambda leaf: leaf[places], (found, observation))  # noqa: B023
            try:
                drawn = complete(fits, seen, keys)
                hypotheses: Hypotheses = jax.device_get(drawn)
            except Exception as exception:
                self._not_complete([fitted[i] for i in part], reason_of(exception))
                continue
            middles = self._between(fits, drawn)
            for k, i in enumerate(part):
                one = jax.tree.map(lambda leaf: leaf[k], hypotheses)  # noqa: B023
                if not (np.isfinite(one.vertices).all() and np.isfinite(one.score).all()):
                    reason = "the networks gave numbers that are none; the fit was kept without hypotheses."
                    self._not_complete([fitted[i]], reason)
                    continue
                middle = None if middles is None or not np.isfinite(middles[k]).all() else middles[k]
                fitted[i] = replace(fitted[i], hypotheses=one, midpoints=middle)
        return fitted

    def _between(self, fits: Fit, drawn: Hypotheses) -> np.ndarray | None:
        """Heads half-way between the first hypotheses; where they cannot be had, the viewer goes straight from one to
        another, and says so."""
        if self.tools.between is None:
            return None
        try:
            return jax.device_get(self.tools.between(fits, jax.tree.map(lambda leaf: leaf[:, :MORPHED], drawn)))
        except Exception:
            return None

    def _not_complete(self, faces: list[FittedFace], reason: str) -> None:
        self.outcome.failures += [Failure(str(each.face.photo.path), "complete", reason) for each in faces]

    def _write(self, fitted: FittedFace) -> None:
        face = fitted.face
        render = functools.partial(self.tools.render, self.head)
        view = render_view(render, fitted.fit, fitted.texture, face.observation.image.shape[0])
        # The thumbnail first: a result without one could never be told from a whole one when a run is resumed.
        write_thumbnail(self.store.folder, face.name, tile(face.observation, view))
        with new_folder(self.store.folder / face.name) as folder:
            self.writer.write(folder, fitted, view)

    def _collect(self, at_most: int) -> None:
        """Wait until no more than `at_most` results are being written, and note how those that ended went."""
        while self._writing:
            ended = {future for future in self._writing if future.done()}
            for future in ended:
                face, error = self._writing.pop(future), future.exception()
                if error is not None:
                    self._fail([Failure(str(face.photo.path), "write", reason_of(error))], [face])
                else:
                    self.outcome.written.append(face.name)
                    self._count(face)
            if len(self._writing) <= at_most:
                return
            wait(self._writing, return_when="FIRST_COMPLETED")

    def _drop_stale(self, faces: list[Face], stale: dict[str, list[str]]) -> None:
        """Delete results that this photo no longer has, such as a third face once only two are found."""
        for name in set(stale.get(faces[0].photo.name, [])) - {face.name for face in faces}:
            shutil.rmtree(self.store.folder / name, ignore_errors=True)

    def _fail(self, failures: list[Failure], faces: Sequence[Face] = ()) -> None:
        self.outcome.failures += failures
        for face in faces:
            self._count(face)
        if not faces:
            self.report("photo", len(failures))

    def _count(self, face: Face) -> None:
        """A photo counts as ended with its largest face."""
        if face.index == 0:
            self.report("photo", 1)


def masked(face: Face, occlusion_mask: Any, face_mask: Any) -> Face:
    """The face with the masks (S, S) that the fit used; landmarks that are hidden have no confidence, as there."""
    seen = face.observation
    observation = replace(
        seen,
        occlusion_mask=occlusion_mask,
        face_mask=face_mask,
        confidence=uncovered(seen.landmarks, seen.confidence, occlusion_mask),
        dense_confidence=uncovered(seen.dense_landmarks, seen.dense_confidence, occlusion_mask),
    )
    return replace(face, observation=observation)
