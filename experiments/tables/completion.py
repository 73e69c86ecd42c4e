"""The table `completion`: completions of held-out heads from visible vertices by linear models and the Mesh-VAE."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from experiments.datasets.observations import evenly_spaced_indices
from experiments.datasets.open_faces import EXPRESSIONS, Scans
from experiments.datasets.vertex_masks import KINDS
from experiments.tables import scan_pca
from experiments.tables.fits import CODE_PATHS
from experiments.tables.global_completion import GlobalConfig, complete_global
from experiments.tables.masked_heads import (
    CompletionErrors,
    MaskedHeads,
    completion_errors,
    evaluation_mask_maker,
    mask_heads,
)
from experiments.tables.realism import Spectrum, samples_realism, spectrum
from experiments.tables.report import Sheet, interval, intervals, number, sheet
from experiments.tables.runs import Progress, Tick, batches, head_id, load_or_compute, progress_tick, run_folder
from experiments.tables.scan_pca import ScanPCA, fit_pca
from experiments.tables.statistics import columns, groups, mean_of, ratio_of
from flamejax.geometry import mesh_edges
from flamejax.head import HeadModel
from models.mesh_vae import MeshVAE
from models.weight_files import digest_of_weights
from sampling import refine_latents

METHODS = ("mean", "pca", "pca_augmented", "global", "mesh_vae", "mesh_vae_refined")
OCCLUDERS = (*KINDS, "overall")
NEUTRAL = ("eyebrow", "lips_up", "mouth_down")
"""Expressions with a closed jaw that move the face by less than 2 mm, since no scan has a neutral face."""

BATCH = 8
"""Number of heads processed at once; one compilation."""
VAE_CODE_PATHS = (*CODE_PATHS, "models", "sampling")
"""Code that completions by a Mesh-VAE depend on."""


@dataclass(frozen=True)
class CompletionConfig:
    """Settings of the methods, chosen on validation by the error on hidden vertices (docs/results/completion.md)."""

    components: int = 640
    """Number of components of pca."""
    sigma: float = 3e-4
    """Noise of pca, metres."""
    noise: float = 1e-3
    """Noise of global, metres."""
    refine_sigma: float = 3e-4
    """Noise of mesh_vae_refined, metres."""
    refine_steps: int = 100
    seed: int = 0
    """Random seed of masks and samples."""
    grid: tuple[tuple[int, float], ...] = tuple((k, s) for k in (64, 210, 640, 1500) for s in (1e-4, 3e-4, 1e-3))
    """Other (components, sigma) of pca, for a separate table."""
    grid_scans: int = 30
    """Number of scans in that table; 1,500 components take seconds per head."""
    sampled: int = 24
    """Number of scans for which samples are drawn."""
    samples: int = 16
    """Number of samples per masked head."""


@dataclass(frozen=True)
class CompletionTable:
    """The rows, as printed and as written."""

    rows: list[dict]
    """Method by occluder: means over heads of the median distance, mm."""
    ratios: list[dict]
    """Ratio of the hidden error to that of pca, on the same heads."""
    extra: list[dict]
    """pca with other settings, on fewer scans."""
    expressions: list[dict]
    """Hidden error on neutral-like and on other expressions, and on each expression."""
    details: list[dict]
    """Errors of the Laplacian, mm; the row `mean` shows the size of the details."""
    samples: list[dict]
    """Realism and spread of samples."""
    spectrum: Spectrum


@dataclass(frozen=True)
class CompletionPictures:
    """The data for pictures."""

    cases: MaskedHeads
    completed: dict[str, np.ndarray]
    """method -> (N, V, 3)."""
    samples: dict[str, np.ndarray]
    """method -> (S, samples, V, 3), samples for the S cases in `sampled`."""
    sampled: MaskedHeads


@dataclass(frozen=True)
class Completed:
    """One cached completion."""

    vertices: np.ndarray
    """(V, 3)"""


def compute_table(
    head: HeadModel, train: Scans, scans: Scans, model: MeshVAE | None, limit: int | None, progress: Progress,
    config: CompletionConfig | None = None, folder: Path | None = None, extra_heads: np.ndarray | None = None,
) -> tuple[CompletionTable, CompletionPictures]:  # fmt: skip
    """Complete heads by all methods and compare.

    Args:
      train: training scans of pca. scans: held-out scans. limit: number of scans, evenly spaced; None for all.
      extra_heads: (N, V, 3) further training heads of the Mesh-VAE, for pca_augmented; None leaves that method out.
      folder: of the cache, by default the data folder's `evaluate`.
    """
    config, maker, edges = config or CompletionConfig(), evaluation_mask_maker(head), mesh_edges(np.asarray(head.faces))
    pca = fit_pca(train.vertices, max(config.components, *(k for k, _ in config.grid)), folder)
    linear = {"pca": pca}
    if extra_heads is not None:
        linear["pca_augmented"] = fit_pca(np.concatenate([train.vertices, extra_heads]), config.components, folder)
    used = len(evenly_spaced_indices(len(scans.subject), limit))
    cases, grid_cases, sampled_cases = (
        mask_heads(maker, scans, evenly_spaced_indices(len(scans.subject), count), config.seed)
        for count in (limit, min(config.grid_scans, used), min(config.sampled, used))
    )
    completed = completions(head, linear, model, cases, progress, config, folder)
    errors = {method: completion_errors(heads, cases, edges) for method, heads in completed.items()}
    drawn = _draw_samples(linear, model, sampled_cases, config)
    table = CompletionTable(
        _rows(errors, cases),
        _ratios(errors, cases),
        _other_settings(pca, grid_cases, edges, config, progress),
        [_by_expression(method, errors[method], cases) for method in errors],
        _rows(errors, cases, "_detail"),
        samples_realism(pca, sampled_cases, drawn),
        spectrum(pca, train.subject, scans.vertices),
    )
    return table, CompletionPictures(cases, completed, drawn, sampled_cases)


def completions(
    head: HeadModel, linear: dict[str, ScanPCA], model: MeshVAE | None, cases: MaskedHeads, progress: Progress,
    config: CompletionConfig, folder: Path | None,
) -> dict[str, np.ndarray]:  # fmt: skip
    """Returns method -> completions (N, V, 3), or one head (V, 3) for all."""
    completed: dict[str, np.ndarray] = {"mean": linear["pca"].mean.astype(np.float32)}
    setting = config.components, config.sigma
    for method, pca in linear.items():
        completed[method] = np.empty(cases.heads.shape, np.float32)
        for k in range(len(cases)):
            completed[method][k] = scan_pca.complete(pca, cases.heads[k], cases.visible[k], *setting)
            progress(method, len(cases), 1)
    settings = GlobalConfig(noise=config.noise)
    cache = run_folder(folder, "completion-global", CODE_PATHS, settings, head_id(head))
    tick = progress_tick(progress, "global", cases)
    completed["global"] = _load_or_complete(
        cache, cases, lambda heads, visible: complete_global(head, heads, visible, settings), tick
    )
    return completed if model is None else completed | _complete_by_vae(model, cases, progress, config, folder)


def _complete_by_vae(
    model: MeshVAE, cases: MaskedHeads, progress: Progress, config: CompletionConfig, folder: Path | None
) -> dict[str, np.ndarray]:
    def refine(heads: np.ndarray, visible: np.ndarray) -> np.ndarray:
        inputs = jnp.asarray(heads), jnp.asarray(visible)
        start, sigma, steps = _reconstruct(model, *inputs)[0], config.refine_sigma, config.refine_steps
        return np.asarray(_decode(model, refine_latents(model, start, *inputs, sigma=sigma, steps=steps)[0]))

    plain = np.empty(cases.heads.shape, np.float32)
    for indices, new in batches(len(cases), BATCH):
        heads = _reconstruct(model, jnp.asarray(cases.heads[indices]), jnp.asarray(cases.visible[indices]))[1]
        plain[indices[:new]] = np.asarray(heads)[:new]
        progress("mesh_vae", len(cases), new)
    settings = digest_of_weights(model), config.refine_sigma, config.refine_steps
    cache = run_folder(folder, "completion-refined", VAE_CODE_PATHS, *settings)
    tick = progress_tick(progress, "mesh_vae_refined", cases)
    return {"mesh_vae": plain, "mesh_vae_refined": _load_or_complete(cache, cases, refine, tick)}


@jax.jit
def _reconstruct(model: MeshVAE, heads: jax.Array, visible: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the posterior's means, and the heads decoded from them."""
    latents = model.encode(heads, visible).mean
    return latents, model.decode(latents)


