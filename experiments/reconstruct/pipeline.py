"""Runs photos through observe -> fit -> write, in batches of one fixed shape, with threads for reading and writing."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.photos import Failure, PhotoFile
from experiments.reconstruct.config import (
    DrawingOptions,
    FitOptions,
)
from experiments.reconstruct.folders import new_result
from experiments.reconstruct.live_lists import LiveLists
from experiments.reconstruct.observing import ObservedFace, PhotoReader, map_ahead
from experiments.reconstruct.results import FaceResult, ResultWriter
from experiments.reconstruct.sheet import write_thumbnail
from experiments.reconstruct.store import Store
from experiments.reconstruct.tools import Tools
from experiments.reconstruct.views import render_view, tile
from experiments.results import error_text, face_keys
from experiments.runtime import CompileClock
from experiments.view.viewer_page import MIDPOINT_HEADS
from fitting import FIT_REASONS, Fit, Observation
from fitting.inputs import confidence_outside_mask
from flamejax.types import Hypotheses

CPU_BATCH, ACCELERATOR_BATCH = 4, 32
WRITERS = 2
HEADS_AT_ONCE = 512
"""Hypotheses that each accelerator draws at once."""


def choose_batch_size(options: FitOptions, photos: int) -> int:
    """Return the number of faces per batch: what the user asked for, or a power of two that suits the device.

    It is a multiple of the number of devices, among which the fit divides a batch."""
    devices = jax.device_count()
    if options.batch_size != "auto":
        return -(-options.batch_size // devices) * devices
    limit = (CPU_BATCH if jax.default_backend() == "cpu" else ACCELERATOR_BATCH) * devices
    # Powers of two: few shapes to compile, however many photos there are.
    size = devices
    while size < min(limit, photos):
        size *= 2
    return min(size, limit)


@dataclass
class Outcome:
    """The outcome of a run so far."""

    failures: list[Failure] = field(default_factory=list)
    written: list[str] = field(default_factory=list)
    """Names of new results."""
    fit_seconds: float = 0.0
    """Seconds of all batches, without compiling."""
    first_batch_seconds: float | None = None
    """Seconds of the first batch, with compiling."""
    drawing_seconds: float = 0.0
    """Seconds of drawing hypotheses, without compiling."""
    masks_beside_faces: list[str] = field(default_factory=list)
    """Names of photos whose given mask hides something, but nothing of a face."""
    masks_over_faces: list[str] = field(default_factory=list)
    """Names of photos whose given mask hides every face completely."""


def faces_per_draw(batch_size: int, num_samples: int) -> int:
    """Return for how many faces hypotheses are drawn together.

    A CPU gains nothing from more than one; an accelerator's memory takes HEADS_AT_ONCE heads and their gradients."""
    devices = jax.device_count()
    per_device = 1 if jax.default_backend() == "cpu" else max(1, HEADS_AT_ONCE // num_samples)
    return min(batch_size, devices * per_device)


class Pipeline:
    """Reconstructs the photos that have no result yet.

    Args:
        drawing: options of the draws, where `tools` draws hypotheses.
        clock: measures the compile time, which is subtracted from that of the fit.
        lists: are kept up to date while the run goes on; None leaves them alone.
        report: called with ("photo", n) when n photos have succeeded or failed, with ("compiling", batch size) before
            and ("compiled", seconds) after the fit of the first batch, and with ("drawing", heads per face) before and
            ("drawn", seconds) after its hypotheses are drawn.
    """

    def __init__(
        self,
        writer: ResultWriter,
        drawing: DrawingOptions | None,
        store: Store,
        tools: Tools,
        batch_size: int,
        clock: CompileClock,
        report: Callable[[str, float], None] = lambda kind, value: None,
        lists: LiveLists | None = None,
    ):
        self.head, self.writer, self.drawing, self.store, self.tools = writer.head, writer, drawing, store, tools
        self.batch_size, self.clock, self.report = batch_size, clock, report
        self.lists = lists
        self.outcome = Outcome()
        self._done = 0
        self._writing: dict[Future[None], ObservedFace] = {}

    def run(self, photos: Sequence[PhotoFile], reader: PhotoReader, stale: dict[str, list[str]]) -> Outcome:
        """Reconstruct the photos. An exception in any step becomes a `Failure`; only interrupts are raised."""
        readers = min(4, max(1, len(photos)))
        waiting: list[ObservedFace] = []
        with ThreadPoolExecutor(readers) as reading, ThreadPoolExecutor(WRITERS) as writing:
            try:
                for faces in map_ahead(reading, reader, photos, ahead=self.batch_size + readers):
                    if self.lists is not None:
                        self.lists.update(self._done)
                    if isinstance(faces, Failure):
                        self._fail([faces])
                        continue
                    self._drop_stale(faces, stale)
                    self._check_given_mask(faces)
                    waiting += faces
                    while len(waiting) >= self.batch_size:
                        self._process(waiting[: self.batch_size], writing)
                        waiting = waiting[self.batch_size :]
                if waiting:
                    self._process(waiting, writing)
            finally:
                self._collect(at_most=0)
        return self.outcome

    def _process(self, faces: list[ObservedFace], writing: ThreadPoolExecutor) -> None:
        """Fit one batch and hand its faces to the writers."""
        try:
            fits, observation, results = self._fit(faces)
        except Exception as exception:  # e.g. out of memory: the next batch may still fit
            self._fail([Failure(str(f.photo.path), "fit", error_text(exception)) for f in faces], faces)
            return
        if self.tools.complete is not None and self.drawing is not None:
            first, start, compiled = not self.outcome.drawing_seconds, time.perf_counter(), self.clock.seconds
            if first:
                self.report("drawing", self.drawing.num_samples)
            results = self._with_hypotheses(self.tools.complete, self.drawing, fits, observation, results)
            elapsed = time.perf_counter() - start
            self.outcome.drawing_seconds += max(0.0, elapsed - (self.clock.seconds - compiled))
            if first:
                self.report("drawn", elapsed)
        for result in results:
            code = int(result.fit.code)
            if code:
                reason = FIT_REASONS.get(code, f"code {code}")
                self._fail([Failure(str(result.face.photo.path), "fit", reason)], [result.face])
            else:
                self._writing[writing.submit(self._write, result)] = result.face
        self._collect(at_most=2 * self.batch_size)

    def _fit(self, faces: list[ObservedFace]) -> tuple[Fit, Observation, list[FaceResult]]:
        """Fit faces as a batch of the fixed size, padded with copies, so that only one shape is compiled.

        Returns the fit, on the device, and the observation with the masks that were used, both of the whole batch; and
        the result of each face.
        """
        first = self.outcome.first_batch_seconds is None
        if first:
            self.report("compiling", self.batch_size)
        start, compiled = time.perf_counter(), self.clock.seconds
        padded = faces + [faces[-1]] * (self.batch_size - len(faces))
        batch = jax.tree.map(lambda *leaves: np.stack(leaves), *(face.observation for face in padded))
        batch = self._estimate_masks(padded, batch)
        device_fits = self.tools.fit(batch)
        fits: Fit = jax.device_get(device_fits)
        masks = np.asarray(batch.occlusion_mask), np.asarray(batch.face_mask)
        elapsed = time.perf_counter() - start
        seconds = max(0.0, elapsed - (self.clock.seconds - compiled))
        # Only the files need the following, so it is not timed as part of the fit.
        textures = np.clip(np.asarray(jax.vmap(self.head.albedo)(device_fits.texture)), 0.0, 1.0)
        global_params = self.tools.model.global_params(device_fits.params)
        global_vertices = np.asarray(self.tools.vertices(self.head, global_params))
        error = np.linalg.norm(global_vertices - fits.vertices, axis=-1).max(axis=-1)
        if first:
            self.outcome.first_batch_seconds = elapsed
            self.report("compiled", elapsed)
        self.outcome.fit_seconds += seconds
        results = []
        for i, face in enumerate(faces):
            one_fit: Fit = jax.tree.map(lambda leaf: np.asarray(leaf[i]), fits)  # noqa: B023
            masked_face = with_masks(face, masks[0][i], masks[1][i])
            results.append(FaceResult(masked_face, one_fit, textures[i], float(error[i]), seconds / len(faces)))
        return device_fits, batch, results

    def _estimate_masks(self, faces: list[ObservedFace], batch: Observation) -> Observation:
        """Return the batch with estimated masks for the faces that need them; a given mask stays as it is."""
        needs_mask = np.array([face.needs_mask for face in faces])
        if not needs_mask.any():
            return batch
        estimated = self.tools.mask(self.head, batch)
        if needs_mask.all():
            return estimated
        chosen = needs_mask[:, None, None]
        return replace(
            batch,
            occlusion_mask=jnp.where(chosen, estimated.occlusion_mask, batch.occlusion_mask),
            face_mask=jnp.where(chosen, estimated.face_mask, batch.face_mask),
        )

    def _with_hypotheses(
        self,
        complete: Callable[..., Hypotheses],
        drawing: DrawingOptions,
        fits: Fit,
        observation: Observation,
        results: list[FaceResult],
    ) -> list[FaceResult]:
        """Return the results of a batch with hypotheses; where these cannot be drawn, the result is the fit alone."""
        results = list(results)
        converged = [i for i, result in enumerate(results) if not result.fit.code]
        for start in range(0, len(converged), size := faces_per_draw(self.batch_size, drawing.num_samples)):
            part = converged[start : start + size]
            # Padded with copies, like the batch.
            indices = np.array(part + [part[-1]] * (size - len(part)))
            faces = [results[i].face for i in indices]
            keys = face_keys([(face.photo_sha256, face.index) for face in faces], drawing.seed)
            part_fits, part_observation = jax.tree.map(lambda leaf: leaf[indices], (fits, observation))  # noqa: B023
            try:
                drawn = complete(part_fits, part_observation, keys)
                hypotheses: Hypotheses = jax.device_get(drawn)
            except Exception as exception:
                self._fail_hypotheses([results[i] for i in part], error_text(exception))
                continue
            midpoints = self._midpoints(part_fits, drawn)
            for k, i in enumerate(part):
                of_face = jax.tree.map(lambda leaf: leaf[k], hypotheses)  # noqa: B023
                if not (np.isfinite(of_face.vertices).all() and np.isfinite(of_face.score).all()):
                    reason = "the networks gave values that are not finite; the fit was written without hypotheses."
                    self._fail_hypotheses([results[i]], reason)
                    continue
                middle = None if midpoints is None or not np.isfinite(midpoints[k]).all() else midpoints[k]
                results[i] = replace(results[i], hypotheses=of_face, midpoints=middle)
        return results

    def _midpoints(self, fits: Fit, drawn: Hypotheses) -> np.ndarray | None:
        """Return heads half-way between the first hypotheses (B, P, V, 3); None: the viewer interpolates linearly."""
        if self.tools.midpoints is None:
            return None
        try:
            first = jax.tree.map(lambda leaf: leaf[:, :MIDPOINT_HEADS], drawn)
            return jax.device_get(self.tools.midpoints(fits, first))
        except Exception:
            return None

    def _fail_hypotheses(self, results: list[FaceResult], reason: str) -> None:
        self._add_failures([Failure(str(each.face.photo.path), "complete", reason) for each in results])

    def _write(self, result: FaceResult) -> None:
        face = result.face
        render = functools.partial(self.tools.render, self.head)
        view = render_view(render, result.fit, result.texture, face.observation.image.shape[0])
        # The thumbnail first: a resumed run takes a result folder as complete, with or without its thumbnail.
        write_thumbnail(self.store.folder, face.name, tile(face.observation, view))
        with new_result(self.store.folder / face.name) as folder:
            self.writer.write(folder, result, view)

    def _collect(self, at_most: int) -> None:
        """Wait until at most `at_most` results are being written, and record which of the others were written."""
        while self._writing:
            finished = {future for future in self._writing if future.done()}
            for future in finished:
                face, error = self._writing.pop(future), future.exception()
                if error is not None:
                    self._fail([Failure(str(face.photo.path), "write", error_text(error))], [face])
                else:
                    self.outcome.written.append(face.name)
                    if self.lists is not None:
                        self.lists.add_result(face.name)
                    self._count(face)
            if len(self._writing) <= at_most:
                return
            wait(self._writing, return_when="FIRST_COMPLETED")

    def _drop_stale(self, faces: list[ObservedFace], stale: dict[str, list[str]]) -> None:
        """Delete results that this photo no longer has, such as a third face when only two are detected now."""
        for name in set(stale.get(faces[0].photo.name, [])) - {face.name for face in faces}:
            with contextlib.suppress(OSError):
                self.store.delete(name)

    def _check_given_mask(self, faces: list[ObservedFace]) -> None:
        """Record a photo whose given mask hides no part of its faces, or all of them. An empty mask is intended."""
        given, shares = faces[0].given_mask, [face.hidden_share for face in faces]
        if given is not None and given.any() and max(shares) == 0:
            self.outcome.masks_beside_faces.append(faces[0].photo.name)
        elif given is not None and min(shares) == 1:
            self.outcome.masks_over_faces.append(faces[0].photo.name)

    def _fail(self, failures: list[Failure], faces: Sequence[ObservedFace] = ()) -> None:
        self._add_failures(failures)
        for face in faces:
            self._count(face)
        if not faces:
            self._done += len(failures)
            self.report("photo", len(failures))

    def _add_failures(self, failures: list[Failure]) -> None:
        self.outcome.failures += failures
        if self.lists is not None:
            self.lists.add_failures(failures)

    def _count(self, face: ObservedFace) -> None:
        """Report a photo as done when its largest face is."""
        if face.index == 0:
            self._done += 1
            self.report("photo", 1)


def with_masks(face: ObservedFace, occlusion_mask: Any, face_mask: Any) -> ObservedFace:
    """Return the face with the masks (S, S) that the fit used; hidden landmarks get confidence 0, as in the fit."""
    before = face.observation
    observation = replace(
        before,
        occlusion_mask=occlusion_mask,
        face_mask=face_mask,
        confidence=confidence_outside_mask(before.landmarks, before.confidence, occlusion_mask),
        dense_confidence=confidence_outside_mask(before.dense_landmarks, before.dense_confidence, occlusion_mask),
    )
    return replace(face, observation=observation)
