"""Completion of masked heads: each method on heads with known results, the table, the command."""

import dataclasses
import functools
import json
import subprocess
import sys

import flax.nnx as nnx
import jax.numpy as jnp
import numpy as np

import flamejax
from experiments import evaluate
from experiments.datasets.open_faces import EXPRESSIONS, Scans
from experiments.datasets.vertex_masks import KINDS, mask_maker
from experiments.evaluate import reports
from experiments.tables import completion, fits, realism, report, scan_pca
from experiments.tables.completion import CompletionConfig
from experiments.tables.global_completion import GlobalConfig, complete_global
from experiments.tables.masked_heads import completion_errors, mask_heads
from experiments.tables.runs import batches, code_version
from fitting.scan_fit import fit_scans
from flamejax.geometry import mesh_edges
from flamejax.head._unpose import rest_joints
from models.mesh_vae import MeshVAE, MeshVAEConfig, hierarchy_for
from tests.heads import random_head, random_params

HEAD = random_head()
MAKER = mask_maker(HEAD, count=16)
SMALL = MeshVAEConfig(strides=(2, 2), features=(8,), latent_features=4, num_bases=3, centred=True)
SETTINGS = CompletionConfig(
    components=6, sigma=1e-4, refine_steps=5, grid=((3, 1e-4), (6, 1e-3)), grid_scans=2, sampled=3, samples=4
)


@functools.cache
def drawn(seed: int) -> np.ndarray:
    """Returns forty heads of the model in the head frame."""
    params = random_params(HEAD, seed, (40,), 0.5)
    params = dataclasses.replace(params, global_orient=jnp.zeros((40, 3)), transl=jnp.zeros((40, 3)))
    return np.asarray(flamejax.vertices(HEAD, params) - rest_joints(HEAD, params)[:, :1])


def heads(count: int, seed: int) -> np.ndarray:
    """Returns the first heads of `drawn`."""
    return drawn(seed)[:count]


def scans(subjects: int, seed: int) -> Scans:
    """Returns scans of each subject with the first four expressions."""
    subject = np.repeat(np.arange(subjects) + 100 * seed, 4).astype(np.int32)
    verts = heads(len(subject), seed)
    turns = np.zeros((len(subject), 5, 3), np.float32)
    return Scans(verts, verts, turns, subject, np.tile(np.arange(4), subjects).astype(np.int32))


def tiny_vae() -> MeshVAE:
    hierarchy = hierarchy_for(SMALL, np.asarray(HEAD.faces), np.asarray(HEAD.v_template))
    mean = HEAD.v_template - HEAD.joint_template[0][None]
    return MeshVAE(hierarchy, SMALL, rngs=nnx.Rngs(0), mean=mean, spread=0.003)


def test_mask_heads_hides_the_share_whichever_scans_are_chosen():
    cases = mask_heads(MAKER, scans(3, 1), range(12), seed=3)
    assert len(cases) == 24 and list(cases.kind[:2]) == list(KINDS)
    assert cases.keys[1] == "subject_0100-bareteeth-patch"
    share = (~cases.visible).mean(axis=1)
    # The sphere's vertices come in rows that are hidden together.
    assert share.min() > 0.24 and share.max() < 0.5 and share.std() > 0.02
    some = mask_heads(MAKER, scans(3, 1), [7, 2], seed=3)
    np.testing.assert_array_equal(some.visible, cases.visible[[14, 15, 4, 5]])
    assert (mask_heads(MAKER, scans(3, 1), [7, 2], seed=4).visible != some.visible).any()


def test_pca_completes_a_head_in_its_span(tmp_path):
    train = heads(40, 0)
    pca = scan_pca.fit_pca(train, 12, tmp_path)
    np.testing.assert_allclose(pca.heads(pca.coefficients[:3]), pca.heads(pca.project(train[:3])), atol=1e-6)
    np.testing.assert_allclose(pca.coefficients.std(axis=0, ddof=1), 1, rtol=1e-6)
    rng = np.random.default_rng(0)
    truth = pca.heads(rng.standard_normal(12))
    visible = mask_heads(MAKER, scans(1, 1), [0]).visible[1]
    masked = np.where(visible[:, None], truth, np.nan)
    completed = scan_pca.complete(pca, masked, visible, 12, 1e-7)
    np.testing.assert_allclose(completed, truth, atol=1e-6)
    # With nothing visible the result is the mean; with everything visible and no noise, the projection.
    np.testing.assert_allclose(scan_pca.complete(pca, truth, np.zeros(162, bool), 12, 1e-4), pca.mean, atol=1e-9)
    few = pca.leading(5)
    projected = scan_pca.complete(few, truth, np.ones(162, bool), 5, 1e-7)
    np.testing.assert_allclose(projected, few.heads(few.project(truth)), atol=1e-6)


