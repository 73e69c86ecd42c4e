"""Training of tiny IdGen, ExpGen and IdRank on photos through random image encoders: a data set in folders."""

import dataclasses
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import jax
import numpy as np
import optax
import pytest
from flax import nnx
from PIL import Image
from rich.console import Console

import flamejax
from experiments import train as command
from experiments.training.ofer import photo_features, photo_folders, train, train_rank
from experiments.training.ofer.photo_examples import photo_examples, photo_sources
from experiments.training.ofer.photo_folders import folder_photos
from experiments.training.ofer.settings import GeneratorSettings, RankSettings
from experiments.training.ofer.step import start_state
from experiments.training.settings import smoke_settings
from flamejax.head import HeadFileError
from models.encoders import ArcFace, FaRL, IResNetConfig, ViTConfig
from models.encoders.files import write_encoder
from models.encoders.landmark import LandmarkEncoderConfig
from models.generator import GeneratorConfig
from models.ofer_weights import build_generator, load_generator, load_rank, write_generator
from models.rank import IdRankConfig
from models.unet1d import UNet1DConfig
from models.weight_files import flat_state
from tests import flame_format
from tests.experiments.test_train_local_pca import SIZE, VERTICES

ROOT = Path(__file__).resolve().parents[2]
IRESNET = IResNetConfig(blocks=(1,), widths=(8,), stem=8, width=24, image_size=16)
VIT = ViTConfig(image_size=16, patch_size=8, hidden=32, layers=1, heads=2, width=24)
LANDMARK = LandmarkEncoderConfig(16, 16, 1)
IDENTITIES, EACH, STEPS = 8, 4, 6
SCRIPT = """
    import sys
    from pathlib import Path
    from rich.console import Console
    from experiments import runtime
    from experiments.training.ofer import photo_features, train
    from tests.experiments.test_train_ofer_photos import architecture_of, settings_of

    runtime.use_compilation_cache()
    train.JUDGED = train.JUDGED_AT_END = 2
    photo_features.features_folder = lambda: Path(sys.argv[1]) / "kept"
    train.train(settings_of(Path(sys.argv[1]), Path(sys.argv[2])), architecture_of("identity"), Console(stderr=True))
"""


def architecture_of(kind, *encoders):
    """Tiny; IdGen with ArcFace, ExpGen with both and the landmarks, unless told."""
    encoders = encoders or (("arcface",) if kind == "identity" else ("arcface", "farl", "landmark"))
    context = sum(16 if name == "landmark" else 24 for name in encoders)
    return GeneratorConfig(kind, UNet1DConfig((300, 6), context, 16, 2, 4, 2), encoders, LANDMARK)


def settings_of(data, workdir, **changes):
    """A run of a few seconds."""
    settings = GeneratorSettings(
        workdir=workdir, head=data / "generic_model.pkl", photos=data / "photos", arcface=data / "arcface.npz",
        farl=data / "farl.npz", steps=STEPS, batch_size=8, warmup=2, checkpoint_every=3, judge_every=6, log_every=1,
        encoder_rate=1e-2, ema=0.0,
    )  # fmt: skip
    return dataclasses.replace(settings, **changes)


def write_dataset(folder, num_betas, num_expression, motion=True):
    """Photos of noise with landmarks and coefficients of their own, one of them wrapped in another axis."""
    rng = np.random.default_rng(0)
    for person in range(IDENTITIES):
        place = folder / f"person{person}"
        place.mkdir(parents=True)
        betas = rng.normal(size=num_betas)
        for k in range(EACH):
            Image.fromarray(rng.integers(0, 255, (48, 64, 3), np.uint8)).save(place / f"{k}.png")
            np.save(place / f"{k}.npy", rng.uniform(8, 40, (68, 2)))
            moved = {"exp": rng.normal(size=(1, num_expression)), "jaw_pose": [0.1 * k, 0, 0]} if motion else {}
            np.savez(place / f"{k}.npz", shape=betas, **moved)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder with a synthetic FLAME model, a data set of photos, and image encoders; features are kept there."""
    folder = tmp_path_factory.mktemp("data")
    path = flame_format.write_folder(folder, SIZE)
    if path.name != "generic_model.pkl":
        path.rename(folder / "generic_model.pkl")
    flame_format.write_face_masks(folder, VERTICES)
    head = flamejax.load_head(folder / "generic_model.pkl")
    write_dataset(folder / "photos" / "mine", head.num_betas, head.num_expression)
    write_encoder(folder / "arcface.npz", ArcFace(IRESNET, rngs=nnx.Rngs(1)))
    write_encoder(folder / "farl.npz", FaRL(VIT, rngs=nnx.Rngs(2)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(photo_features, "features_folder", lambda: folder / "kept")
        for module in (train, train_rank):
            patch.setattr(module, "JUDGED", 2)
            patch.setattr(module, "JUDGED_AT_END", 2)
        yield folder


@pytest.fixture(scope="module")
def head(data):
    return flamejax.load_head(data / "generic_model.pkl")


def run(settings, architecture):
    return train.train(settings, architecture, Console(quiet=True))


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """An uninterrupted IdGen's folder."""
    workdir = tmp_path_factory.mktemp("whole") / "run"
    run(settings_of(data, workdir), architecture_of("identity"))
    return workdir


