"""The table `completion`: held-out heads completed from their visible vertices, by linear models and the Mesh-VAE."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import io
import json
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from experiments.datasets.observations import spread_out
from experiments.datasets.open_faces import EXPRESSIONS, Scans
from experiments.datasets.vertex_masks import KINDS
from experiments.runtime import data_folder
from experiments.tables import scan_pca
from experiments.tables.fits import ROOMS, code_version
from experiments.tables.global_completion import GlobalConfig, complete_global
from experiments.tables.masked_heads import Cases, Errors, batches, make_cases, masks_for_tests, measure
from experiments.tables.scan_pca import ScanPCA, fit_pca
from experiments.tables.scan_realism import realism
from experiments.tables.scan_spectrum import Spectrum, spectrum
from experiments.tables.statistics import mean_of, ratio_of
from flamejax.geometry import mesh_edges
from flamejax.head import HeadModel, geometry_hash
from flamejax.io.files import write_bytes
from models.mesh_vae import MeshVAE
from sampling.refine import refine_latents

METHODS = ("mean", "pca", "pca_augmented", "global", "mesh_vae", "mesh_vae_refined")
OCCLUDERS = (*KINDS, "overall")
NEUTRAL = ("eyebrow", "lips_up", "mouth_down")
"""Expressions with the jaw shut that move the face by less than 2 mm: no scan shows a face at rest."""

Progress = Callable[[str, int, int], None]
"""Called with what is done, how many there are, and how many were done since the last call."""


@dataclass(frozen=True)
class CompletionConfig:
    """Settings of the methods, chosen on the validation split by the error on hidden vertices (docs/completion.md)."""

    components: int = 640
    """Of pca."""
    sigma: float = 3e-4
    """Of pca, metres."""
    noise: float = 1e-3
    """Of global, metres."""
    refine_sigma: float = 3e-4
    """Of mesh_vae_refined, metres."""
    refine_steps: int = 100
    seed: int = 0
    """Of masks and samples."""
    grid: tuple[tuple[int, float], ...] = tuple((k, s) for k in (64, 210, 640, 1500) for s in (1e-4, 3e-4, 1e-3))
    """Other (components, sigma) of pca, for a table of their own."""
    grid_scans: int = 30
    """Scans of that table: as many components as 1,500 take seconds a head."""
    sampled: int = 24
    """Scans of which samples are drawn."""
    samples: int = 16
    """Of each masked head."""


@dataclass(frozen=True)
class CompletionTable:
    """The rows, as printed and as written."""

    rows: list[dict]
    """Method by occluder: means over heads of the median distance, mm."""
    ratios: list[dict]
    """Hidden error over that of pca, same heads."""
    extra: list[dict]
    """pca with other settings, on fewer scans."""
    expressions: list[dict]
    """Hidden error on neutral-like and other expressions, and on each."""
    details: list[dict]
    """Errors of the Laplacian, mm: `mean` shows how much there is to find."""
    samples: list[dict]
    """How like heads samples are, and how far apart."""
    spectrum: Spectrum


@dataclass(frozen=True)
class Pictured:
    """What a picture needs."""

    cases: Cases
    found: dict[str, np.ndarray]
    """method -> (N, V, 3)."""
    samples: dict[str, np.ndarray]
    """pca, mesh_vae -> (S, count, V, 3): of the first S cases of `sampled`."""
    sampled: Cases


def load_vae(head: HeadModel, path: Path | None = None) -> MeshVAE | None:
    """The Mesh-VAE: the shipped one, or that of a file; None, and a line that says so, where none is shipped.

    Raises:
      FileNotFoundError: there is no such file.
    """
    from models.pretrained import load_mesh_vae

    try:
        return load_mesh_vae(head, path)
    except FileNotFoundError as error:
        if path is not None:
            raise
        print(f"mesh_vae is left out: {error}")
        return None


def make(
    head: HeadModel, train: Scans, scans: Scans, model: MeshVAE | None, limit: int | None, progress: Progress,
    config: CompletionConfig | None = None, folder: Path | None = None, more: np.ndarray | None = None,
) -> tuple[CompletionTable, Pictured]:  # fmt: skip
    """Complete heads by all methods and compare.

    Args:
      train: what pca knows of; scans: the held-out ones. limit: scans, spread over all; None for all.
      more: (N, V, 3) further heads that pca_augmented knows of, too, and the Mesh-VAE is trained on; None leaves
        pca_augmented out.
      folder: where what takes long is kept, by default in the data folder's `evaluate`.
    """
    config, maker, edges = config or CompletionConfig(), masks_for_tests(head), mesh_edges(np.asarray(head.faces))
    folder = folder or data_folder() / "evaluate"
    pca = fit_pca(train.vertices, max(k for k, _ in ((config.components, 0.0), *config.grid)), folder)
    linear = {"pca": pca}
    if more is not None:
        linear["pca_augmented"] = fit_pca(np.concatenate([train.vertices, more]), config.components, folder)
    cases = make_cases(maker, scans, spread_out(len(scans.subject), limit), config.seed)
    found = completions(head, linear, model, cases, progress, config, folder)
    errors = {method: measure(heads, cases, edges) for method, heads in found.items()}
    few = make_cases(maker, scans, spread_out(len(scans.subject), min(config.grid_scans, len(cases) // 2)), config.seed)
    some = make_cases(maker, scans, spread_out(len(scans.subject), min(config.sampled, len(cases) // 2)), config.seed)
    drawn = _samples(linear, model, some, config)
    table = CompletionTable(
        [_row(method, occluder, errors[method], cases) for method in errors for occluder in OCCLUDERS],
        [_ratio(method, occluder, errors, cases) for method in errors if method != "pca" for occluder in OCCLUDERS],
        _extra(pca, few, edges, config, progress),
        [_by_expression(method, errors[method], cases) for method in errors],
        [_row(method, occluder, errors[method], cases, "_detail") for method in errors for occluder in OCCLUDERS],
        realism(pca, some, drawn),
        spectrum(pca, train.subject, scans.vertices),
    )
    return table, Pictured(cases, found, drawn, some)


def completions(
    head: HeadModel, linear: dict[str, ScanPCA], model: MeshVAE | None, cases: Cases, progress: Progress,
    config: CompletionConfig, folder: Path,
) -> dict[str, np.ndarray]:  # fmt: skip
    """method -> (N, V, 3), or (V, 3) for all."""
    found: dict[str, np.ndarray] = {"mean": linear["pca"].mean.astype(np.float32)}
    for method, pca in linear.items():
        found[method] = np.empty(cases.heads.shape, np.float32)
        best = pca.leading(config.components)
        for k in range(len(cases)):
            setting = config.components, config.sigma
            found[method][k] = scan_pca.complete(best, cases.heads[k], cases.visible[k], *setting)
            progress(method, len(cases), 1)
    chosen = GlobalConfig(noise=config.noise)

    def by_head(heads: np.ndarray, visible: np.ndarray) -> np.ndarray:
        return complete_global(head, heads, visible, chosen)

    name = _digest("global", dataclasses.asdict(chosen), geometry_hash(head), code_version())
    found["global"] = kept(folder / f"completion-{name}", cases, by_head, functools.partial(progress, "global"))
    if model is not None:
        found |= _by_vae(model, cases, progress, config, folder)
    return found


def _by_vae(
    model: MeshVAE, cases: Cases, progress: Progress, config: CompletionConfig, folder: Path
) -> dict[str, np.ndarray]:
    graph, state = nnx.split(model)

    @jax.jit
    def encode(state: nnx.State, heads: jax.Array, visible: jax.Array) -> tuple[jax.Array, jax.Array]:
        merged = nnx.merge(graph, state)
        latents = merged.encode(heads, visible).mean
        return latents, merged.decode(latents)

    decode = jax.jit(lambda state, latents: nnx.merge(graph, state).decode(latents))

    def refined(heads: np.ndarray, visible: np.ndarray) -> np.ndarray:
        start = encode(state, jnp.asarray(heads), jnp.asarray(visible))[0]
        latents, _ = refine_latents(
            model, start, jnp.asarray(heads), jnp.asarray(visible), sigma=config.refine_sigma, steps=config.refine_steps
        )
        return np.asarray(decode(state, latents))

    plain = np.empty(cases.heads.shape, np.float32)
    for places, new in batches(len(cases), BATCH):
        made = encode(state, jnp.asarray(cases.heads[places]), jnp.asarray(cases.visible[places]))[1]
        plain[places[:new]] = np.asarray(made)[:new]
        progress("mesh_vae", len(cases), new)
    weights = hashlib.sha256(b"".join(np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(state))).hexdigest()
    version = code_version((*ROOMS, "models", "sampling"))
    name = _digest("refined", weights, config.refine_sigma, config.refine_steps, version)
    tick = functools.partial(progress, "mesh_vae_refined")
    return {"mesh_vae": plain, "mesh_vae_refined": kept(folder / f"completion-{name}", cases, refined, tick)}


BATCH = 8
"""Heads worked on at once; one compilation."""


def kept(
    folder: Path,
    cases: Cases,
    compute: Callable[[np.ndarray, np.ndarray], np.ndarray],
    tick: Callable[[int, int], None],
) -> np.ndarray:
    """Completions (N, V, 3) from files of an earlier run, or made in batches of one size and written, one file each.
    A file's name tells what was hidden of which head, so that nothing else is taken for it."""
    paths = [
        folder / f"{key}-{hashlib.sha256(head.tobytes() + seen.tobytes()).hexdigest()[:12]}.npz"
        for key, head, seen in zip(cases.keys, cases.heads, cases.visible, strict=True)
    ]
    found, missing = np.empty(cases.heads.shape, np.float32), []
    for k, path in enumerate(paths):
        earlier = _read(path, found[k].shape)
        if earlier is None:
            missing.append(k)
        else:
            found[k] = earlier
    tick(len(cases), len(cases) - len(missing))
    folder.mkdir(parents=True, exist_ok=True)
    for places, new in batches(len(missing), BATCH):
        which = np.array(missing)[places]
        for k, made in zip(which[:new], compute(cases.heads[which], cases.visible[which]), strict=False):
            found[k] = made
            buffer = io.BytesIO()
            np.savez(buffer, vertices=found[k])
            write_bytes(paths[k], buffer.getvalue())
        tick(len(cases), new)
    return found


