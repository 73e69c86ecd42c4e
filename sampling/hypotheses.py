"""Several heads that one photo allows."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jax import Array

from flamejax.head import HeadParams


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Hypotheses:
    """M heads, the best first; batch axes (*b,) before M."""

    vertices: Array
    """(*b, M, V, 3) world metres: those of the fit they belong to, in its camera."""
    params: HeadParams | None
    """Of the head model, batch axes (*b, M); None where vertices come from elsewhere, as from a Mesh-VAE."""
    latents: Array | None
    """(*b, M, L, C) of the Mesh-VAE; None of other methods."""
    score: Array
    """(*b, M) how well each agrees with what is visible and with the prior, descending; nats up to a constant.
    What is weighed depends on the method: the Mesh-VAE's by visible vertices and latents; OFER's, which are draws of
    the prior, by visible landmarks; those of ofer+dpp by visible vertices and how far they were moved onto them."""
    size: Array | None = None
    """(*b, M) of methods with `params`: `vertices` are those of the params times so much, which makes them as large as
    the fit they are shown with: a photo does not show size. None: 1."""


def sorted_best_first(found: Hypotheses) -> Hypotheses:
    """The same hypotheses of one face in the order of their scores."""
    order = jnp.argsort(-found.score, axis=-1)
    return jax.tree.map(lambda leaf: leaf[order], found)