def rows(workdir, kind="train"):
    found = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [row for row in found if row["kind"] == kind]


def weights(path):
    with np.load(path) as file:
        return {name: file[name] for name in file.files if name.startswith("parameter:")}


def test_what_a_run_leaves(data, whole, head):
    found = rows(whole)
    assert [row["step"] for row in found] == list(range(1, STEPS + 1))
    assert all(np.isfinite(row["total"]) for row in found)
    assert json.loads((whole / "results.json").read_text())["samples_mm"] > 0
    before, path = ArcFace(IRESNET, rngs=nnx.Rngs(1)), whole / "idgen.npz"
    trained = {name for name in weights(path) if "encoders" in name}
    assert trained == {f"parameter:encoders/0/{name}" for name in ("fc/kernel", "fc/bias", "fc_bn/scale", "fc_bn/bias")}
    after = load_generator(head, "identity", path, {"arcface": data / "arcface.npz"}).encoders[0]
    for name, leaf in flat_state(before, nnx.Variable).items():
        changed = np.abs(flat_state(after, nnx.Variable)[name] - leaf).max()
        assert changed > 1e-3 if name.split("/")[0] in ("fc", "fc_bn") and "mean" not in name and (
            "variance" not in name
        ) else changed == 0, name  # fmt: skip


def test_a_checkpoint_holds_no_frozen_layer(data, whole):
    kept = sum(path.stat().st_size for path in (whole / "checkpoints").rglob("*") if path.is_file())
    names = "".join(path.name for path in (whole / "checkpoints").rglob("*")) + "".join(
        path.read_text(errors="ignore") for path in (whole / "checkpoints").rglob("_METADATA")
    )
    assert kept and "fc_bn" in names and "stages" not in names


@pytest.mark.slow
def test_resumed_it_ends_with_the_same_parameters(data, whole, tmp_path, monkeypatch):
    add, settings = train.Loop._log, settings_of(data, tmp_path / "run")

    def stop(self, record, done, waiting):
        if done == 5:  # two steps beyond a checkpoint
            self.checkpoints.wait()
            raise KeyboardInterrupt
        return add(self, record, done, waiting)

    with monkeypatch.context() as patch:
        patch.setattr(train.Loop, "_log", stop)
        with pytest.raises(KeyboardInterrupt):
            run(settings, architecture_of("identity"))
    run(settings, architecture_of("identity"))
    assert [row["total"] for row in rows(whole)] == [row["total"] for row in rows(settings.workdir)]
    for name, array in weights(whole / "idgen.npz").items():
        np.testing.assert_array_equal(array, weights(settings.workdir / "idgen.npz")[name], err_msg=name)


@pytest.mark.slow
def test_two_devices_give_the_same_losses(data, whole, tmp_path):
    flags = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=2"
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(SCRIPT), str(data), str(tmp_path / "run")], cwd=ROOT, text=True,
        env={**os.environ, "XLA_FLAGS": flags}, capture_output=True, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "2 devices" in done.stderr and "8 of 28 photos of 7 identities: 1.7 epochs" in done.stderr
    for one, two in zip(rows(whole), rows(tmp_path / "run"), strict=True):
        assert abs(one["total"] - two["total"]) < 1e-5 * max(1.0, one["total"])


