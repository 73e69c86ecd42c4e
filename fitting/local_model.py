"""Local models: PCA models of a head's regions, added to the top components of the global model (Diverse3DFace,
section 4.1, Eqs. 5-6). `fitting.local_training` trains them, `fitting.local_files` reads and writes them.

A head with local models is again a `HeadModel`: `with_local` appends their components to the head's own. So every
function that takes a `HeadModel` supports them, at the same speed per component.
"""

import dataclasses
from collections.abc import Mapping

import jax
import numpy as np
from jax import Array

from flamejax.head import HeadFileError, HeadModel, geometry_hash

EYEBALLS = ("left_eyeball", "right_eyeball")
UNBOUNDED = 1e6
"""Bound in `expression_range` for local components, which are unbounded. Not infinity: 0 * infinity is NaN."""
SUFFIX = "+local"


@dataclasses.dataclass(frozen=True)
class LocalRegion:
    """The two PCA models of one region, n vertices."""

    name: str
    index: np.ndarray
    """(n,) int32: the region's vertices, and those of the rings around it over which its weight fades."""
    shape: np.ndarray
    """(M, 3, n) metres per standard deviation over subjects, by decreasing variance."""
    expression: np.ndarray
    """(N, 3, n) metres per standard deviation over expressions, by decreasing variance."""
    variance: tuple[float, float]
    """Total variance of the shape and of the expression residuals, square metres, summed over coordinates."""

    @property
    def explained(self) -> tuple[float, float]:
        """Share of the training residuals' variance that the components explain: of shape, of expression."""
        sums = (float(np.sum(np.square(rows, dtype=np.float64))) for rows in self.bases)
        shape, expression = (part / max(total, 1e-30) for part, total in zip(sums, self.variance, strict=True))
        return shape, expression

    def truncated(self, explained: float) -> "LocalRegion":
        """Return the region with the fewest leading components that explain this share of the variance, or with all."""

        def truncate(rows: np.ndarray, total: float) -> np.ndarray:
            cumulative = np.cumsum(np.sum(np.square(rows, dtype=np.float64), axis=(1, 2)))
            return rows[: int(np.searchsorted(cumulative, explained * total)) + 1]

        shape, expression = map(truncate, self.bases, self.variance)
        return dataclasses.replace(self, shape=shape, expression=expression)

    @property
    def bases(self) -> tuple[np.ndarray, np.ndarray]:
        """`shape` and `expression`."""
        return self.shape, self.expression


@dataclasses.dataclass(frozen=True)
class LocalModel:
    """Local models of one head. The arrays are on the host; `with_local` appends them to the head's basis."""

    head_name: str
    head_version: str
    head_hash: str
    """`geometry_hash` of the head."""
    num_vertices: int
    """V"""
    num_betas: int
    """N_S: number of leading global identity components, which the local models are added to."""
    num_expression: int
    """N_E: the same for expression."""
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
        """Truncate each region to the fewest components that explain this share of its variance, or to all it has."""
        return dataclasses.replace(self, regions=tuple(region.truncated(explained) for region in self.regions))


def is_for_head(head: HeadModel, local: LocalModel) -> bool:
    """Whether the local model was made for this head, by name, version and geometry."""
    # The names are compared first, since hashing a large head takes time.
    same_name = (local.head_name, local.head_version) == (head.name, head.version)
    return same_name and local.head_hash == geometry_hash(head)


def check_is_for_head(head: HeadModel, local: LocalModel, source: str = "the local model") -> None:
    """Raises: HeadFileError if the local model was made for another head."""
    if not is_for_head(head, local):
        raise HeadFileError(
            f"{source}: made for the head '{local.head_name} {local.head_version}' (geometry {local.head_hash[:12]}), "
            f"not for this '{head.name} {head.version}' (geometry {geometry_hash(head)[:12]}). Load that head, or "
            "train local models for this one with `flamejax train --config local_pca --head FILE "
            "--scans DIR --output FILE`."
        )


