"""Local models: PCA models of the parts of a head, added to the top components of the global one (Diverse3DFace,
section 4.1, Eqs. 5-6). `fitting.local_training` makes them, `fitting.local_files` reads and writes them.

A head with its local models is a head: `with_local` appends their components to the head's own, so everything that
takes a `HeadModel` takes them as well, at the same speed per component.
"""

import dataclasses
from collections.abc import Mapping

import jax
import numpy as np
from jax import Array

from flamejax.head import HeadFileError, HeadModel, geometry_hash

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
        found = (float(np.sum(np.square(rows, dtype=np.float64))) for rows in self.bases)
        shape, expression = (held / max(total, 1e-30) for held, total in zip(found, self.variance, strict=True))
        return shape, expression

    def truncated(self, explained: float) -> "LocalRegion":
        """The fewest leading components that hold this share of the variance, or all there are."""

        def leading(rows: np.ndarray, total: float) -> np.ndarray:
            held = np.cumsum(np.sum(np.square(rows, dtype=np.float64), axis=(1, 2)))
            return rows[: int(np.searchsorted(held, explained * total)) + 1]

        shape, expression = map(leading, self.bases, self.variance)
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
    """N_S: the global identity components that the residuals were taken after; and N_E."""
    num_expression: int
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


def belongs(head: HeadModel, local: LocalModel) -> bool:
    """Whether the local model was made for this head, by name, version and geometry."""
    # The name is compared first: it spares the hash of a large foreign head.
    named = (local.head_name, local.head_version) == (head.name, head.version)
    return named and local.head_hash == geometry_hash(head)


def check_belongs(head: HeadModel, local: LocalModel, source: str = "the local model") -> None:
    """Raises: HeadFileError if the local model was made for another head."""
    if not belongs(head, local):
        raise HeadFileError(
            f"{source}: made for the head '{local.head_name} {local.head_version}' (geometry {local.head_hash[:12]}), "
            f"not for this '{head.name} {head.version}' (geometry {geometry_hash(head)[:12]}). Load that head, or "
            "train local models for this one with `python -m experiments.train --config local_pca --head FILE "
            "--scans DIR --output FILE`."
        )


def with_local(head: HeadModel, local: LocalModel) -> HeadModel:
    """The global + local head (Diverse3DFace Eqs. 5-6) as a head model of its own.

    Its identity components are the top N_S global ones, then the local shape components region by region; its
    expression components likewise, after the top N_E (further global ones would count twice what local ones hold).
    Pose, skinning, landmarks and texture stay, and the joints move with the local components, as J_regressor says.

    Returns:
      A head named `<name>+local`.

    Raises:
      HeadFileError: the local model belongs to another head.
    """
    check_belongs(head, local)
    shape = [_spread(region.shape, region.index, head.num_vertices) for region in local.regions]
    moved = [_spread(region.expression, region.index, head.num_vertices) for region in local.regions]
    return _assembled(head, (local.num_betas, local.num_expression), shape, moved, head.name + SUFFIX)


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


def eyeball_coefficients(head: HeadModel, local: LocalModel) -> tuple[np.ndarray, np.ndarray]:
    """Which coefficients of the head with local models belong to the eyeballs, which Algorithm 1 moves at half the
    learning rate: (S',) bool of identity and (E',) bool of expression. The global components are not among them."""
    eyes = [region.name in EYEBALLS for region in local.regions]
    shape = np.repeat(eyes, [len(region.shape) for region in local.regions])
    moved = np.repeat(eyes, [len(region.expression) for region in local.regions])
    # The local coefficients are the last ones.
    return np.pad(shape, (head.num_betas - len(shape), 0)), np.pad(moved, (head.num_expression - len(moved), 0))


def _spread(rows: np.ndarray, index: np.ndarray, count: int) -> np.ndarray:
    """(K, 3, n) at vertices `index` -> (K, 3, V)."""
    full = np.zeros((*rows.shape[:2], count), np.float32)
    full[..., index] = rows
    return full


def _range(head: HeadModel, kept: int, local: int) -> Array | None:
    """The head's expression range for its `kept` components, none for the local ones."""
    if head.expression_range is None:
        return None
    free = np.tile(np.array([[-UNBOUNDED], [UNBOUNDED]], np.float32), local)
    return jax.device_put(np.concatenate([np.asarray(head.expression_range)[:, :kept], free], axis=1))
