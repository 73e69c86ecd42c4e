"""The table `completion`: held-out heads completed from their visible vertices, by linear models and the Mesh-VAE."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from experiments.datasets.observations import spread_out
from experiments.datasets.open_faces import EXPRESSIONS, Scans
from experiments.datasets.vertex_masks import KINDS
from experiments.tables import scan_pca
from experiments.tables.fits import ROOMS
from experiments.tables.global_completion import GlobalConfig, complete_global
from experiments.tables.masked_heads import Cases, Errors, make_cases, masks_for_tests, measure
from experiments.tables.realism import Spectrum, samples_realism, spectrum
from experiments.tables.report import Sheet, interval, intervals, number, sheet
from experiments.tables.runs import Progress, Tick, batches, head_id, resumed, run_folder, tick_of
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
"""Expressions with the jaw shut that move the face by less than 2 mm: no scan shows a face at rest."""

BATCH = 8
"""Heads worked on at once; one compilation."""
COMPLETED_ROOMS = (*ROOMS, "models", "sampling")
"""Code that decides what a Mesh-VAE makes of a head."""


@dataclass(frozen=True)
class CompletionConfig:
    """Settings of the methods, chosen on validation by the error on hidden vertices (docs/results/completion.md)."""

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


@dataclass(frozen=True)
class Completed:
    """One head, as it is kept."""

    vertices: np.ndarray
    """(V, 3)"""


def make(
    head: HeadModel, train: Scans, scans: Scans, model: MeshVAE | None, limit: int | None, progress: Progress,
    config: CompletionConfig | None = None, folder: Path | None = None, more: np.ndarray | None = None,
) -> tuple[CompletionTable, Pictured]:  # fmt: skip
    """Complete heads by all methods and compare.

    Args:
      train: what pca knows of. scans: the held-out ones. limit: scans, spread over all; None for all.
      more: (N, V, 3) further heads the Mesh-VAE is trained on. pca_augmented knows them, too; None leaves it out.
      folder: where what takes long is kept, by default in the data folder's `evaluate`.
    """
    config, maker, fine = config or CompletionConfig(), masks_for_tests(head), mesh_edges(np.asarray(head.faces))
    pca = fit_pca(train.vertices, max(config.components, *(k for k, _ in config.grid)), folder)
    linear = {"pca": pca}
    if more is not None:
        linear["pca_augmented"] = fit_pca(np.concatenate([train.vertices, more]), config.components, folder)
    used = len(spread_out(len(scans.subject), limit))
    cases, few, some = (
        make_cases(maker, scans, spread_out(len(scans.subject), count), config.seed)
        for count in (limit, min(config.grid_scans, used), min(config.sampled, used))
    )
    found = completions(head, linear, model, cases, progress, config, folder)
    errors = {method: measure(heads, cases, fine) for method, heads in found.items()}
    drawn = _samples(linear, model, some, config)
    table = CompletionTable(
        _rows(errors, cases),
        _ratios(errors, cases),
        _extra(pca, few, fine, config, progress),
        [_by_expression(method, errors[method], cases) for method in errors],
        _rows(errors, cases, "_detail"),
        samples_realism(pca, some, drawn),
        spectrum(pca, train.subject, scans.vertices),
    )
    return table, Pictured(cases, found, drawn, some)


def completions(
    head: HeadModel, linear: dict[str, ScanPCA], model: MeshVAE | None, cases: Cases, progress: Progress,
    config: CompletionConfig, folder: Path | None,
) -> dict[str, np.ndarray]:  # fmt: skip
    """method -> (N, V, 3), or (V, 3) for all."""
    found: dict[str, np.ndarray] = {"mean": linear["pca"].mean.astype(np.float32)}
    setting = config.components, config.sigma
    for method, pca in linear.items():
        found[method] = np.empty(cases.heads.shape, np.float32)
        for k in range(len(cases)):
            found[method][k] = scan_pca.complete(pca, cases.heads[k], cases.visible[k], *setting)
            progress(method, len(cases), 1)
    chosen = GlobalConfig(noise=config.noise)
    kept = run_folder(folder, "completion-global", ROOMS, chosen, head_id(head))
    tick = tick_of(progress, "global", cases)
    found["global"] = _kept(kept, cases, lambda heads, seen: complete_global(head, heads, seen, chosen), tick)
    return found if model is None else found | _by_vae(model, cases, progress, config, folder)


def _by_vae(
    model: MeshVAE, cases: Cases, progress: Progress, config: CompletionConfig, folder: Path | None
) -> dict[str, np.ndarray]:
    def refined(heads: np.ndarray, visible: np.ndarray) -> np.ndarray:
        seen = jnp.asarray(heads), jnp.asarray(visible)
        start, sigma, steps = _encoded(model, *seen)[0], config.refine_sigma, config.refine_steps
        return np.asarray(_decoded(model, refine_latents(model, start, *seen, sigma=sigma, steps=steps)[0]))

    plain = np.empty(cases.heads.shape, np.float32)
    for places, new in batches(len(cases), BATCH):
        made = _encoded(model, jnp.asarray(cases.heads[places]), jnp.asarray(cases.visible[places]))[1]
        plain[places[:new]] = np.asarray(made)[:new]
        progress("mesh_vae", len(cases), new)
    settings = digest_of_weights(model), config.refine_sigma, config.refine_steps
    kept = run_folder(folder, "completion-refined", COMPLETED_ROOMS, *settings)
    tick = tick_of(progress, "mesh_vae_refined", cases)
    return {"mesh_vae": plain, "mesh_vae_refined": _kept(kept, cases, refined, tick)}


@jax.jit
def _encoded(model: MeshVAE, heads: jax.Array, visible: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The posterior's means, and the heads of these."""
    latents = model.encode(heads, visible).mean
    return latents, model.decode(latents)


