"""Computes vertices and colours from the user's selection, independently of the browser."""

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
    SPREAD_COLOUR,
    UsageError,
    face_keys,
    load_fit_model,
    load_observation,
    short_digest,
    vertex_spread,
)
from experiments.view.edits import edit_params
from fitting.fit_model import FitModel
from flamejax.head import HeadFileError, HeadModel
from flamejax.io.meshes import TexturedMesh
from flamejax.io.records import ResultError, read_all_metrics, read_metrics
from flamejax.io.results import HeadIdentity, Result, read_result, vertices_of
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
"""Grey of the clay head; the page's lights are bright."""
SCALE_TEXELS = 256
"""Texels of a colour scale."""
MIN_FULL_SPREAD = 1e-4
"""Metres: smallest upper end of the colour scale of the spread."""


class ViewError(Exception):
    """A selection cannot be shown; the message says why and what to do."""


@dataclass(frozen=True)
class HeadSelection:
    """Which head of a face is shown."""

    choice: str = FIT
    """FIT, a hypothesis' number such as '03', or BETWEEN."""
    values: Mapping[str, float] = field(default_factory=dict)
    """Values of the fit's sliders by name; the others are as fitted."""
    ends: tuple[int, int] = (0, 1)
    """The two hypotheses to interpolate."""
    weight: float = 0.5
    """0 gives the first of them, 1 the second."""


@dataclass(frozen=True)
class DrawSettings:
    """How hypotheses are drawn."""

    k: float = 0.5
    """How fast similarity falls with distance (Eq. 8)."""
    n_sigma: float = 3.0
    """How unusual heads may be, given the visible part, in standard deviations (Eq. 9)."""
    num_samples: int = 16
    seed: int = 0
    """With the seed and settings of `flamejax reconstruct diverse`, the draws are the same."""


@dataclass
class ViewedFace:
    """An opened face with its current hypotheses."""

    result: Result
    """The result that was read."""
    model: FitModel
    observation: Observation | None
    """The input of the fit; None where the photo is not available."""
    missing: str
    """Why the photo is not available; empty if it is."""
    hypotheses: Hypotheses | None
    source: str
    """A description of how the hypotheses were drawn."""
    mesh_vae: str | None
    """First digits of the SHA-256 of the Mesh-VAE that the hypotheses' latents belong to."""

    @property
    def fit(self) -> Fit:
        """The fit that was read."""
        return self.result.fit

    @property
    def count(self) -> int:
        """The number of hypotheses."""
        return 0 if self.hypotheses is None else len(self.hypotheses.score)

    def choices(self) -> list[str]:
        """Return the possible values of `HeadSelection.choice`."""
        has_latents = self.hypotheses is not None and self.hypotheses.latents is not None
        return [FIT, *self.hypothesis_names(), *([BETWEEN] if has_latents and self.count > 1 else [])]

    def hypothesis_names(self) -> list[str]:
        """Return the hypotheses' names: 00, 01, ..."""
        return [f"{i:02d}" for i in range(self.count)]


