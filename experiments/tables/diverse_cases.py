"""Photos for the tables of hypotheses, of the open scans or of a benchmark, and the vertices visible in each."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.cache import flatten_tree
from experiments.datasets.observations import Landmarks, ObservationOptions, full_photo_observation, observe
from experiments.datasets.occluded_frames import benchmark_head, read_frames
from experiments.datasets.open_faces import ScanPhoto
from fitting._observe import NUM_DENSE
from fitting.detector import FaceDetector
from fitting.global_fit import vertex_visibility
from fitting.inputs import confidence_outside_mask
from flamejax.head import HeadModel, geometry_hash
from flamejax.types import Fit, Observation
from sampling._complete import eyeball_vertices

OCCLUDER_ORDER = ("glasses", "face-mask", "hand", "object", "glasses", "face-mask")
"""Occluders in the order in which photos are chosen: a third glasses, a third masks, a third hands and objects."""


@dataclass(frozen=True)
class Case:
    """One photo for which hypotheses are drawn. NumPy, no batch axes."""

    key: str
    """Name of its files, such as subject_0271-mouth_open."""
    subject: int
    """Number of the person, for intervals over people. Each photo of a folder counts as another person."""
    occluder: str
    """glasses, face-mask, hand, object; the position of a drawn patch; "photo" if unknown."""
    observation: Observation
    visible: np.ndarray | None = None
    """(V,) bool, vertices visible in the photo by the true head; None: the fit with local models determines them."""
    visible_unoccluded: np.ndarray | None = None
    """(V,) bool, vertices that would be visible without the occluder."""
    truth: np.ndarray | None = None
    """(V, 3) metres, head frame; None for photos of people."""

    @functools.cached_property
    def file(self) -> str:
        """Name of result files: the key, and a digest of the observation."""
        state = hashlib.sha256()
        for name, array in sorted(flatten_tree(self.observation).items()):
            state.update(f"{name}{array.dtype}{array.shape}".encode() + np.ascontiguousarray(array).tobytes())
        return f"{self.key}-{state.hexdigest()[:12]}.npz"


@dataclass(frozen=True)
class VisibilityMasks:
    """Masks of vertices (V,) bool for distances, the same for all methods."""

    visible: np.ndarray
    """All that are not occluded: visible in the photo, and the eyeballs."""
    occluded: np.ndarray
    """Not visible (behind the occluder, on the back, outside the picture), without the eyeballs."""
    under: np.ndarray
    """Occluded vertices that would be visible without the occluder."""


def visibility_masks(case: Case, head: HeadModel, fit: Fit) -> VisibilityMasks:
    """Returns the masks of a case. fit: by the model with local models; used if there is no true head."""
    visible, clean = case.visible, case.visible_unoccluded
    if visible is None or clean is None:
        visible = np.asarray(fit.vertex_visibility, bool)
        no_mask = jax.numpy.zeros(np.shape(case.observation.occlusion_mask))
        verts = jax.numpy.asarray(fit.vertices)
        clean = np.asarray(_vertex_visibility(head, fit.camera.project(verts), verts, no_mask))
    occluded = ~visible & ~np.asarray(eyeball_vertices(head))
    return VisibilityMasks(~occluded, occluded, occluded & clean)


_vertex_visibility = jax.jit(vertex_visibility)


def balanced_indices(subjects: Sequence[int], kinds: Sequence[str], limit: int | None) -> list[int]:
    """Returns indices of `limit` photos with evenly spaced subjects, occluders as in `OCCLUDER_ORDER` and varied
    expressions; all for None.

    Args:
      subjects, kinds: (N,) subject and occluder of each photo. A subject's photos are adjacent.
    """
    if limit is None or limit >= len(subjects):
        return list(range(len(subjects)))
    names = list(dict.fromkeys(subjects))
    chosen: list[int] = []
    for number, wanted in enumerate(np.linspace(0, len(names) - 1, limit)):
        kind = OCCLUDER_ORDER[number % len(OCCLUDER_ORDER)]
        # The first subject, from the wanted one on, with an unused photo of this kind.
        for step in range(len(names)):
            subject = names[(round(float(wanted)) + step) % len(names)]
            pairs = enumerate(zip(subjects, kinds, strict=True))
            unused = [k for k, pair in pairs if pair == (subject, kind) and k not in chosen]
            if unused:
                chosen.append(unused[number % len(unused)])
                break
    return sorted(chosen)


def case_from_photo(
    photo: ScanPhoto, landmarks: Landmarks = "exact", detector: FaceDetector | None = None, occluded: bool = True
) -> Case | None:
    """Returns a case of the occluded photo with its true mask, or of the clean one; None if no face is detected."""
    observation = observe(photo, ObservationOptions(occluded, "given" if occluded else "none", landmarks), detector)
    if observation is None:
        return None
    visible, kind = photo.vertices_visible, "none"
    if occluded:
        visible, kind = photo.vertices_visible_occluded, photo.occluder
    return Case(photo.key, photo.subject, kind, on_host(observation), visible, photo.vertices_visible, photo.vertices)


def frame_cases(head: HeadModel, folder: Path, limit: int | None, occluded: bool = True) -> list[Case]:
    """Returns cases of evenly spaced frames of a benchmark by CO-545's protocol (`datasets.occluded_frames`).

    They have true landmarks and masks, or no occluders. Visibility is known only for facial vertices.

    Raises:
      ValueError: the frames are of another head; and as `read_frames`.
    """
    name, geometry = benchmark_head(folder)
    if geometry != geometry_hash(head):
        raise ValueError(f"{folder}: frames of the head '{name}', not of '{head.name}', whose networks are measured.")
    cases: list[Case] = []
    people: dict[str, int] = {}
    for frame in read_frames(folder, limit):
        image, mask = (frame.occluded, frame.mask) if occluded else (frame.photo, np.zeros_like(frame.mask))
        confidence = confidence_outside_mask(frame.landmarks, np.ones(len(frame.landmarks)), mask)
        no_dense = np.zeros((NUM_DENSE, 2)), np.zeros(NUM_DENSE)
        observation = full_photo_observation(image, mask, frame.landmarks, confidence, *no_dense)
        visible, kind = (frame.unoccluded, frame.occluder) if occluded else (frame.front, "none")
        person = people.setdefault(frame.subject, len(people))
        cases.append(Case(frame.name, person, kind, on_host(observation), visible, frame.front, frame.vertices))
    return cases


def on_host(observation: Observation) -> Any:
    """Returns the observation as NumPy arrays."""
    return jax.tree.map(np.asarray, observation)
