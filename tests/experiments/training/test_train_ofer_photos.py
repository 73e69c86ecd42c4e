"""Training of tiny IdGen, ExpGen and IdRank on photos through random image encoders: a data set in folders."""

import dataclasses
import json

import jax
import numpy as np
import optax
import pytest
from flax import nnx
from PIL import Image

from experiments import train as command
from experiments.training.ofer import photo_examples as examples
from experiments.training.ofer import photo_folders
from experiments.training.ofer.photo_examples import photo_examples, photo_sources
from experiments.training.ofer.photo_folders import folder_photos
from experiments.training.ofer.settings import GeneratorOptions, GeneratorTraining, RankOptions, RankTraining
from experiments.training.state import initial_state
from flamejax.head import HeadFileError
from models.encoders import ArcFace, FaRL, IResNetConfig, ViTConfig
from models.encoders.files import write_encoder
from models.encoders.landmark import LandmarkEncoderConfig
from models.generator import GeneratorConfig
from models.ofer_weights import build_generator, load_generator, load_rank, write_generator
from models.rank import IdRankConfig
from models.unet1d import UNet1DConfig
from models.weight_files import flat_state
from tests.experiments.training.conftest import QUIET, Stopped
from tests.experiments.training.runs import HEAD, assert_same, rows, weights, with_training

IRESNET = IResNetConfig(blocks=(1,), widths=(8,), stem=8, width=24, image_size=16)
VIT = ViTConfig(image_size=16, patch_size=8, hidden=32, layers=1, heads=2, width=24)
LANDMARK = LandmarkEncoderConfig(16, 16, 1)
IDENTITIES, EACH, STEPS = 8, 4, 6


def architecture_of(kind, *encoders):
    """Returns a tiny architecture; by default IdGen has ArcFace, and ExpGen both encoders and the landmarks."""
    encoders = encoders or (("arcface",) if kind == "identity" else ("arcface", "farl", "landmark"))
    context = sum(16 if name == "landmark" else 24 for name in encoders)
    return GeneratorConfig(kind, UNet1DConfig((300, 6), context, 16, 2, 4, 2), encoders, LANDMARK)


TRAINING = GeneratorTraining(
    steps=STEPS, batch_size=8, warmup=2, checkpoint_every=3, eval_every=6, eval_examples=2, log_every=1,
    encoder_rate=1e-2, ema=0.0, draws=1, even=False,
)  # fmt: skip


def options_of(data, workdir, kind="identity", **changes):
    """Returns options of a run of a few seconds."""
    options = GeneratorOptions(
        workdir=workdir, head=data / "head.npz", photos=data / "photos", arcface=data / "arcface.npz",
        farl=data / "farl.npz", final_eval_examples=2, training=TRAINING, architecture=architecture_of(kind),
    )  # fmt: skip
    return with_training(options, changes)


def write_dataset(folder, num_betas, num_expression, motion=True):
    """Write photos of noise with landmarks and coefficients, one of which has a leading axis."""
    rng = np.random.default_rng(0)
    for person in range(IDENTITIES):
        person_folder = folder / f"person{person}"
        person_folder.mkdir(parents=True)
        betas = rng.normal(size=num_betas)
        for k in range(EACH):
            Image.fromarray(rng.integers(0, 255, (48, 64, 3), np.uint8)).save(person_folder / f"{k}.png")
            np.save(person_folder / f"{k}.npy", rng.uniform(8, 40, (68, 2)))
            moved = {"exp": rng.normal(size=(1, num_expression)), "jaw_pose": [0.1 * k, 0, 0]} if motion else {}
            np.savez(person_folder / f"{k}.npz", shape=betas, **moved)