class Explorer:
    """An output folder of `flamejax reconstruct`, opened for viewing."""

    def __init__(
        self, folder: Path, head: HeadModel, identity: HeadIdentity, local: str = "auto", mesh_vae: Path | None = None
    ):
        """Raises: UsageError, the folder holds no results."""
        self.folder, self.head, self.identity = folder, head, identity
        self.local, self.mesh_vae = local, mesh_vae or mesh_vae_path()
        metrics, self.damaged = read_all_metrics(folder) if folder.is_dir() else ({}, {})
        """Name -> error of the faces whose metrics.json is damaged."""
        self.names = [*metrics, *self.damaged]
        """Names of the faces, the damaged ones last."""
        if not self.names:
            problem = "no results of flamejax reconstruct in it" if folder.is_dir() else "no such folder"
            hint = " Give the folder above it." if (folder / "metrics.json").is_file() else ""
            remedy = f"`flamejax reconstruct PHOTOS... --output {folder}` writes some."
            raise UsageError(f"{folder}: {problem}.{hint} {remedy}")
        self._faces: dict[str, ViewedFace] = {}
        self._models: dict[str, FitModel] = {}

    def first_face(self) -> ViewedFace:
        """Return the first face that can be read. Raises: ResultError, why the first of all cannot, if none can."""
        errors = []
        for name in self.names:
            try:
                return self.face(name)
            except ResultError as error:
                errors.append(error)
        raise errors[0]

    def face(self, name: str) -> ViewedFace:
        """Return a face, which is read on first use. Raises: ResultError, also for a name that is not in `names`."""
        if name not in self.names:
            raise ResultError(f"{self.folder}: there is no face {name!r}.")
        if name not in self._faces:
            model = self._model(read_metrics(self.folder / name))
            result = read_result(self.folder / name, model, self.identity)
            observation, missing = load_observation(result)
            vae_digest = result.metrics["settings"].get("mesh_vae")
            facts = observation, missing, result.hypotheses, "as written", vae_digest
            self._faces[name] = ViewedFace(result, model, *facts)
        return self._faces[name]

    def vertices(self, face: ViewedFace, selection: HeadSelection) -> np.ndarray:
        """Return the selected head's vertices (V, 3), float32 world metres. Raises: ViewError."""
        if selection.choice == FIT:
            return np.asarray(vertices_of(face.model.head, edit_params(face.model, face.fit, selection.values)))
        if selection.choice not in face.choices() or face.hypotheses is None:
            raise ViewError(f"there is no hypothesis {selection.choice}: draw some first.")
        if selection.choice == BETWEEN:
            return self._interpolate(face, face.hypotheses, selection)
        return np.asarray(face.hypotheses.vertices[int(selection.choice)])

    def draw(self, face: ViewedFace, settings: DrawSettings) -> None:
        """Replace a face's hypotheses by new ones. Takes seconds; the first draw takes longer, since it compiles.

        Raises: ViewError, the Mesh-VAE or the photo cannot be used, or the draws are not finite.
        """
        if face.observation is None:
            raise ViewError("drawing needs the photo, which is missing (see below).")
        metrics, count = face.result.metrics, settings.num_samples
        key = face_keys([(metrics["photo_sha256"], metrics["face"])], settings.seed)[0]
        config = dataclasses.replace(DIVERSIFY_PRESETS["fast"], k=settings.k, n_sigma=settings.n_sigma)
        drawn = diversify(self.vae, face.model, face.fit, face.observation, key, num_samples=count, config=config)
        jax.block_until_ready(drawn)
        if not (np.isfinite(drawn.vertices).all() and np.isfinite(drawn.score).all()):
            raise ViewError("the Mesh-VAE gave values that are not finite; the previous hypotheses are still shown.")
        face.source = f"drawn now by Algorithm 2, seed {settings.seed}, k {settings.k:g}, n_sigma {settings.n_sigma:g}"
        face.hypotheses, face.mesh_vae = drawn, self._digest

    @cached_property
    def vae(self) -> MeshVAE:
        """The Mesh-VAE, loaded on first use. Raises: ViewError."""
        try:
            return load_mesh_vae(self.head, self.mesh_vae)
        except (HeadFileError, OSError) as error:
            raise ViewError(str(error)) from error

    @cached_property
    def _digest(self) -> str | None:
        return short_digest(self.mesh_vae)

    def _model(self, metrics: dict) -> FitModel:
        local = str(metrics["settings"].get("local"))
        if local not in self._models:
            self._models[local] = load_fit_model(metrics, self.head, self.local)
        return self._models[local]

    def _interpolate(self, face: ViewedFace, hypotheses: Hypotheses, selection: HeadSelection) -> np.ndarray:
        if face.mesh_vae != self._digest:
            raise ViewError(
                "these hypotheses were drawn from another Mesh-VAE: give it as --mesh-vae, or draw new ones."
            )
        if max(selection.ends) >= face.count:
            raise ViewError(f"there are only {face.count} hypotheses.")
        first, second = (hypotheses.latents[end] for end in selection.ends)  # type: ignore[index]
        weight = np.float32(selection.weight)
        return np.asarray(_decode_between(self.vae, face.model, face.fit, first, second, weight))


