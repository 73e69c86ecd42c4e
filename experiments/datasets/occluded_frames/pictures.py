"""One frame's photos from the front, clean and with something before the face, and which vertices they show."""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np

from experiments.datasets.occluded_frames.sequences import Frame
from experiments.datasets.open_faces import patterns
from experiments.datasets.open_faces.details import skin_of
from experiments.datasets.open_faces.photos import (
    Studio,
    at_pixels,
    hidden_pixels,
    occluder_for,
    pictures,
    visible_vertices,
)
from experiments.datasets.open_faces.scenes import SIZE, draw_scene
from experiments.datasets.open_faces.shading import Views, views
from experiments.datasets.open_faces.skin import draw_skin, texels_of
from experiments.datasets.scans import OPEN_HEAD
from flamejax.camera import PerspectiveCamera
from flamejax.head import HeadModel, landmarks_from_vertices
from models.rank import frontal_vertices

KINDS = ("hand", "face-mask", "object")
""""Synthetically occluded (hand, face, and random)": OFER, section 4.2."""
FRONTAL = (4.0, 3.0, 2.0)
"""Degrees: standard deviations of yaw, pitch and roll; "frontal face images (no profile or rotated head views)"."""
HIDDEN = (0.05, 0.85)
"""Share of the front vertices that an occluder should hide; others are drawn again, so often:"""
TRIES = 12


@dataclass(frozen=True)
class Picture:
    """What is made of one frame; numpy, V vertices, S = `SIZE`."""

    occluder: str
    """One of `KINDS`."""
    photo: np.ndarray
    """(S, S, 3) in [0, 1], as the next."""
    occluded: np.ndarray
    mask: np.ndarray
    """(S, S) bool, the occluder, wherever it is in the picture."""
    front: np.ndarray
    """(V,) bool, V_front: of `frontal_vertices` those that the clean photo shows."""
    unoccluded: np.ndarray
    """(V,) bool, V_unocc: of these the ones whose pixel is not in the mask."""
    landmarks: np.ndarray
    """(68, 2) exact, pixels, in front or not."""
    camera: PerspectiveCamera
    """World is the head frame."""


class Photographer:
    """Photographs frames of one head model.

    Skins are those of the open faces; a head that is not the open one has its own albedo, drawn without their paint.
    """

    def __init__(self, head: HeadModel, seed: int):
        self._head, self._seed = head, seed
        self._studio = Studio(head, skin_of(head), texels_of(head))
        self._frontal = frontal_vertices(head)
        self._look = functools.lru_cache(maxsize=2)(self._texture)

    def __call__(self, frame: Frame) -> Picture:
        """Depends on the frame's name and content and on the seed, and not on other frames."""
        rng = np.random.default_rng([self._seed, int(hashlib.sha256(frame.name.encode()).hexdigest()[:8], 16)])
        head, verts = self._head, jnp.asarray(frame.vertices)
        scene = draw_scene(rng, head, frame.vertices, frame.rotations, FRONTAL)
        background, kind = patterns.background(rng, SIZE), str(rng.choice(KINDS))
        texture = self._look(frame.person)
        pivot = np.asarray(head.J_regressor, np.float64)[1] @ frame.vertices
        screen = np.asarray(scene.camera.project(verts))
        front = self._frontal & np.asarray(visible_vertices(head, verts, screen, scene.camera.T_camera_world))
        for _ in range(TRIES):
            occluder = occluder_for(
                self._studio, kind, rng, frame.vertices, frame.rotations, pivot, scene, face_tone(head, texture)
            )
            seen: Views = views(head, frame.vertices, texture, occluder, scene, background)
            mask = hidden_pixels(head, seen)
            unoccluded = front & ~at_pixels(mask, screen)
            if HIDDEN[0] <= 1 - unoccluded.sum() / max(front.sum(), 1) <= HIDDEN[1]:
                break
        photo, occluded = pictures(seen, occluder, scene, rng)
        points = scene.camera.project(landmarks_from_vertices(head, verts, scene.params))
        return Picture(kind, photo, occluded, mask, front, unoccluded, np.asarray(points)[:, :2], scene.camera)

    def _texture(self, person: int) -> np.ndarray:
        if self._head.name == OPEN_HEAD:
            return draw_skin(self._head, self._studio.texels, person)[1]
        drawn = np.random.default_rng([self._seed, person]).standard_normal(self._head.albedo_basis.shape[0])
        return np.clip(np.asarray(self._head.albedo(jnp.asarray(drawn, jnp.float32))), 0, 1)


def face_tone(head: HeadModel, texture: np.ndarray) -> np.ndarray:
    """(3,) the usual colour of the face in a texture (Ht, Wt, 3)."""
    on_face = frontal_vertices(head)[np.asarray(head.faces)].all(axis=1)
    places = np.asarray(head.uv)[np.asarray(head.uv_faces)[on_face]].mean(axis=1)
    height, width = texture.shape[:2]
    row = np.clip((1 - places[:, 1]) * height, 0, height - 1).astype(int)
    column = np.clip(places[:, 0] * width, 0, width - 1).astype(int)
    return np.median(texture[row, column], axis=0)