def test_features_are_kept_until_the_encoder_changes(data, whole, tmp_path, monkeypatch):
    looks, look = [], photo_features._look
    monkeypatch.setattr(photo_features, "_look", lambda *given: looks.append(1) or look(*given))
    settings = settings_of(data, tmp_path / "run")
    head = flamejax.load_head(settings.head)
    first = ArcFace(IRESNET, rngs=nnx.Rngs(1))
    again = photo_examples(settings, head, "identity", {"arcface": first}, Console(quiet=True))[0]
    assert not looks, "they were kept by the run"
    direct = nnx.jit(lambda e, *g: e.features(*g))
    sources = folder_photos(settings.photos, None, head, "identity", Console(quiet=True))
    seen = sources[0].observe(5)
    np.testing.assert_allclose(seen.landmarks, again.points[5], atol=1e-3)
    features = direct(first, seen.image, seen.landmarks, again.visible[5])
    np.testing.assert_allclose(again[5]["features"]["arcface"], features, atol=2e-3)
    other = ArcFace(IRESNET, rngs=nnx.Rngs(9))
    changed = photo_examples(settings, head, "identity", {"arcface": other}, Console(quiet=True))[0]
    assert len(looks) == IDENTITIES * EACH
    assert np.abs(changed[5]["features"]["arcface"] - again[5]["features"]["arcface"]).max() > 1e-2
    np.testing.assert_allclose(changed.points, again.points, atol=1e-3)


def test_trouble_with_a_disk_ends_a_run_and_is_not_kept(data, tmp_path, monkeypatch):
    settings = settings_of(data, tmp_path / "run")
    head, encoders = flamejax.load_head(settings.head), {"arcface": ArcFace(IRESNET, rngs=nnx.Rngs(1))}
    monkeypatch.setattr(photo_features, "features_folder", lambda: tmp_path / "kept")
    whole = photo_folders.FolderPhotos.observe

    def observe(self, index, landmarks=None):
        if index == 5:
            raise OSError("Too many open files")
        return whole(self, index, landmarks)

    monkeypatch.setattr(photo_folders.FolderPhotos, "observe", observe)
    with pytest.raises(OSError, match="Too many"):
        photo_examples(settings, head, "identity", encoders, Console(quiet=True))
    monkeypatch.setattr(photo_folders.FolderPhotos, "observe", whole)
    parts = photo_examples(settings, head, "identity", encoders, Console(quiet=True))
    assert sum(len(part) for part in parts) == IDENTITIES * EACH


def test_smoke_looks_at_few_photos(data, tmp_path, monkeypatch):
    monkeypatch.setattr("experiments.training.ofer.photo_examples.SMOKE_PHOTOS", 3)
    settings = settings_of(data, tmp_path / "run", smoke=True)
    head = flamejax.load_head(settings.head)
    sources = photo_sources(settings, head, "identity", Console(quiet=True))
    assert [len(source.digests) for source in sources] == [3, 3]
    assert smoke_settings(GeneratorSettings(batch_size=2), 8).batch_size == 2
    assert smoke_settings(GeneratorSettings(batch_size=64), 8).batch_size == 8


def test_a_step_takes_no_memory_from_the_given_encoders(data, head):
    encoder = ArcFace(IRESNET, rngs=nnx.Rngs(1))
    architecture = dataclasses.replace(architecture_of("identity"), unet=UNet1DConfig((300, 6), 24, 16, 2, 4, 2))
    params = nnx.state(build_generator(head, architecture, encoders={"arcface": encoder}), nnx.Param)
    state = start_state(params, optax.adam(1e-3))
    lent = {leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(nnx.state(encoder, nnx.Param))}
    assert lent <= {leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(params)}
    assert not lent & {leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves((state.params, state.average))}


@pytest.mark.slow
def test_expgen_and_the_ranker(data, whole, head, tmp_path):
    errors = run(settings_of(data, tmp_path / "expgen"), architecture_of("expression"))
    assert np.isfinite(list(errors.values())).all()
    given = {"arcface": data / "arcface.npz", "farl": data / "farl.npz"}
    model = load_generator(head, "expression", tmp_path / "expgen" / "expgen.npz", given)
    assert model.config.unet.size == head.num_expression + 3 and model.deviation[...].min() > 0.01
    shared = dataclasses.asdict(settings_of(data, tmp_path / "idrank", encoder_rate=1e-3))
    own = {field.name for field in dataclasses.fields(RankSettings)}
    settings = RankSettings(
        **{k: v for k, v in shared.items() if k in own}, idgen=whole / "idgen.npz", candidates=6, sampler_steps=3
    )
    rank = IdRankConfig((16, 8), 48, ("arcface", "farl"))
    errors = train_rank.train_rank(settings, rank, Console(quiet=True))
    assert 0 < errors["minimum_mm"] <= errors["ranked_mm"]
    found = load_rank(head, tmp_path / "idrank" / "idrank.npz", given)
    assert found.needs_photo and found.config == rank
    blind = dataclasses.replace(settings, workdir=tmp_path / "blind")
    with pytest.raises(ValueError, match="IdGen looks at photos through arcface"):
        train_rank.train_rank(blind, IdRankConfig((16, 8), 16, landmark=LANDMARK), Console(quiet=True))


