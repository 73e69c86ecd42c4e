"""Crops of photos by landmarks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models.encoders import alignment
from models.encoders.alignment import ARCFACE_TEMPLATE, five_points, similarity_2d

arcface_transform = jax.jit(alignment.arcface_transform, static_argnums=(2, 3))
square_transform = jax.jit(alignment.square_transform, static_argnums=(2, 3))
warp = jax.jit(alignment.warp, static_argnums=(2, 3), static_argnames=("size", "samples"))
PHOTO = (300, 400, 3)


def apply_transform(transform, points):
    return np.asarray(points) @ np.asarray(transform)[:, :2].T + np.asarray(transform)[:, 2]


def landmarks_of(points):
    """Return 68 landmarks with these five points (5, 2)."""
    landmarks = np.zeros((68, 2), np.float32)
    landmarks[36:42] = points[0] + 3 * np.stack(
        [np.cos(np.arange(6) * np.pi / 3), np.sin(np.arange(6) * np.pi / 3)], -1
    )
    landmarks[42:48] = points[1] + landmarks[36:42] - points[0]
    landmarks[[30, 48, 54]] = points[2:]
    return jnp.asarray(landmarks)


def template_in_photo(scale=2.5, angle=0.4, offset=(60.0, 20.0)):
    """Return the template's points transformed to a photo: (5, 2)."""
    rotation = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return ARCFACE_TEMPLATE @ rotation.T + offset


def test_a_known_similarity_is_recovered():
    transform = arcface_transform(landmarks_of(template_in_photo()), jnp.ones(68), PHOTO)
    np.testing.assert_allclose(apply_transform(transform, template_in_photo()), ARCFACE_TEMPLATE, atol=1e-3)
    np.testing.assert_allclose(np.linalg.det(transform[:, :2]), 2.5**-2, rtol=1e-4)


def test_template_is_in_pixels_whose_centres_lie_at_a_half():
    """It was published as indices: the left eye is 0.2946 pixels right of the centre of the pixel with index 38."""
    photo = np.zeros((112, 112, 1), np.float32)
    photo[72, 56] = 1  # nearest to the published nose, (56.0252, 71.7366)
    crop = warp(jnp.asarray(photo), arcface_transform(landmarks_of(ARCFACE_TEMPLATE), jnp.ones(68), (112, 112, 3)), 112)
    assert np.unravel_index(np.argmax(crop), crop.shape)[:2] == (72, 56) and crop.max() > 0.99
    np.testing.assert_allclose(ARCFACE_TEMPLATE[2], (56.5252, 72.2366), atol=1e-4)


def test_reflected_faces_are_not_reflected_back():
    points = template_in_photo() * np.array([-1.0, 1.0]) + np.array([300.0, 0.0])
    transform, determined = similarity_2d(jnp.asarray(points), jnp.asarray(ARCFACE_TEMPLATE), jnp.ones(5))
    assert determined and np.linalg.det(transform[:, :2]) > 0


@pytest.mark.parametrize("visible", [[0, 1], [2, 3], [0, 4], [1, 2, 3]])
def test_two_visible_points_are_enough(visible):
    """The positions of the other points are wrong, but have no effect."""
    points = template_in_photo() + np.where(np.isin(np.arange(5), visible), 0, 50)[:, None]
    parts = [range(36, 42), range(42, 48), [30], [48], [54]]
    visibility = np.isin(np.arange(68), [index for k in visible for index in parts[k]])
    transform = arcface_transform(landmarks_of(points), jnp.asarray(visibility), PHOTO)
    np.testing.assert_allclose(apply_transform(transform, template_in_photo()), ARCFACE_TEMPLATE, atol=5e-3)


def test_visibility_is_a_weight():
    points = template_in_photo()
    points[2] += 30
    landmarks = landmarks_of(points)
    errors = []
    for weight in (1.0, 0.1, 0.0):
        transform = arcface_transform(landmarks, jnp.ones(68).at[30].set(weight), PHOTO)
        errors.append(np.abs(apply_transform(transform, template_in_photo()) - ARCFACE_TEMPLATE).max())
    assert errors[0] > 2 * errors[1] > 1e-2 > errors[2]


def test_an_eye_is_the_mean_of_its_visible_landmarks():
    points, weights = five_points(landmarks_of(template_in_photo()).at[36].set(1e6), jnp.ones(68).at[36:38].set(0))
    expected = np.asarray(landmarks_of(template_in_photo()))[38:42].mean(0)
    np.testing.assert_allclose(points[0], expected, rtol=1e-5)
    np.testing.assert_allclose(weights, [4 / 6, 1, 1, 1, 1], rtol=1e-6)


@pytest.mark.parametrize("visible", [[], [30]])
def test_fewer_than_two_visible_points_fall_back_to_all(visible):
    landmarks = landmarks_of(template_in_photo())
    visibility = jnp.zeros(68).at[jnp.asarray(visible, jnp.int32)].set(1)
    transform = arcface_transform(landmarks, visibility, PHOTO)
    np.testing.assert_allclose(apply_transform(transform, template_in_photo()), ARCFACE_TEMPLATE, atol=1e-3)