@jax.jit
def _decode_between(vae: MeshVAE, model: FitModel, fit: Fit, first: Array, second: Array, weight: Array) -> Array:
    """Decode latents between two (L, C) to vertices (V, 3) in the fit's pose."""
    _, rotation, root = to_head_frame(model, fit)
    return to_world(vae.decode((1 - weight) * first + weight * second)[None], rotation, root)[0]


def colour_mesh(face: ViewedFace, head: HeadModel, vertices: np.ndarray, colour: str) -> TexturedMesh:
    """Return vertices (V, 3) as a mesh in one of COLOURS.

    A colour scale is a texture too: its texture coordinates are the positions on the scale."""
    if colour == "texture":
        return head_mesh(head, vertices, np.clip(np.asarray(head.albedo(face.fit.texture)), 0.0, 1.0))
    position, end = np.zeros(len(vertices)), SPREAD_COLOUR
    if colour == "spread":
        position = np.clip(spread(face) / full_spread(face), 0, 1)
    elif colour == "seen and hidden":
        position, end = 1.0 - np.asarray(face.fit.vertex_visibility, np.float64), np.array(HIDDEN_COLOUR) / 255
    uv = np.stack([(0.5 + (SCALE_TEXELS - 1) * position) / SCALE_TEXELS, np.full(len(position), 0.5)], axis=1)
    ramp = np.linspace(0, 1, SCALE_TEXELS)[None, :, None]
    texture = ((1 - ramp) * CLAY + ramp * end).astype(np.float32)
    faces = np.asarray(head.faces)
    return TexturedMesh(vertices.astype(np.float64), faces, uv, faces, texture)


def spread(face: ViewedFace) -> np.ndarray:
    """Return (V,) metres: RMS distance of each vertex from its mean over the hypotheses; 0 without hypotheses."""
    if face.hypotheses is None:
        return np.zeros(face.model.head.num_vertices)
    return vertex_spread(face.hypotheses.vertices)


def full_spread(face: ViewedFace) -> float:
    """Return the upper end of the colour scale, metres: the spread's 99th percentile, at least MIN_FULL_SPREAD."""
    return max(MIN_FULL_SPREAD, float(np.quantile(spread(face), 0.99)))


def legend(face: ViewedFace, colour: str) -> str:
    """Return a sentence about what the colours show; empty for clay."""
    if colour == "spread":
        if not face.count:
            return "There are no hypotheses: draw some."
        largest = 1e3 * full_spread(face)
        return f"How far apart the {face.count} hypotheses are: grey 0, orange {largest:.2g} mm or more."
    if colour == "seen and hidden":
        share = 100 * float(np.mean(np.asarray(face.fit.vertex_visibility)))
        return f"Grey: the photo shows it ({share:.0f} % of the vertices). Violet: hidden, or turned away."
    return "The fit's texture, without the photo's light." if colour == "texture" else ""


@dataclass(frozen=True)
class PhotoPlane:
    """The photo's crop as a square picture in the world."""

    image: np.ndarray
    """(S, S, 3) uint8."""
    side: float
    """Side length, metres."""
    centre: np.ndarray
    """(3,) metres."""


def photo_plane(face: ViewedFace, eye: np.ndarray, margin: float = 0.02) -> PhotoPlane | None:
    """Place the crop behind the head so that it lies under the face for a viewer at `eye` (3,) who looks along -z.

    The fit's camera is orthographic and a browser's is not, so the picture is enlarged. None where there is no photo.
    """
    if face.observation is None:
        return None
    image = np.round(255 * np.clip(np.asarray(face.observation.image), 0, 1)).astype(np.uint8)
    scale, shift = float(face.fit.camera.scale), np.asarray(face.fit.camera.translation, np.float64)
    middle = (len(image) / 2 - shift) / scale * (1, -1)
    vertices = np.asarray(face.fit.vertices)
    behind, front = vertices[:, 2].min() - margin, np.asarray(face.fit.landmarks)[:, 2].mean()
    enlargement = (eye[2] - behind) / (eye[2] - front)
    centre = np.array([*(eye[:2] + enlargement * (middle - eye[:2])), behind])
    return PhotoPlane(image, enlargement * len(image) / scale, centre)