_decode = jax.jit(MeshVAE.decode)


def _load_or_complete(
    folder: Path, cases: MaskedHeads, complete: Callable[[np.ndarray, np.ndarray], np.ndarray], tick: Tick
) -> np.ndarray:
    """Returns completions (N, V, 3), cached or computed in batches of one size and written, one file each. Names of
    files have a digest of the head and the mask."""
    paths = [
        folder / f"{key}-{hashlib.sha256(head.tobytes() + visible.tobytes()).hexdigest()[:12]}.npz"
        for key, head, visible in zip(cases.keys, cases.heads, cases.visible, strict=True)
    ]

    def compute(missing: list[int]) -> Iterator[Completed]:
        for indices, new in batches(len(missing), BATCH):
            which = [missing[k] for k in indices]
            yield from map(Completed, complete(cases.heads[which], cases.visible[which])[:new])

    return np.stack([head.vertices for head in load_or_compute(paths, Completed, compute, tick)])


def _draw_samples(
    linear: dict[str, ScanPCA], model: MeshVAE | None, cases: MaskedHeads, config: CompletionConfig
) -> dict[str, np.ndarray]:  # fmt: skip
    """Returns method -> samples of complete heads given the visible part, (N, samples, V, 3)."""
    drawn: dict[str, np.ndarray] = {}
    for method, pca in linear.items():
        rng, leading = np.random.default_rng(config.seed), pca.leading(config.components)
        drawn[method] = np.empty((len(cases), config.samples, *cases.heads.shape[1:]), np.float32)
        for k in range(len(cases)):
            setting = [(config.components, config.sigma)]
            (posterior,) = scan_pca.posteriors(leading, cases.heads[k], cases.visible[k], setting)
            drawn[method][k] = leading.heads(posterior.sample(rng, config.samples))
    if model is not None:
        draw = jax.jit(lambda model, head, visible, key: model.sample(head, visible, key, config.samples))
        keys = jax.random.split(jax.random.key(config.seed), len(cases))
        inputs = zip(cases.heads, cases.visible, keys, strict=True)
        drawn["mesh_vae"] = np.stack([draw(model, jnp.asarray(h), jnp.asarray(v), key) for h, v, key in inputs])
    return drawn


