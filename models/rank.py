"""IdRank of OFER (section 3.3): which of the identities that IdGen proposes fits the photo best."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import nnx
from jax import Array

from flamejax.geometry import vertex_normals
from flamejax.head import HeadModel
from models.encoders.landmark import LandmarkEncoderConfig
from models.encoders.parts import Conditioned, check_names, make_encoders
from models.unet1d import added, multiplied

GROUPS = 8
MM = 1e3
FEWEST = 8
"""Vertices of a face."""
UNIT = nnx.initializers.normal(1.0)
"""Of products with thousands of coordinates that move together: a face has length one there and weights have size one,
so that a step of Adam, which moves all weights by as much, moves the product by as little as others."""


@dataclasses.dataclass(frozen=True)
class IdRankConfig:
    """Sizes of an `IdRank`; the defaults are those of the released code."""

    widths: tuple[int, ...] = (4096, 1024, 256, 64)
    """Of the hidden layers; the fifth layer gives the score."""
    context: int = 512
    encoders: tuple[str, ...] = ("landmark",)
    """As those of `models.generator.GeneratorConfig`."""
    landmark: LandmarkEncoderConfig = dataclasses.field(default_factory=LandmarkEncoderConfig)
    quadratic: int = 0
    """Directions of a quadratic form that is added to the perceptron's scores: minus the squared distance of a residual
    from where the photo says it should be. 0, as in the paper: none."""
    spread_mm: float = 3.0
    """Candidates leave their mean, and that the mean head, by so much."""

    def __post_init__(self) -> None:
        if not self.widths or any(width < GROUPS or width % GROUPS for width in self.widths):
            raise ValueError(f"the widths are multiples of {GROUPS}, and at least one.")
        check_names(self.encoders)


class ConditionedLayer(nnx.Module):
    """h = norm(SELU(W x)) sigmoid(A c) + B c (the released code's concat-squash layer); the last: W x sigmoid + B c."""

    def __init__(self, before: int, after: int, context: int, *, first: bool, last: bool, rngs: nnx.Rngs):
        init = UNIT if first else nnx.initializers.lecun_normal()
        self.product = nnx.Linear(before, after, kernel_init=init, rngs=rngs)
        self.norm = None if last else nnx.GroupNorm(after, GROUPS, rngs=rngs)
        self.gate = nnx.Linear(context, after, rngs=rngs)
        self.shift = nnx.Linear(context, after, use_bias=False, rngs=rngs)

    def __call__(self, x: Array, context: Array) -> Array:
        """x (*b, before), context (*b', D) of at most as many axes -> (*b, after)"""
        return self.rest(self.product(x), context)

    def rest(self, inner: Array, context: Array) -> Array:
        """What follows the product W x."""
        if self.norm is not None:
            flat = jax.nn.selu(inner).reshape(-1, inner.shape[-1])
            inner = self.norm(flat).reshape(inner.shape)
        return added(multiplied(inner, jax.nn.sigmoid(self.gate(context))), self.shift(context))


class QuadraticForm(nnx.Module):
    """-sum_k w_k(c) (u_k . r - m_k(c, mean))^2 of residuals r: what a normal distribution of the truth would say."""

    def __init__(self, inputs: int, directions: int, context: int, *, rngs: nnx.Rngs):
        zero = nnx.initializers.zeros_init()
        self.product = nnx.Linear(inputs, directions, use_bias=False, kernel_init=UNIT, rngs=rngs)
        self.of_mean = nnx.Linear(inputs, directions, use_bias=False, kernel_init=zero, rngs=rngs)
        self.centre = nnx.Linear(context, directions, kernel_init=zero, rngs=rngs)
        # As sure at first as trained ones are.
        surety = nnx.initializers.constant(-1.0)
        self.weight = nnx.Linear(context, directions, kernel_init=zero, bias_init=surety, rngs=rngs)

    def __call__(self, residuals: Array, mean: Array, context: Array) -> Array:
        """Products with residuals (*b, N, K) and with the mean (*b, K), context (*b, D) -> (*b, N)"""
        away = residuals - (self.centre(context) + mean)[..., None, :]
        return -jnp.sum(jax.nn.softplus(self.weight(context))[..., None, :] * away**2, axis=-1)


class IdRank(Conditioned):
    """Scores candidates of one photo against each other: a multi-layer perceptron under the photo's condition."""

    def __init__(
        self, config: IdRankConfig, num_frontal: int, reference: Array, *, rngs: nnx.Rngs,
        encoders: Mapping[Any, Any] | None = None,
    ):  # fmt: skip
        """num_frontal: vertices of the frontal mask. reference: (68, 2) for the landmark encoder. encoders, and what is
        raised: as `models.generator.Generator`."""
        self.config = config
        self.encoders = make_encoders(config.encoders, config.context, config.landmark, reference, encoders or {}, rngs)
        # [mean | residual] through one product is two products, and that of the mean is the same for all candidates.
        self.of_mean = nnx.Linear(3 * num_frontal, config.widths[0], use_bias=False, kernel_init=UNIT, rngs=rngs)
        self.unit_mm = config.spread_mm * math.sqrt(3 * num_frontal)
        widths = (3 * num_frontal, *config.widths, 1)
        last = len(widths) - 2
        self.layers = nnx.List(
            ConditionedLayer(widths[k], widths[k + 1], config.context, first=k == 0, last=k == last, rngs=rngs)
            for k in range(last + 1)
        )
        directions = config.quadratic
        self.quadratic = QuadraticForm(widths[0], directions, config.context, rngs=rngs) if directions else None

    def __call__(self, mean: Array, residuals: Array, context: Array) -> Array:
        """Scores, higher is better; only their differences within a photo mean anything.

        Args:
          mean: (*b, F, 3) mean of a photo's candidates, as their offset from the head's mean face (`FrontalFace`), mm.
          residuals: (*b, N, F, 3) candidates less their mean, mm (Eq. 4). context: (*b, D).

        Returns:
          (*b, N)
        """
        flat, centre = (rearrange(a, "... f c -> ... (f c)") / self.unit_mm for a in (residuals, mean))
        return self._scores(lambda kernel: flat @ kernel, lambda kernel: centre @ kernel, context)

    def of_betas(self, face: FrontalFace, betas: Array, context: Array) -> Array:
        """The same of candidates' coefficients (*b, N, S) -> (*b, N), without forming a vertex: they are linear in the
        coefficients, so the first layer's product is with a matrix of S rows."""
        mean = betas.mean(axis=-2)
        basis = rearrange(face.basis, "s f c -> s (f c)") / self.unit_mm
        away = betas - mean[..., None, :]
        return self._scores(lambda kernel: away @ (basis @ kernel), lambda kernel: mean @ (basis @ kernel), context)

    def _scores(
        self, of_residuals: Callable[[Array], Array], of_mean: Callable[[Array], Array], context: Array
    ) -> Array:
        """of_residuals, of_mean: (3F, K) -> their products with it, (*b, N, K) and (*b, K)."""
        first = self.layers[0].product
        x = of_residuals(first.kernel[...])
        if first.bias is not None:
            x = added(x, first.bias[...])
        x = x + of_mean(self.of_mean.kernel[...])[..., None, :]
        each = context[..., None, :]
        for k, layer in enumerate(self.layers):
            x = layer.rest(x, each) if k == 0 else layer(x, each)
        if self.quadratic is None:
            return x[..., 0]
        form = self.quadratic
        residuals, mean = of_residuals(form.product.kernel[...]), of_mean(form.of_mean.kernel[...])
        return x[..., 0] + form(residuals, mean, context)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class FrontalFace:
    """What of an identity the ranker sees: the front of the neutral face, linear in the coefficients."""

    basis: Array
    """(S, F, 3) mm a standard deviation."""

    def offsets(self, betas: Array) -> Array:
        """Frontal vertices' offsets from the mean face: (*b, S) -> (*b, F, 3) mm."""
        flat = jnp.matmul(betas, rearrange(self.basis, "s f c -> s (f c)"))
        return rearrange(flat, "... (f c) -> ... f c", c=3)


def frontal_face(head: HeadModel, aligned: bool = True) -> FrontalFace:
    """A head's frontal face. Not to be traced.

    Args:
      aligned: without what a similarity can do: place, turn and size, which a photo does not show (and which an error
        after alignment does not count). False: as in the paper.
    """
    front = np.flatnonzero(frontal_vertices(head))
    basis = MM * np.asarray(head.basis[: head.num_betas], np.float64).swapaxes(1, 2)[:, front]
    if aligned:
        motions = np.linalg.qr(_similarity_motions(np.asarray(head.v_template, np.float64)[front]))[0]
        flat = rearrange(basis, "s f c -> s (f c)")
        basis = (flat - (flat @ motions) @ motions.T).reshape(basis.shape)
    return FrontalFace(jnp.asarray(basis, jnp.float32))


def frontal_vertices(head: HeadModel) -> np.ndarray:
    """(V,) bool: the front of the face, without eyeballs, ears, neck and scalp, and without what faces backwards: the
    insides of mouth and eye sockets (OFER's mask: 1,785 of FLAME's vertices).

    Raises:
      ValueError: the head's regions leave so few that a similarity explains all that identities do to them.
    """
    regions = {name: np.asarray(mask) for name, mask in head.regions.items()}
    front = regions["face"] | regions["forehead"]
    for name in ("left_eyeball", "right_eyeball", "left_ear", "right_ear", "neck", "scalp", "boundary"):
        front &= ~regions[name]
    normals = np.asarray(vertex_normals(head.v_template, head.faces))
    front &= normals[:, 2] > 0
    if front.sum() < FEWEST:
        raise ValueError(
            f"the regions of the head '{head.name}' leave {front.sum()} vertices for the front of the face, fewer than "
            f"{FEWEST}: 'face' or 'forehead' must reach beyond eyeballs, ears, neck and scalp. Give it its own masks."
        )
    return front


def _similarity_motions(points: np.ndarray) -> np.ndarray:
    """(3F, 7) small translations, rotations and scaling of points (F, 3)."""
    centred = points - points.mean(axis=0)
    unit = np.eye(3)
    turned = [np.cross(axis, centred) for axis in unit]
    moved = [np.broadcast_to(axis, points.shape) for axis in unit]
    return np.stack([part.reshape(-1) for part in (*moved, *turned, centred)], axis=1)


def rank_errors(face: FrontalFace, betas: Array, truth: Array) -> Array:
    """Mean absolute distance of candidates (*b, N, S) from the truth (*b, S), mm a coordinate (Eq. 3): (*b, N)."""
    offsets = face.offsets(betas - truth[..., None, :])
    return jnp.mean(jnp.abs(offsets), axis=(-2, -1))


def rank_loss(scores: Array, errors: Array, sharpness: float = 1.0) -> Array:
    """Cross-entropy between softmax(-sharpness error) and softmax(score) of candidates (*b, N) -> (*b,).

    Eq. 5 lacks the minus sign. sharpness: 1 / mm; 1 in the paper, where candidates lie farther apart than ours.
    """
    target = jax.nn.softmax(-sharpness * errors, axis=-1)
    return -jnp.sum(target * jax.nn.log_softmax(scores, axis=-1), axis=-1)