def test_written_weights_give_the_same_context(data, head, tmp_path):
    given = {"arcface": data / "arcface.npz", "farl": data / "farl.npz"}
    architecture = architecture_of("identity", "farl", "landmark", "arcface")
    size = dataclasses.replace(architecture.unet, widths=(head.num_betas, 6))
    model = build_generator(head, dataclasses.replace(architecture, unet=size), 3, encoders=given)
    write_generator(tmp_path / "w.npz", head, model)
    again = load_generator(head, "identity", tmp_path / "w.npz", given)
    keys = jax.random.split(jax.random.key(0), 2)
    photo, marks = jax.random.uniform(keys[0], (2, 48, 64, 3)), 40 * jax.random.uniform(keys[1], (2, 68, 2))
    visible = np.ones((2, 68), np.float32)
    context = nnx.jit(lambda model, *given: model.context(*given))
    found = context(model, photo, marks, visible)
    np.testing.assert_allclose(context(again, photo, marks, visible), found, atol=0.02, rtol=0.01)
    features = nnx.jit(lambda model, *given: model.features(*given))(model, photo, marks, visible)
    assert set(features) == {"arcface", "farl"}
    joined = model.context_of_features({**features, "other": None}, marks, visible)
    np.testing.assert_allclose(joined, found, atol=1e-4)
    with pytest.raises(ValueError, match="photo, which is None"):
        model.context(None, marks, visible)
    other = {**given, "arcface": ArcFace(IRESNET, rngs=nnx.Rngs(5))}
    with pytest.raises(HeadFileError, match="another arcface"):
        load_generator(head, "identity", tmp_path / "w.npz", other)
    with pytest.raises(FileNotFoundError, match="convert FILE --to farl"):
        load_generator(head, "identity", tmp_path / "w.npz", {"arcface": given["arcface"]})
    wide = dataclasses.replace(architecture.unet, context=65)
    with pytest.raises(ValueError, match="give 64 numbers, but the network's context is 65"):
        build_generator(head, dataclasses.replace(architecture, unet=wide), encoders=given)


def test_what_is_refused(data, whole, tmp_path):
    identity, workdir = architecture_of("identity"), tmp_path / "run"
    for settings, error, words in (
        (settings_of(data, workdir, arcface=tmp_path / "none.npz"), FileNotFoundError, "convert FILE --to arcface"),
        (settings_of(data, workdir, photos=tmp_path / "none"), ValueError, "no such folder"),
        (settings_of(data, workdir, dataset="Stirling"), ValueError, "no stirling; there are: mine"),
        (settings_of(data, workdir, photos=None), ValueError, "give --photos"),
        (settings_of(data, workdir, photos=None, dataset="mine"), ValueError, "the folder it is in"),
        (settings_of(data, workdir, scans=tmp_path), ValueError, "--scans is of networks"),
        (settings_of(data, workdir, batch_size=64), ValueError, "28 training photos are fewer"),
        (settings_of(data, whole, dataset="mine"), ValueError, "dataset None -> 'mine'"),
    ):
        with pytest.raises(error, match=words):
            run(settings, identity)
    assert not workdir.exists()
    with pytest.raises(ValueError, match="sees landmarks alone"):
        run(settings_of(data, workdir), architecture_of("identity", "landmark"))
    for bad in ((), ("arcface", "arcface"), ("vgg",)):
        with pytest.raises(ValueError, match="encoders are"):
            GeneratorConfig("identity", identity.unet, bad)


def test_a_run_goes_on_with_the_same_encoder_alone(data, whole, tmp_path):
    write_encoder(tmp_path / "moved.npz", ArcFace(IRESNET, rngs=nnx.Rngs(1)))
    run(settings_of(data, whole, arcface=tmp_path / "moved.npz"), architecture_of("identity"))
    write_encoder(tmp_path / "other.npz", ArcFace(IRESNET, rngs=nnx.Rngs(5)))
    with pytest.raises(ValueError, match="encoder_digests"):
        run(settings_of(data, whole, arcface=tmp_path / "other.npz"), architecture_of("identity"))


@pytest.mark.parametrize("name", ["idgen", "expgen", "idrank"])
def test_the_papers_configs(name, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("models.encoders.files.data_folder", lambda: tmp_path)
    config = command.load(name).Config()
    assert config.ema == 0 and config.learning_rate == 1e-3 and config.encoder_rate == config.weight_decay == 1e-4
    assert command.main(["--config", name, "--workdir", str(tmp_path / "run"), "--smoke"]) == 2
    assert "flamejax convert FILE --to arcface" in capsys.readouterr().err