@pytest.fixture(scope="module")
def photos(data, tmp_path_factory):
    """Returns a folder with a data set of photos and image encoders; features are stored there."""
    folder = data
    if not (folder / "photos").exists():  # two test files use this fixture
        write_dataset(folder / "photos" / "mine", HEAD.num_betas, HEAD.num_expression)
    write_encoder(folder / "arcface.npz", ArcFace(IRESNET, rngs=nnx.Rngs(1)))
    write_encoder(folder / "farl.npz", FaRL(VIT, rngs=nnx.Rngs(2)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(examples, "features_folder", lambda: folder / "features")
        yield folder


@pytest.fixture(scope="module")
def full_run(photos, tmp_path_factory):
    """Returns the folder of an uninterrupted IdGen run."""
    workdir = tmp_path_factory.mktemp("full") / "run"
    options_of(photos, workdir).run(QUIET)
    return workdir


def test_run_trains_only_the_last_layers_of_encoders(photos, full_run):
    losses = rows(full_run)
    assert [row["step"] for row in losses] == list(range(1, STEPS + 1))
    assert all(np.isfinite(row["total"]) for row in losses)
    assert json.loads((full_run / "results.json").read_text())["samples_mm"] > 0
    before, path = ArcFace(IRESNET, rngs=nnx.Rngs(1)), full_run / "idgen.npz"
    trained = {name for name in weights(path) if "encoders" in name}
    assert trained == {f"parameter:encoders/0/{name}" for name in ("fc/kernel", "fc/bias", "fc_bn/scale", "fc_bn/bias")}
    after = load_generator(HEAD, "identity", path, {"arcface": photos / "arcface.npz"}).encoders[0]
    for name, leaf in flat_state(before, nnx.Variable).items():
        changed = np.abs(flat_state(after, nnx.Variable)[name] - leaf).max()
        assert changed > 1e-3 if name.split("/")[0] in ("fc", "fc_bn") and "mean" not in name and (
            "variance" not in name
        ) else changed == 0, name  # fmt: skip


def test_checkpoint_has_no_frozen_layers(photos, full_run):
    size = sum(path.stat().st_size for path in (full_run / "checkpoints").rglob("*") if path.is_file())
    names = "".join(path.name for path in (full_run / "checkpoints").rglob("*")) + "".join(
        path.read_text(errors="ignore") for path in (full_run / "checkpoints").rglob("_METADATA")
    )
    assert size and "fc_bn" in names and "stages" not in names


def test_resumed_run_ends_with_the_same_parameters(photos, full_run, tmp_path, stopped_at):
    options = options_of(photos, tmp_path / "run")
    stopped_at(5)  # a step after the last checkpoint, which must be repeated
    with pytest.raises(Stopped):
        options.run(QUIET)
    stopped_at(None)
    options.run(QUIET)
    assert rows(full_run) == rows(options.workdir)
    assert_same(weights(full_run / "idgen.npz"), weights(options.workdir / "idgen.npz"))


def test_features_are_reused_until_the_encoder_changes(photos, full_run, tmp_path, monkeypatch):
    calls, observe = [], examples._observe
    monkeypatch.setattr(examples, "_observe", lambda *args: calls.append(1) or observe(*args))
    options = options_of(photos, tmp_path / "run")
    first = ArcFace(IRESNET, rngs=nnx.Rngs(1))
    again = photo_examples(options, HEAD, "identity", {"arcface": first}, QUIET)[0]
    assert not calls, "the run stored them"
    direct = nnx.jit(lambda encoder, *args: encoder.features(*args))
    sources = folder_photos(options.photos, None, HEAD, "identity", QUIET)
    observation = sources[0].observe(5, None)
    np.testing.assert_allclose(observation.landmarks, again.points[5], atol=1e-3)
    features = direct(first, observation.image, observation.landmarks, again.visible[5])
    np.testing.assert_allclose(again[5].features["arcface"], features, atol=2e-3)
    other = ArcFace(IRESNET, rngs=nnx.Rngs(9))
    changed = photo_examples(options, HEAD, "identity", {"arcface": other}, QUIET)[0]
    assert len(calls) == IDENTITIES * EACH
    assert np.abs(changed[5].features["arcface"] - again[5].features["arcface"]).max() > 1e-2
    np.testing.assert_allclose(changed.points, again.points, atol=1e-3)


def test_read_error_ends_a_run_and_is_not_stored(photos, tmp_path, monkeypatch):
    options = options_of(photos, tmp_path / "run")
    encoders = {"arcface": ArcFace(IRESNET, rngs=nnx.Rngs(1))}
    monkeypatch.setattr(examples, "features_folder", lambda: tmp_path / "features")
    observe_photo, calls = photo_folders.observe_photo, []

    def observe(*args, **kwargs):
        calls.append(1)
        if len(calls) == 6:
            raise OSError("Too many open files")
        return observe_photo(*args, **kwargs)

    monkeypatch.setattr(photo_folders, "observe_photo", observe)
    with pytest.raises(OSError, match="Too many"):
        photo_examples(options, HEAD, "identity", encoders, QUIET)
    monkeypatch.setattr(photo_folders, "observe_photo", observe_photo)
    parts = photo_examples(options, HEAD, "identity", encoders, QUIET)
    assert sum(len(part) for part in parts) == IDENTITIES * EACH


def test_smoke_run_reads_few_photos(photos, tmp_path, monkeypatch):
    monkeypatch.setattr(examples, "SMOKE_PHOTOS", 3)
    options = options_of(photos, tmp_path / "run", smoke=True)
    sources = photo_sources(options, HEAD, "identity", QUIET)
    assert [len(source.digests) for source in sources] == [3, 3]
    for batch_size, used in ((2, 2), (64, 8)):
        smoke = with_training(options, {"batch_size": batch_size}).with_smoke_settings(8, 4)
        assert smoke.training.batch_size == used and smoke.workdir == tmp_path / "run" / "smoke"


def test_step_does_not_donate_memory_of_given_encoders():
    encoder = ArcFace(IRESNET, rngs=nnx.Rngs(1))
    architecture = dataclasses.replace(architecture_of("identity"), unet=UNet1DConfig((300, 6), 24, 16, 2, 4, 2))
    params = nnx.state(build_generator(HEAD, architecture, encoders={"arcface": encoder}), nnx.Param)
    state = initial_state(params, optax.adam(1e-3), averaged=True)
    shared = {leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(nnx.state(encoder, nnx.Param))}
    assert shared <= {leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(params)}
    assert not shared & {leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves((state.params, state.average))}


@pytest.mark.slow
def test_expgen_and_the_ranker_train_on_photos(photos, full_run, tmp_path):
    errors = options_of(photos, tmp_path / "expgen", "expression").run(QUIET)
    assert np.isfinite(list(errors.values())).all()
    encoder_files = {"arcface": photos / "arcface.npz", "farl": photos / "farl.npz"}
    model = load_generator(HEAD, "expression", tmp_path / "expgen" / "expgen.npz", encoder_files)
    assert model.config.unet.size == HEAD.num_expression + 3 and model.deviation[...].min() > 0.01
    training = RankTraining(
        steps=STEPS, batch_size=8, warmup=2, checkpoint_every=3, eval_every=6, eval_examples=2, log_every=1,
        candidates=6, sampler_steps=3, ema=0.0,
    )  # fmt: skip
    options = RankOptions(
        workdir=tmp_path / "idrank", head=photos / "head.npz", photos=photos / "photos", **encoder_files,
        final_eval_examples=2, training=training,
        architecture=IdRankConfig((16, 8), 48, ("arcface", "farl")), idgen=full_run / "idgen.npz",
    )  # fmt: skip
    errors = options.run(QUIET)
    assert 0 < errors["minimum_mm"] <= errors["ranked_mm"]
    ranker = load_rank(HEAD, tmp_path / "idrank" / "idrank.npz", encoder_files)
    assert ranker.needs_photo and ranker.config == options.architecture
    blind = IdRankConfig((16, 8), 16, landmark=LANDMARK)
    with pytest.raises(ValueError, match="IdGen looks at photos through arcface"):
        dataclasses.replace(options, workdir=tmp_path / "blind", architecture=blind).run(QUIET)


def test_written_weights_give_the_same_context(photos, tmp_path):
    encoder_files = {"arcface": photos / "arcface.npz", "farl": photos / "farl.npz"}
    architecture = architecture_of("identity", "farl", "landmark", "arcface")
    size = dataclasses.replace(architecture.unet, widths=(HEAD.num_betas, 6))
    model = build_generator(HEAD, dataclasses.replace(architecture, unet=size), 3, encoders=encoder_files)
    write_generator(tmp_path / "w.npz", HEAD, model)
    again = load_generator(HEAD, "identity", tmp_path / "w.npz", encoder_files)
    keys = jax.random.split(jax.random.key(0), 2)
    photo, landmarks = jax.random.uniform(keys[0], (2, 48, 64, 3)), 40 * jax.random.uniform(keys[1], (2, 68, 2))
    visible = np.ones((2, 68), np.float32)
    context = nnx.jit(lambda model, *args: model.context(*args))
    expected = context(model, photo, landmarks, visible)
    np.testing.assert_allclose(context(again, photo, landmarks, visible), expected, atol=0.02, rtol=0.01)
    features = nnx.jit(lambda model, *args: model.features(*args))(model, photo, landmarks, visible)
    assert set(features) == {"arcface", "farl"}
    joined = model.context_of_features({**features, "other": None}, landmarks, visible)
    np.testing.assert_allclose(joined, expected, atol=1e-4)
    with pytest.raises(ValueError, match="photo, which is None"):
        model.context(None, landmarks, visible)
    other = {**encoder_files, "arcface": ArcFace(IRESNET, rngs=nnx.Rngs(5))}
    with pytest.raises(HeadFileError, match="another arcface"):
        load_generator(HEAD, "identity", tmp_path / "w.npz", other)
    with pytest.raises(FileNotFoundError, match="convert FILE --to farl"):
        load_generator(HEAD, "identity", tmp_path / "w.npz", {"arcface": encoder_files["arcface"]})
    wide = dataclasses.replace(architecture.unet, context=65)
    with pytest.raises(ValueError, match="give 64 numbers, but the network's context is 65"):
        build_generator(HEAD, dataclasses.replace(architecture, unet=wide), encoders=encoder_files)


def test_bad_options_are_refused(photos, full_run, tmp_path):
    workdir = tmp_path / "run"
    for options, error, words in (
        (options_of(photos, workdir, arcface=tmp_path / "none.npz"), FileNotFoundError, "convert FILE --to arcface"),
        (options_of(photos, workdir, photos=tmp_path / "none"), ValueError, "no such folder"),
        (options_of(photos, workdir, dataset="Stirling"), ValueError, "no stirling; there are: mine"),
        (options_of(photos, workdir, photos=None), ValueError, "give --photos"),
        (options_of(photos, workdir, photos=None, dataset="mine"), ValueError, "the folder it is in"),
        (options_of(photos, workdir, scans=tmp_path), ValueError, "--scans is for networks"),
        (options_of(photos, workdir, batch_size=64), ValueError, "28 training photos are fewer"),
        (options_of(photos, full_run, dataset="mine"), ValueError, "dataset None -> 'mine'"),
    ):
        with pytest.raises(error, match=words):
            options.run(QUIET)
    assert not workdir.exists()
    with pytest.raises(ValueError, match="sees only landmarks"):
        options_of(photos, workdir, architecture=architecture_of("identity", "landmark")).run(QUIET)
    for bad in ((), ("arcface", "arcface"), ("vgg",)):
        with pytest.raises(ValueError, match="encoders are"):
            GeneratorConfig("identity", UNet1DConfig(), bad)


def test_run_resumes_only_with_the_same_encoder(photos, full_run, tmp_path):
    write_encoder(tmp_path / "moved.npz", ArcFace(IRESNET, rngs=nnx.Rngs(1)))
    options_of(photos, full_run, arcface=tmp_path / "moved.npz").run(QUIET)
    write_encoder(tmp_path / "other.npz", ArcFace(IRESNET, rngs=nnx.Rngs(5)))
    with pytest.raises(ValueError, match="encoder_digests"):
        options_of(photos, full_run, arcface=tmp_path / "other.npz").run(QUIET)


@pytest.mark.parametrize("name", ["idgen", "expgen", "idrank"])
def test_paper_configs_have_the_papers_settings(name, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("models.encoders.files.data_folder", lambda: tmp_path)
    config = command.CONFIGS[name][1].training
    assert config.ema == 0 and config.learning_rate == 1e-3 and config.encoder_rate == config.weight_decay == 1e-4
    assert command.main(["--config", name, "--workdir", str(tmp_path / "run"), "--smoke"]) == 2
    assert "flamejax convert FILE --to arcface" in capsys.readouterr().err
