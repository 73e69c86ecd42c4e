"""What is fitted to photos: a head, with local models or without, and what a fit must know of its coefficients."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from fitting.local_model import LocalModel, eyeball_coefficients, with_local
from flamejax.geometry import laplacian, mesh_edges
from flamejax.head import HeadModel, HeadParams, vertices


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class FitModel:
    """A head whose coefficients are the global ones first, then those of the local models (Eq. 5). Made by `prepare`.

    The local models are further rows of the head's basis, so everything that takes a head takes this one.
    """

    head: HeadModel
    """S' = global_betas + local shape and E' = global_expression + local expression components."""
    eyeball_betas: Array
    """(S',) bool: coefficients of the eyeballs' local models; (E',) of expression."""
    eyeball_expression: Array
    smoothing_root: Array
    """(R, S' + E') with |R c|^2 = the mean squared Laplacian, in mm, of the displacement of coefficients c."""
    coarse_root: Array
    """(N, N) the same for the N_S + N_E global components alone."""
    num_betas: int = dataclasses.field(metadata={"static": True})
    """S of the head without local models; E."""
    num_expression: int = dataclasses.field(metadata={"static": True})
    global_betas: int = dataclasses.field(metadata={"static": True})
    """Leading coefficients of `head` that are global: S without local models, the paper's N_S with them."""
    global_expression: int = dataclasses.field(metadata={"static": True})

    @property
    def has_local(self) -> bool:
        """Whether there are local models."""
        return self.head.num_betas > self.global_betas or self.head.num_expression > self.global_expression

    def without_local(self) -> FitModel:
        """The global components only: what the stages before the local one fit."""
        if not self.has_local:
            return self
        head, betas, expression = self.head, self.global_betas, self.global_expression
        kept = np.r_[:betas, head.num_betas : head.num_betas + expression]
        rows = np.r_[kept, head.num_betas + head.num_expression : len(head.basis)]
        limits = head.expression_range
        coarse = dataclasses.replace(
            head,
            basis=head.basis[rows],
            joint_dirs=head.joint_dirs[..., kept],
            num_betas=betas,
            expression_range=None if limits is None else limits[:, :expression],
        )
        return dataclasses.replace(
            self,
            head=coarse,
            eyeball_betas=self.eyeball_betas[:betas],
            eyeball_expression=self.eyeball_expression[:expression],
            smoothing_root=self.coarse_root,
        )

    def step_rates(self, eyeball_rate: float) -> tuple[Array, Array]:
        """(S',), (E',) factors on step sizes: 1, and `eyeball_rate` for the eyeballs' coefficients."""
        return jnp.where(self.eyeball_betas, eyeball_rate, 1.0), jnp.where(self.eyeball_expression, eyeball_rate, 1.0)

    def roughness(self, betas: Array, expression: Array) -> Array:
        """(R,) whose squares sum to the mean squared Laplacian (mm^2) of the displacement from the mean head."""
        return jnp.matmul(self.smoothing_root, jnp.concatenate([betas, expression]))

    def vertices(self, params: HeadParams) -> Array:
        """The head of a fit's parameters, or of others of `head`: (*b, V, 3) metres."""
        return vertices(self.head, params)

    def global_params(self, params: HeadParams) -> HeadParams:
        """Parameters of `head` (*b,) as those of the head without local models: (*b, S), (*b, E), zeros for the global
        components that local models stand for. What the local models add is not in them."""
        betas, expression = params.betas[..., : self.global_betas], params.expression[..., : self.global_expression]
        return dataclasses.replace(
            params, betas=padded(betas, self.num_betas), expression=padded(expression, self.num_expression)
        )

    def local_coefficients(self, params: HeadParams) -> Array | None:
        """(*b, L) of parameters of `head`: those of the local models, shape before expression; None without any."""
        if not self.has_local:
            return None
        parts = params.betas[..., self.global_betas :], params.expression[..., self.global_expression :]
        return jnp.concatenate(parts, axis=-1)

    def with_local_coefficients(self, params: HeadParams, local: Array | None) -> HeadParams:
        """Parameters of `head` from `global_params` and `local_coefficients`; None: zeros."""
        betas, expression = params.betas[..., : self.global_betas], params.expression[..., : self.global_expression]
        if local is not None:
            shape, moved = jnp.split(local, [self.head.num_betas - self.global_betas], axis=-1)
            betas = jnp.concatenate([betas, shape], axis=-1)
            expression = jnp.concatenate([expression, moved], axis=-1)
        betas, expression = padded(betas, self.head.num_betas), padded(expression, self.head.num_expression)
        return dataclasses.replace(params, betas=betas, expression=expression)


def padded(values: Array, width: int) -> Array:
    """(*b, n) with zeros behind: (*b, width)."""
    return jnp.pad(values, [*[(0, 0)] * (values.ndim - 1), (0, width - values.shape[-1])])


def smoothing_root(head: HeadModel) -> np.ndarray:
    """(S + E, S + E) R: |R c|^2 is the mean over vertices of |Laplacian of what coefficients c displace|^2, mm^2."""
    count, components = head.num_vertices, head.num_betas + head.num_expression
    fields = 1e3 * jnp.moveaxis(head.basis[:components], -1, 0)  # (V, S + E, 3) millimetres
    rough = np.asarray(laplacian(fields.reshape(count, -1), *mesh_edges(np.asarray(head.faces))))
    rough = rough.T.reshape(components, -1)
    gram = (rough @ rough.T).astype(np.float64) / count
    values, vectors = np.linalg.eigh(gram)
    return (np.sqrt(np.maximum(values, 0.0))[:, None] * vectors.T).astype(np.float32)


def without_local_models(head: HeadModel) -> FitModel:
    """A head without local models and without the smoothing term: for a quick fit, also inside jit."""
    components = head.num_betas + head.num_expression
    return FitModel(
        head=head,
        eyeball_betas=jnp.zeros(head.num_betas, bool),
        eyeball_expression=jnp.zeros(head.num_expression, bool),
        smoothing_root=jnp.zeros((0, components)),
        coarse_root=jnp.zeros((0, components)),
        num_betas=head.num_betas,
        num_expression=head.num_expression,
        global_betas=head.num_betas,
        global_expression=head.num_expression,
    )


def prepare(head: HeadModel, local: LocalModel | None = None) -> FitModel:
    """Make a head ready to be fitted. Worth keeping: it takes a second or two.

    Args:
      head: the head model.
      local: local models of this head (`load_local_model`), which stand for its global components after the leading
        ones they were trained against (Eqs. 4-6); None fits all global components and nothing else. Fewer components,
        `local.truncated(0.9)`, gave the same errors on validation photos in less time; their best 3D fit is coarser.

    Returns:
      What `fitting.fit` takes in place of the head.

    Raises:
      HeadFileError: the local models belong to another head.
      TypeError: `head` is no head model.
    """
    if not isinstance(head, HeadModel):
        raise TypeError(f"head must be a flamejax.HeadModel (flamejax.load_head()), not {type(head).__name__}.")
    model = without_local_models(head)
    if local is not None:
        fitted = with_local(head, local)
        betas, expression = map(jnp.asarray, eyeball_coefficients(fitted, local))
        model = dataclasses.replace(
            model,
            head=fitted,
            eyeball_betas=betas,
            eyeball_expression=expression,
            global_betas=local.num_betas,
            global_expression=local.num_expression,
        )
    root = smoothing_root(model.head)
    coarse = root[:, np.r_[: model.global_betas, model.head.num_betas : model.head.num_betas + model.global_expression]]
    coarse_root = jnp.asarray(np.linalg.qr(coarse, mode="r"))
    return dataclasses.replace(model, smoothing_root=jnp.asarray(root), coarse_root=coarse_root)