@pytest.mark.parametrize("transform", [arcface_transform, square_transform])
@pytest.mark.parametrize("value", [0.0, np.nan, np.inf])
def test_degenerate_landmarks_give_the_entire_photo(transform, value):
    photo_transform = transform(jnp.full((68, 2), value), jnp.zeros(68), PHOTO, 112)
    np.testing.assert_allclose(
        apply_transform(photo_transform, [[0, 150], [400, 150], [200, 150]]), [[0, 56], [112, 56], [56, 56]], atol=1e-3
    )


def test_square_transform_encloses_the_visible_landmarks():
    rng = np.random.default_rng(0)
    landmarks = rng.uniform((100, 120), (180, 220), (68, 2)).astype(np.float32)
    landmarks[0], landmarks[1], landmarks[2] = (100, 120), (180, 220), (900, 900)
    visibility = jnp.ones(68).at[2].set(0.2)
    transform = square_transform(jnp.asarray(landmarks), visibility, PHOTO)
    # 1.6 times the longer side, 100, about (140, 170).
    np.testing.assert_allclose(apply_transform(transform, [[60, 90], [220, 250]]), [[0, 0], [224, 224]], atol=1e-3)


def ramp(height=90, width=120):
    """Return a photo whose colours are its coordinates: x, y and 1."""
    x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    return jnp.asarray(np.stack([x, y, np.ones_like(x)], -1), jnp.float32)


@pytest.mark.parametrize("samples", [1, 2, 4])
def test_a_linear_picture_is_warped_exactly(samples):
    angle, scale, size = 0.3, 0.5, 24
    linear = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    offset = size / 2 - linear @ np.array([60.0, 45.0])
    transform = jnp.asarray(np.concatenate([linear, offset[:, None]], -1), jnp.float32)
    crop = warp(ramp(), transform, size, samples)
    x, y = np.meshgrid(np.arange(size) + 0.5, np.arange(size) + 0.5)
    expected = (np.stack([x, y], -1) - offset) @ np.linalg.inv(linear).T
    np.testing.assert_allclose(crop[..., :2], expected, atol=1e-3)


def test_crop_is_zero_outside_of_the_photo():
    shift = jnp.asarray([[1.0, 0, 10], [0, 1.0, 20.5]])
    crop = warp(ramp(30, 30), shift, 60)
    assert not crop[:20].any() and not crop[:, :10].any() and not crop[51:].any() and not crop[:, 40:].any()
    np.testing.assert_allclose(crop[20, 10:40, 2], 0.5, atol=1e-5)
    np.testing.assert_allclose(crop[21:50, 10:40, 2], 1, atol=1e-5)
    far = warp(ramp(30, 30), jnp.asarray([[1e-9, 0, 1e9], [0, 1e-9, 1e9]]), 8)
    assert not far.any()


def test_shrinking_does_not_alias():
    """Stripes of one pixel become grey, but not with a single bilinear sample."""
    stripes = jnp.broadcast_to((jnp.arange(128) % 2).astype(jnp.float32)[None, :, None], (128, 128, 3))
    transform = jnp.asarray([[0.27, 0, 0.03], [0, 0.27, 0.03]])
    inside = slice(1, 33)
    assert np.abs(warp(stripes, transform, 36)[inside, inside] - 0.5).max() < 0.2, (
        "the mean over 3.7 pixels leaves little of the stripes"
    )
    assert np.abs(warp(stripes, transform, 36, samples=1)[inside, inside] - 0.5).max() > 0.4


def test_crop_without_shrinking_is_not_blurred():
    photo = jax.random.uniform(jax.random.key(0), (64, 64, 3))
    same = jnp.asarray([[1.0, 0, 0], [0, 1.0, 0]])
    np.testing.assert_allclose(warp(photo, same, 64, samples=4), photo, atol=1e-5)


def test_crop_is_differentiable_in_the_photo():
    transform = jnp.asarray([[0.5, 0.1, 3.0], [-0.1, 0.5, 4.0]])
    gradient = jax.grad(lambda photo: jnp.sum(warp(photo, transform, 16) ** 2))(ramp(40, 40))
    assert jnp.isfinite(gradient).all() and jnp.abs(gradient).max() > 0


@pytest.mark.parametrize("transform_function", [arcface_transform, square_transform])
def test_batch_axes_and_jit(transform_function, inputs):
    photo, landmarks, visibility = inputs(3)

    def crop(photo, landmarks, visibility):
        return warp(photo, transform_function(landmarks, visibility, photo.shape, 16), 16)

    crops, jitted = crop(photo, landmarks, visibility), jax.jit(crop)
    singles = jnp.stack([jitted(photo[k], landmarks[k], visibility[k]) for k in range(3)])
    np.testing.assert_allclose(crops, singles, atol=1e-5)
    np.testing.assert_allclose(jitted(photo, landmarks, visibility), crops, atol=1e-5)
    np.testing.assert_allclose(jax.jit(jax.vmap(crop))(photo, landmarks, visibility), crops, atol=1e-5)
