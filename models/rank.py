"""IdRank of OFER (section 3.3), which ranks the identities that IdGen proposes by how well they fit the photo."""

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
from models.encoders.conditioned import Conditioned, check_names, make_encoders
from models.encoders.landmark import LandmarkEncoderConfig
from models.unet1d import broadcast_add, broadcast_multiply

GROUPS = 8
"""Groups of the group norm."""
MM_PER_M = 1e3
"""Millimetres per metre."""
MIN_FRONTAL_VERTICES = 8
UNIT_INIT = nnx.initializers.normal(1.0)
"""Initialiser of linear layers whose inputs have length one and thousands of correlated coordinates. A step of Adam
changes all weights by about the same amount. With weights of size one it changes these layers as little as others."""


@dataclasses.dataclass(frozen=True)
class IdRankConfig:
    """Sizes of an `IdRank`; the defaults are those of the released code."""

    widths: tuple[int, ...] = (4096, 1024, 256, 64)
    """Widths of the hidden layers; a fifth layer outputs the score."""
    context: int = 512
    """Width of the context."""
    encoders: tuple[str, ...] = ("landmark",)
    """As in `models.generator.GeneratorConfig`."""
    landmark: LandmarkEncoderConfig = dataclasses.field(default_factory=LandmarkEncoderConfig)
    quadratic: int = 0
    """Number of directions of a `QuadraticForm` added to the perceptron's scores; 0: none, as in the paper."""
    spread_mm: float = 3.0
    """Typical deviation of candidates from their mean, and of their mean from the mean head, mm: the inputs' unit."""

    def __post_init__(self) -> None:
        if not self.widths or any(width < GROUPS or width % GROUPS for width in self.widths):
            raise ValueError(f"there must be at least one width, and all must be multiples of {GROUPS}.")
        check_names(self.encoders)


class ConditionedLayer(nnx.Module):
    """h = norm(SELU(W x)) sigmoid(A c) + B c, the released code's concat-squash layer; last: W x sigmoid(A c) + B c."""

    def __init__(self, in_features: int, out_features: int, context: int, *, first: bool, last: bool, rngs: nnx.Rngs):
        init = UNIT_INIT if first else nnx.initializers.lecun_normal()
        self.product = nnx.Linear(in_features, out_features, kernel_init=init, rngs=rngs)
        self.norm = None if last else nnx.GroupNorm(out_features, GROUPS, rngs=rngs)
        self.gate = nnx.Linear(context, out_features, rngs=rngs)
        self.shift = nnx.Linear(context, out_features, use_bias=False, rngs=rngs)

    def __call__(self, x: Array, context: Array) -> Array:
        """Map x (*b, in) and context (*b', D), which has at most as many axes, to (*b, out)."""
        return self.after_product(self.product(x), context)

    def after_product(self, inner: Array, context: Array) -> Array:
        """Apply the layer to an already computed product W x."""
        if self.norm is not None:
            flat = jax.nn.selu(inner).reshape(-1, inner.shape[-1])
            inner = self.norm(flat).reshape(inner.shape)
        return broadcast_add(broadcast_multiply(inner, jax.nn.sigmoid(self.gate(context))), self.shift(context))


class QuadraticForm(nnx.Module):
    """-sum_k w_k(c) (u_k . r - m_k(c, mean))^2 of residuals r: a log density if the true residual is normal."""

    def __init__(self, inputs: int, directions: int, context: int, *, rngs: nnx.Rngs):
        zero = nnx.initializers.zeros_init()
        self.product = nnx.Linear(inputs, directions, use_bias=False, kernel_init=UNIT_INIT, rngs=rngs)
        self.of_mean = nnx.Linear(inputs, directions, use_bias=False, kernel_init=zero, rngs=rngs)
        self.centre = nnx.Linear(context, directions, kernel_init=zero, rngs=rngs)
        # Start as confident as trained networks are.
        trained_bias = nnx.initializers.constant(-1.0)
        self.weight = nnx.Linear(context, directions, kernel_init=zero, bias_init=trained_bias, rngs=rngs)

    def __call__(self, residuals: Array, mean: Array, context: Array) -> Array:
        """Map products with residuals (*b, N, K) and with the mean (*b, K), and context (*b, D), to scores (*b, N)."""
        deviation = residuals - (self.centre(context) + mean)[..., None, :]
        return -jnp.sum(jax.nn.softplus(self.weight(context))[..., None, :] * deviation**2, axis=-1)


