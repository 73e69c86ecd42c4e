"""Overlays and masks follow the crop transform; turned heads are complete."""

from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from experiments.reconstruct.views import (
    MARGIN,
    OPACITY,
    RENDER_SIDE,
    HeadRenders,
    mask_in_photo,
    overlay,
    render_view,
    tile,
)
from fitting import observe_photo
from flamejax.camera import OrthographicCamera


def square_view(low: int, high: int) -> HeadRenders:
    """Return renders of a white square from pixel `low` to `high`."""
    image = np.zeros((RENDER_SIDE, RENDER_SIDE, 4), np.uint8)
    image[low:high, low:high] = 255
    return HeadRenders(image, image)


@pytest.mark.parametrize(("scale", "offset"), [(0.5, (10.0, -20.0)), (3.0, (-500.0, -300.0)), (1.7, (-120.3, -40.8))])
def test_overlay_follows_the_crop_transform(scale, offset):
    side = 256
    photo = np.zeros((400, 500, 3), np.uint8)
    zoom = RENDER_SIDE / (side * (1 + 2 * MARGIN))
    drawn = overlay(photo, square_view(180, 330), scale, np.array(offset), side)[..., 0] / (255 * OPACITY)
    # The square's edges in photo pixels, and the share of the photo that it covers.
    low = ((180 / zoom - MARGIN * side) - np.array(offset)) / scale
    high = ((330 / zoom - MARGIN * side) - np.array(offset)) / scale
    seen = np.clip(np.stack([low, high]), 0, (500, 400))
    assert drawn.sum() == pytest.approx(np.prod(seen[1] - seen[0]), rel=0.02)
    ys, xs = np.indices(drawn.shape) + 0.5
    centre = np.array([(xs * drawn).sum(), (ys * drawn).sum()]) / drawn.sum()
    np.testing.assert_allclose(centre, seen.mean(axis=0), atol=0.3)


def test_overlay_outside_the_photo_changes_nothing():
    photo = np.full((40, 50, 3), 9, np.uint8)
    np.testing.assert_array_equal(overlay(photo, square_view(0, 512), 1.0, np.array([5000.0, 0.0]), 256), photo)


def test_overlay_leaves_the_photo_around_the_head_unchanged():
    photo = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    drawn = overlay(photo, square_view(240, 270), 1.0, np.zeros(2), 64)
    changed = (drawn != photo).any(axis=-1)
    assert 0 < changed.sum() < 60


def test_the_turned_head_is_complete_and_centred():
    cloud = np.random.default_rng(0).normal(size=(500, 3)) * 0.05 + (0.3, 0.2, 0.0)
    cameras = []

    def render(verts, camera, *, texture, light, size):
        cameras.append((np.asarray(camera.project(verts)), size))
        return np.zeros((2, *size, 4), np.float32)

    camera = OrthographicCamera(np.float32(4000.0), np.array([1.0, 2.0], np.float32))
    fit = SimpleNamespace(vertices=cloud, camera=camera, light=np.zeros((9, 3)))
    render_view(render, fit, np.zeros((4, 4, 3)), 256)
    (points, size), turned = cameras[0], cameras[0][0][1, :, :2]
    assert size == (RENDER_SIDE, RENDER_SIDE) and (turned >= 0).all() and (turned <= RENDER_SIDE).all()
    np.testing.assert_allclose((turned.min(axis=0) + turned.max(axis=0)) / 2, RENDER_SIDE / 2, atol=0.1)
    # The front is the crop's camera, zoomed about the margin.
    zoom = RENDER_SIDE / (256 * (1 + 2 * MARGIN))
    x = zoom * (4000.0 * cloud[:, 0] + 1.0 + MARGIN * 256)
    np.testing.assert_allclose(points[0, :, 0], x, rtol=1e-4)


def test_tile_is_four_pictures_in_a_row():
    crop = SimpleNamespace(
        image=np.zeros((64, 64, 3)), landmarks=np.full((68, 2), 32.0), confidence=np.ones(68), occlusion_mask=np.eye(64)
    )
    row = tile(crop, square_view(0, 512), side=50)
    assert isinstance(row, Image.Image) and row.size == (200, 50)
    assert row.getpixel((25, 25))[1] > 200  # the landmarks, green: confident
    _, _, blue = row.getpixel((40, 40))
    assert blue > 10 and row.getpixel((40, 10)) == (0, 0, 0)  # what is hidden, violet


@pytest.mark.parametrize("side", [600, 128, 129, 131, 64])  # the crop magnifies, or shrinks the photo
def test_mask_outside_the_photo_leaves_no_line_along_its_border(side):
    points = np.random.default_rng(1).uniform((2, 30), (298, 300), (68, 2))
    photo = np.zeros((301, 299, 3), np.float32)
    hidden = np.zeros(photo.shape[:2], np.float32)
    (observation,) = observe_photo(photo, landmarks=points, size=side)
    hidden[:, :40] = 1.0
    (masked,) = observe_photo(photo, landmarks=points, occlusion_mask=hidden, size=side)
    scale, offset = float(observation.crop.scale), np.asarray(observation.crop.offset)
    assert np.asarray(observation.occlusion_mask)[side // 2, 0] == 1.0  # the crop does reach beyond

    def written(observation, size):
        return mask_in_photo(np.asarray(observation.occlusion_mask), scale, offset, (299, 301), size)

    assert not written(observation, (299, 301)).any() and not written(observation, (150, 151)).any()
    # What is hidden up to the border stays so: 40 of 299 columns, as far down as the crop reaches.
    shown = written(masked, (299, 301)) > 0
    assert shown[150:, 0].all() and (np.abs(shown[150:].sum(axis=1) - 40) <= 0.5 / scale + 0.5).all()
