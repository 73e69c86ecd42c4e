"""How good generators and rankers are on held-out examples: errors in millimetres."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from experiments.training.ofer.examples import Examples
from experiments.training.ofer.step import candidates_of
from flamejax.head import HeadModel
from models.generator import Generator, GeneratorConfig
from models.rank import FrontalFace, IdRank, frontal_face, rank_errors
from sampling import SamplerConfig, draw_coefficients

SAMPLES = 16
SEED = 987_654
"""Of samples and of validation examples: no training step draws them."""


class GeneratorEvaluator:
    """Judges generators of one kind on held-out examples."""

    def __init__(self, head: HeadModel | None, examples: Examples, architecture: GeneratorConfig):
        """head: without one, errors are in standard deviations of the coefficients (`samples`, `mean`, `spread`)."""
        self.examples, self.unit = examples, "" if head is None else "_mm"
        size = architecture.unet.size
        self.basis = jnp.eye(size)[:, None] if head is None else _field(head, architecture.kind)

    def errors(self, model: Generator) -> dict[str, float]:
        """Means over examples, mm: RMS distance of samples from the truth, of their mean from it, and their spread
        about their mean; over the front of the face, identities without what a similarity can do."""
        found = _offsets(model, self.examples, self.basis)
        drawn, truth = (np.asarray(a).reshape(*a.shape[:-1], *self.basis.shape[1:]) for a in found)
        mean = drawn.mean(axis=1)
        each = {
            "samples": np.sqrt(((drawn - truth[:, None]) ** 2).sum(-1).mean(-1)).mean(axis=1),
            "mean": np.sqrt(((mean - truth) ** 2).sum(-1).mean(-1)),
            "spread": np.sqrt(((drawn - mean[:, None]) ** 2).sum(-1).mean(-1).sum(1) / (SAMPLES - 1)),
        }
        return {name + self.unit: float(values.mean()) for name, values in each.items()}


class RankEvaluator:
    """Judges rankers on candidates as they are drawn for a photo, not on the quick ones of training."""

    def __init__(self, idgen: Generator, face: FrontalFace, examples: Examples, candidates: int):
        self.face, self.examples = face, examples
        keys = jax.random.split(jax.random.fold_in(jax.random.key(SEED), 1), len(examples.points))
        self.drawn = _candidates(idgen, examples, keys, candidates, SamplerConfig().steps)

    def errors(self, model: IdRank) -> dict[str, float]:
        """Mean absolute errors, mm a coordinate, of all candidates, the ranked one and the best; and how often the
        ranked one is among the best fifth (chance: 0.2)."""
        scores, errors = (np.asarray(a) for a in _scored(model, self.face, self.examples, self.drawn))
        best = np.take_along_axis(errors, scores.argmax(axis=1)[:, None], axis=1)
        place = (errors < best).mean(axis=1)
        return {
            "average_mm": float(errors.mean()),
            "ranked_mm": float(best.mean()),
            "minimum_mm": float(errors.min(axis=1).mean()),
            "best_fifth": float((place < 0.2).mean()),
        }


def _field(head: HeadModel, kind: str) -> Array:
    """(S, F, 3) mm: what coefficients move of the front of the face."""
    if kind == "identity":
        return frontal_face(head).basis
    front = np.flatnonzero(np.asarray(head.regions["face"]))
    rows = np.asarray(head.basis[head.num_betas : head.num_betas + head.num_expression]).swapaxes(1, 2)
    return 1e3 * jnp.asarray(rows[:, front], jnp.float32)


@jax.jit
def _offsets(model: Generator, examples: Examples, basis: Array) -> tuple[Array, Array]:
    """(B, SAMPLES, D) and (B, D): what draws and the truth move."""
    context = examples.context(model)
    keys = jax.random.split(jax.random.key(SEED), len(context))
    drawn = jax.vmap(lambda c, k: draw_coefficients(model, c, k, SAMPLES, SamplerConfig()))(context, keys)
    truth, flat = examples.target(model.config.kind), basis.reshape(len(basis), -1)
    return drawn[..., : len(flat)] @ flat, truth[..., : len(flat)] @ flat


_candidates = jax.jit(candidates_of, static_argnums=(3, 4))


@jax.jit
def _scored(model: IdRank, face: FrontalFace, examples: Examples, drawn: Array) -> tuple[Array, Array]:
    scores = model.of_betas(face, drawn, examples.context(model))
    return scores, rank_errors(face, drawn, examples.betas)
