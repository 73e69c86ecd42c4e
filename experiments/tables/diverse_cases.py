"""Photos for the tables of hypotheses, of the open scans or of a benchmark: what each shows, and what it hides."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.cache import flat
from experiments.datasets.observations import Landmarks, Look, observe, whole_photo
from experiments.datasets.occluded_frames import head_of, read_frames
from experiments.datasets.open_faces import Photo
from fitting._observe import DENSE
from fitting.detector import FaceDetector
from fitting.global_fit import vertex_visibility
from fitting.inputs import uncovered
from flamejax.head import HeadModel, geometry_hash
from flamejax.types import Fit, Observation
from sampling._complete import eyeball_vertices

TURNS = ("glasses", "face-mask", "hand", "object", "glasses", "face-mask")
"""Occluders in the order in which photos are chosen: a third glasses, a third masks, a third hands and objects."""


@dataclass(frozen=True)
class Case:
    """One photo that hypotheses are drawn for. NumPy, no batch axes."""

    key: str
    """Names its files; such as subject_0271-mouth_open."""
    subject: int
    """Whose face: intervals come from these. Photos of a folder count as so many people."""
    occluder: str
    """glasses, face-mask, hand, object; the place of a drawn patch; "photo" where nobody knows."""
    observation: Observation
    shown: np.ndarray | None = None
    """(V,) bool: vertices that the photo shows, by the true head; None: by the fit of the global and local models."""
    shown_clean: np.ndarray | None = None
    """(V,) bool: those that it would show without the occluder."""
    truth: np.ndarray | None = None
    """(V, 3) metres, head frame; None of photos of people."""

    @functools.cached_property
    def file(self) -> str:
        """A name for what is made of the photo: its own, and a digest of what a fit is told."""
        state = hashlib.sha256()
        for name, array in sorted(flat(self.observation).items()):
            state.update(f"{name}{array.dtype}{array.shape}".encode() + np.ascontiguousarray(array).tobytes())
        return f"{self.key}-{state.hexdigest()[:12]}.npz"


@dataclass(frozen=True)
class Parts:
    """Vertices (V,) bool that distances are taken over, the same for all methods."""

    visible: np.ndarray
    """All that are not occluded: shown by the photo, and the eyeballs."""
    occluded: np.ndarray
    """Not shown (behind the occluder, the head's own back, outside the picture), eyeballs left out."""
    under: np.ndarray
    """Of these the ones that the clean photo would show: what the occluder hides."""


def parts_of(case: Case, head: HeadModel, fit: Fit) -> Parts:
    """What a case's photo shows. fit: of the global and local models, which stands in where there is no true head."""
    shown, clean = case.shown, case.shown_clean
    if shown is None or clean is None:
        shown = np.asarray(fit.vertex_visibility, bool)
        no_mask = jax.numpy.zeros(np.shape(case.observation.occlusion_mask))
        verts = jax.numpy.asarray(fit.vertices)
        clean = np.asarray(_visible(head, fit.camera.project(verts), verts, no_mask))
    occluded = ~shown & ~np.asarray(eyeball_vertices(head))
    return Parts(~occluded, occluded, occluded & clean)


_visible = jax.jit(vertex_visibility)


def balanced(subjects: Sequence[int], kinds: Sequence[str], limit: int | None) -> list[int]:
    """Places of `limit` photos: subjects spread evenly, occluders as in `TURNS`, expressions in turn; all for None.
    subjects, kinds: (N,) of each photo; a subject's photos lie together, and it has some of each kind in sight."""
    if limit is None or limit >= len(subjects):
        return list(range(len(subjects)))
    names = list(dict.fromkeys(subjects))
    chosen: list[int] = []
    for number, wanted in enumerate(np.linspace(0, len(names) - 1, limit)):
        kind = TURNS[number % len(TURNS)]
        # Of the subjects from the wanted one on, the first that has a photo of this kind left.
        for step in range(len(names)):
            subject = names[(round(float(wanted)) + step) % len(names)]
            pairs = enumerate(zip(subjects, kinds, strict=True))
            left = [k for k, pair in pairs if pair == (subject, kind) and k not in chosen]
            if left:
                chosen.append(left[number % len(left)])
                break
    return sorted(chosen)


def case_of(
    photo: Photo, landmarks: Landmarks = "exact", detector: FaceDetector | None = None, occluded: bool = True
) -> Case | None:
    """The occluded photo with its true mask, or the clean one; None where the detector finds no face."""
    seen = observe(photo, Look(occluded, "given" if occluded else "none", landmarks), detector)
    if seen is None:
        return None
    shown, kind = photo.vertices_visible, "none"
    if occluded:
        shown, kind = photo.vertices_visible_occluded, photo.occluder
    return Case(photo.key, photo.subject, kind, on_host(seen), shown, photo.vertices_visible, photo.vertices)


def frame_cases(head: HeadModel, folder: Path, limit: int | None, occluded: bool = True) -> list[Case]:
    """The frames of a benchmark by CO-545's protocol (`datasets.occluded_frames`), evenly spaced, with their
    true landmarks and masks, or without occluders. Of the head only facial vertices are known to be shown or not.

    Raises:
      ValueError: frames of another head; and as `read_frames`.
    """
    name, geometry = head_of(folder)
    if geometry != geometry_hash(head):
        raise ValueError(f"{folder}: frames of the head '{name}', not of '{head.name}', whose networks are measured.")
    cases: list[Case] = []
    people: dict[str, int] = {}
    for frame in read_frames(folder, limit):
        image, mask = (frame.occluded, frame.mask) if occluded else (frame.photo, np.zeros_like(frame.mask))
        confidence = uncovered(frame.landmarks, np.ones(len(frame.landmarks)), mask)
        nothing = np.zeros((DENSE, 2)), np.zeros(DENSE)
        seen = whole_photo(image, mask, frame.landmarks, confidence, *nothing)
        shown, kind = (frame.unoccluded, frame.occluder) if occluded else (frame.front, "none")
        person = people.setdefault(frame.subject, len(people))
        cases.append(Case(frame.name, person, kind, on_host(seen), shown, frame.front, frame.vertices))
    return cases


def on_host(observation: Observation) -> Any:
    """The observation as NumPy arrays."""
    return jax.tree.map(np.asarray, observation)