def _read(path: Path, shape: tuple[int, ...]) -> np.ndarray | None:
    try:
        with np.load(io.BytesIO(path.read_bytes())) as file:
            vertices = file["vertices"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    return vertices if vertices.shape == shape else None


def _digest(*settings: object) -> str:
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


def _samples(
    linear: dict[str, ScanPCA], model: MeshVAE | None, cases: Cases, config: CompletionConfig
) -> dict[str, np.ndarray]:  # fmt: skip
    """method -> (N, samples, V, 3) draws of whole heads, given the visible part."""
    drawn: dict[str, np.ndarray] = {}
    for method, pca in linear.items():
        rng, best = np.random.default_rng(config.seed), pca.leading(config.components)
        drawn[method] = np.empty((len(cases), config.samples, *cases.heads.shape[1:]), np.float32)
        for k in range(len(cases)):
            setting = [(config.components, config.sigma)]
            (normal,) = scan_pca.posteriors(best, cases.heads[k], cases.visible[k], setting)
            drawn[method][k] = best.heads(normal.sample(rng, config.samples))
    if model is not None:
        graph, state = nnx.split(model)

        @jax.jit
        def draw(state: nnx.State, head: jax.Array, visible: jax.Array, key: jax.Array) -> jax.Array:
            return nnx.merge(graph, state).sample(head, visible, key, config.samples)

        keys = jax.random.split(jax.random.key(config.seed), len(cases))
        inputs = zip(cases.heads, cases.visible, keys, strict=True)
        drawn["mesh_vae"] = np.stack([draw(state, jnp.asarray(h), jnp.asarray(v), key) for h, v, key in inputs])
    return drawn


def chosen(cases: Cases, occluder: str) -> np.ndarray:
    """(N,) bool"""
    return np.full(len(cases), True) if occluder == "overall" else cases.kind == occluder


def _row(method: str, occluder: str, errors: Errors, cases: Cases, field: str = "") -> dict:
    which = chosen(cases, occluder)
    row: dict = {"method": method, "occluder": occluder, "scans": _scans(cases, which)}
    for part in ("visible", "hidden"):
        row |= _interval(f"{part}{field}_mm", mean_of(getattr(errors, part + field)[which], cases.subject[which]))
    return row


def _ratio(method: str, occluder: str, errors: dict[str, Errors], cases: Cases) -> dict:
    which = chosen(cases, occluder)
    found = ratio_of(errors[method].hidden[which], errors["pca"].hidden[which], cases.subject[which])
    return {"method": method, "occluder": occluder} | _interval("hidden_over_pca", found)


def _by_expression(method: str, errors: Errors, cases: Cases) -> dict:
    neutral = np.isin(cases.expression, [EXPRESSIONS.index(name) for name in NEUTRAL])
    row: dict = {"method": method}
    for name, which in (("neutral", neutral), ("other", ~neutral)):
        found = mean_of(errors.hidden[which], cases.subject[which]) if which.any() else (None,) * 3
        row |= _interval(f"hidden_mm_{name}", found)
    each = {name: errors.hidden[cases.expression == k] for k, name in enumerate(EXPRESSIONS)}
    return row | {"each": {name: float(values.mean()) for name, values in each.items() if len(values)}}


def _extra(pca: ScanPCA, cases: Cases, edges, config: CompletionConfig, progress: Progress) -> list[dict]:  # noqa: ANN001
    """pca with other settings."""
    grid = [(k, s) for k, s in config.grid if k <= len(pca.basis)]
    if not grid:
        return []
    found = np.empty((len(grid), *cases.heads.shape), np.float32)
    for k in range(len(cases)):
        made = scan_pca.posteriors(pca, cases.heads[k], cases.visible[k], grid)
        for out, normal, (count, _) in zip(found, made, grid, strict=True):
            out[k] = pca.leading(count).heads(normal.mean)
        progress("pca, other settings", len(cases), 1)
    rows = []
    for heads, (count, sigma) in zip(found, grid, strict=True):
        row = _row("pca", "overall", measure(heads, cases, edges), cases)
        rows.append({"components": count, "sigma_mm": 1e3 * sigma} | row)
    return rows


def _scans(cases: Cases, which: np.ndarray) -> int:
    return len({key.rsplit("-", 1)[0] for key, taken in zip(cases.keys, which, strict=True) if taken})


def _interval(name: str, found: Sequence[float | None]) -> dict:
    return {name: found[0], f"{name}_low": found[1], f"{name}_high": found[2]}
