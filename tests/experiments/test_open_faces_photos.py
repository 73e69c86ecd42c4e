"""Photos of the open scans: masks, visibility and landmarks are checked independently."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
import trimesh
from scipy import ndimage
from scipy.spatial.transform import Rotation

from experiments.datasets.open_faces import hands, objects, patterns, scenes, solids
from experiments.datasets.open_faces.photos import occluder_kind
from flamejax.head import HeadParams, landmarks_from_vertices
from tests.experiments.test_open_faces import built, data, head, photos  # noqa: F401

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def test_every_subject_has_every_kind_of_occluder():
    for subject in range(6):
        kinds = [occluder_kind(subject, e) for e in range(12)]
        assert [kinds.count(k) for k in ("glasses", "face-mask", "hand", "object")] == [4, 4, 2, 2]


def test_images_and_masks_are_valid(photos):  # noqa: F811
    assert {p.occluder for p in photos} >= {"glasses", "face-mask"}
    for p in photos:
        assert p.image.shape == p.occluded.shape == (256, 256, 3) and p.image.dtype == np.float32
        assert 0.05 < p.image.mean() < 0.95 and 0 <= p.image.min() and p.image.max() <= 1
        for mask in (p.occlusion_mask, p.face_mask, p.face_mask_occluded):
            assert mask.shape == (256, 256) and set(np.unique(mask)) <= {0.0, 1.0}
        assert 0.1 < p.face_mask.mean() < 0.6 and 0.005 < p.occlusion_mask.mean() < 0.6


def test_photos_differ_only_under_the_occluder(photos):  # noqa: F811
    for p in photos:
        near = ndimage.binary_dilation(p.occlusion_mask > 0, iterations=2)  # antialiased outlines
        changed = np.abs(p.image - p.occluded).max(-1) > 2 / 255
        assert not (changed & ~near).any()
        assert changed[p.occlusion_mask > 0].mean() > (0.2 if p.occluder == "glasses" else 0.9)
        np.testing.assert_array_equal(p.face_mask_occluded, p.face_mask * (1 - p.occlusion_mask))


def test_occluders_cover_their_parts_of_the_face(photos):  # noqa: F811
    eyes, nose_and_mouth = list(range(36, 48)), [30, 33, 51, 57, 62, 66]
    for p in photos:
        hidden = p.landmarks_visible & ~p.landmarks_visible_occluded
        if p.occluder == "face-mask":
            assert hidden[nose_and_mouth].sum() >= p.landmarks_visible[nose_and_mouth].sum() - 1
            assert not hidden[eyes].any() and p.occlusion_mask[p.face_mask > 0].mean() > 0.25
        if p.occluder == "glasses":
            assert hidden[eyes].sum() >= 0.5 * p.landmarks_visible[eyes].sum() and not hidden[48:].any()
        for name in ("landmarks", "dense", "vertices"):
            before, after = getattr(p, f"{name}_visible"), getattr(p, f"{name}_visible_occluded")
            assert not (after & ~before).any()


def test_visibility_agrees_with_ray_casting(photos, head):  # noqa: F811
    """Intersects rays from the camera to random vertices with every triangle."""
    faces, agree = np.asarray(head.faces), []
    rng = np.random.default_rng(0)
    for p in photos[::4]:
        pose = np.asarray(p.camera.T_camera_world, np.float64)
        v = p.vertices @ pose[:3, :3].T + pose[:3, 3]
        a, b, c = v[faces].transpose(1, 0, 2)
        first, second = b - a, c - a
        for i in rng.choice(len(v), 100, replace=False):
            ray, own = v[i], (faces == i).any(1)
            side = np.cross(ray, second)
            size = (first * side).sum(1)
            inverse = np.where(np.abs(size) > 1e-14, 1 / np.where(size == 0, 1, size), 0)
            u, other = -(a * side).sum(1) * inverse, np.cross(-a, first)
            w, t = other @ ray * inverse, (second * other).sum(1) * inverse
            hit = (u >= 0) & (w >= 0) & (u + w <= 1) & (t > 0) & (t < 1 - 1e-5) & ~own & (inverse != 0)
            facing = np.cross(first[own], second[own]).sum(0) @ ray < 0
            pixel = float(p.camera.focal) * ray[:2] / ray[2] + np.asarray(p.camera.centre)
            inside = ((pixel >= 0) & (pixel < 256)).all()
            agree.append((facing and inside and not hit.any()) == p.vertices_visible[i])
            if p.vertices_visible[i]:
                masked = p.occlusion_mask[int(pixel[1]), int(pixel[0])] > 0
                assert p.vertices_visible_occluded[i] == (not masked)
    assert np.mean(agree) > 0.98


def test_landmarks_are_projections_of_the_mesh(photos, head):  # noqa: F811
    dense = head.dense
    for p in photos:
        rotation = scenes.UPRIGHT @ np.asarray(p.camera.T_camera_world, np.float64)[:3, :3]
        params = dataclasses.replace(
            HeadParams.zeros(head),
            global_orient=jnp.asarray(Rotation.from_matrix(rotation).as_rotvec(), jnp.float32),
            neck_pose=jnp.asarray(p.joint_rotations[1]),
        )
        points = p.camera.project(landmarks_from_vertices(head, jnp.asarray(p.vertices), params))[:, :2]
        np.testing.assert_allclose(p.landmarks[17:], points[17:], atol=0.02)
        # After rounding, a rotation at the border of two contour bins may belong to either.
        assert np.abs(p.landmarks[:17] - points[:17]).max() < 3
        corners = p.vertices[np.asarray(head.faces)[np.asarray(dense.dense_face)]]
        positions = (corners * np.asarray(dense.dense_barycentric)[..., None]).sum(1)
        np.testing.assert_allclose(p.dense_landmarks, p.camera.project(jnp.asarray(positions))[:, :2], atol=0.02)
        assert ((p.landmarks > 0) & (p.landmarks < 256)).mean() > 0.95
        assert p.landmarks_visible[17:].mean() > 0.5


def test_distances_and_rotations_are_in_their_ranges(photos):  # noqa: F811
    for p in photos:
        pose = np.asarray(p.camera.T_camera_world, np.float64)
        np.testing.assert_allclose(pose[:3, :3] @ pose[:3, :3].T, np.eye(3), atol=1e-5)
        yaw, pitch, roll = Rotation.from_matrix(scenes.UPRIGHT @ pose[:3, :3]).as_euler("YXZ", degrees=True)
        assert abs(yaw) <= 40.1 and abs(pitch) <= 15.1 and abs(roll) <= 12.1
        depth = (p.vertices @ pose[:3, :3].T + pose[:3, 3])[:, 2]
        assert 0.8 < depth.min() and depth.max() < 4.3


@pytest.mark.parametrize("seed", range(8))
def test_occluders_are_closed(seed):
    solid = objects.random_object(np.random.default_rng(seed)).solid
    assert _volume(solid) > 0 and len(solid.uv) == len(solid.vertices) == len(solid.colour)


def test_hands_are_closed_surfaces():
    skeleton = hands.random_skeleton(np.random.default_rng(3))
    low, high = np.array([-110.0, -220, -90]), np.array([110.0, 230, 60])
    skin = solids.surface_net(lambda p: hands.signed_distance(skeleton, p), low, high, 5.0)
    edges = np.concatenate([skin.faces[:, [0, 1]], skin.faces[:, [1, 2]], skin.faces[:, [2, 0]]])
    forward = {tuple(e) for e in edges.tolist()}
    assert all((b, a) in forward for a, b in forward)
    assert 4e5 < _volume(skin) < 1.6e6  # mm^3: a hand and its wrist
    assert np.abs(hands.signed_distance(skeleton, skin.vertices)).max() < 2.5


def _volume(solid: solids.Solid) -> float:
    corner = solid.vertices[solid.faces]
    return float(np.einsum("fc,fc->", corner[:, 0], np.cross(corner[:, 1], corner[:, 2])) / 6)


@pytest.mark.parametrize("closed", [False, True])
def test_tubes_are_closed_and_face_outwards(closed):
    turn = np.linspace(0, 2 * np.pi if closed else np.pi, 12, endpoint=not closed)
    path = np.stack([np.cos(turn), np.sin(turn), np.zeros_like(turn)], 1)
    solid = solids.tube(path, 0.2, sides=10, closed=closed)
    mesh = trimesh.Trimesh(solid.vertices, solid.faces, process=False)
    assert mesh.is_watertight and mesh.is_winding_consistent and mesh.volume > 0


@pytest.mark.parametrize(
    ("name", "numbers"),
    [
        ("background", (0.3836, 0.2333, 0.1913)),
        ("cloth", (0.3840, 0.2456, 0.1792)),
        ("surgical", (0.5174, 0.3488, 0.2999)),
        ("cover", (0.4747, 0.2610, 0.2624)),
    ],
)
def test_patterns_do_not_change(name, numbers):
    """The patterns of a seed are fixed, because the photos and the networks trained on them depend on them."""
    images = np.stack([getattr(patterns, name)(np.random.default_rng(seed), 64) for seed in range(6)])
    weights = np.linspace(0, 1, images.size).reshape(images.shape)
    np.testing.assert_allclose((images.mean(), images.std(), (weights * images).mean()), numbers, atol=2e-4)
