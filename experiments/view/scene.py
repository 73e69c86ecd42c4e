"""What is to be seen: which vertices and colours result from which settings. Nothing here knows of a browser."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal, get_args

import jax
import numpy as np
from jax import Array

from experiments.results import (
    HIDDEN_COLOUR,
    HOT,
    UsageError,
    digest_of,
    face_keys,
    fitted_with,
    observation_of,
    spread_of,
)
from experiments.view.edits import edited
from fitting.fit_model import FitModel
from flamejax.head import HeadFileError, HeadModel
from flamejax.io.meshes import TexturedMesh
from flamejax.io.results import HeadIdentity, Result, read_metrics, read_result, result_records, vertices_of
from flamejax.io.results_writing import head_mesh
from flamejax.types import Fit, Hypotheses, Observation
from models.mesh_vae import MeshVAE
from models.pretrained import load_mesh_vae, mesh_vae_path
from sampling import DIVERSIFY_PRESETS, diversify
from sampling._complete import to_head_frame, to_world

Colour = Literal["clay", "texture", "spread", "seen and hidden"]
COLOURS: tuple[str, ...] = get_args(Colour)
FIT, BETWEEN = "fit", "between two"
CLAY = np.float32(0.6)
"""Grey of the head; the page's lights are bright."""
STEPS = 256
"""Texels of a scale of colours."""
LEAST_SPREAD = 1e-4
"""Metres: where hypotheses differ by less at most, the scale of colours does not follow them further down."""


class ViewError(Exception):
    """Something asked for cannot be shown; the message says why and what to do."""


@dataclass(frozen=True)
class Shown:
    """What is asked for."""

    what: str = FIT
    """FIT, a hypothesis' number such as '03', or BETWEEN."""
    values: Mapping[str, float] = field(default_factory=dict)
    """Of the fit's sliders, by name; those left out are the fit's."""
    ends: tuple[int, int] = (0, 1)
    """Hypotheses to go between,"""
    weight: float = 0.5
    """from the first (0) to the second (1)."""


@dataclass(frozen=True)
class DrawSettings:
    """How hypotheses are drawn."""

    k: float = 0.5
    """How fast similarity falls with distance (Eq. 8)."""
    n_sigma: float = 3.0
    """How unusual heads may be, given what is seen, in standard deviations (Eq. 9)."""
    num_samples: int = 16
    seed: int = 0
    """The seed of reconstruct: it gives the draws of --method diverse, where the rest is the same too."""


@dataclass
class ViewedFace:
    """A face that was opened, with the hypotheses it has now."""

    result: Result
    """As it was read."""
    model: FitModel
    observation: Observation | None
    """What the fit saw; None where the photo is not to be had,"""
    missing: str
    """and why."""
    hypotheses: Hypotheses | None
    source: str
    """Where the hypotheses are from, in words."""
    mesh_vae: str | None
    """First digits of the SHA-256 of the Mesh-VAE whose latents they have."""

    @property
    def fit(self) -> Fit:
        """As it was read."""
        return self.result.fit

    @property
    def count(self) -> int:
        """Hypotheses there are."""
        return 0 if self.hypotheses is None else len(self.hypotheses.score)

    def choices(self) -> list[str]:
        """What `Shown.what` may be."""
        between = self.count > 1 and self.hypotheses is not None and self.hypotheses.latents is not None
        return [FIT, *self.numbers(), *([BETWEEN] if between else [])]

    def numbers(self) -> list[str]:
        """The hypotheses' names: 00, 01, ..."""
        return [f"{place:02d}" for place in range(self.count)]


