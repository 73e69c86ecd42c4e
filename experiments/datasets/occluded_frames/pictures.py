"""Render photos of one frame from the front, clean and occluded, and find the vertices visible in them."""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np

from experiments.datasets.occluded_frames.sequences import SequenceFrame
from experiments.datasets.open_faces import patterns
from experiments.datasets.open_faces.details import detail_field
from experiments.datasets.open_faces.photos import (
    PhotoAssets,
    at_pixels,
    clean_and_occluded,
    hidden_pixels,
    occluder_for,
    visible_vertices,
)
from experiments.datasets.open_faces.scenes import SIZE, draw_scene
from experiments.datasets.open_faces.shading import RenderLayers, render_layers
from experiments.datasets.open_faces.skin import draw_skin, texture_layout
from experiments.datasets.scans import OPEN_HEAD
from flamejax.camera import PerspectiveCamera
from flamejax.head import HeadModel, landmarks_from_vertices
from models.rank import frontal_vertices

KINDS = ("hand", "face-mask", "object")
""""Synthetically occluded (hand, face, and random)": OFER, section 4.2."""
FRONTAL = (4.0, 3.0, 2.0)
"""Degrees: standard deviations of yaw, pitch and roll; "frontal face images (no profile or rotated head views)"."""
HIDDEN = (0.05, 0.85)
"""Range of the fraction of front vertices that an occluder should hide; other occluders are drawn again."""
TRIES = 12
"""Maximum number of occluders that are drawn for a frame."""


@dataclass(frozen=True)
class FrameImages:
    """Images and visibility of one frame; numpy, V vertices, S = `SIZE`."""

    occluder: str
    """One of `KINDS`."""
    photo: np.ndarray
    """(S, S, 3) in [0, 1]."""
    occluded: np.ndarray
    """(S, S, 3) in [0, 1]."""
    mask: np.ndarray
    """(S, S) bool, pixels of the occluder."""
    front: np.ndarray
    """(V,) bool, V_front: those of `frontal_vertices` that are visible in the clean photo."""
    unoccluded: np.ndarray
    """(V,) bool, V_unocc: those of V_front whose pixel is not in the mask."""
    landmarks: np.ndarray
    """(68, 2) exact, pixels, visible or not."""
    camera: PerspectiveCamera
    """World is the head frame."""


class FrameRenderer:
    """Renders photos of frames of one head model.

    The open head has the skins of the open faces; any other head has random coefficients of its own albedo.
    """

    def __init__(self, head: HeadModel, seed: int):
        self._head, self._seed = head, seed
        self._assets = PhotoAssets(head, detail_field(head), texture_layout(head))
        self._frontal = frontal_vertices(head)
        self._texture = functools.lru_cache(maxsize=2)(self._draw_texture)

    def __call__(self, frame: SequenceFrame) -> FrameImages:
        """Render one frame. The result depends on its name, its content and the seed, not on other frames."""
        rng = np.random.default_rng([self._seed, int(hashlib.sha256(frame.name.encode()).hexdigest()[:8], 16)])
        head, verts = self._head, jnp.asarray(frame.vertices)
        scene = draw_scene(rng, head, frame.vertices, frame.rotations, FRONTAL)
        background, kind = patterns.background(rng, SIZE), str(rng.choice(KINDS))
        texture = self._texture(frame.person)
        pivot = np.asarray(head.J_regressor, np.float64)[1] @ frame.vertices
        screen = np.asarray(scene.camera.project(verts))
        front = self._frontal & np.asarray(visible_vertices(head, verts, screen, scene.camera.T_camera_world))
        for _ in range(TRIES):
            occluder = occluder_for(
                self._assets, kind, rng, frame.vertices, frame.rotations, pivot, scene, face_tone(head, texture)
            )
            layers: RenderLayers = render_layers(head, frame.vertices, texture, occluder, scene, background)
            mask = hidden_pixels(head, layers)
            unoccluded = front & ~at_pixels(mask, screen)
            if HIDDEN[0] <= 1 - unoccluded.sum() / max(front.sum(), 1) <= HIDDEN[1]:
                break
        photo, occluded = clean_and_occluded(layers, occluder, scene, rng)
        points = scene.camera.project(landmarks_from_vertices(head, verts, scene.params))
        return FrameImages(kind, photo, occluded, mask, front, unoccluded, np.asarray(points)[:, :2], scene.camera)

    def _draw_texture(self, person: int) -> np.ndarray:
        if self._head.name == OPEN_HEAD:
            return draw_skin(self._head, self._assets.layout, person)[1]
        coefficients = np.random.default_rng([self._seed, person]).standard_normal(self._head.albedo_basis.shape[0])
        return np.clip(np.asarray(self._head.albedo(jnp.asarray(coefficients, jnp.float32))), 0, 1)


def face_tone(head: HeadModel, texture: np.ndarray) -> np.ndarray:
    """Returns the median colour (3,) of the face in a texture (Ht, Wt, 3)."""
    on_face = frontal_vertices(head)[np.asarray(head.faces)].all(axis=1)
    uv = np.asarray(head.uv)[np.asarray(head.uv_faces)[on_face]].mean(axis=1)
    height, width = texture.shape[:2]
    row = np.clip((1 - uv[:, 1]) * height, 0, height - 1).astype(int)
    column = np.clip(uv[:, 0] * width, 0, width - 1).astype(int)
    return np.median(texture[row, column], axis=0)
