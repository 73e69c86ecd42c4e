"""Real skin on heads whose shape is known: does comparing colours bring the shape nearer, or drive it off?"""

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
"""Heads that wear the model's own albedo, for comparison."""
SEED = 21


def frontal_error(head: HeadModel, found: Array, truth: Array) -> np.ndarray:
    """(B,) mean distance of the frontal face's vertices after a similarity, millimetres. found, truth (B, V, 3)."""
    frontal = np.asarray(head.regions["face"]) & (np.asarray(head.v_template)[:, 2] > 0)
    found, truth = found[:, frontal], truth[:, frontal]
    moved = apply_similarity(found, *similarity_transform(found, truth))
    return 1e3 * np.linalg.norm(np.asarray(moved - truth), axis=-1).mean(axis=-1)


def known_head_rows(
    head: HeadModel, names: Sequence[str], observation: Observation, fit: Fit, detector: FaceDetector
) -> list[Row]:
    """Random heads with the skin of the photos, rendered and fitted.

    Args:
      names: of the B photos, whose skin is taken. observation, fit: (B,).

    Returns:
      One row per kind of landmarks (exact; detected on the renders) and skin, and their means: `mean_head` and the
      error under each of `SETTINGS`, millimetres, and `better`, the number of heads in which colours lowered it.
    """
    side = head.albedo_mean.shape[0]
    photographed = jnp.concatenate([skin_textures(head, fit, observation, side)] * HEADS_PER_SKIN)
    count = len(photographed) + MODEL_SKINS
    keys = jax.random.split(jax.random.key(SEED))
    scenes = sample_scenes(head, keys[0], count, spread=SPREAD)
    painted = jnp.clip(head.albedo(scenes.texture[-MODEL_SKINS:]), 0.0, 1.0)
    skins = jnp.concatenate([photographed, painted])
    images, points, _ = render_scenes(head, scenes, keys[1], albedo=skins)
    wearing = np.asarray([*names] * HEADS_PER_SKIN + [MODEL] * MODEL_SKINS)
    truth = vertices(head, scenes.params)
    mean_head = frontal_error(head, jnp.broadcast_to(head.v_template, truth.shape), truth)
    detected, kept = _detect(np.asarray(images), detector)
    rows: list[Row] = []
    for kind, batch, index in (
        ("exact", exact_observation(images, points), np.arange(count)),
        ("detected", detected, kept),
    ):
        errors = {
            name: frontal_error(head, fitting.fit(head, batch, settings).vertices, truth[index])
            for name, settings in SETTINGS.items()
        }
        found = wearing[index]
        rows += [_row(kind, name, found == name, mean_head[index], errors) for name in (*names, MODEL)]
        rows.append(_row(kind, "all photos", found != MODEL, mean_head[index], errors))
    return [row for row in rows if row["heads"]]


def _row(kind: str, skin: str, chosen: np.ndarray, mean_head: np.ndarray, errors: dict[str, np.ndarray]) -> Row:
    alone, both = errors.values()
    if not chosen.any():
        return {"heads": 0}
    return {
        "points": kind, "skin of": skin, "heads": int(chosen.sum()), "mean head": float(mean_head[chosen].mean()),
        **{name: float(error[chosen].mean()) for name, error in errors.items()},
        "better": int(np.sum(both[chosen] < alone[chosen])),
    }  # fmt: skip


def _detect(images: np.ndarray, detector: FaceDetector) -> tuple[Observation, np.ndarray]:
    """What the detector sees in renders, and the indices of those with a face."""
    found, kept = [], []
    for i, image in enumerate(images):
        try:
            found.append(fitting.observe_photo(image, detector=detector)[0])
        except ValueError:
            continue
        kept.append(i)
    if not kept:
        raise ValueError("the detector saw no face in any render of a known head.")
    return fitting.stack(found), np.asarray(kept)
