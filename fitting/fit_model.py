"""The model that is fitted to photos: a head with or without local models, and how its coefficients are arranged."""

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
    """A head model ready to be fitted to photos. `prepare` makes it.

    The coefficients of `head` are the global ones first, then those of the local models (Eq. 5). Local models are
    further rows of the head's basis, so every function that takes a `HeadModel` also takes this head.
    """

    head: HeadModel
    """Has S' = global_betas + local shape and E' = global_expression + local expression components."""
    eyeball_betas: Array
    """(S',) bool: shape coefficients of the eyeballs' local models."""
    eyeball_expression: Array
    """(E',) bool: expression coefficients of the eyeballs' local models."""
    smoothing_root: Array
    """(R, S' + E'): |smoothing_root c|^2 is the mean squared Laplacian (mm^2) of the displacement of coefficients c."""
    coarse_root: Array
    """(N, N) the same for the global components only, N = global_betas + global_expression."""
    num_betas: int = dataclasses.field(metadata={"static": True})
    """S of the head without local models."""
    num_expression: int = dataclasses.field(metadata={"static": True})
    """E of the head without local models."""
    global_betas: int = dataclasses.field(metadata={"static": True})
    """Number of leading betas of `head` that are global: S without local models, the paper's N_S with them."""
    global_expression: int = dataclasses.field(metadata={"static": True})
    """Number of leading expression coefficients that are global: E without local models, the paper's N_E with them."""

    @property
    def has_local(self) -> bool:
        """Whether the head has local models."""
        return self.head.num_betas > self.global_betas or self.head.num_expression > self.global_expression

    def without_local(self) -> FitModel:
        """Return the model with the global components only, for the stages before local models are fitted."""
        if not self.has_local:
            return self
        head, betas, expression = self.head, self.global_betas, self.global_expression
        components = np.r_[:betas, head.num_betas : head.num_betas + expression]
        rows = np.r_[components, head.num_betas + head.num_expression : len(head.basis)]
        limits = head.expression_range
        global_head = dataclasses.replace(
            head,
            basis=head.basis[rows],
            joint_dirs=head.joint_dirs[..., components],
            num_betas=betas,
            expression_range=None if limits is None else limits[:, :expression],
        )
        return dataclasses.replace(
            self,
            head=global_head,
            eyeball_betas=self.eyeball_betas[:betas],
            eyeball_expression=self.eyeball_expression[:expression],
            smoothing_root=self.coarse_root,
        )

    def step_size_factors(self, eyeball_rate: float) -> tuple[Array, Array]:
        """Return factors (S',), (E',) on the step sizes: `eyeball_rate` for the eyeballs' coefficients, else 1."""
        return jnp.where(self.eyeball_betas, eyeball_rate, 1.0), jnp.where(self.eyeball_expression, eyeball_rate, 1.0)

    def roughness(self, betas: Array, expression: Array) -> Array:
        """Return (R,) whose sum of squares is the mean squared Laplacian (mm^2) of the displacement from the mean."""
        return jnp.matmul(self.smoothing_root, jnp.concatenate([betas, expression]))

    def vertices(self, params: HeadParams) -> Array:
        """Return the vertices (*b, V, 3), metres, of parameters of `head`, such as `fit.params`."""
        return vertices(self.head, params)

    def global_params(self, params: HeadParams) -> HeadParams:
        """Convert parameters of `head` (*b,) to the head without local models: (*b, S) betas and (*b, E) expression.

        Global components that the local models replace get zeros. The local models' displacement is dropped.
        """
        betas, expression = params.betas[..., : self.global_betas], params.expression[..., : self.global_expression]
        return dataclasses.replace(
            params,
            betas=pad_coefficients(betas, self.num_betas),
            expression=pad_coefficients(expression, self.num_expression),
        )

    def local_coefficients(self, params: HeadParams) -> Array | None:
        """Return the local models' coefficients (*b, L), shape before expression; None if there are none."""
        if not self.has_local:
            return None
        parts = params.betas[..., self.global_betas :], params.expression[..., self.global_expression :]
        return jnp.concatenate(parts, axis=-1)

    def with_local_coefficients(self, params: HeadParams, local: Array | None) -> HeadParams:
        """Join `global_params` and `local_coefficients` to parameters of `head`; None stands for zeros."""
        betas, expression = params.betas[..., : self.global_betas], params.expression[..., : self.global_expression]
        if local is not None:
            local_betas, local_expression = jnp.split(local, [self.head.num_betas - self.global_betas], axis=-1)
            betas = jnp.concatenate([betas, local_betas], axis=-1)
            expression = jnp.concatenate([expression, local_expression], axis=-1)
        return dataclasses.replace(
            params,
            betas=pad_coefficients(betas, self.head.num_betas),
            expression=pad_coefficients(expression, self.head.num_expression),
        )


def pad_coefficients(values: Array, width: int) -> Array:
    """Append zeros to coefficients (*b, n): (*b, width)."""
    return jnp.pad(values, [*[(0, 0)] * (values.ndim - 1), (0, width - values.shape[-1])])


def smoothing_root(head: HeadModel) -> np.ndarray:
    """Return R (S + E, S + E): |R c|^2 is the mean squared Laplacian (mm^2) of the displacement of coefficients c."""
    count, components = head.num_vertices, head.num_betas + head.num_expression
    fields = 1e3 * jnp.moveaxis(head.basis[:components], -1, 0)  # (V, S + E, 3) millimetres
    laplacians = np.asarray(laplacian(fields.reshape(count, -1), *mesh_edges(np.asarray(head.faces))))
    laplacians = laplacians.T.reshape(components, -1)
    gram = (laplacians @ laplacians.T).astype(np.float64) / count
    values, vectors = np.linalg.eigh(gram)
    return (np.sqrt(np.maximum(values, 0.0))[:, None] * vectors.T).astype(np.float32)


def without_local_models(head: HeadModel) -> FitModel:
    """Return the `FitModel` of a head without local models and without a smoothing term; cheap, also inside jit."""
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
    """Prepare a head model for fitting. Takes a second or two, so reuse the result.

    Args:
      head: the head model.
      local: local models of this head (`load_local_model`). They replace the global components after the leading ones
        that they were trained against (Eqs. 4-6). None fits all global components and nothing else. Fewer components,
        `local.truncated(0.9)`, gave the same errors on validation photos in less time; their best 3D fit is coarser.

    Returns:
      The model to pass to `fitting.fit` instead of the head.

    Raises:
      HeadFileError: the local models belong to another head.
      TypeError: `head` is not a head model.
    """
    if not isinstance(head, HeadModel):
        raise TypeError(f"head must be a flamejax.HeadModel (flamejax.load_head()), not {type(head).__name__}.")
    model = without_local_models(head)
    if local is not None:
        extended = with_local(head, local)
        betas, expression = map(jnp.asarray, eyeball_coefficients(extended, local))
        model = dataclasses.replace(
            model,
            head=extended,
            eyeball_betas=betas,
            eyeball_expression=expression,
            global_betas=local.num_betas,
            global_expression=local.num_expression,
        )
    root = smoothing_root(model.head)
    columns = np.r_[: model.global_betas, model.head.num_betas : model.head.num_betas + model.global_expression]
    coarse_root = jnp.asarray(np.linalg.qr(root[:, columns], mode="r"))
    return dataclasses.replace(model, smoothing_root=jnp.asarray(root), coarse_root=coarse_root)
