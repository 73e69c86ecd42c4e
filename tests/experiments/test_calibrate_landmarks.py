"""The calibration of a detector with known points, and the shipped calibration of the real detector."""

import json

import numpy as np
import pytest
from PIL import Image

import flamejax
from experiments import cli
from experiments.calibrate_landmarks import embedding, views
from experiments.calibrate_landmarks.command import EVALUATION, to_bytes
from experiments.calibrate_landmarks.evaluation import render_table
from fitting.detector import FaceLandmarks, LiteRTDetector
from flamejax.head import NUM_DENSE, load_dense_landmarks

NOISE = 0.5  # pixels, about 0.4 mm


class KnownDetector:
    """Detects known surface points with noise, visible or not, in renders in their order; it fails in one of them."""

    def __init__(self, head, rendered, blind: int):
        self.rendered, self.blind, self.calls = rendered, blind, 0
        self.generator = np.random.default_rng(0)
        template, self.faces = np.asarray(head.v_template), np.asarray(head.faces)
        corners = template[self.faces]
        normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        frontal = normals[:, 2] > 0.5 * np.linalg.norm(normals, axis=-1)
        eyeballs = np.asarray(head.regions["left_eyeball"] | head.regions["right_eyeball"])[self.faces].any(1)
        lips = np.asarray(head.regions["lips"])[self.faces].any(1)  # closed lips touch, so that either may be hit
        inside = np.asarray(head.regions["face"])[self.faces].all(1) & ~eyeballs & ~lips & frontal
        visible = np.isin(np.arange(len(self.faces)), rendered[0].face_index) & (corners[..., 2].min(1) > 0.05)
        dense = self.generator.choice(np.flatnonzero(inside & visible), NUM_DENSE)
        self.face = np.concatenate([dense, np.asarray(head.landmark_embedding.face)])
        self.weights = self.generator.dirichlet(np.full(3, 4.0), len(self.face))

    def detect(self, image, *, all_faces=False):
        raise AssertionError("the calibration knows where the face is")

    def landmarks(self, image, face):
        view = self.rendered[self.calls]
        self.calls += 1
        detected = np.einsum("lk,lkd->ld", self.weights, view.screen[self.faces[self.face]])
        detected += NOISE * self.generator.normal(size=detected.shape)
        mesh = np.pad(detected[:NUM_DENSE], ((0, 0), (0, 1)))
        points = np.concatenate([view.landmarks[:17], detected[NUM_DENSE:]])
        presence = 0.1 if self.calls - 1 == self.blind else 1.0
        return FaceLandmarks(points, np.ones(68), presence, np.zeros(4), mesh=mesh)


@pytest.fixture(scope="module")
def head():
    return flamejax.load_head(calibrate=False)


def test_calibrate_recovers_known_surface_points(head):
    rendered = list(views.render_views(head, 0, 16))
    detector = KnownDetector(head, rendered, blind=5)
    detected_views = views.observe_views(head, iter(rendered), detector)
    assert len(detected_views) == 15 and detected_views.dropped == 1
    dense = embedding.calibrate(head, detected_views)
    template = np.asarray(head.v_template)
    face = np.concatenate([dense.dense_face, dense.landmark_face])
    weights = np.concatenate([dense.dense_barycentric, dense.landmark_barycentric])
    position, truth = (
        np.einsum("lk,lkd->ld", w, template[detector.faces[f]])
        for w, f in ((weights, face), (detector.weights, detector.face))
    )
    error = 1e3 * np.linalg.norm(position - truth, axis=-1)
    print(f"mm: median {np.median(error):.2f}, greatest {error[:NUM_DENSE].max():.2f}, {error[NUM_DENSE:].max():.2f}")
    assert error[:NUM_DENSE].max() < 1.0 and np.median(error) < 0.4
    assert error[NUM_DENSE:].mean() < 1.0
    expected = NOISE / detected_views.eye_distance.mean()
    np.testing.assert_allclose(np.median(dense.dense_spread), expected, rtol=0.25)
    assert to_bytes(head, dense, {"a": "b"}) == to_bytes(head, dense, {"a": "b"})  # no time stamp in the file


def test_renders_depend_only_on_seed_and_purpose(head):
    first, again, other = (next(views.render_views(head, 3, 1, purpose=p)) for p in (0, 0, 1))
    np.testing.assert_array_equal(first.image, again.image)
    assert first.yaw != other.yaw
    assert first.image.min() >= 0 and first.image.max() <= 1


def test_back_project_moves_points_to_the_silhouette_or_drops_them():
    face_index = np.full((40, 40), -1, np.int32)
    face_index[10:30, 10:30] = 0
    known = np.zeros((68, 2))
    known[45] = (30.0, 0.0)  # outer eye corners 30 pixels apart: 3 pixels are near enough
    screen = np.array([[0.0, 0.0], [80.0, 0.0], [0.0, 80.0]], np.float32)
    view = views.RenderedView(np.zeros((40, 40, 3)), screen, face_index, known, 0.0, False)
    points = np.array([[20.25, 20.75], [31.5, 20.5], [39.0, 20.5], [-50.0, 20.0]])
    face, weights = views.back_project(points, view, np.array([[0, 1, 2]]))
    assert face.tolist() == [0, 0, -1, -1]
    np.testing.assert_allclose(weights[:2] @ screen, [[20.25, 20.75], [29.5, 20.5]], atol=1e-4)


def test_shipped_landmarks_agree_with_the_detector(head):
    pytest.importorskip("ai_edge_litert")
    dense = load_dense_landmarks(head)
    assert dense is not None, "the open head has changed: run flamejax calibrate-landmarks again"
    detected_views = views.observe_views(head, views.render_views(head, 0, 16, purpose=EVALUATION), LiteRTDetector())
    rows = {row["group"]: row for row in render_table(head, dense, detected_views)}
    print({name: (row["before"], row["after"]) for name, row in rows.items()})
    assert rows["inner 51"]["after"] < min(0.04, 0.8 * rows["inner 51"]["before"])
    assert rows["inner 51, calm faces"]["after"] < 0.033
    assert rows["dense 468"]["after"] < 0.045


def test_command_writes_and_evaluates_landmarks(head, tmp_path, capsys):
    pytest.importorskip("ai_edge_litert")
    output, table, picture = tmp_path / "x.npz", tmp_path / "rows.json", tmp_path / "x.png"
    calibrating = ["calibrate-landmarks", "--count", "10", "--output", str(output)]
    assert cli.main([*calibrating, "--json", str(table), "--picture", str(picture)]) == 0
    assert load_dense_landmarks(head, output) is not None
    assert {row["group"] for row in json.loads(table.read_text())} >= {"inner 51", "lips", "dense 468"}
    with Image.open(picture) as drawn:
        assert drawn.size == (3 * 720, 2 * 720)
    assert cli.main([*calibrating, "--evaluate"]) == 0
    out = capsys.readouterr().out
    assert "held-out renders" in out and "not used in the calibration" in out


def test_command_reports_wrong_arguments(tmp_path, capsys):
    assert cli.main(["calibrate-landmarks", "--count", "3"]) == 2
    assert cli.main(["calibrate-landmarks", "--photos", str(tmp_path)]) == 2
    assert cli.main(["calibrate-landmarks", "--head", str(tmp_path / "none.npz")]) == 2
    err = capsys.readouterr().err
    assert "at least 10" in err and "--evaluate" in err and "no such head" in err
