"""The open scans, on their smallest part. Skipped without the CC0 wheel or the extra "data"; nothing is fetched."""

import contextlib
import functools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial import cKDTree

from experiments import runtime
from experiments.datasets import open_faces
from experiments.datasets.open_faces import EXPRESSIONS, details, store, subjects, worker
from experiments.datasets.open_people.sources import WHEEL_NAME
from flamejax.files import TEMPORARY_PREFIX
from flamejax.head import HeadParams, ShapedHead, load_head, pose_shaped

ROOT = Path(__file__).resolve().parents[2]


@functools.cache
def mean_detail_field() -> details.DetailField:
    """Returns the detail field of the open head, computed once."""
    return details.detail_field(load_head())


@functools.cache
def subject_inputs():
    """Replaces `worker.subject_inputs`, for the data folder with `slice`."""
    return load_head(), mean_detail_field(), subjects.load_sources(store.sources_path())


def run_tasks_here(tasks, workers, title):
    """Replaces `store.run_tasks`, so that the renderer is compiled once for all tests of the photos."""
    for task in tasks:
        worker.run_task(task)


@pytest.fixture(scope="session")
def built(tmp_path_factory):
    """A data folder with `slice`, built once for all processes of the test run."""
    pytest.importorskip("tensorflow_datasets")
    wheel = runtime.data_folder() / "sources" / WHEEL_NAME
    if not wheel.exists():
        pytest.skip(f"{WHEEL_NAME} is not in $FLAMEJAX_DATA/sources (fetch it with `flamejax fetch-sources`)")
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "open-faces"
    folder.mkdir(exist_ok=True)
    if not (folder / "sources").exists():
        (folder / "sources").symlink_to(wheel.parent.resolve(), target_is_directory=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_COMPILATION_CACHE_DIR", str(runtime.use_compilation_cache()))  # for the workers too
        patch.setenv("FLAMEJAX_DATA", str(folder))
        patch.setattr(store, "run_tasks", run_tasks_here)
        patch.setattr(worker, "subject_inputs", subject_inputs)
        open_faces.ensure_photos("slice")
    return folder


@pytest.fixture
def data(built, monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(runtime.use_compilation_cache()))
    monkeypatch.setenv("FLAMEJAX_DATA", str(built))
    return built


@pytest.fixture(scope="session")
def head():
    return load_head()


@pytest.fixture
def photos(data):
    return [p for split in open_faces.SPLITS for p in open_faces.load_photos(split, "slice")]


def test_splits_are_disjoint_by_subject():
    parts = [subjects.subjects("full", split) for split in open_faces.SPLITS]
    assert [len(p) for p in parts] == [240, 30, 30]
    assert sorted(sum(parts, ())) == list(range(300))
    assert subjects.subjects("test", "test") == parts[2] and subjects.subjects("test", "train") == ()
    for split, part in zip(open_faces.SPLITS, parts, strict=True):
        assert set(subjects.subjects("slice", split)) <= set(part)
        assert set(store.scan_list("slice", split)) <= set(store.scan_list("full", split))


def test_people_do_not_change(data):
    """The RMS deviations from the mean and from mirror symmetry, in mm, are fixed: the scans depend on the people."""
    head, _, sources = subject_inputs()
    template, people = np.asarray(head.v_template, np.float64), sources.people.astype(np.float64)
    mirror = cKDTree(template).query(template * [-1, 1, 1])[1]
    deviation, asymmetry = people - people.mean(0), people - people[:, mirror] * [-1, 1, 1]
    rms = [1e3 * np.sqrt((difference**2).sum(-1).mean()) for difference in (deviation, asymmetry)]
    np.testing.assert_allclose(rms, (4.6143, 1.2301), rtol=1e-3)


def test_unknown_names_are_refused():
    for call in (open_faces.load_scans, open_faces.load_photos, open_faces.data_source):
        with pytest.raises(ValueError, match="split must be one of"):
            call("dev")
        with pytest.raises(ValueError, match="config must be one of"):
            call("train", "tiny")
    with pytest.raises(ValueError, match="no train split"):
        open_faces.load_photos("train", "test")


def test_scans_are_the_posed_rest_shapes(data, head):
    scans = open_faces.load_scans("train", "slice")
    assert scans.vertices.shape == scans.unposed.shape == (6, head.num_vertices, 3)
    assert scans.vertices.dtype == scans.unposed.dtype == scans.joint_rotations.dtype == np.float32
    assert scans.keys[1] == f"subject_{scans.subject[0]:04d}-{EXPRESSIONS[scans.expression[1]]}"
    assert not scans.joint_rotations[:, 0].any() and np.abs(scans.joint_rotations[:, 1:]).max(axis=(0, 2)).all()
    joints = np.einsum("kv,nvc->nkc", np.asarray(head.J_regressor), scans.unposed)
    assert np.abs(joints[:, 0]).max() < 1e-6  # the root joint is the origin
    _, neck, jaw, left, right = np.moveaxis(scans.joint_rotations, 1, 0)
    params = HeadParams.from_smplx(head, {"neck_pose": neck, "jaw_pose": jaw, "leye_pose": left, "reye_pose": right})
    vertices = pose_shaped(head, ShapedHead(scans.unposed, joints), params)
    np.testing.assert_allclose(vertices, scans.vertices, atol=2e-6)
    assert len(open_faces.load_scans("train", "slice", limit=2).subject) == 2


def test_faces_do_not_fold(data, head):
    field = mean_detail_field()
    people = subjects.load_sources(store.sources_path()).people
    for subject in (0, 7, 100):
        rest = people[subject].astype(np.float64)
        height, _ = details.detail_heights(field, details.draw_latents(subject), details.NEUTRAL)
        displaced = details.displace(rest, height, field)
        before, after = (details.triangle_normals(v, field.faces) for v in (rest, displaced))
        assert (before * after).sum(1).min() >= details.MIN_NORMAL_COSINE
    assert np.abs(people[:, None, :60] - people[None, :, :60]).max(axis=(2, 3))[np.triu_indices(300, 1)].min() > 1e-4


@pytest.mark.slow
def test_a_killed_run_is_continued_with_the_same_bytes(data, tmp_path, monkeypatch):
    sources = store.sources_path()
    monkeypatch.setenv("FLAMEJAX_DATA", str(tmp_path / "complete"))
    store.sources_path().parent.mkdir(parents=True)
    store.sources_path().symlink_to(sources)
    open_faces.load_scans("train", "slice")
    complete = {s: store.scans_path(s).read_bytes() for s in subjects.subjects("slice", "train")}
    monkeypatch.setenv("FLAMEJAX_DATA", str(tmp_path / "killed"))
    store.sources_path().parent.mkdir(parents=True)
    store.sources_path().symlink_to(sources)
    command = [sys.executable, "-m", "experiments.datasets.open_faces"]
    command += ["--config", "slice", "--meshes-only", "--workers", "1"]
    run = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not list(store.folder().glob("scans/subject*")) and time.monotonic() < deadline:
        time.sleep(0.02)
    run.send_signal(signal.SIGKILL)
    run.wait()
    made = list(store.folder().glob("scans/subject*"))
    assert 1 <= len(made) < 4
    times = {path: path.stat().st_mtime_ns for path in made}
    leftover = store.folder() / "scans" / f"{TEMPORARY_PREFIX}x"
    leftover.write_bytes(b"half")
    # The worker of the killed run ends with it, at the latest when its task is done.
    scans = open_faces.load_scans("train", "slice")
    assert len(scans.subject) == 6 and not leftover.exists()
    assert {path: path.stat().st_mtime_ns for path in times} == times
    assert {s: store.scans_path(s).read_bytes() for s in complete} == complete


@pytest.mark.slow
def test_a_photo_does_not_depend_on_other_photos(data, tmp_path, monkeypatch):
    first, second = ([subject, expression] for subject, expression in store.scan_list("slice", "test")[:2])
    scans, sources = store.scans_path(second[0]), store.sources_path()
    contents = []
    for name, pairs in (("both", (first, second)), ("single", (second,))):
        monkeypatch.setenv("FLAMEJAX_DATA", str(tmp_path / name))
        store.scans_path(second[0]).parent.mkdir(parents=True)
        store.scans_path(second[0]).symlink_to(scans)
        store.sources_path().symlink_to(sources)
        store.run_tasks([f"photo {subject} {expression}" for subject, expression in pairs], 1, "photos")
        contents.append(store.photo_path(*second).read_bytes())
    assert contents[0] == contents[1]


@pytest.mark.slow
def test_workers_write_the_same_scans_as_this_process(data, tmp_path, monkeypatch):
    (subject, *_), sources = subjects.subjects("slice", "test"), store.sources_path()
    expected = store.read_scans(store.scans_path(subject))
    monkeypatch.setenv("FLAMEJAX_DATA", str(tmp_path))
    store.sources_path().parent.mkdir(parents=True)
    store.sources_path().symlink_to(sources)
    store.run_tasks([f"scans {subject}"], 1, "test")
    for name, values in vars(store.read_scans(store.scans_path(subject))).items():
        np.testing.assert_allclose(values, getattr(expected, name), atol=1e-6)


def test_progress_and_failures_of_workers_are_reported(data, monkeypatch):
    """Tests the protocol between the worker process and `run_tasks`, on tasks that take no time."""
    done = []

    def progress_counter(title, total):
        return contextlib.nullcontext(lambda: done.append(title))

    monkeypatch.setattr(store, "progress_counter", progress_counter)
    script = "from experiments.datasets.open_faces import worker; worker.subjects.write_sources = str; worker.main()"
    popen = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda command, **how: popen([sys.executable, "-c", script], **how))
    with pytest.raises(RuntimeError, match="no such task: 'cake 3'"):
        store.run_tasks(["sources", "sources", "cake 3"], 1, "test")
    assert done == ["test", "test"]
    with pytest.raises(ValueError, match="no such task"):
        worker.run_task("cake 3")


