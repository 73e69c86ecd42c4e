"""Tiny heads, scans and networks, and the options of runs of a few seconds."""

import dataclasses
import json

import numpy as np
import trimesh

import flamejax
from experiments.training.mesh_vae.settings import MeshVAEOptions, MeshVAETraining
from experiments.training.ofer.settings import GeneratorOptions, GeneratorTraining, RankOptions, RankTraining
from models.encoders.landmark import LandmarkEncoderConfig
from models.generator import GeneratorConfig
from models.mesh_vae import MeshVAEConfig
from models.rank import IdRankConfig
from models.unet1d import UNet1DConfig
from tests.heads import random_head, random_params

HEAD = random_head()
SUBJECTS, EACH, STEPS = 6, 3, 6
TINY = MeshVAEConfig(strides=(2, 2), features=(6,), latent_features=4, num_bases=3, centred=True, linear_rank=5)
LANDMARK = LandmarkEncoderConfig(width=12, hidden=16, blocks=1)
UNET = UNet1DConfig((6, 4), context=12, time=16, heads=1, head_width=4, tokens=2)
RANK = IdRankConfig((16, 8), context=12, landmark=LANDMARK)
SHORT = {"steps": STEPS, "warmup": 2, "checkpoint_every": 2, "eval_every": STEPS, "log_every": 1, "eval_examples": 2}
MESH_TRAINING = MeshVAETraining(**SHORT, batch_size=8, synthetic=0.5, learning_rate=1e-3)
GENERATOR_TRAINING = GeneratorTraining(**SHORT, batch_size=4, draws=2, dropped=0.2)


def architecture(kind):
    return GeneratorConfig(kind, UNET, landmark=LANDMARK, preconditioned=True)


def write_scans(folder, head, unit=1.0):
    """Write scans to DIR/<subject>/<expression>/frame.* in four formats, with detail that the head lacks."""
    rng = np.random.default_rng(0)
    params = random_params(head, 1, (SUBJECTS * EACH,), 0.2)
    posed = np.asarray(flamejax.vertices(head, params))
    detail = rng.normal(size=(SUBJECTS, 1, head.num_vertices, 3))
    posed = posed + 5e-4 * detail.repeat(EACH, 1).reshape(posed.shape)
    for i, points in enumerate(posed / unit):
        scan_folder = folder / f"subject{i // EACH}" / "take" / ("smile", "bareteeth", "eyebrow")[i % EACH]
        scan_folder.mkdir(parents=True)
        mesh = trimesh.Trimesh(points, np.asarray(head.faces), process=False)
        kind = i % 4
        if kind == 0:
            mesh.export(scan_folder / "a.000001.ply")
        elif kind == 1:
            rows = "\n".join(f"v {x:.9f} {y:.9f} {z:.9f}" for x, y, z in points)
            (scan_folder / "a.000001.obj").write_text(f"# a scan\n{rows}\nf 1 2 3\n")
        elif kind == 2:
            np.save(scan_folder / "a.npy", points)
        else:
            np.savez(scan_folder / "a.npz", vertices=points, other=np.zeros(3))
    return posed


def with_training(options, changes):
    """Returns options with changed fields, of the options or of their training settings."""
    inner = {field.name for field in dataclasses.fields(options.training)}
    training = dataclasses.replace(options.training, **{k: v for k, v in changes.items() if k in inner})
    return dataclasses.replace(options, training=training, **{k: v for k, v in changes.items() if k not in inner})


def mesh_options(data, workdir, **changes):
    options = MeshVAEOptions(
        workdir=workdir, head=data / "head.npz", scans=data / "scans", final_eval_examples=2, training=MESH_TRAINING,
        architecture=TINY,
    )  # fmt: skip
    return with_training(options, changes)


def generator_options(data, workdir, kind="identity", **changes):
    options = GeneratorOptions(
        workdir=workdir, head=data / "head.npz", scans=data / "scans", final_eval_examples=2,
        training=GENERATOR_TRAINING, architecture=architecture(kind),
    )  # fmt: skip
    return with_training(options, changes)


def rank_options(data, workdir, idgen, **changes):
    training = RankTraining(**SHORT, batch_size=4, candidates=6, sampler_steps=2, encoder_rate=1e-2)
    options = RankOptions(
        workdir=workdir, head=data / "head.npz", scans=data / "scans", final_eval_examples=2, training=training,
        architecture=RANK, idgen=idgen,
    )  # fmt: skip
    return with_training(options, changes)


def rows(workdir, kind="train"):
    all_rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [row for row in all_rows if row["kind"] == kind]


def weights(path):
    with np.load(path) as file:
        return {name: file[name] for name in file.files if name.startswith("parameter:")}


def assert_same(first, second):
    """Assert that two dictionaries of arrays are equal."""
    assert first.keys() == second.keys()
    for name, array in first.items():
        np.testing.assert_array_equal(array, second[name], err_msg=name)
