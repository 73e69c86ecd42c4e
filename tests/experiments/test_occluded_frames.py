"""Benchmarks by CO-545's protocol, from the smallest part of the open scans and from a folder like CoMA's."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

from experiments.command_line import UsageError
from experiments.datasets import open_faces
from experiments.datasets.occluded_frames import __main__ as command
from experiments.datasets.occluded_frames import pictures, read_frames, sequences, store
from experiments.datasets.open_faces import scenes, worker
from experiments.evaluate.config import EvaluateExpressionConfig
from experiments.tables.diverse_cases import frame_cases
from flamejax.files import TEMPORARY_PREFIX
from models.rank import frontal_vertices
from tests.experiments.test_open_faces import built, data, head, mean_detail_field, subject_inputs  # noqa: F401
from tests.heads import random_head


def share_assets(patch):
    """Use the same data of the mean head in all tests."""
    patch.setattr(pictures, "detail_field", lambda _: mean_detail_field())
    patch.setattr(pictures, "texture_layout", lambda _: worker.photo_assets().layout)
    patch.setattr(worker, "subject_inputs", subject_inputs)


@pytest.fixture(scope="module")
def benchmark_folder(built, tmp_path_factory):  # noqa: F811
    """The three frames of the slice's test subject."""
    folder = tmp_path_factory.mktemp("occluded")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLAMEJAX_DATA", str(built))
        share_assets(patch)
        assert command.main([str(folder / "open"), "--config", "slice"]) == 0
        yield folder / "open"


def test_frames_become_cases_of_the_expression_table(benchmark_folder, head, tmp_path):  # noqa: F811
    cases, frames = frame_cases(head, benchmark_folder, None), list(read_frames(benchmark_folder))
    assert [case.key for case in cases] == [frame.name for frame in frames]
    for case, frame in zip(cases, frames, strict=True):
        np.testing.assert_array_equal(case.visible, frame.unoccluded)
        np.testing.assert_array_equal(case.visible_unoccluded, frame.front)
        np.testing.assert_array_equal(case.truth, frame.vertices)
        observation = case.observation
        np.testing.assert_allclose(observation.landmarks, frame.landmarks, atol=1e-4)
        column, row = np.floor(frame.landmarks).astype(int).T
        np.testing.assert_array_equal(observation.confidence, (frame.mask[row, column] < 0.5).astype(np.float32))
    for case, frame in zip(frame_cases(head, benchmark_folder, None, occluded=False), frames, strict=True):
        np.testing.assert_array_equal(case.visible, frame.front)
        np.testing.assert_allclose(case.observation.image, frame.photo)
        assert case.observation.occlusion_mask.max() == 0 and case.observation.confidence.min() == 1
    assert len({case.subject for case in cases}) == len({frame.subject for frame in frames})
    assert [case.key for case in frame_cases(head, benchmark_folder, 1)] == [frames[0].name]
    with pytest.raises((OSError, ValueError)):
        frame_cases(head, tmp_path, None)
    with pytest.raises(ValueError, match=f"frames of the head '{head.name}', not of 'random'"):
        frame_cases(random_head(), benchmark_folder, None)
    with pytest.raises(UsageError, match="--landmarks detected"):
        EvaluateExpressionConfig(frames=benchmark_folder, landmarks="detected")


def test_a_split_without_scans_is_refused(built, tmp_path):  # noqa: F811
    with pytest.raises(ValueError, match=r"no train split.*Give --config full"):
        command.make(command.OccludedFramesConfig(tmp_path / "none", split="train", config="test"), Console(quiet=True))
    assert not (tmp_path / "none").exists()


def test_frames_are_valid(benchmark_folder, head):  # noqa: F811
    frames = list(read_frames(benchmark_folder))
    assert [f.expression for f in frames] == ["eyebrow", "high_smile", "mouth_extreme"]
    scans = open_faces.load_scans("test", "slice")
    facial = frontal_vertices(head)
    for k, frame in enumerate(frames):
        assert frame.name == scans.keys[k] and frame.occluder in pictures.KINDS
        np.testing.assert_array_equal(frame.vertices, scans.vertices[k])
        assert frame.photo.shape == frame.occluded.shape == (256, 256, 3) and frame.mask.shape == (256, 256)
        assert not (frame.front & ~facial).any() and not (frame.unoccluded & ~frame.front).any()
        assert 0.75 * facial.sum() < frame.front.sum()  # nearly all of a face is visible from the front
        low, high = pictures.HIDDEN
        assert low <= 1 - frame.unoccluded.sum() / frame.front.sum() <= high
        assert frame.landmarks.shape == (68, 2) and (frame.landmarks > 0).all() and (frame.landmarks < 256).all()


def test_geometry_masks_and_photos_agree(benchmark_folder):
    for frame in read_frames(benchmark_folder):
        screen = np.asarray(frame.camera.project(jnp.asarray(frame.vertices)))
        column, row = np.floor(screen[frame.front, :2]).astype(int).T
        under = frame.mask[row, column] > 0
        np.testing.assert_array_equal(under, ~frame.unoccluded[frame.front])
        changed = np.abs(frame.photo - frame.occluded).max(axis=-1) > 2 / 255
        assert changed[frame.mask > 0].mean() > 0.9 and changed[frame.mask == 0].mean() < 0.03  # antialiased outlines
        direction = np.asarray(frame.camera.T_camera_world)[:3, :3] @ [0, 0, 1.0]
        assert direction[2] < -np.cos(np.deg2rad(15))  # the face looks at the camera