class Explorer:
    """An output folder of reconstruct, opened to look at."""

    def __init__(
        self, folder: Path, head: HeadModel, identity: HeadIdentity, local: str = "auto", mesh_vae: Path | None = None
    ):
        """Raises: UsageError, the folder holds no results."""
        self.folder, self.head, self.identity = folder, head, identity
        self.local, self.mesh_vae = local, mesh_vae or mesh_vae_path()
        self.names = list(result_records(folder)) if folder.is_dir() else []
        """Of the faces."""
        if not self.names:
            what = "no results of flamejax reconstruct in it" if folder.is_dir() else "no such folder"
            hint = " Give the folder above it." if (folder / "metrics.json").is_file() else ""
            raise UsageError(f"{folder}: {what}.{hint} `flamejax reconstruct PHOTOS... --output {folder}` makes some.")
        self._faces: dict[str, ViewedFace] = {}
        self._models: dict[str, FitModel] = {}

    def face(self, name: str) -> ViewedFace:
        """A face, read when it is first asked for. Raises: ResultError."""
        if name not in self._faces:
            model = self._model(read_metrics(self.folder / name))
            result = read_result(self.folder / name, model, self.identity)
            seen, missing = observation_of(result)
            made_by = result.metrics["settings"].get("mesh_vae")
            self._faces[name] = ViewedFace(result, model, seen, missing, result.hypotheses, "as written", made_by)
        return self._faces[name]

    def vertices(self, face: ViewedFace, shown: Shown) -> np.ndarray:
        """(V, 3) float32 world metres of what is asked for. Raises: ViewError."""
        if shown.what == FIT:
            return np.asarray(vertices_of(face.model.head, edited(face.model, face.fit, shown.values)))
        if shown.what not in face.choices() or face.hypotheses is None:
            raise ViewError(f"there is no hypothesis {shown.what}: draw some first.")
        if shown.what == BETWEEN:
            return self._between(face, face.hypotheses, shown)
        return np.asarray(face.hypotheses.vertices[int(shown.what)])

    def draw(self, face: ViewedFace, settings: DrawSettings) -> None:
        """Replace a face's hypotheses by new ones. Takes seconds, the first time longer: it compiles.

        Raises: ViewError, the Mesh-VAE or the photo cannot be used, or numbers came out that are none.
        """
        if face.observation is None:
            raise ViewError("drawing needs the photo, see below.")
        metrics, count = face.result.metrics, settings.num_samples
        key = face_keys([(metrics["photo_sha256"], metrics["face"])], settings.seed)[0]
        config = dataclasses.replace(DIVERSIFY_PRESETS["fast"], k=settings.k, n_sigma=settings.n_sigma)
        drawn = diversify(self.vae, face.model, face.fit, face.observation, key, num_samples=count, config=config)
        found = jax.block_until_ready(drawn)
        if not (np.isfinite(found.vertices).all() and np.isfinite(found.score).all()):
            raise ViewError("the Mesh-VAE gave numbers that are none; the hypotheses of before were kept.")
        face.source = f"drawn now by Algorithm 2, seed {settings.seed}, k {settings.k:g}, n_sigma {settings.n_sigma:g}"
        face.hypotheses, face.mesh_vae = found, self._digest

    @cached_property
    def vae(self) -> MeshVAE:
        """The Mesh-VAE, loaded when it is first needed. Raises: ViewError."""
        try:
            return load_mesh_vae(self.head, self.mesh_vae)
        except (HeadFileError, OSError) as error:
            raise ViewError(str(error)) from error

    @cached_property
    def _digest(self) -> str | None:
        return digest_of(self.mesh_vae)

    def _model(self, metrics: dict) -> FitModel:
        made_with = str(metrics["settings"].get("local"))
        if made_with not in self._models:
            self._models[made_with] = fitted_with(metrics, self.head, self.local)
        return self._models[made_with]

    def _between(self, face: ViewedFace, found: Hypotheses, shown: Shown) -> np.ndarray:
        if face.mesh_vae != self._digest:
            raise ViewError(
                "these hypotheses are of another Mesh-VAE than the one at hand: give theirs as --mesh-vae, or draw new."
            )
        if max(shown.ends) >= face.count:
            raise ViewError(f"there are only {face.count} hypotheses.")
        first, second = (found.latents[end] for end in shown.ends)  # type: ignore[index]
        return np.asarray(_decoded(self.vae, face.model, face.fit, first, second, np.float32(shown.weight)))


