"""Render heads of random identity, expression, pose, light and background, for tests, calibration and evaluation."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax import Array

from flamejax.camera import CropTransform, OrthographicCamera
from flamejax.geometry import normalize
from flamejax.head import HeadModel, HeadParams, landmarks_from_vertices, vertices
from flamejax.rendering import ambient_light, render, sh_basis
from flamejax.types import Observation

FACE_SHARE = 0.62
"""Height of the face (brow to chin) divided by the image's side, as in a crop of `fitting.observe`."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Scenes:
    """Heads with known parameters in front of cameras, batch axis (B,)."""

    params: HeadParams
    camera: OrthographicCamera
    texture: Array
    """(B, C) albedo coefficients."""
    light: Array
    """(B, 9, 3) spherical harmonics."""


@dataclasses.dataclass(frozen=True)
class SceneSpread:
    """Ranges of random scenes: half-widths of the head's angles and the largest opening of the jaw, radians; standard
    deviations of the coefficients."""

    identity: float = 1.0
    expression: float = 0.7
    yaw: float = 0.5
    pitch: float = 0.25
    roll: float = 0.2
    jaw: float = 0.2
    albedo: float = 1.0


def sample_scenes(
    head: HeadModel, key: Array, count: int, size: int = 256, spread: SceneSpread | None = None
) -> Scenes:
    """Sample random scenes whose faces fill the image as in a crop of `fitting.observe`.

    Args:
      key: PRNG key. count: B. size: side of the image, pixels.
    """
    spread = spread or SceneSpread()
    keys = jax.random.split(key, 7)
    orient = jax.random.uniform(keys[0], (count, 3), minval=-1.0, maxval=1.0)
    orient = orient * jnp.asarray([[spread.pitch, spread.yaw, spread.roll]])
    jaw = jnp.zeros((count, 3)).at[:, 0].set(jax.random.uniform(keys[1], (count,), maxval=spread.jaw))
    params = dataclasses.replace(
        HeadParams.zeros(head, (count,)),
        betas=spread.identity * jax.random.normal(keys[2], (count, head.num_betas)),
        expression=within_range(head, spread.expression * jax.random.normal(keys[3], (count, head.num_expression))),
        global_orient=orient,
        jaw_pose=jaw,
    )
    texture = spread.albedo * jax.random.normal(keys[4], (count, head.albedo_basis.shape[0]))
    return Scenes(params, _framing(head, params, size), texture, _lights(keys[5], count))


def within_range(head: HeadModel, expression: Array) -> Array:
    """Limit random expressions (*b, E) to the head's range, so that they are anatomically possible.

    Coefficients are reflected at the range's lower end, which keeps lips and lids from crossing, and clipped at the
    upper. They are unchanged for a head without a range.
    """
    if head.expression_range is None:
        return expression
    low, high = (jnp.broadcast_to(limit, expression.shape) for limit in head.expression_range)
    return jnp.clip(jnp.where(expression < low, 2 * low - expression, expression), low, high)


def _framing(head: HeadModel, params: HeadParams, size: int) -> OrthographicCamera:
    """Returns cameras that centre the landmarks and scale them to `FACE_SHARE` of the image."""
    points = landmarks_from_vertices(head, vertices(head, params), params)[..., :2]
    low, high = jnp.min(points, axis=1), jnp.max(points, axis=1)
    scale = FACE_SHARE * size / jnp.max(high - low, axis=-1)
    centre = 0.5 * (low + high) * jnp.asarray([[1.0, -1.0]])
    return OrthographicCamera(scale, 0.5 * size - scale[:, None] * centre)


def _lights(key: Array, count: int) -> Array:
    """Sample ambient light and one soft lamp from the upper front, slightly coloured: (B, 9, 3)."""
    keys = jax.random.split(key, 4)
    side = jax.random.uniform(keys[0], (count, 2), minval=-1.0, maxval=1.0)
    direction = normalize(jnp.stack([side[:, 0], 0.3 + 0.4 * side[:, 1], jnp.ones(count)], axis=-1))
    lamp = lamp_light(direction)
    tint = 1.0 + 0.06 * jax.random.normal(keys[1], (count, 1, 3))
    strength = jax.random.uniform(keys[2], (count, 1, 1), minval=0.2, maxval=0.6)
    fill = jax.random.uniform(keys[3], (count, 1, 1), minval=0.4, maxval=0.7)
    return fill * ambient_light((count,)) + strength * lamp[..., None] * tint


def lamp_light(direction: Array) -> Array:
    """Returns (*b, 9), the light of a soft lamp in a unit direction (*b, 3): 1 on a surface that faces it."""
    # Cosine lobe over the orthonormal basis (Ramamoorthi & Hanrahan 2001), scaled to 1 towards the lamp.
    lobe = jnp.repeat(jnp.asarray([jnp.pi, 2 * jnp.pi / 3, jnp.pi / 4]), jnp.asarray([1, 3, 5]), total_repeat_length=9)
    return sh_basis(direction) * jnp.expand_dims(lobe, range(direction.ndim - 1))


@functools.partial(jax.jit, static_argnames="size")
def render_scenes(
    head: HeadModel, scenes: Scenes, key: Array, size: int = 256, albedo: Array | None = None
) -> tuple[Array, Array, Array]:
    """Render images on plain random backgrounds.

    Args:
      albedo: (B, Ht, Wt, 3) textures to use instead of the scenes' own.

    Returns:
      images (B, size, size, 3) in [0, 1]; landmarks (B, 68, 2) pixels; alpha (B, size, size), 1 = head.
    """
    verts = vertices(head, scenes.params)
    texture = jnp.clip(head.albedo(scenes.texture), 0.0, 1.0) if albedo is None else albedo
    image = render(head, verts, scenes.camera, texture=texture, light=scenes.light, size=(size, size), antialias=False)
    background = jax.random.uniform(key, (verts.shape[0], 1, 1, 3))
    alpha = image[..., 3:]
    points = scenes.camera.project(landmarks_from_vertices(head, verts, scenes.params))[..., :2]
    return jnp.clip(image[..., :3] + (1 - alpha) * background, 0.0, 1.0), points, alpha[..., 0]


def exact_observation(images: Array, points: Array) -> Observation:
    """Make observations of rendered images: exact landmarks, full confidence, nothing hidden."""
    count, side = images.shape[0], images.shape[1]
    return Observation(
        image=images,
        landmarks=points,
        confidence=jnp.ones(points.shape[:-1]),
        dense_landmarks=jnp.zeros((count, 468, 2)),
        dense_confidence=jnp.zeros((count, 468)),
        face_mask=jnp.ones((count, side, side)),
        occlusion_mask=jnp.zeros((count, side, side)),
        crop=CropTransform(jnp.ones(count), jnp.zeros((count, 2))),
    )
