"""Local models: PCA models of the parts of a head, added to the top components of the global one (Diverse3DFace,
section 4.1, Eqs. 5-6). `fitting.local_training` makes them, `fitting.local_files` reads and writes them.

A head with its local models is a head: `with_local` appends their components to the head's own, so everything that
takes a `HeadModel` takes them as well, at the same speed per component.
"""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from flamejax.head import HeadFileError, HeadModel, HeadParams, geometry_hash

EYEBALLS = ("left_eyeball", "right_eyeball")
UNBOUNDED = 1e6
"""`expression_range` of local components: none (JAX has no product of zero and infinity)."""
SUFFIX = "+local"


@dataclasses.dataclass(frozen=True)
class LocalRegion:
    """The two PCA models of one region, n vertices."""

    name: str
    index: np.ndarray
    """(n,) int32: the region's vertices, and those of the rings around it over which it fades."""
    shape: np.ndarray
    """(M, 3, n) metres per standard deviation: of a subject, most important first."""
    expression: np.ndarray
    """(N, 3, n) metres per standard deviation: of an expression."""
    variance: tuple[float, float]
    """Square metres, summed over coordinates: what shape and expression would explain with all their components."""

    @property
    def explained(self) -> tuple[float, float]:
        """Share of the training residuals' variance that the components hold: of shape, of expression."""
        found = (float(np.sum(np.square(rows, dtype=np.float64))) for rows in (self.shape, self.expression))
        shape, expression = (held / max(total, 1e-30) for held, total in zip(found, self.variance, strict=True))
        return shape, expression

    def truncated(self, explained: float) -> "LocalRegion":
        """The fewest leading components that hold this share of the variance, or all there are."""
        counts = (count_for(rows, total, explained) for rows, total in zip(self.bases, self.variance, strict=True))
        shape, expression = (rows[:count] for rows, count in zip(self.bases, counts, strict=True))
        return dataclasses.replace(self, shape=shape, expression=expression)

    @property
    def bases(self) -> tuple[np.ndarray, np.ndarray]:
        """`shape` and `expression`."""
        return self.shape, self.expression


@dataclasses.dataclass(frozen=True)
class LocalModel:
    """Local models of one head. Host arrays: `with_local` puts them on the device, as rows of the head's basis."""

    head_name: str
    head_version: str
    head_hash: str
    """`geometry_hash` of the head."""
    num_vertices: int
    """V"""
    num_betas: int
    """N_S: the global identity components that the residuals were taken after."""
    num_expression: int
    """N_E"""
    regions: tuple[LocalRegion, ...]
    provenance: Mapping[str, str]

    @property
    def num_shape(self) -> int:
        """Local shape components of all regions."""
        return sum(len(region.shape) for region in self.regions)

    @property
    def num_local_expression(self) -> int:
        """Local expression components of all regions."""
        return sum(len(region.expression) for region in self.regions)

    def truncated(self, explained: float) -> "LocalModel":
        """With the fewest components that hold this share of each region's variance, as far as there are any."""
        return dataclasses.replace(self, regions=tuple(region.truncated(explained) for region in self.regions))


def count_for(rows: np.ndarray, total: float, explained: float) -> int:
    """How many leading rows (K, 3, n) hold a share of the variance `total`; all of them if they do not."""
    held = np.cumsum(np.sum(np.square(rows, dtype=np.float64), axis=(1, 2)))
    return min(len(rows), int(np.searchsorted(held, explained * total)) + 1)


def check_belongs(head: HeadModel, local: LocalModel, source: str = "the local model") -> None:
    """Raises: HeadFileError if the local model was made for another head, by name, version or geometry."""
    # The name is compared first: it spares the hash of a large foreign head.
    made_for = f"{local.head_name} {local.head_version}"
    if made_for == f"{head.name} {head.version}" and local.head_hash == geometry_hash(head):
        return
    raise HeadFileError(
        f"{source}: made for the head '{made_for}' (geometry {local.head_hash[:12]}), not for this '{head.name} "
        f"{head.version}' (geometry {geometry_hash(head)[:12]}). Load that head, or train local models for this one "
        "with `python -m experiments.train --config local_pca --head FILE --scans DIR --output FILE`."
    )


def with_local(
    head: HeadModel, local: LocalModel, num_betas: int | None = None, num_expression: int | None = None
) -> HeadModel:
    """The global + local head (Diverse3DFace Eqs. 5-6) as a head model of its own.

    Its identity components are the top `num_betas` global ones, then the local shape components region by region; its
    expression components likewise. Pose, skinning, landmarks and texture stay, and the joints move with the local
    components, as J_regressor says.

    Args:
      head: the head that the local model was made for.
      num_betas, num_expression: how many global components to keep; those of the training (N_S, N_E) when left out.

    Returns:
      A head named `<name>+local`.

    Raises:
      HeadFileError: the local model belongs to another head.
      ValueError: more global components than the local model was trained against: the local components hold what those
        beyond would add, so they would be counted twice.
    """
    check_belongs(head, local)
    keep = _kept("num_betas", num_betas, local.num_betas), _kept("num_expression", num_expression, local.num_expression)
    shape = [_spread(region.shape, region.index, head.num_vertices) for region in local.regions]
    moved = [_spread(region.expression, region.index, head.num_vertices) for region in local.regions]
    return _assembled(head, keep, shape, moved, head.name + SUFFIX)