@jax.jit
def _decoded(vae: MeshVAE, model: FitModel, fit: Fit, first: Array, second: Array, weight: Array) -> Array:
    """(V, 3) where the fit lies, of latents between two (L, C)."""
    _, rotation, root = to_head_frame(model, fit)
    return to_world(vae.decode((1 - weight) * first + weight * second)[None], rotation, root)[0]


def coloured(face: ViewedFace, head: HeadModel, vertices: np.ndarray, colour: str) -> TexturedMesh:
    """Vertices (V, 3) as a mesh in one of COLOURS. Scales of colours are a texture too, with the place on the scale as
    texture coordinate."""
    if colour == "texture":
        return head_mesh(head, vertices, np.clip(np.asarray(head.albedo(face.fit.texture)), 0.0, 1.0))
    place, end = np.zeros(len(vertices)), HOT
    if colour == "spread":
        place = np.clip(spread(face) / full_spread(face), 0, 1)
    elif colour == "seen and hidden":
        place, end = 1.0 - np.asarray(face.fit.vertex_visibility, np.float64), np.array(HIDDEN_COLOUR) / 255
    uv = np.stack([(0.5 + (STEPS - 1) * place) / STEPS, np.full(len(place), 0.5)], axis=1)
    ramp = np.linspace(0, 1, STEPS)[None, :, None]
    texture = ((1 - ramp) * CLAY + ramp * end).astype(np.float32)
    faces = np.asarray(head.faces)
    return TexturedMesh(vertices.astype(np.float64), faces, uv, faces, texture)


def spread(face: ViewedFace) -> np.ndarray:
    """(V,) metres: RMS distance of each vertex from its mean over the hypotheses; 0 of none."""
    if face.hypotheses is None:
        return np.zeros(face.model.head.num_vertices)
    return spread_of(face.hypotheses.vertices)


def full_spread(face: ViewedFace) -> float:
    """Metres that the scale of colours ends at: what only one vertex in a hundred exceeds."""
    return max(LEAST_SPREAD, float(np.quantile(spread(face), 0.99)))


def legend(face: ViewedFace, colour: str) -> str:
    """What a colour means, in words."""
    if colour == "spread":
        if not face.count:
            return "There are no hypotheses: draw some."
        most = 1e3 * full_spread(face)
        return f"How far apart the {face.count} hypotheses are: grey 0, orange {most:.2g} mm or more."
    if colour == "seen and hidden":
        share = 100 * float(np.mean(np.asarray(face.fit.vertex_visibility)))
        return f"Grey: the photo shows it ({share:.0f} % of the vertices). Violet: hidden, or turned away."
    return "The fit's texture, without the photo's light." if colour == "texture" else ""


@dataclass(frozen=True)
class PhotoPlane:
    """The photo's crop as a picture in the world."""

    image: np.ndarray
    """(S, S, 3) uint8."""
    side: float
    """Metres."""
    centre: np.ndarray
    """(3,) metres."""


def photo_plane(face: ViewedFace, eye: np.ndarray, margin: float = 0.02) -> PhotoPlane | None:
    """The crop behind the head, as large as it must be to lie under the face for a viewer at `eye` (3,) who looks
    straight back (the fit's camera is orthographic, a browser's is not). None where there is no photo."""
    if face.observation is None:
        return None
    image = np.round(255 * np.clip(np.asarray(face.observation.image), 0, 1)).astype(np.uint8)
    scale, shift = float(face.fit.camera.scale), np.asarray(face.fit.camera.translation, np.float64)
    middle = (len(image) / 2 - shift) / scale * (1, -1)
    vertices = np.asarray(face.fit.vertices)
    behind, front = vertices[:, 2].min() - margin, np.asarray(face.fit.landmarks)[:, 2].mean()
    larger = (eye[2] - behind) / (eye[2] - front)
    centre = np.array([*(eye[:2] + larger * (middle - eye[:2])), behind])
    return PhotoPlane(image, larger * len(image) / scale, centre)