def test_pca_posterior_has_the_least_squares_mean_and_covariance(tmp_path):
    pca = scan_pca.fit_pca(heads(40, 0), 6, tmp_path)
    truth, visible, sigma = heads(1, 9)[0], np.arange(162) % 5 > 0, 2e-3
    (posterior,) = scan_pca.posteriors(pca, truth, visible, [(6, sigma)])
    rows = np.concatenate([pca.basis[:, visible].reshape(6, -1).T / sigma, np.eye(6)])
    target = np.concatenate([(truth - pca.mean)[visible].reshape(-1) / sigma, np.zeros(6)])
    np.testing.assert_allclose(posterior.mean, np.linalg.lstsq(rows, target)[0], atol=1e-8)
    samples = posterior.sample(np.random.default_rng(0), 20_000)
    np.testing.assert_allclose(samples.mean(axis=0), posterior.mean, atol=0.03)
    covariance = np.linalg.inv(rows.T @ rows)
    np.testing.assert_allclose(np.cov(samples.T), covariance, atol=0.03 * covariance.max())


def test_fit_pca_caches_components_and_replaces_a_damaged_file(tmp_path):
    train = heads(20, 0)
    first = scan_pca.fit_pca(train, 5, tmp_path)
    (path,) = tmp_path.glob("pca-*.npz")
    time = path.stat().st_mtime_ns
    again = scan_pca.fit_pca(train, 5, tmp_path)
    assert path.stat().st_mtime_ns == time
    np.testing.assert_array_equal(first.basis, again.basis)
    path.write_bytes(path.read_bytes()[:100])
    np.testing.assert_allclose(scan_pca.fit_pca(train, 5, tmp_path).basis, first.basis, atol=1e-12)
    scan_pca.fit_pca(train[:10], 5, tmp_path)
    assert len(list(tmp_path.glob("pca-*.npz"))) == 2


def test_complete_global_completes_the_models_own_heads():
    truth = heads(3, 5)
    visible = mask_heads(MAKER, scans(1, 1), [0, 1, 2]).visible[1::2]
    masked = np.where(visible[..., None], truth, np.nan).astype(np.float32)
    completed = complete_global(HEAD, masked, visible, GlobalConfig(noise=1e-6, steps=20))
    assert np.linalg.norm(completed - truth, axis=-1).max() < 1e-4


def test_complete_global_of_fully_visible_heads_matches_a_scan_fit():
    rough = heads(3, 6) + 1e-3 * np.random.default_rng(0).normal(size=(3, 162, 3)).astype(np.float32)
    completed = complete_global(HEAD, rough, np.ones((3, 162), bool), GlobalConfig(noise=1e-4))
    rms = np.sqrt(((completed - rough) ** 2).sum(axis=-1).mean(axis=-1))
    # A scan fit also has a global rotation and translation.
    np.testing.assert_allclose(rms, fit_scans(HEAD, rough).rms, rtol=0.03)


def test_completion_errors_are_medians_over_hidden_and_visible_vertices():
    cases = mask_heads(MAKER, scans(1, 1), [0])
    completed = cases.heads + np.where(cases.visible[..., None], [0.003, 0, 0], [0, 0.004, 0])
    errors = completion_errors(completed.astype(np.float32), cases, mesh_edges(np.asarray(HEAD.faces)))
    np.testing.assert_allclose(errors.visible, 3, rtol=1e-3)
    np.testing.assert_allclose(errors.hidden, 4, rtol=1e-3)
    # A shift has no details, except for the step between the two shifts.
    assert errors.visible_detail.max() < 2.5
    shifted = completion_errors(cases.heads + np.float32(0.01), cases, mesh_edges(np.asarray(HEAD.faces)))
    assert max(shifted.visible_detail.max(), shifted.hidden_detail.max()) < 1e-3
    assert np.abs(completion_errors(cases.heads[0], cases, mesh_edges(np.asarray(HEAD.faces))).hidden).max() == 0


def test_completion_table_has_its_rows_and_resumes(tmp_path, monkeypatch):
    monkeypatch.setattr(completion, "evaluation_mask_maker", lambda head: MAKER)
    done: dict[str, int] = {}

    def tick(name, total, count):
        done[name] = done.get(name, 0) + count

    def table():
        inputs = HEAD, scans(10, 0), scans(3, 1), tiny_vae()
        return completion.compute_table(*inputs, 5, tick, SETTINGS, tmp_path, heads(20, 7))

    first, pictured = table()
    assert [(r["method"], r["occluder"]) for r in first.rows] == [
        (m, o) for m in completion.METHODS for o in ("rectangle", "patch", "overall")
    ]
    keys = {"visible_mm", "visible_mm_low", "visible_mm_high", "hidden_mm", "hidden_mm_low", "hidden_mm_high"}
    assert all(set(row) == keys | {"method", "occluder", "scans"} for row in first.rows)
    assert all(row["scans"] == 5 and row["hidden_mm_low"] <= row["hidden_mm"] <= row["hidden_mm_high"]
               for row in first.rows)  # fmt: skip
    by = {(row["method"], row["occluder"]): row for row in first.rows}
    assert (
        by["global", "overall"]["visible_mm"] < by["pca", "overall"]["visible_mm"] < by["mean", "overall"]["visible_mm"]
    )
    assert by["mesh_vae_refined", "overall"]["visible_mm"] < by["mesh_vae", "overall"]["visible_mm"]
    assert {k: v for k, v in done.items() if k != "pca, other settings"} == dict.fromkeys(completion.METHODS[1:], 10)
    assert [(r["components"], r["sigma_mm"], r["scans"]) for r in first.extra] == [(3, 0.1, 2), (6, 1.0, 2)]
    assert [r["method"] for r in first.samples] == ["held-out heads", "pca", "pca_augmented", "mesh_vae"]
    assert first.expressions[0]["hidden_mm_neutral"] is None or first.expressions[0]["hidden_mm_neutral"] > 0
    assert set(first.expressions[0]["each"]) <= set(EXPRESSIONS)
    json.dumps(dataclasses.asdict(first), allow_nan=False)
    assert pictured.samples["mesh_vae"].shape == (6, 4, 162, 3)
    monkeypatch.setattr(completion, "complete_global", None)  # cached: not computed again
    monkeypatch.setattr(completion, "refine_latents", None)
    again, _ = table()
    assert again == first
    text = report.as_markdown("Heads.", completion.sheets(first))
    assert (
        "| mesh_vae_refined | overall | 5 |" in text and text.count("\n\n**") == 7
    )  # the spectrum only has the numbers of components that exist