def top_components(head: HeadModel, num_betas: int, num_expression: int) -> HeadModel:
    """The head with its leading components alone (the coarse shape of Eq. 4); its name tells how many.

    Raises:
      ValueError: it has fewer.
    """
    if not (0 <= num_betas <= head.num_betas and 0 <= num_expression <= head.num_expression):
        raise ValueError(f"{num_betas} + {num_expression} components of {head.num_betas} + {head.num_expression}.")
    return _assembled(head, (num_betas, num_expression), [], [], f"{head.name}-{num_betas}-{num_expression}")


def _assembled(
    head: HeadModel, keep: tuple[int, int], shape: list[np.ndarray], moved: list[np.ndarray], name: str
) -> HeadModel:
    """The head with its top `keep` components and more of each kind, each (K, 3, V)."""
    basis, regressor = np.asarray(head.basis), np.asarray(head.J_regressor)
    components = head.joint_dirs.shape[-1]
    identity = np.concatenate([basis[: keep[0]], *shape])
    motion = np.concatenate([basis[head.num_betas : head.num_betas + keep[1]], *moved])
    stacked = np.concatenate([identity, motion, basis[components:]])
    used = np.flatnonzero(regressor.any(axis=0))  # joints depend on few vertices
    blends = stacked[: len(identity) + len(motion)][..., used]
    return dataclasses.replace(
        head,
        basis=jax.device_put(stacked),
        joint_dirs=jax.device_put(np.einsum("kv,cdv->kdc", regressor[:, used], blends, optimize=True)),
        name=name,
        num_betas=len(identity),
        expression_range=_range(head, keep[1], len(motion) - keep[1]),
    )


def split_coefficients(
    head: HeadModel, local: LocalModel, betas: Array, expression: Array
) -> tuple[Array, Array, Array]:
    """Coefficients of a head with local models, taken apart.

    Args:
      head: from `with_local`.
      betas: (*b, S'); expression: (*b, E').

    Returns:
      Global identity (*b, N_S) and expression (*b, N_E), as the plain head takes them (fill up with zeros), and the
      local coefficients (*b, M): shape, then expression, region by region.
    """
    kept = head.num_betas - local.num_shape, head.num_expression - local.num_local_expression
    (first, shape), (second, moved) = jnp.split(betas, kept[:1], axis=-1), jnp.split(expression, kept[1:], axis=-1)
    return first, second, jnp.concatenate([shape, moved], axis=-1)


def join_coefficients(local: LocalModel, betas: Array, expression: Array, coefficients: Array) -> tuple[Array, Array]:
    """The inverse of `split_coefficients`: betas (*b, S') and expression (*b, E') of the head with local models."""
    shape, moved = jnp.split(coefficients, [local.num_shape], axis=-1)
    return jnp.concatenate([betas, shape], axis=-1), jnp.concatenate([expression, moved], axis=-1)


def global_part(head: HeadModel, extended: HeadModel, local: LocalModel, params: HeadParams) -> HeadParams:
    """The plain head's parameters in those of the head with local models: pose and global coefficients.

    Args:
      head: the plain head; extended: from `with_local`; params: of `extended`, batch axes (*b,).
    """
    first, second, _ = split_coefficients(extended, local, params.betas, params.expression)
    filled = [
        jnp.pad(part, [(0, 0)] * (part.ndim - 1) + [(0, width - part.shape[-1])])
        for part, width in ((first, head.num_betas), (second, head.num_expression))
    ]
    return dataclasses.replace(params, betas=filled[0], expression=filled[1])


def eyeball_coefficients(head: HeadModel, local: LocalModel) -> tuple[np.ndarray, np.ndarray]:
    """Which coefficients of the head with local models belong to the eyeballs, which Algorithm 1 moves at half the
    learning rate: (S',) bool of identity and (E',) bool of expression. The global components are not among them."""
    eyes = [region.name in EYEBALLS for region in local.regions]
    shape = np.repeat(eyes, [len(region.shape) for region in local.regions])
    moved = np.repeat(eyes, [len(region.expression) for region in local.regions])
    kept = head.num_betas - len(shape), head.num_expression - len(moved)
    return np.concatenate([np.zeros(kept[0], bool), shape]), np.concatenate([np.zeros(kept[1], bool), moved])


def _kept(name: str, asked: int | None, trained: int) -> int:
    if asked is None:
        return trained
    if not 0 <= asked <= trained:
        raise ValueError(
            f"{name}={asked}: this local model was trained on what {trained} global components leave, so it can be "
            f"joined to 0..{trained} of them. The variant 'full' was trained on what all of them leave."
        )
    return asked


def _spread(rows: np.ndarray, index: np.ndarray, count: int) -> np.ndarray:
    """(K, 3, n) at vertices `index` -> (K, 3, V)."""
    full = np.zeros((*rows.shape[:2], count), np.float32)
    full[..., index] = rows
    return full


def _range(head: HeadModel, kept: int, local: int) -> Array | None:
    """The head's expression range for its `kept` components, none for the local ones."""
    if head.expression_range is None:
        return None
    free = np.broadcast_to(np.array([[-UNBOUNDED], [UNBOUNDED]], np.float32), (2, local))
    return jax.device_put(np.concatenate([np.asarray(head.expression_range)[:, :kept], free], axis=1))
