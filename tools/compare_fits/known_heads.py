"""Fit renders of known heads with real skin: do colours improve the fitted shape or worsen it?"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

import fitting
from experiments.calibrate_landmarks.evaluation import Row
from experiments.datasets.renders import SceneSpread, exact_observation, render_scenes, sample_scenes
from fitting import Fit, FitConfig, Observation
from fitting.detector import FaceDetector
from flamejax.geometry import apply_similarity, similarity_transform
from flamejax.head import HeadModel, vertices
from tools.compare_fits.real_skin import skin_textures

SPREAD = SceneSpread(expression=0.5, jaw=0.1, yaw=0.4)
SETTINGS = {"landmarks": FitConfig(photometric_steps=0), "and colours": FitConfig()}
HEADS_PER_SKIN = 2
MODEL = "the model"
MODEL_SKINS = 16
"""Number of heads with the model's own albedo, for comparison."""
SEED = 21


def frontal_error(head: HeadModel, verts: Array, truth: Array) -> np.ndarray:
    """Return the mean distance (B,) of the frontal face's vertices after a similarity transform, millimetres.

    verts, truth (B, V, 3) metres.
    """
    frontal = np.asarray(head.regions["face"]) & (np.asarray(head.v_template)[:, 2] > 0)
    verts, truth = verts[:, frontal], truth[:, frontal]
    aligned = apply_similarity(verts, *similarity_transform(verts, truth))
    return 1e3 * np.linalg.norm(np.asarray(aligned - truth), axis=-1).mean(axis=-1)


def known_head_rows(
    head: HeadModel, names: Sequence[str], observation: Observation, fit: Fit, detector: FaceDetector
) -> list[Row]:
    """Render random heads with the skin of the photos, fit them, and return rows of errors.

    Args:
      names: names of the B photos whose skin is used.
      observation, fit: the photos and their fit, batch axis (B,).
      detector: detects the landmarks of the renders.

    Returns:
      For each kind of landmarks (exact; detected on the renders), one row per skin and one of all photos. A row has the
      error of the mean head and of the fits under each of `SETTINGS`, millimetres, and `better`: the number of heads
      whose error is lower with colours.
    """
    side = head.albedo_mean.shape[0]
    photographed = jnp.concatenate([skin_textures(head, fit, observation, side)] * HEADS_PER_SKIN)
    count = len(photographed) + MODEL_SKINS
    keys = jax.random.split(jax.random.key(SEED))
    scenes = sample_scenes(head, keys[0], count, spread=SPREAD)
    synthetic = jnp.clip(head.albedo(scenes.texture[-MODEL_SKINS:]), 0.0, 1.0)
    skins = jnp.concatenate([photographed, synthetic])
    images, points, _ = render_scenes(head, scenes, keys[1], albedo=skins)
    skin_names = np.asarray([*names] * HEADS_PER_SKIN + [MODEL] * MODEL_SKINS)
    truth = vertices(head, scenes.params)
    mean_head = frontal_error(head, jnp.broadcast_to(head.v_template, truth.shape), truth)
    detected, detected_index = _detect(np.asarray(images), detector)
    rows: list[Row] = []
    for kind, batch, index in (
        ("exact", exact_observation(images, points), np.arange(count)),
        ("detected", detected, detected_index),
    ):
        errors = {
            name: frontal_error(head, fitting.fit(head, batch, settings).vertices, truth[index])
            for name, settings in SETTINGS.items()
        }
        skin = skin_names[index]
        rows += [_row(kind, name, skin == name, mean_head[index], errors) for name in (*names, MODEL)]
        rows.append(_row(kind, "all photos", skin != MODEL, mean_head[index], errors))
    return [row for row in rows if row["heads"]]


def _row(kind: str, skin: str, selected: np.ndarray, mean_head: np.ndarray, errors: dict[str, np.ndarray]) -> Row:
    landmarks_only, with_colours = errors.values()
    if not selected.any():
        return {"heads": 0}
    return {
        "points": kind, "skin of": skin, "heads": int(selected.sum()), "mean head": float(mean_head[selected].mean()),
        **{name: float(error[selected].mean()) for name, error in errors.items()},
        "better": int(np.sum(with_colours[selected] < landmarks_only[selected])),
    }  # fmt: skip


def _detect(images: np.ndarray, detector: FaceDetector) -> tuple[Observation, np.ndarray]:
    """Return the observations of renders in which the detector sees a face, and the indices of these renders."""
    observations, indices = [], []
    for i, image in enumerate(images):
        try:
            observations.append(fitting.observe_photo(image, detector=detector)[0])
        except ValueError:
            continue
        indices.append(i)
    if not indices:
        raise ValueError("the detector saw no face in any render of a known head.")
    return fitting.stack(observations), np.asarray(indices)
