"""Errors of generators and rankers on validation examples, in millimetres."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from experiments.training.ofer.examples import Examples
from experiments.training.ofer.step import draw_candidates
from flamejax.head import HeadModel
from models.generator import Generator, GeneratorConfig
from models.rank import FrontalFace, IdRank, frontal_face, rank_errors
from sampling import SamplerConfig, draw_coefficients

SAMPLES = 16
SEED = 987_654
"""Seed of samples and of validation examples; no training step uses it."""


class GeneratorEvaluator:
    """Evaluates generators of one kind on validation examples."""

    def __init__(self, head: HeadModel | None, examples: Examples, architecture: GeneratorConfig):
        """Without a head, errors are in the coefficients' units (`samples`, `mean`, `spread`, without `_mm`)."""
        self.examples, self.unit = examples, "" if head is None else "_mm"
        size = architecture.unet.size
        self.basis = jnp.eye(size)[:, None] if head is None else _displacement_basis(head, architecture.kind)

    def errors(self, model: Generator) -> dict[str, float]:
        """Returns means over examples, mm: RMS distance of samples from the truth, of the samples' mean from the
        truth, and of samples from their mean. Over the front of the face; identities after the best similarity."""
        displacements = _sample_displacements(model, self.examples, self.basis)
        samples, truth = (np.asarray(a).reshape(*a.shape[:-1], *self.basis.shape[1:]) for a in displacements)
        mean = samples.mean(axis=1)
        errors = {
            "samples": np.sqrt(((samples - truth[:, None]) ** 2).sum(-1).mean(-1)).mean(axis=1),
            "mean": np.sqrt(((mean - truth) ** 2).sum(-1).mean(-1)),
            "spread": np.sqrt(((samples - mean[:, None]) ** 2).sum(-1).mean(-1).sum(1) / (SAMPLES - 1)),
        }
        return {name + self.unit: float(values.mean()) for name, values in errors.items()}


class RankEvaluator:
    """Evaluates rankers on candidates of the full sampler, not on the quickly drawn ones of training."""

    def __init__(self, idgen: Generator, face: FrontalFace, examples: Examples, candidates: int):
        self.face, self.examples = face, examples
        keys = jax.random.split(jax.random.fold_in(jax.random.key(SEED), 1), len(examples.points))
        self.candidates = _draw_candidates(idgen, examples, keys, candidates, SamplerConfig().steps)

    def errors(self, model: IdRank) -> dict[str, float]:
        """Returns mean absolute errors of a coordinate, mm: of all candidates, the top-ranked and the best one; and how
        often the top-ranked one is among the best fifth (chance: 0.2)."""
        scores, errors = (np.asarray(a) for a in _score(model, self.face, self.examples, self.candidates))
        ranked = np.take_along_axis(errors, scores.argmax(axis=1)[:, None], axis=1)
        share_better = (errors < ranked).mean(axis=1)
        return {
            "average_mm": float(errors.mean()),
            "ranked_mm": float(ranked.mean()),
            "minimum_mm": float(errors.min(axis=1).mean()),
            "best_fifth": float((share_better < 0.2).mean()),
        }


def _displacement_basis(head: HeadModel, kind: str) -> Array:
    """Returns the displacement of the front of the face per coefficient, (S, F, 3) mm."""
    if kind == "identity":
        return frontal_face(head).basis
    front = np.flatnonzero(np.asarray(head.regions["face"]))
    rows = np.asarray(head.basis[head.num_betas : head.num_betas + head.num_expression]).swapaxes(1, 2)
    return 1e3 * jnp.asarray(rows[:, front], jnp.float32)


@jax.jit
def _sample_displacements(model: Generator, examples: Examples, basis: Array) -> tuple[Array, Array]:
    """Returns the displacements of samples (B, SAMPLES, D) and of the truth (B, D)."""
    context = examples.context(model)
    keys = jax.random.split(jax.random.key(SEED), len(context))
    samples = jax.vmap(lambda c, k: draw_coefficients(model, c, k, SAMPLES, SamplerConfig()))(context, keys)
    truth, flat = examples.target(model.config.kind), basis.reshape(len(basis), -1)
    return samples[..., : len(flat)] @ flat, truth[..., : len(flat)] @ flat


_draw_candidates = jax.jit(draw_candidates, static_argnums=(3, 4))


@jax.jit
def _score(model: IdRank, face: FrontalFace, examples: Examples, candidates: Array) -> tuple[Array, Array]:
    scores = model.score_betas(face, candidates, examples.context(model))
    return scores, rank_errors(face, candidates, examples.betas)