def test_an_interrupted_benchmark_is_continued_and_equal(benchmark_folder, built, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setenv("FLAMEJAX_DATA", str(built))
    share_assets(monkeypatch)
    args = [str(tmp_path / "again"), "--config", "slice", "--limit", "2"]
    assert command.main(args) == 0
    first, last = read_frames(tmp_path / "again")
    again = {f.name: f for f in read_frames(benchmark_folder)}
    assert (first.expression, last.expression) == ("eyebrow", "mouth_extreme")
    for frame in (first, last):  # independent of other frames
        np.testing.assert_array_equal(frame.occluded, again[frame.name].occluded)
        np.testing.assert_array_equal(frame.unoccluded, again[frame.name].unoccluded)
    (tmp_path / "again" / f"{TEMPORARY_PREFIX}0").mkdir()
    with monkeypatch.context() as patch:
        calls = []
        patch.setattr(store, "write_frame", lambda folder, frame, images: calls.append(frame.name) or fail())
        assert command.main([*args[:3]]) == 1 and len(calls) == 1
    with pytest.raises(ValueError, match="not finished"):
        read_frames(tmp_path / "again")
    assert command.main(args[:3]) == 0 and len(list(read_frames(tmp_path / "again"))) == 3
    assert not list((tmp_path / "again").glob(f"{TEMPORARY_PREFIX}*"))


def fail():
    raise OSError("no space left")


def test_other_settings_and_other_folders_are_refused(benchmark_folder, built, tmp_path, monkeypatch, capsys):  # noqa: F811
    monkeypatch.setenv("FLAMEJAX_DATA", str(built))
    assert command.main([str(benchmark_folder), "--config", "slice", "--seed", "1"]) == 1
    assert "other settings (seed)" in capsys.readouterr().err
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    assert command.main([str(tmp_path / "full"), "--config", "slice"]) == 1
    assert "not empty" in capsys.readouterr().err
    assert command.main([str(tmp_path / "x"), "--limit", "0"]) == 1 and "--limit" in capsys.readouterr().err
    assert command.main([str(tmp_path / "x"), "--seed", "-1"]) == 1 and "--seed" in capsys.readouterr().err
    with pytest.raises(ValueError, match=r"no readable index\.json"):
        read_frames(tmp_path)
    (tmp_path / store.INDEX).write_text(json.dumps({"settings": {}, "frames": [{"name": "lost"}]}))
    with pytest.raises(ValueError, match="damaged case"):
        next(read_frames(tmp_path))


def write_sequences(folder, vertices, moved=True):
    """Write sequences of five frames of two subjects like registered scans: rotated, translated, in millimetres."""
    rng = np.random.default_rng(0)
    rotation = scenes.Rotation.from_rotvec([0.0, 0.2, 0.1]).as_matrix() if moved else np.eye(3)
    for subject in ("FaceTalk_170", "FaceTalk_171"):
        for expression, verts in zip(("bareteeth", "mouth_open", "Neutral"), vertices, strict=True):
            (folder / subject / expression).mkdir(parents=True)
            for k in range(5):
                scan = verts @ rotation.T + [0.1, 1.5, -0.3] + 1e-5 * rng.normal(size=3)
                np.save(folder / subject / expression / f"frame.{k:06d}.npy", 1e3 * scan)


def test_middle_files_selects_the_middle_frame_of_each_sequence(tmp_path):
    write_sequences(tmp_path, np.zeros((3, 4, 3)))
    (tmp_path / "FaceTalk_171" / "bareteeth" / "frame.000002.png").write_bytes(b"")
    files, notes = sequences.middle_files(tmp_path)
    assert [str(f.relative_to(tmp_path)) for f in files] == [
        f"FaceTalk_{n}/{e}/frame.000002.npy" for n in (170, 171) for e in ("bareteeth", "mouth_open")
    ]
    assert len(notes) == 3 and "neutral" in notes[0] and "not supported" in notes[-1]
    (tmp_path / "only" / "a" / "neutral").mkdir(parents=True)
    np.save(tmp_path / "only" / "a" / "neutral" / "0.npy", np.zeros((4, 3)))
    with pytest.raises(ValueError, match="are neutral"):
        sequences.middle_files(tmp_path / "only")


@pytest.mark.slow
def test_a_folder_of_sequences_becomes_a_benchmark(data, tmp_path, capsys):  # noqa: F811
    scans = open_faces.load_scans("test", "slice")
    write_sequences(tmp_path / "coma", scans.vertices)
    (tmp_path / "coma" / "FaceTalk_170" / "mouth_open" / "frame.000002.npy").write_bytes(b"torn")
    args = [str(tmp_path / "out"), "--scans", str(tmp_path / "coma"), "--unit", "mm"]
    assert command.main(args) == 0
    assert "frame.000002.npy" in capsys.readouterr().err
    frames = list(read_frames(tmp_path / "out"))
    assert [f.name for f in frames] == [
        f"FaceTalk_{n}-{e}" for n, e in ((170, "bareteeth"), (171, "bareteeth"), (171, "mouth_open"))
    ]
    for frame, truth in zip(frames, scans.vertices[[0, 0, 1]], strict=True):
        # The fit recovers the scan's head frame to about a degree and a few millimetres.
        assert np.linalg.norm(frame.vertices - truth, axis=1).mean() < 0.01
        assert frame.front.sum() > 1000 and 0 < frame.unoccluded.sum() < frame.front.sum()
    assert command.main([str(tmp_path / "x"), "--scans", str(tmp_path / "nowhere")]) == 1
    assert "no such folder" in capsys.readouterr().err