_decoded = jax.jit(MeshVAE.decode)


def _kept(
    folder: Path, cases: Cases, compute: Callable[[np.ndarray, np.ndarray], np.ndarray], tick: Tick
) -> np.ndarray:
    """Completions (N, V, 3) from files of an earlier run, or made in batches of one size and written, one file each.
    A file's name tells what was hidden of which head, so that nothing else is taken for it."""
    paths = [
        folder / f"{key}-{hashlib.sha256(head.tobytes() + seen.tobytes()).hexdigest()[:12]}.npz"
        for key, head, seen in zip(cases.keys, cases.heads, cases.visible, strict=True)
    ]

    def make(missing: list[int]) -> Iterator[Completed]:
        for places, new in batches(len(missing), BATCH):
            which = [missing[k] for k in places]
            yield from map(Completed, compute(cases.heads[which], cases.visible[which])[:new])

    return np.stack([one.vertices for one in resumed(paths, Completed, make, tick)])


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
        draw = jax.jit(lambda model, head, visible, key: model.sample(head, visible, key, config.samples))
        keys = jax.random.split(jax.random.key(config.seed), len(cases))
        inputs = zip(cases.heads, cases.visible, keys, strict=True)
        drawn["mesh_vae"] = np.stack([draw(model, jnp.asarray(h), jnp.asarray(v), key) for h, v, key in inputs])
    return drawn


def _rows(errors: dict[str, Errors], cases: Cases, field: str = "") -> list[dict]:
    """A row for each method and each of `OCCLUDERS`."""
    rows = []
    for method, found in errors.items():
        for occluder, which in groups(cases.kind, OCCLUDERS):
            keys = {key.rsplit("-", 1)[0] for key, taken in zip(cases.keys, which, strict=True) if taken}
            row: dict = {"method": method, "occluder": occluder, "scans": len(keys)}
            for part in ("visible", "hidden"):
                values = getattr(found, part + field)[which]
                row |= columns(f"{part}{field}_mm", mean_of(values, cases.subject[which]))
            rows.append(row)
    return rows


def _ratios(errors: dict[str, Errors], cases: Cases) -> list[dict]:
    rows = []
    for method, found in errors.items():
        for occluder, which in groups(cases.kind, OCCLUDERS) if method != "pca" else ():
            ratio = ratio_of(found.hidden[which], errors["pca"].hidden[which], cases.subject[which])
            rows.append({"method": method, "occluder": occluder} | columns("hidden_over_pca", ratio))
    return rows


def _by_expression(method: str, errors: Errors, cases: Cases) -> dict:
    neutral = np.isin(cases.expression, [EXPRESSIONS.index(name) for name in NEUTRAL])
    row: dict = {"method": method}
    for name, which in (("neutral", neutral), ("other", ~neutral)):
        found = mean_of(errors.hidden[which], cases.subject[which]) if which.any() else (math.nan,) * 3
        row |= columns(f"hidden_mm_{name}", found)
    each = {name: errors.hidden[cases.expression == k] for k, name in enumerate(EXPRESSIONS)}
    return row | {"each": {name: float(values.mean()) for name, values in each.items() if len(values)}}


def _extra(pca: ScanPCA, cases: Cases, fine, config: CompletionConfig, progress: Progress) -> list[dict]:  # noqa: ANN001
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
        row = _rows({"pca": measure(heads, cases, fine)}, cases)[-1]
        rows.append({"components": count, "sigma_mm": 1e3 * sigma} | row)
    return rows


def sheets(table: CompletionTable) -> list[Sheet]:
    """All tables as text."""
    labels = "method", "occluder"
    details = "Details: difference of Laplacians, mm; the row of mean shows how much there is to find"
    neutral = interval("hidden_mm_neutral", heading="neutral-like"), interval("hidden_mm_other", heading="others")
    drawn = "Samples: distance per dimension in 100 training components; spread, and error of the samples' mean, RMS mm"
    spreads = ("mahalanobis", "spread_hidden_mm", "error_hidden_mm", "spread_visible_mm", "error_visible_mm")
    # Real heads are no samples.
    samples = [dict.fromkeys(spreads) | row for row in table.samples]
    moments = interval("skewness", 2), interval("kurtosis", 2, "excess kurtosis")
    shares = number("train", 6), number("held_out", 6)
    errors, found = ("visible_mm", "hidden_mm"), table.spectrum
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
        sheet("Share of the variance left after K components", found.left, "components", *shares),
        sheet(found.statement, found.coefficients[:10], "component", *moments),
    ]  # fmt: skip