def _rows(errors: dict[str, CompletionErrors], cases: MaskedHeads, field: str = "") -> list[dict]:
    """Returns a row for each method and each of `OCCLUDERS`."""
    rows = []
    for method, method_errors in errors.items():
        for occluder, which in groups(cases.kind, OCCLUDERS):
            keys = {key.rsplit("-", 1)[0] for key, chosen in zip(cases.keys, which, strict=True) if chosen}
            row: dict = {"method": method, "occluder": occluder, "scans": len(keys)}
            for part in ("visible", "hidden"):
                values = getattr(method_errors, part + field)[which]
                row |= columns(f"{part}{field}_mm", mean_of(values, cases.subject[which]))
            rows.append(row)
    return rows


def _ratios(errors: dict[str, CompletionErrors], cases: MaskedHeads) -> list[dict]:
    rows = []
    for method, method_errors in errors.items():
        for occluder, which in groups(cases.kind, OCCLUDERS) if method != "pca" else ():
            ratio = ratio_of(method_errors.hidden[which], errors["pca"].hidden[which], cases.subject[which])
            rows.append({"method": method, "occluder": occluder} | columns("hidden_over_pca", ratio))
    return rows


def _by_expression(method: str, errors: CompletionErrors, cases: MaskedHeads) -> dict:
    neutral = np.isin(cases.expression, [EXPRESSIONS.index(name) for name in NEUTRAL])
    row: dict = {"method": method}
    for name, which in (("neutral", neutral), ("other", ~neutral)):
        mean = mean_of(errors.hidden[which], cases.subject[which]) if which.any() else (math.nan,) * 3
        row |= columns(f"hidden_mm_{name}", mean)
    each = {name: errors.hidden[cases.expression == k] for k, name in enumerate(EXPRESSIONS)}
    return row | {"each": {name: float(values.mean()) for name, values in each.items() if len(values)}}