def with_local(head: HeadModel, local: LocalModel) -> HeadModel:
    """Return the global + local head (Diverse3DFace Eqs. 5-6) as a head model.

    Its identity components are the top N_S global ones, then the local shape components region by region. Its
    expression components likewise follow the top N_E; further global ones would duplicate the local ones. Pose,
    skinning, landmarks and texture stay. The joints move with the local components by `J_regressor`.

    Returns:
      A head named `<name>+local`.

    Raises:
      HeadFileError: the local model was made for another head.
    """
    check_is_for_head(head, local)
    shape = [_scatter(region.shape, region.index, head.num_vertices) for region in local.regions]
    expression = [_scatter(region.expression, region.index, head.num_vertices) for region in local.regions]
    return _with_components(head, (local.num_betas, local.num_expression), shape, expression, head.name + SUFFIX)


def top_components(head: HeadModel, num_betas: int, num_expression: int) -> HeadModel:
    """Return the head with its leading components only (the coarse shape of Eq. 4); their numbers become its name.

    Raises:
      ValueError: the head has fewer.
    """
    if not (0 <= num_betas <= head.num_betas and 0 <= num_expression <= head.num_expression):
        raise ValueError(
            f"{num_betas} + {num_expression} components were asked for, but this head has {head.num_betas} identity "
            f"and {head.num_expression} expression components."
        )
    return _with_components(head, (num_betas, num_expression), [], [], f"{head.name}-{num_betas}-{num_expression}")


def _with_components(
    head: HeadModel, num_global: tuple[int, int], shape: list[np.ndarray], expression: list[np.ndarray], name: str
) -> HeadModel:
    """Return the head with its leading `num_global` components and additional ones of each kind, each (K, 3, V)."""
    basis, regressor = np.asarray(head.basis), np.asarray(head.J_regressor)
    components = head.joint_dirs.shape[-1]
    identity = np.concatenate([basis[: num_global[0]], *shape])
    motion = np.concatenate([basis[head.num_betas : head.num_betas + num_global[1]], *expression])
    new_basis = np.concatenate([identity, motion, basis[components:]])
    used = np.flatnonzero(regressor.any(axis=0))  # joints depend on few vertices
    blends = new_basis[: len(identity) + len(motion)][..., used]
    return dataclasses.replace(
        head,
        basis=jax.device_put(new_basis),
        joint_dirs=jax.device_put(np.einsum("kv,cdv->kdc", regressor[:, used], blends, optimize=True)),
        name=name,
        num_betas=len(identity),
        expression_range=_expression_range(head, num_global[1], len(motion) - num_global[1]),
    )


def eyeball_coefficients(head: HeadModel, local: LocalModel) -> tuple[np.ndarray, np.ndarray]:
    """Return which coefficients of the head with local models belong to the eyeballs' local models.

    Algorithm 1 halves the learning rate of these. (S',) bool of identity and (E',) bool of expression.
    """
    eyes = [region.name in EYEBALLS for region in local.regions]
    betas = np.repeat(eyes, [len(region.shape) for region in local.regions])
    expression = np.repeat(eyes, [len(region.expression) for region in local.regions])
    # The local coefficients are the last ones.
    betas = np.pad(betas, (head.num_betas - len(betas), 0))
    return betas, np.pad(expression, (head.num_expression - len(expression), 0))


def _scatter(rows: np.ndarray, index: np.ndarray, count: int) -> np.ndarray:
    """Scatter (K, 3, n) to the vertices `index` of (K, 3, V), zero elsewhere."""
    full = np.zeros((*rows.shape[:2], count), np.float32)
    full[..., index] = rows
    return full


def _expression_range(head: HeadModel, num_global: int, num_local: int) -> Array | None:
    """Return the head's range for its leading global components, followed by no bounds for the local ones."""
    if head.expression_range is None:
        return None
    unbounded = np.tile(np.array([[-UNBOUNDED], [UNBOUNDED]], np.float32), num_local)
    return jax.device_put(np.concatenate([np.asarray(head.expression_range)[:, :num_global], unbounded], axis=1))