def test_photos_and_scans_have_the_same_order(data):
    scans = open_faces.load_scans("train", "slice")
    photos = list(open_faces.load_photos("train", "slice"))
    assert [p.key for p in photos] == scans.keys
    for k, photo in enumerate(photos):
        np.testing.assert_array_equal(photo.vertices, scans.vertices[k])
        np.testing.assert_array_equal(photo.unposed, scans.unposed[k])
        assert (photo.subject, photo.expression) == (scans.subject[k], scans.expression[k])
    assert [p.key for p in open_faces.load_photos("train", "slice", indices=[4, 0])] == [scans.keys[4], scans.keys[0]]
    assert [p.key for p in open_faces.load_photos("train", "slice", limit=1)] == scans.keys[:1]


def test_grain_reads_the_slice_without_tensorflow(data):
    grain = pytest.importorskip("grain")
    source = open_faces.data_source("train", "slice")
    read = grain.MapDataset.source(source).shuffle(seed=1).map(open_faces.example_to_photo)
    assert sorted(read[k].key for k in range(len(read))) == sorted(open_faces.load_scans("train", "slice").keys)
    assert "tensorflow" not in sys.modules


def test_command_writes_contact_sheets(data, tmp_path, capsys, monkeypatch):
    from PIL import Image

    from experiments.datasets.open_faces.__main__ import main

    monkeypatch.setattr(details, "detail_field", lambda head: mean_detail_field())
    sheets = ["--preview", str(tmp_path / "sheet.png"), "--preview-scans", str(tmp_path / "scans.png")]
    assert main(["--config", "slice", *sheets]) == 0
    assert "MB" in capsys.readouterr().out
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size == (4 * 3 * 256, 3 * 256)
    with Image.open(tmp_path / "scans.png") as sheet:
        assert sheet.size == (5 * 288, 288)


def test_missing_extra_is_reported_with_the_install_command(data, monkeypatch):
    monkeypatch.setitem(sys.modules, "experiments.datasets.open_faces.builder", None)
    monkeypatch.delattr(open_faces, "builder", raising=False)
    with pytest.raises(ImportError, match=r"flamejax\[data\]"):
        open_faces.load_photos("test", "slice")