def test_spectrum_distinguishes_normal_from_uniform_coefficients(tmp_path):
    rng = np.random.default_rng(0)
    scale = np.array([4.0, 2.0, 1.0])[None] * 1e-2
    subjects = np.repeat(np.arange(200), 3)
    directions = np.linalg.qr(rng.normal(size=(30, 3)))[0].T

    def spectrum_of(draws: np.ndarray) -> realism.Spectrum:
        train = ((draws * scale) @ directions).reshape(-1, 10, 3)
        return realism.spectrum(scan_pca.fit_pca(train, 3, tmp_path), subjects, train[:50])

    normal, flat = spectrum_of(rng.normal(size=(600, 3))), spectrum_of(rng.uniform(-1, 1, (600, 3)))
    assert max(abs(row["kurtosis"]) for row in normal.coefficients) < 0.6
    assert all(row["kurtosis_high"] < -0.8 for row in flat.coefficients)
    assert abs(normal.distance["train"] - 1) < 0.3 and flat.distance["train"] < 0.6
    assert "0 are skewed" in normal.statement and "3 have another kurtosis" in flat.statement
    assert [row["components"] for row in normal.left] == []  # fewer components than the smallest listed number


def test_completion_without_weights_leaves_the_mesh_vae_out(tmp_path, monkeypatch, capsys):
    def missing(head, path):
        raise FileNotFoundError("no Mesh-VAE here; train one")

    monkeypatch.setattr(reports, "load_mesh_vae", missing)
    monkeypatch.setattr(flamejax, "load_head", lambda: HEAD)
    monkeypatch.setattr(reports, "load_scans", lambda split: scans(8, 0) if split == "train" else scans(2, 1))
    monkeypatch.setattr(reports, "augmentation", lambda head, verts, turns: heads(20, 7))
    monkeypatch.setattr(completion, "evaluation_mask_maker", lambda head: MAKER)
    monkeypatch.setattr(completion, "CompletionConfig", lambda seed: dataclasses.replace(SETTINGS, seed=seed))
    monkeypatch.setenv("FLAMEJAX_DATA", str(tmp_path))
    files = {name: tmp_path / f"table.{name}" for name in ("json", "md", "png")}
    options = ["--json", str(files["json"]), "--markdown", str(files["md"]), "--figure", str(files["png"])]
    assert evaluate.main(["--table", "completion", "--limit", "2", *options]) == 0
    out = capsys.readouterr().out
    assert "left out: mesh_vae: no Mesh-VAE here; train one" in out and "pca" in out
    rows = json.loads(files["json"].read_text())
    assert {row["method"] for row in rows} == {"mean", "pca", "pca_augmented", "global"} and rows[0]["scans"] == 2
    more = json.loads((tmp_path / "table.more.json").read_text())
    assert {"ratios", "extra", "expressions", "details", "samples", "spectrum"} == set(more)
    assert "2 scans of the open scans' test split" in files["md"].read_text()
    assert files["png"].stat().st_size > 1000 and (tmp_path / "table-samples.png").stat().st_size > 1000
    assert evaluate.main(["--table", "completion", "--weights", str(tmp_path / "mine.npz")]) == 2
    assert "no Mesh-VAE here" in capsys.readouterr().err


def test_cached_fits_do_not_depend_on_models():
    """`models` is not in the code version of cached fits, so fitting a photo must not import it."""
    assert "models" not in fits.CODE_PATHS
    code = "import sys, experiments.tables.fits, experiments.tables.fitting_table; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {name.split(".")[0] for name in done.stdout.split()} & {"models", "sampling"}
    assert code_version(fits.CODE_PATHS) != code_version((*fits.CODE_PATHS, "models"))


def test_batches_are_padded_with_copies():
    assert list(batches(5, 3)) == [([0, 1, 2], 3), ([3, 4, 4], 2)]
    assert not list(batches(0, 3))