class IdRank(Conditioned):
    """Scores the candidates of a photo by a multi-layer perceptron conditioned on the photo."""

    def __init__(
        self, config: IdRankConfig, num_frontal: int, reference: Array, *, rngs: nnx.Rngs,
        encoders: Mapping[Any, Any] | None = None,
    ):  # fmt: skip
        """Args:
        num_frontal: number of vertices of the frontal mask.
        reference: (68, 2) for the landmark encoder.
        encoders, raises: as `models.generator.Generator`."""
        self.config = config
        self.encoders = make_encoders(config.encoders, config.context, config.landmark, reference, encoders or {}, rngs)
        # The product with [mean | residual] is split in two, because that with the mean is shared by all candidates.
        self.of_mean = nnx.Linear(3 * num_frontal, config.widths[0], use_bias=False, kernel_init=UNIT_INIT, rngs=rngs)
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
        """Return the candidates' scores; higher is better, and only differences within a photo are meaningful.

        Args:
          mean: (*b, F, 3) mean of a photo's candidates, as their offset from the head's mean face (`FrontalFace`), mm.
          residuals: (*b, N, F, 3) candidates minus their mean, mm (Eq. 4).
          context: (*b, D).

        Returns:
          (*b, N)
        """
        flat, centre = (rearrange(a, "... f c -> ... (f c)") / self.unit_mm for a in (residuals, mean))
        return self._scores(lambda kernel: flat @ kernel, lambda kernel: centre @ kernel, context)

    def score_betas(self, face: FrontalFace, betas: Array, context: Array) -> Array:
        """Return the scores (*b, N) of candidates given by coefficients (*b, N, S), without computing their vertices.

        Vertices are linear in the coefficients, so that the first layer becomes a product with a matrix of S rows.
        """
        mean = betas.mean(axis=-2)
        basis = rearrange(face.basis, "s f c -> s (f c)") / self.unit_mm
        offsets = betas - mean[..., None, :]
        return self._scores(lambda kernel: offsets @ (basis @ kernel), lambda kernel: mean @ (basis @ kernel), context)

    def _scores(
        self, multiply_residuals: Callable[[Array], Array], multiply_mean: Callable[[Array], Array], context: Array
    ) -> Array:
        """Return the scores (*b, N), given functions that multiply the residuals and the mean with a matrix (3F, K)."""
        first = self.layers[0].product
        x = multiply_residuals(first.kernel[...])
        if first.bias is not None:
            x = broadcast_add(x, first.bias[...])
        x = x + multiply_mean(self.of_mean.kernel[...])[..., None, :]
        per_candidate = context[..., None, :]
        for k, layer in enumerate(self.layers):
            x = layer.after_product(x, per_candidate) if k == 0 else layer(x, per_candidate)
        if self.quadratic is None:
            return x[..., 0]
        form = self.quadratic
        residuals, mean = multiply_residuals(form.product.kernel[...]), multiply_mean(form.of_mean.kernel[...])
        return x[..., 0] + form(residuals, mean, context)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class FrontalFace:
    """The ranker's view of an identity: the front of the neutral face, linear in the coefficients."""

    basis: Array
    """(S, F, 3) mm per standard deviation."""

    def offsets(self, betas: Array) -> Array:
        """Return the frontal vertices' offsets from the mean face, mm: (*b, S) -> (*b, F, 3)."""
        flat = jnp.matmul(betas, rearrange(self.basis, "s f c -> s (f c)"))
        return rearrange(flat, "... (f c) -> ... f c", c=3)


def frontal_face(head: HeadModel, aligned: bool = True) -> FrontalFace:
    """Return a head's frontal face. Runs in numpy and cannot be traced.

    Args:
      aligned: remove changes by translation, rotation and scale, which a photo does not show and which errors after
        alignment do not count. False: as in the paper.

    Raises:
      ValueError: as `frontal_vertices`.
    """
    front = np.flatnonzero(frontal_vertices(head))
    basis = MM_PER_M * np.asarray(head.basis[: head.num_betas], np.float64).swapaxes(1, 2)[:, front]
    if aligned:
        motions = np.linalg.qr(_similarity_motions(np.asarray(head.v_template, np.float64)[front]))[0]
        flat = rearrange(basis, "s f c -> s (f c)")
        basis = (flat - (flat @ motions) @ motions.T).reshape(basis.shape)
    return FrontalFace(jnp.asarray(basis, jnp.float32))


def frontal_vertices(head: HeadModel) -> np.ndarray:
    """Return a mask (V,) bool of the front of the face (OFER's mask: 1,785 of FLAME's vertices).

    It leaves out eyeballs, ears, neck and scalp, and the vertices that face backwards inside the mouth and eye sockets.

    Raises:
      ValueError: the head's regions leave fewer than `MIN_FRONTAL_VERTICES` vertices.
    """
    regions = {name: np.asarray(mask) for name, mask in head.regions.items()}
    front = regions["face"] | regions["forehead"]
    for name in ("left_eyeball", "right_eyeball", "left_ear", "right_ear", "neck", "scalp", "boundary"):
        front &= ~regions[name]
    normals = np.asarray(vertex_normals(head.v_template, head.faces))
    front &= normals[:, 2] > 0
    if front.sum() < MIN_FRONTAL_VERTICES:
        raise ValueError(
            f"the regions of the head '{head.name}' leave {front.sum()} vertices for the front of the face, fewer than "
            f"{MIN_FRONTAL_VERTICES}: 'face' or 'forehead' must reach beyond eyeballs, ears, neck and scalp. "
            "Give it its own masks."
        )
    return front


def _similarity_motions(points: np.ndarray) -> np.ndarray:
    """Return the displacements (3F, 7) of points (F, 3) by infinitesimal translations, rotations and scaling."""
    centred = points - points.mean(axis=0)
    unit = np.eye(3)
    rotations = [np.cross(axis, centred) for axis in unit]
    translations = [np.broadcast_to(axis, points.shape) for axis in unit]
    return np.stack([motion.reshape(-1) for motion in (*translations, *rotations, centred)], axis=1)


def rank_errors(face: FrontalFace, betas: Array, truth: Array) -> Array:
    """Return the mean absolute error per coordinate of candidates (*b, N, S) against the truth (*b, S), mm (Eq. 3):
    (*b, N)."""
    offsets = face.offsets(betas - truth[..., None, :])
    return jnp.mean(jnp.abs(offsets), axis=(-2, -1))


def rank_loss(scores: Array, errors: Array, sharpness: float = 1.0) -> Array:
    """Return the cross-entropy between softmax(-sharpness error) and softmax(score) of candidates (*b, N): (*b,).

    Eq. 5 lacks the minus sign. sharpness: in 1 / mm; 1 in the paper, whose candidates differ more than ours.
    """
    target = jax.nn.softmax(-sharpness * errors, axis=-1)
    return -jnp.sum(target * jax.nn.log_softmax(scores, axis=-1), axis=-1)
