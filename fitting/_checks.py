"""Check the shapes and types of arguments of the public functions; errors name the argument."""

from __future__ import annotations

import jax.numpy as jnp

from flamejax._checks import check_shape
from flamejax.types import Observation


def check_observation(observation: Observation) -> tuple[int, ...]:
    """Check that all fields of an observation of 68 landmarks agree in shape, and return its batch axes.

    Raises:
      ValueError: a field has a wrong shape, or the image does not hold floats. The message names it.
    """
    check_shape("observation.landmarks", observation.landmarks, 68, 2)
    check_shape("observation.image", observation.image, "S", "S", 3)
    if not jnp.issubdtype(observation.image.dtype, jnp.floating):
        raise ValueError(f"observation.image must hold floats in [0, 1], not {observation.image.dtype}.")
    batch, side = observation.landmarks.shape[:-2], observation.image.shape[-2]
    field_shapes = {
        "image": (side, side, 3),
        "confidence": (68,),
        "dense_landmarks": (468, 2),
        "dense_confidence": (468,),
        "face_mask": (side, side),
        "occlusion_mask": (side, side),
    }
    for name, shape in field_shapes.items():
        check_shape(f"observation.{name}", getattr(observation, name), *batch, *shape, batched=False)
    return batch