def _other_settings(
    pca: ScanPCA, cases: MaskedHeads, edges: tuple[np.ndarray, np.ndarray], config: CompletionConfig,
    progress: Progress,
) -> list[dict]:  # fmt: skip
    """Returns rows of pca with other settings."""
    grid = [(k, s) for k, s in config.grid if k <= len(pca.basis)]
    if not grid:
        return []
    completed = np.empty((len(grid), *cases.heads.shape), np.float32)
    for k in range(len(cases)):
        posteriors = scan_pca.posteriors(pca, cases.heads[k], cases.visible[k], grid)
        for heads, posterior, (count, _) in zip(completed, posteriors, grid, strict=True):
            heads[k] = pca.leading(count).heads(posterior.mean)
        progress("pca, other settings", len(cases), 1)
    rows = []
    for heads, (count, sigma) in zip(completed, grid, strict=True):
        row = _rows({"pca": completion_errors(heads, cases, edges)}, cases)[-1]
        rows.append({"components": count, "sigma_mm": 1e3 * sigma} | row)
    return rows


def sheets(table: CompletionTable) -> list[Sheet]:
    """Returns all tables as text."""
    labels = "method", "occluder"
    details = "Details: difference of Laplacians, mm; the row of mean shows the size of the details"
    neutral = interval("hidden_mm_neutral", heading="neutral-like"), interval("hidden_mm_other", heading="others")
    drawn = "Samples: distance per dimension in 100 training components; spread, and error of the samples' mean, RMS mm"
    spreads = ("mahalanobis", "spread_hidden_mm", "error_hidden_mm", "spread_visible_mm", "error_visible_mm")
    # The row of real heads has no columns of samples.
    samples = [dict.fromkeys(spreads) | row for row in table.samples]
    moments = interval("skewness", 2), interval("kurtosis", 2, "excess kurtosis")
    shares = number("train", 6), number("held_out", 6)
    errors, components = ("visible_mm", "hidden_mm"), table.spectrum
    return [
        sheet("Completion, mm", table.rows, *labels, "scans", *intervals(errors)),
        sheet(
            "Hidden error over that of pca, same heads", table.ratios,
            *labels, interval("hidden_over_pca", heading="ratio"),
        ),
        sheet("pca with other settings", table.extra, "components", "sigma_mm", "scans", *intervals(errors)),
        sheet(f"hidden_mm by expression; neutral-like: {', '.join(NEUTRAL)}", table.expressions, "method", *neutral),
        sheet(details, table.details, *labels, *intervals(("visible_detail_mm", "hidden_detail_mm"))),
        sheet(drawn, samples, "method", "heads", *intervals(spreads, 2)),
        sheet("Share of the variance left after K components", components.left, "components", *shares),
        sheet(components.statement, components.coefficients[:10], "component", *moments),
    ]  # fmt: skip
