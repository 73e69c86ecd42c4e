"""How good a generator is on held-out examples: the loss, and errors of its samples in millimetres."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from experiments.training.ofer.examples import Examples
from flamejax.head import HeadModel
from models.generator import Generator, GeneratorConfig
from models.rank import frontal_face
from sampling import SamplerConfig, draw_coefficients

SAMPLES = 16
SEED = 987_654
"""Of the samples."""


class GeneratorJudge:
    """Judges generators of one kind on held-out examples."""

    def __init__(self, head: HeadModel, examples: Examples, architecture: GeneratorConfig):
        self.examples = examples
        self.basis = _field(head, architecture.kind)

    def errors(self, model: Generator) -> dict[str, float]:
        """Means over examples, mm: RMS distance of samples from the truth, of their mean from it, and their spread
        about their mean; over the front of the face, identities without what a similarity can do."""
        graphdef, state = nnx.split(model)
        drawn, truth = _drawn(graphdef, state, self.examples, self.basis)
        mean = drawn.mean(axis=1)
        found = {
            "samples_mm": np.sqrt(((drawn - truth[:, None]) ** 2).sum(-1).mean(-1)).mean(axis=1),
            "mean_mm": np.sqrt(((mean - truth) ** 2).sum(-1).mean(-1)),
            "spread_mm": np.sqrt(((drawn - mean[:, None]) ** 2).sum(-1).mean(-1).sum(1) / (SAMPLES - 1)),
        }
        return {name: float(each.mean()) for name, each in found.items()}


def _field(head: HeadModel, kind: str) -> Array:
    """(S, F, 3) mm: what coefficients move of the front of the face."""
    if kind == "identity":
        return frontal_face(head).basis
    front = np.flatnonzero(np.asarray(head.regions["face"]))
    rows = np.asarray(head.basis[head.num_betas : head.num_betas + head.num_expression]).swapaxes(1, 2)
    return 1e3 * jnp.asarray(rows[:, front], jnp.float32)


@partial(jax.jit, static_argnums=0)
def _offsets(graphdef: nnx.GraphDef, state: nnx.State, examples: Examples, basis: Array) -> tuple[Array, Array]:
    model = nnx.merge(graphdef, state)
    context = examples.context(model)
    keys = jax.random.split(jax.random.key(SEED), len(context))
    drawn = jax.vmap(lambda c, k: draw_coefficients(model, c, k, SAMPLES, SamplerConfig()))(context, keys)
    truth = examples.betas if model.config.kind == "identity" else examples.motion
    flat = basis.reshape(len(basis), -1)
    return drawn[..., : len(flat)] @ flat, truth[..., : len(flat)] @ flat


def _drawn(graphdef: nnx.GraphDef, state: nnx.State, examples: Examples, basis: Array) -> tuple[np.ndarray, ...]:
    drawn, truth = _offsets(graphdef, state, examples, basis)
    return tuple(np.asarray(a).reshape(*a.shape[:-1], -1, 3) for a in (drawn, truth))
